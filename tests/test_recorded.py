"""The recorded runs of the chapters: what the files hold is what their scripts would run."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from reasoning_from_scratch import get_task, ppo_preset

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "chapters/recorded").glob("ch*.py"))


def script(name):
    spec = importlib.util.spec_from_file_location(
        f"recorded_{name}", SCRIPTS[0].parent / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(name):
    return json.loads((ROOT / "data/recorded" / f"{name}.json").read_text())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_each_script_has_its_file_and_its_chapter(path):
    assert (ROOT / "data/recorded" / f"{path.stem}.json").exists()
    assert list((ROOT / "chapters").glob(f"{path.stem}_*.ipynb"))


def test_ch05_holds_every_arm_at_every_seed_with_the_scripts_settings():
    ch05, runs = script("ch05"), record("ch05")["runs"]
    assert [(r["arm"], r["seed"]) for r in runs] == [(a, s) for a in ch05.ARMS for s in range(3)]
    assert all(r["settings"] == ch05.settings_of(r["arm"]) for r in runs)


def test_ch06_holds_every_run_with_the_scripts_settings():
    ch06, runs = script("ch06"), record("ch06")["runs"]
    wanted = ch06.every_run()
    assert list(runs) == list(wanted)
    for name, (settings, reward, rule) in wanted.items():
        found = runs[name]
        assert (found["settings"], found["reward"], found["rule"]) == (settings, reward, rule)
        assert len(found["curves"]["reward"]) == ppo_preset("vanilla", **settings).steps


def test_the_mistake_of_ch06_is_the_one_that_the_chapter_describes():
    generator = torch.Generator().manual_seed(0)
    new, old = torch.randn(2, 4, 5, generator=generator) / 2
    advantages = torch.randn(4, 5, generator=generator)
    mask = (torch.rand(4, 5, generator=generator) < 0.7).float()
    loss, stats = script("ch06").larger_of_the_two(
        new, old, advantages, mask, clip_low=0.2, clip_high=0.3
    )
    scores = []
    for n, o, a, m in zip(
        *(x.flatten().tolist() for x in (new, old, advantages, mask)), strict=True
    ):
        if m:
            ratio = torch.tensor(n - o).exp().item()
            raw, clipped = ratio * a, min(max(ratio, 0.8), 1.3) * a
            scores.append(max(raw, clipped) if a < 0 else min(raw, clipped))
    assert loss.item() == pytest.approx(-sum(scores) / len(scores), rel=1e-5)
    assert 0 < stats["clip_low_fraction"] < 1


def test_ch08_holds_every_run_with_the_scripts_settings():
    ch08, found = script("ch08"), record("ch08")
    wanted = ch08.every_run()
    assert list(found["runs"]) == list(wanted) and len(wanted) == 21
    assert found["shown"] == {"shares": ch08.SHOWN, "settings": ch08.SHOWING}
    for name, (options, settings, paid) in wanted.items():
        run = found["runs"][name]
        assert (run["task"], run["settings"], run["paid"]) == (options, settings, paid)
        assert set(run["curves"]) == set(ch08.CURVES)
        assert {len(curve) for curve in run["curves"].values()} == {settings["steps"]}
        assert [e["step"] for e in run["evaluations"]][-1] == settings["steps"]


def test_the_arms_of_ch08_pay_for_what_they_say():
    ch08 = script("ch08")
    task = get_task("stories", **ch08.SHORT)
    (problem,) = task.generate(1, seed=0, split="test")
    right = problem.answer
    texts = [
        problem.demonstration, f"<answer>{right}</answer>", f"1 {right} 2",
        "<think>a</think><answer>999</answer>", f"<answer>{right}7</answer>",
    ]  # fmt: skip
    rollout = SimpleNamespace(texts=texts, lengths=torch.tensor([9, 3, 3, 4, 3]))
    paid = {
        "anywhere": [1, 1, 1, 0, 0], "answer": [1, 1, 0, 0, 0], "form": [1, 0, 0, 1, 0],
        "mistakes": [0, 0, 1, 1, 1],
    }  # fmt: skip
    for name, expected in paid.items():
        watched = ch08.Watched(ch08.payment(name, task, 0), task)
        assert watched([problem] * 5, rollout) == {"correct": expected}
        assert watched.seen[0]["right"] == 0.4 and watched.seen[0]["thought_length"] == 6.5
        assert watched.seen[0]["anywhere"] == 0.6 and watched.seen[0]["form"] == 0.4
    coins = ch08.payment("coin", task, 0)([problem] * 5, rollout)["correct"]
    assert coins == ch08.payment("coin", task, 0)([problem] * 5, rollout)["correct"]
    many = SimpleNamespace(texts=[""] * 2000)
    assert abs(sum(ch08.payment("coin", task, 1)([problem] * 2000, many)["correct"]) - 620) < 80


def test_ch07_holds_every_run_with_the_scripts_settings_and_kept_the_better_rates():
    ch07, runs = script("ch07"), record("ch07")["runs"]
    wanted = ch07.every_run()
    assert list(runs) == list(wanted)
    for name, settings in wanted.items():
        assert runs[name]["settings"] == settings
        for curve in (*runs[name]["curves"].values(), runs[name]["core_seconds"]):
            assert len(curve) == settings["steps"]
    for side, kept in ch07.TUNED.items():
        ends = {lr: runs[f"tune/{side} {lr:g}/{ch07.TUNING_SEED}"] for lr in ch07.RATES}
        assert kept == max(ends, key=lambda lr: ends[lr]["evaluations"][-1]["sampled"])


def test_ch09_holds_every_seed_with_the_scripts_settings_and_equal_work():
    ch09, runs = script("ch09"), record("ch09")["runs"]
    assert list(runs) == [str(seed) for seed in ch09.SEEDS]
    budgets = {"rl": ("teacher", "unfiltered", "own"), "teacher, rl": ("teacher, more",)}
    for run in runs.values():
        assert run["settings"] == json.loads(json.dumps(ch09.SETTINGS))
        assert set(run["arms"]) == {*budgets, *(arm for arms in budgets.values() for arm in arms)}
        for leader, others in budgets.items():
            budget = run["arms"][leader]["work"][-1]
            for arm in others:  # rather less than more, by no more than three steps
                assert 0.95 * budget < run["arms"][arm]["work"][-1] <= 1.001 * budget
        for arm in run["arms"].values():
            assert len(arm["work"]) == len(arm["evaluations"])
            assert arm["work"] == sorted(arm["work"])


def test_ch10_holds_every_run_with_the_scripts_settings_and_the_same_budget():
    ch10, runs = script("ch10"), record("ch10")["runs"]
    wanted = ch10.every_run()
    assert list(runs) == list(wanted)
    for name, (start, settings) in wanted.items():
        found = runs[name]
        assert (found["start"], found["settings"]) == (start, settings)
        (steps,) = {len(curve) for curve in found["curves"].values()}
        each = settings["prompts"] * settings["group_size"]
        *earlier, last = found["curves"]["completions"]
        assert sum(earlier) < settings["steps"] * each <= sum(earlier) + last
        assert steps == settings["steps"] or settings["resample"]
        measured = [evaluation["step"] for evaluation in found["evaluations"]]
        assert (measured[0], measured[-1]) == (0, steps)


def test_ch10_keeps_right_and_wrong_completions_apart():
    ch10 = script("ch10")
    task = get_task("stories", steps=(2, 2))
    (problem,) = task.generate(1, seed=0, split="test")
    right = problem.demonstration
    checked = right.replace("</think>", f" {problem.answer}+0={problem.answer}</think>")
    texts = [right, checked, right, "<answer>999</answer>"]
    rollout = SimpleNamespace(
        texts=texts, lengths=torch.tensor([10, 20, 30, 3]),
        finished=torch.tensor([True, True, False, True]),
    )  # fmt: skip
    watch = ch10.Watch(task)
    assert watch.reward([problem] * 4, rollout) == {"correct": [1, 1, 1, 0]}
    watch.end_step({})
    watch.end_step({})  # nothing was seen in this one
    assert watch.curves == {
        "length_right": [20, None], "length_wrong": [3, None], "checks_right": [0.5, None],
        "checks_wrong": [None, None],
    }  # fmt: skip


def test_ch11_holds_every_run_with_the_scripts_settings():
    ch11, found = script("ch11"), record("ch11")
    wanted = ch11.every_run()
    assert found["common"] == json.loads(json.dumps(ch11.COMMON))
    assert list(found["runs"]) == list(wanted)
    for name, settings in wanted.items():
        run = found["runs"][name]
        assert run["settings"] == settings
