"""The benchmark: equal work on both sides, operations counted right, tables that say what came."""

import json
import math

import pytest
import torch

from reasoning_from_scratch import bench as bench_module
from reasoning_from_scratch.bench import QUICK, Stopped, Stopwatch, bench, growth_grid, race
from reasoning_from_scratch.bench_sides import (
    Digits,
    Ours,
    Shape,
    check_tokens,
    forward_flops,
    required,
    rollout_flops,
    update_flops,
)
from reasoning_from_scratch.bench_tables import ratios, spread, summary, tables
from reasoning_from_scratch.model import GPTConfig

CONFIG = GPTConfig(10, 4, layers=3, heads=2, kv_heads=1, head_width=2, mlp_width=6)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The folder of an exported toy model."""
    return bench_module.tiny_folder(tmp_path_factory.mktemp("toy") / "m", width=32, layers=2)


# How much work a step is.


def test_operations_of_a_forward_pass_by_hand():
    # A layer's matrices: 4 × (2 + 2·1) × 2 of query, key, value; 2 × 2 × 4 back; 3 × 4 × 6.
    # A pair costs query · key and its share of the value, 2 × 2 × 2 in each layer.
    matrices, mixing, head = 32 + 16 + 72, 8, 40
    found = forward_flops(CONFIG, tokens=7, pairs=11, predictions=5)
    assert found == 2 * (3 * matrices * 7 + 3 * mixing * 11 + head * 5)


def listed(shape, *, inputs_after):
    """Tokens and pairs of a step, one by one: prompts once, then every row's own tokens."""
    tokens = pairs = 0
    before = inputs_after[0]
    for _ in range(shape.prompts):
        for position in range(before):
            tokens, pairs = tokens + 1, pairs + position + 1
    for _ in range(shape.batch):
        for position in range(before, before + inputs_after[1]):
            tokens, pairs = tokens + 1, pairs + position + 1
    return tokens, pairs


def test_operations_of_a_rollout_and_an_update_token_by_token():
    shape = Shape(prompts=2, group_size=3, prompt_tokens=4, new_tokens=5)
    # Sampling runs the prompt, then four of the five sampled tokens; each predicts the next one.
    tokens, pairs = listed(shape, inputs_after=(4, 4))
    expected = forward_flops(CONFIG, tokens=tokens, pairs=pairs, predictions=2 + 6 * 4)
    assert rollout_flops(CONFIG, shape) == expected
    # The update's rows begin with the prompt's last token; five positions a row are scored.
    tokens, pairs = listed(shape, inputs_after=(3, 5))
    expected = 3 * forward_flops(CONFIG, tokens=tokens, pairs=pairs, predictions=6 * 5)
    assert update_flops(CONFIG, shape) == expected


def test_a_step_of_ours_takes_exactly_the_shape_and_moves_the_weights(toy):
    ours = Ours(toy, QUICK)
    before = [p.clone() for p in ours.policy.parameters()]
    laps = ours.step()  # refuses any other number of tokens
    assert laps["step"] == pytest.approx(laps["rollout"] + laps["update"])
    moved = [not torch.equal(a, b) for a, b in zip(before, ours.policy.parameters(), strict=True)]
    assert all(moved)


def test_unequal_work_is_refused():
    check_tokens(QUICK.tokens, QUICK)
    with pytest.raises(RuntimeError, match=f"a step took 3 tokens, expected {QUICK.tokens}"):
        check_tokens(3, QUICK)


def test_prompts_have_the_length_asked_for_and_rewards_differ():
    task = Digits(6)
    problems = task.generate(4, seed=0, split="train")
    assert all(len(p.prompt) == 6 and p.prompt.isdigit() for p in problems)
    rewards = {task.score(problems[0], text) for text in ("a", "b", "c")}
    assert len(rewards) == 3 and all(0 <= r <= 1 for r in rewards)


def test_growth_changes_one_thing_at_a_time():
    start, found = Shape(), growth_grid(quick=False)
    for axis, value, width, shape in found:
        changed = {
            "batch": shape.batch != start.batch,
            "length": shape.new_tokens != start.new_tokens,
            "width": width != 128,
        }
        assert {name for name, is_changed in changed.items() if is_changed} <= {axis}
        assert value == {"batch": shape.batch, "length": shape.new_tokens, "width": width}[axis]
    assert len(found) == sum(map(len, bench_module.GROWTH.values()))


# The race.


def test_a_race_with_trl_measures_both_sides_at_every_turn(toy):
    pytest.importorskip("trl")
    laps = race(toy, QUICK, repeats=2, rows=4, turns=("ours", "samplers"))
    parts = {f"{side}.{part}" for side in ("ours", "trl") for part in ("step", "rollout", "update")}
    assert set(laps) == parts | {"generate", "sample"}
    assert all(len(values) == 2 and min(values) > 0 for values in laps.values())


def test_a_missing_library_is_named():
    with pytest.raises(ModuleNotFoundError, match="no_such_library is missing: the comparison"):
        required("no_such_library")


def watched(accuracies, **changes):
    """Run a stopwatch over steps whose accuracies are given; return it and what it asked for."""
    how = {"target": 0.8, "every": 2, "steps": 10, "limit": math.inf} | changes
    watch, asked = Stopwatch(**how), []
    for step, accuracy in enumerate(accuracies, start=1):

        def measure(step=step, accuracy=accuracy):
            asked.append(step)
            return accuracy

        try:
            watch.lap(measure)
        except Stopped:
            break
    return watch.result(), asked


def test_the_clock_stops_at_the_first_evaluation_that_reaches_the_target():
    result, asked = watched([0.1, 0.2, 0.9, 0.8, 0.9, 0.9])
    assert asked == [2, 4] and result["reached"] and result["steps"] == 4
    assert [(step, accuracy) for step, _, accuracy in result["curve"]] == [(2, 0.2), (4, 0.8)]


@pytest.mark.parametrize("changes, steps", [({"steps": 3}, 3), ({"limit": 0.0}, 1)])
def test_a_run_that_never_gets_there_ends_and_says_so(changes, steps):
    result, asked = watched([0.1] * 9, **changes)
    assert not result["reached"] and result["steps"] == steps == asked[-1]


def test_evaluations_do_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bench_module.time, "perf_counter", lambda: now[0])
    watch = Stopwatch(target=2.0, every=1, steps=10, limit=math.inf)

    def slow():
        now[0] += 100
        return 0.0

    for _ in range(3):
        now[0] += 1
        watch.lap(slow)
    assert watch.result()["seconds"] == 3


# What is written.


def test_a_section_is_measured_written_and_kept(tmp_path, monkeypatch):
    results = bench(tmp_path, sections=["machine"], quick=True, repeats=2)
    laps = results["machine"]["toy"]
    flops = update_flops(Ours(bench_module.tiny_folder(tmp_path / "m", width=32, layers=2), QUICK)
                         .policy.config, QUICK)  # fmt: skip
    rates = [flops / seconds for seconds in laps["ours.update"]]
    assert laps["update"] == pytest.approx(rates)
    shares = [a / b for a, b in zip(rates, laps["matmul"], strict=True)]
    assert laps["update_share"] == pytest.approx(shares)
    assert json.loads((tmp_path / "data" / "bench.json").read_text()) == results
    assert "| toy | update |" in (tmp_path / "data" / "bench.md").read_text()
    monkeypatch.setitem(bench_module.MEASUREMENTS, "memory", lambda *_, **__: {"ours": [1.0],
                        "trl": [2.0], "neither": [0.5]})  # fmt: skip
    monkeypatch.setattr(bench_module, "required", lambda name: None)
    again = bench(tmp_path, sections=["memory"], quick=True, repeats=1)
    assert again["machine"] == results["machine"] and again["memory"]["toy"]["trl"] == [2.0]


def test_an_unknown_section_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"sections has \['speed'\], expected some of machine"):
        bench(tmp_path, sections=["speed"])


def test_medians_ratios_and_spreads_by_hand():
    assert summary({"a": [3.0, 1.0, 2.0], "rows": 8}) == {"a": [2.0, 1.0, 3.0]}
    assert ratios([6.0, 9.0], [3.0, 3.0]) == [2.0, 3.0]
    assert spread([2.0, 1.0, 4.0], ".1f", " s") == "2.0 s (1.0 to 4.0)"
    assert spread([2.0], ".1f") == "2.0"


def test_the_table_takes_a_ratio_between_neighbours_and_marks_a_run_that_was_given_up():
    laps = {f"{side}.{part}": values
            for part in ("step", "rollout", "update")
            for side, values in (("ours", [1.0, 2.0, 3.0]), ("trl", [4.0, 4.0, 9.0]))}  # fmt: skip
    laps |= {"generate": [2.0], "sample": [1.0], "rows": 16}
    runs = {"target": 0.8, "rows": 32,
            "ours": [{"reached": True, "seconds": 50.0, "steps": 60}],
            "trl": [{"reached": False, "seconds": 200.0, "steps": 80}]}  # fmt: skip
    about = {"cpu": "x", "threads": 2, "versions": {"torch": "2"}}
    text = tables({"about": about, "trl": {"tiny": laps}, "accuracy": runs})
    # Neighbours: 4/1, 4/2, 9/3; the ratio of medians would be 2.
    assert "| tiny | step | 2.00 s (1.00 to 3.00) | 4.00 s (4.00 to 9.00) | 3.00 (2.00 to 4.00) × |" in text  # fmt: skip  # noqa: E501
    assert "tiny: 16 completions" in text
    assert "| 50 s, 60 steps | more than 200 s, 80 steps | 4.00 × |" in text
