"""Imitation in rounds: what each one samples and trains on, and that a student learns."""

import copy
import functools
import json
from pathlib import Path

import pytest
import torch

from reasoning_from_scratch.__main__ import main
from reasoning_from_scratch.imitation import ImitationSettings, imitate
from reasoning_from_scratch.model import GPT, GPTConfig
from reasoning_from_scratch.runs import Run
from reasoning_from_scratch.sft import train_sft
from reasoning_from_scratch.tasks.base import Problem
from reasoning_from_scratch.training import start_processes
from tests.tensors import refuses
from tests.toys import SYMBOLS, Copy, Parity, SayB, chain, toy_model, toy_tokenizer, weights
from tests.workers import run_ranks

SMALL = dict(
    steps=4, rounds=2, batch=4, prompts=3, group_size=8, max_new_tokens=8, lr=1e-2, warmup=1
)
NUMBERS = {
    "completions", "correct", "finished", "length", "prompts", "solved_prompts", "kept_prompts",
    "kept", "kept_length", "too_long", "passes", "sample_seconds",
}  # fmt: skip


@pytest.fixture
def settings(subject):
    """A function that makes settings of the class under test."""
    return lambda **changes: subject("ImitationSettings")(**SMALL | changes)


# The rounds.


def examples_of(folder, number):
    known = json.loads((folder / f"examples-{number}.json").read_text())
    return [tuple(example) for example in known["examples"]], known["stats"]


@pytest.mark.parametrize("start", ["last", "original"])
def test_imitate_is_sampling_and_then_sft(subject, settings, tmp_path, start):
    s, tokenizer = settings(start=start, train_on="completion"), toy_tokenizer()
    student = toy_model(scale=8.0)
    run = subject("imitate")(student, tokenizer, Parity(), s, run=Run.create(tmp_path / "r", s))

    by_hand, losses = toy_model(scale=8.0), []
    one_round = settings(steps=2, rounds=1, train_on="completion")
    problems = Parity().generate(6, seed=0, split="train")
    for number in (1, 2):
        # The generator's state is the imitator's own business: that it samples the student as the
        # round finds it is told by the next test.
        examples, stats = examples_of(run.folder, number)
        part = {p.prompt for p in problems[3 * number - 3 : 3 * number]}
        assert {prompt for prompt, _ in examples} <= part and stats["prompts"] == 3
        if start == "original":
            by_hand = toy_model(scale=8.0)
        losses += [x["loss"] for x in train_sft(by_hand, tokenizer, examples, one_round).history]
    assert torch.equal(weights(student), weights(by_hand))
    assert [line["loss"] for line in run.history] == losses
    assert examples_of(run.folder, 1)[0] != examples_of(run.folder, 2)[0]


def test_imitate_logs_every_step_and_each_rounds_sampling_once(subject, settings):
    s = settings(steps=6, rounds=2, warmup=2, final_lr=0.0, evaluate_every=2)
    seen = []
    run = subject("imitate")(
        toy_model(), toy_tokenizer(), Parity(), s, evaluate=lambda model: {"seen": len(seen)},
        watch=lambda *stage: seen.append(stage) or (lambda line: seen.append(line["step"])),
    )  # fmt: skip
    history = run.history
    assert [line["step"] for line in history] == [0, 1, 2, 3, 4, 5]
    assert [line["round"] for line in history] == [1, 1, 1, 2, 2, 2]
    assert [line["lr"] for line in history] == pytest.approx([0.005, 0.01, 0.01] * 2)
    assert [NUMBERS <= line.keys() for line in history] == [True, False, False] * 2
    assert not any(NUMBERS & line.keys() for line in history[1:3] + history[4:])
    assert [line.get("eval") for line in history] == [None, {"seen": 2}, None] + [
        None, {"seen": 4}, None
    ]  # fmt: skip
    assert seen == [("sample", 24), 23] * 2
    for line in (history[0], history[3]):
        assert line["completions"] == 24 and line["passes"] == 3 * 4 / line["kept"]


class Same(Copy):
    """One problem, however many are drawn."""

    def generate(self, n, *, seed, split):
        return [Problem("7=", "7", "7")] * n


def test_imitate_draws_new_samples_each_round_and_for_each_seed(subject, settings, tmp_path):
    def texts(name, **changes):
        # A rate of nothing: only the random numbers can tell the rounds apart.
        s = settings(lr=1e-30, per_prompt=0, **changes)
        run = Run.create(tmp_path / name, s)
        subject("imitate")(toy_model(), toy_tokenizer(), Same(), s, run=run, score=lambda *_: 1.0)
        return [examples_of(run.folder, number)[0] for number in (1, 2)]

    first, second = texts("a")
    assert first != second and [first, second] == texts("b")
    other, _ = texts("c", seed=1)
    assert other not in (first, second)


@pytest.mark.parametrize("start", ["last", "original"])
def test_imitate_learns_what_it_is_paid_for_and_samples_what_it_has_learned(
    subject, settings, start
):
    s = settings(
        steps=60, batch=16, prompts=10, group_size=32, start=start, per_prompt=0, lr=2e-2
    )  # fmt: skip
    student = toy_model()
    run = subject("imitate")(student, toy_tokenizer(), SayB(), s)
    first, second = [line["correct"] for line in run.history if "correct" in line]
    assert first < 0.15 and second > 0.5
    probe = settings(steps=1, rounds=1, group_size=32)
    run = subject("imitate")(student, toy_tokenizer(), SayB(), probe)
    assert run.history[0]["correct"] > (0.9 if start == "last" else 0.5)


def test_a_student_learns_from_a_teacher_of_another_size_and_tokenizer(subject, settings):
    foreign = toy_tokenizer(SYMBOLS[::-1])
    equals, b, end = (foreign.encode(x)[0] for x in ("=", "b", "<|end|>"))
    teacher = chain({equals: b, b: end})
    student, before = toy_model(), weights(teacher).clone()
    assert teacher.config.width != student.config.width and toy_tokenizer().encode("b") != [b]
    s = settings(steps=40, group_size=4, per_prompt=1)
    run = subject("imitate")(student, toy_tokenizer(), SayB(), s, teacher=(teacher, foreign))
    assert torch.equal(weights(teacher), before)
    assert [line["correct"] > 0.9 for line in run.history if "correct" in line] == [True, True]
    greedy = settings(steps=1, rounds=1, temperature=0.0, group_size=1)
    probe = subject("imitate")(copy.deepcopy(student), toy_tokenizer(), SayB(), greedy)
    assert probe.history[0]["correct"] == 1.0 and probe.history[0]["length"] == 2


def test_imitate_takes_a_score_of_its_own(subject, settings):
    run = subject("imitate")(
        toy_model(), toy_tokenizer(), SayB(), settings(), score=lambda problem, text: 1.0
    )
    assert [line["correct"] for line in run.history if "correct" in line] == [1.0, 1.0]


def test_imitate_leaves_out_what_is_too_long_for_the_student(subject, settings, tmp_path):
    teacher, s = (toy_model(), toy_tokenizer()), settings(per_prompt=0, group_size=16)
    run = Run.create(tmp_path / "r", s)
    config = GPTConfig(vocab_size=18, width=16, layers=1, heads=1, max_positions=6)
    student = GPT(config, generator=torch.Generator().manual_seed(0))
    subject("imitate")(
        student, toy_tokenizer(), Same(), s, teacher=teacher, run=run, score=lambda *_: 1.0
    )
    examples, numbers = examples_of(run.folder, 1)
    assert max(len(text) for _, text in examples) == 3  # besides two of the prompt, and the end
    assert numbers["too_long"] == numbers["kept"] - len(examples) > 0
    assert numbers["passes"] == 2 * 4 / len(examples)


def test_imitate_that_is_asked_to_stop_while_it_samples_stops_then(subject, settings, tmp_path):
    s, task = settings(group_size=100), Parity()  # a round is two batches
    expected = toy_model()
    subject("imitate")(expected, toy_tokenizer(), task, s)
    student, run = toy_model(), Run.create(tmp_path / "r", s)

    def score(problem, text):
        run.stopping = True
        return task.score(problem, text)

    with pytest.raises(KeyboardInterrupt, match="stopped after 200 of 300 completions"):
        subject("imitate")(student, toy_tokenizer(), task, s, run=run, score=score)
    assert [path.name for path in run.folder.iterdir()] == ["settings.json"]
    subject("imitate")(student, toy_tokenizer(), task, s, run=Run.resume(run.folder))
    assert torch.equal(weights(student), weights(expected))


def ask_to_stop(run, step, line):
    run.stopping = line["step"] == step


def test_imitate_that_is_stopped_within_a_round_goes_on_to_the_same_end(
    subject, settings, tmp_path
):
    s, tokenizer, expected = settings(), toy_tokenizer(), toy_model(scale=8.0)
    history = subject("imitate")(expected, tokenizer, Parity(), s).history
    for stop in range(3):
        student, run = toy_model(scale=8.0), Run.create(tmp_path / str(stop), s)
        run.on_step = functools.partial(ask_to_stop, run, stop)
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {stop + 1} of 4"):
            subject("imitate")(student, tokenizer, Parity(), s, run=run)
        student = toy_model(scale=8.0)
        run = subject("imitate")(student, tokenizer, Parity(), s, run=Run.resume(run.folder))
        assert torch.equal(weights(student), weights(expected))
        assert [x["loss"] for x in run.history] == [x["loss"] for x in history]


def test_imitate_refuses(subject, settings, tmp_path):
    imitate, model, tokenizer = subject("imitate"), toy_model(), toy_tokenizer()
    run = Run.create(tmp_path / "r", settings())
    said = r"round 1 kept none of 24 completions \(mean score 0, .*% finished\): give easier"
    refuses(
        imitate, model, tokenizer, Copy(), settings(), run=run, score=lambda *_: 0.0, match=said
    )
    assert [path.name for path in run.folder.iterdir()] == ["settings.json"]
    assert torch.equal(weights(model), weights(toy_model()))
    refuses(
        imitate, model, tokenizer, Parity(), settings(), evaluate=lambda _: {},
        match="evaluate is given, but evaluate_every is 0",
    )  # fmt: skip
    refuses(imitate, model, tokenizer, Parity(), {"steps": 4}, match="settings is a dict, expected")


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(steps=5), "steps is 5, expected a multiple of rounds=2"),
        (dict(steps=0), "steps is 0, expected at least 1"),
        (dict(rounds=0), "rounds is 0, expected at least 1"),
        (dict(prompts=2.0), "prompts is 2.0, expected a whole number"),
        (dict(group_size=0), "group_size is 0, expected at least 1"),
        (dict(max_new_tokens=0), "max_new_tokens is 0, expected at least 1"),
        (dict(per_prompt=-1), "per_prompt is -1, expected at least 0"),
        (dict(temperature=-0.5), "temperature is -0.5, expected a finite number, at least 0"),
        (dict(temperature=0.0), "group_size is 8 at temperature 0: all would be the same"),
        (dict(keep="longest"), "keep is 'longest', expected 'first' or 'shortest'"),
        (dict(start="base"), "start is 'base', expected 'last' or 'original'"),
        (dict(stop="\n"), "stop is"),
        (dict(train_on="prompt"), "train_on is 'prompt', expected 'all' or 'completion'"),
    ],
    ids=str,
)
def test_settings_refuse(settings, changes, said):
    refuses(settings, **changes, match=said)


# Two processes.


def in_a_group(folder):
    start_processes()
    settings = ImitationSettings(**SMALL)
    run, student = folder and Run.create(folder, settings), toy_model()
    history = imitate(student, toy_tokenizer(), Parity(), settings, run=run).history
    numbers = ("round", "completions", "correct", "kept", "tokens")
    lines = [{name: line.get(name) for name in numbers} for line in history]
    return lines, [line["loss"] for line in history], weights(student).tolist()


def test_two_processes_sample_the_same_and_train_as_one(tmp_path):
    (lines, losses, found), second = run_ranks(in_a_group, str(tmp_path / "r"))
    assert second == (lines, losses, found)
    expected_lines, expected_losses, expected = in_a_group(None)
    assert lines == expected_lines and losses == pytest.approx(expected_losses, rel=1e-4)
    assert found == pytest.approx(expected, abs=1e-4)


# The command.

BASE = str(Path(__file__).parents[1] / "data" / "models" / "base")


def test_the_command_trains_exports_and_resumes(tmp_path, capsys):
    out, sizes = tmp_path / "run", ("--prompts", "8", "--group-size", "4", "--batch", "4")
    how = ("--rounds", "2", "--steps", "4", "--keep", "shortest", "--per-prompt", "1")
    # The base is its own teacher here: the same samples, but in round 2 it has not moved on.
    for name, teacher in (("own", ()), ("taught", ("--teacher", BASE))):
        out = tmp_path / name
        assert main(["imitate", "--model", BASE, *teacher, *how, *sizes, "--out", str(out)]) == 0
        said = capsys.readouterr().out
        assert "sample 32/32" in said and "imitate 4/4" in said and "the model:" in said
        assert (out / "model" / "model.safetensors").exists()
    first, second = ([examples_of(tmp_path / name, i)[0] for name in ("own", "taught")]
                     for i in (1, 2))  # fmt: skip
    assert first[0] == first[1] and second[0] != second[1]
    known = json.loads((out / "settings.json").read_text())
    assert known["teacher"] == BASE and known["settings"]["keep"] == "shortest"
    assert main(["imitate", "--resume", str(out)]) == 0
    assert "its 4 steps are done" in capsys.readouterr().out
