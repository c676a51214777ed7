"""A run that is killed with `kill -9` and goes on ends with the weights of one that was not."""

import dataclasses
import json
import os
import signal

import pytest
import torch

from reasoning_from_scratch import runs
from reasoning_from_scratch.grpo import preset, train_grpo
from reasoning_from_scratch.runs import CHECKPOINT, Run, read_checkpoint
from reasoning_from_scratch.sft import SFTSettings, train_sft
from tests.toys import Parity, toy_model, toy_tokenizer, weights
from tests.workers import run_process

# All that holds state between steps: moments, reference, problems drawn to replace dead groups,
# two updates in an order of their own, a learning rate that moves.
GRPO = preset(
    "dapo", steps=7, prompts=3, group_size=4, max_new_tokens=8, overlong=2, updates=2, warmup=2,
    kl_coef=0.1, checkpoint_every=2, record_every=1, lr=1e-3,
)  # fmt: skip
SFT = SFTSettings(steps=7, batch=4, warmup=2, checkpoint_every=2)
EXAMPLES = [(f"{i}=", str(i) * (i % 4)) for i in range(7)]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def count_to(number, action, then):
    """Return a function that does `action`, but the `number`-th time does `then`."""
    calls = []

    def counting(*arguments, **options):
        calls.append(1)
        return (then if len(calls) == number else action)(*arguments, **options)

    return counting


def half_a_checkpoint(tensors, path, metadata):
    """What is on disk when a process dies while it writes."""
    save_file(tensors, path, metadata)
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)
    die()


save_file, append, replace = runs.save_file, Run.append, os.replace


def half_a_line(run, name, lines):
    with (run.folder / name).open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines)[:-20])
    die()


def train(folder, algorithm, interruption=None):
    """Start a run, or go on with it; an interruption (moment, how often it passes) ends it."""
    exists = os.path.exists(os.path.join(folder, "settings.json"))
    settings = GRPO if algorithm == "grpo" else SFT
    run = Run.resume(folder) if exists else Run.create(folder, settings)
    moment, number = interruption or ("never", 0)
    task, model = Parity(), toy_model(scale=8.0)
    if moment == "scoring":
        task.score = count_to(number, task.score, lambda *_: die())
    elif moment == "logging":
        runs.Run.append = count_to(number, append, half_a_line)
    elif moment == "after the log":
        run.on_step = lambda line: die() if line["step"] == number else None
    elif moment == "saving":
        runs.save_file = count_to(number, save_file, half_a_checkpoint)
    elif moment == "renaming":  # the checkpoint is whole, but does not have its name yet
        runs.os.fsync = count_to(number, os.fsync, lambda *_: die())
    elif moment == "asked in a step":
        score = task.score
        task.score = count_to(number, score, lambda *a: setattr(run, "stopping", True) or score(*a))
    elif moment == "asked between steps":
        run.on_step = lambda line: setattr(run, "stopping", line["step"] >= number)
    if algorithm == "grpo":
        train_grpo(model, toy_tokenizer(), task, settings, run=run)
    else:
        train_sft(model, toy_tokenizer(), EXAMPLES, settings, run=run)
    return weights(model)


def record(folder, name):
    """The lines of a file, without what a clock wrote."""
    lines = [json.loads(line) for line in (folder / name).open()]
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Final weights and folder of each algorithm's run."""
    folders = {name: tmp_path_factory.mktemp(name) / "run" for name in ("grpo", "sft")}
    return {name: (train(str(path), name), path) for name, path in folders.items()}


def assert_same_end(found, folder, algorithm, undisturbed):
    expected, other = undisturbed[algorithm]
    assert torch.equal(found, expected)
    names = ["log.jsonl"] + ["rollouts.jsonl"] * (algorithm == "grpo")
    for name in names:
        assert record(folder, name) == record(other, name)
    steps = [line["step"] for line in record(folder, "log.jsonl")]
    assert steps == list(range(7))
    files = sorted(path.name for path in folder.iterdir())
    assert files == sorted([CHECKPOINT, "settings.json", *names])


def test_the_undisturbed_runs_learn_and_use_what_they_save(undisturbed):
    for name, (final, folder) in undisturbed.items():
        assert not torch.equal(final, weights(toy_model(scale=8.0)))
        assert read_checkpoint(folder / CHECKPOINT)[1]["step"] == 7
        assert len({line["grad_norm"] for line in record(folder, "log.jsonl")}) == 7, name
    _, folder = undisturbed["grpo"]
    assert any(line["completions"] > 12 for line in record(folder, "log.jsonl"))  # it resampled


@pytest.mark.parametrize(
    "algorithm, interruptions",
    [
        ("grpo", [("scoring", 5)]),  # before anything was saved
        ("grpo", [("after the log", 2)]),  # a step that is logged but not saved
        ("grpo", [("logging", 7)]),  # in the middle of a line
        ("grpo", [("saving", 1)]),  # inside the first checkpoint
        ("grpo", [("saving", 2)]),  # inside a later one
        ("grpo", [("renaming", 2)]),
        ("grpo", [("after the log", 4), ("saving", 1), ("scoring", 30)]),  # again and again
        ("sft", [("saving", 3)]),
        ("sft", [("after the log", 4)]),
    ],
    ids=str,
)
def test_a_killed_run_goes_on_to_the_same_end(tmp_path, algorithm, interruptions, undisturbed):
    folder = tmp_path / "run"
    for interruption in interruptions:
        code, _ = run_process(train, str(folder), algorithm, interruption)
        assert code == -signal.SIGKILL
    assert_same_end(train(str(folder), algorithm), folder, algorithm, undisturbed)


def asked_to_stop(folder, algorithm, request):
    """Run until it stops as asked; it must have saved the step that it says it stopped after."""
    with pytest.raises(KeyboardInterrupt, match="stopped after step [1-6] of 7") as stopped:
        train(str(folder), algorithm, request)
    saved = read_checkpoint(folder / CHECKPOINT)[1]["step"]
    assert f"after step {saved} of" in str(stopped.value)


def test_a_run_that_is_asked_to_stop_ends_its_step_and_can_go_on(tmp_path, undisturbed):
    folder = tmp_path / "run"
    asked_to_stop(folder, "grpo", ("asked in a step", 5))
    assert len(record(folder, "log.jsonl")) == 1
    assert_same_end(train(str(folder), "grpo"), folder, "grpo", undisturbed)


@pytest.mark.parametrize("algorithm", ["grpo", "sft"])
def test_a_run_that_is_asked_between_two_steps_goes_on_to_the_same_end(
    tmp_path, algorithm, undisturbed
):
    folder = tmp_path / "run"
    asked_to_stop(folder, algorithm, ("asked between steps", 2))
    assert_same_end(train(str(folder), algorithm), folder, algorithm, undisturbed)


@pytest.mark.parametrize("algorithm", ["grpo", "sft"])
def test_a_finished_run_stays_as_it_is(tmp_path, algorithm, undisturbed):
    _, folder = undisturbed[algorithm]
    assert_same_end(train(str(folder), algorithm), folder, algorithm, undisturbed)


def test_the_settings_of_a_run_can_be_read_back(undisturbed):
    _, folder = undisturbed["grpo"]
    expected = json.loads(json.dumps(dataclasses.asdict(GRPO)))
    assert Run.resume(folder).settings == expected
