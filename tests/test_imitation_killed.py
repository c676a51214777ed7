"""A run of `imitate` that is killed, or asked to stop, goes on to the end of one that was not."""

import json
import os
import signal

import pytest
import torch

from reasoning_from_scratch import imitation, runs
from reasoning_from_scratch.imitation import ImitationSettings, imitate
from reasoning_from_scratch.runs import CHECKPOINT, Run, read_checkpoint
from tests.test_runs_killed import count_to, die, half_a_checkpoint, record
from tests.toys import Parity, toy_model, toy_tokenizer, weights
from tests.workers import run_process

ROUNDS = dict(
    steps=6, rounds=2, batch=4, prompts=3, group_size=8, max_new_tokens=8, lr=1e-2, warmup=2,
    checkpoint_every=2,
)  # fmt: skip
SAVED = 24  # completions that a round scores
save_file, write = runs.save_file, imitation.write_atomically


def half_a_file(path, text):
    """What is on disk when a process dies while it writes the examples."""
    path.with_name(path.name + ".partial").write_text(text[: len(text) // 2])
    die()


def train(folder, start, interruption=None):
    """Start a run, or go on with it; an interruption (moment, how often it passes) ends it."""
    settings = ImitationSettings(**ROUNDS, start=start)
    exists = os.path.exists(os.path.join(folder, "settings.json"))
    run = Run.resume(folder) if exists else Run.create(folder, settings)
    moment, number = interruption or ("never", 0)
    task, model = Parity(), toy_model(scale=8.0)
    score = task.score
    if moment == "scoring":
        task.score = count_to(number, score, lambda *_: die())
    elif moment == "writing examples":
        imitation.write_atomically = count_to(number, write, half_a_file)
    elif moment == "after the log":
        run.on_step = lambda line: die() if line["step"] == number else None
    elif moment == "saving":
        runs.save_file = count_to(number, save_file, half_a_checkpoint)
    elif moment == "asked while it samples":
        task.score = count_to(number, score, lambda *a: setattr(run, "stopping", True) or score(*a))
    elif moment == "asked after a step":
        run.on_step = lambda line: setattr(run, "stopping", line["step"] >= number)
    imitate(model, toy_tokenizer(), task, settings, run=run)
    return weights(model)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Final weights and folder of each kind of run."""
    folders = {start: tmp_path_factory.mktemp(start) / "run" for start in ("last", "original")}
    return {start: (train(str(path), start), path) for start, path in folders.items()}


def timeless(folder, number):
    known = json.loads((folder / f"examples-{number}.json").read_text())
    return known["examples"], {k: v for k, v in known["stats"].items() if "seconds" not in k}


def assert_same_end(found, folder, undisturbed):
    expected, other = undisturbed
    assert torch.equal(found, expected)
    assert record(folder, "log.jsonl") == record(other, "log.jsonl")
    assert [line["step"] for line in record(folder, "log.jsonl")] == list(range(6))
    for number in (1, 2):
        assert timeless(folder, number) == timeless(other, number)
    names = [CHECKPOINT, "settings.json", "log.jsonl", "examples-1.json", "examples-2.json"]
    left = {path.name for path in folder.iterdir()} - set(names)
    assert not left and read_checkpoint(folder / CHECKPOINT)[1]["step"] == 6


def test_the_two_kinds_of_run_differ_and_learn(undisturbed):
    last, original = undisturbed["last"][0], undisturbed["original"][0]
    assert not torch.equal(last, original)
    assert not torch.equal(original, weights(toy_model(scale=8.0)))


@pytest.mark.parametrize(
    "start, interruptions",
    [
        ("last", [("scoring", 5)]),  # before anything was kept
        ("last", [("writing examples", 1)]),
        ("last", [("after the log", 0)]),  # sampled, and nothing saved
        ("last", [("after the log", 2)]),  # at the end of a round, which is between two saves
        ("last", [("scoring", SAVED + 5)]),  # in the sampling of the second round
        ("last", [("writing examples", 2)]),
        ("last", [("saving", 2)]),  # in the second round
        ("last", [("after the log", 4), ("saving", 1)]),  # again and again
        ("original", [("scoring", SAVED + 5)]),
        ("original", [("after the log", 4)]),
    ],
    ids=str,
)
def test_a_killed_run_goes_on_to_the_same_end(tmp_path, start, interruptions, undisturbed):
    folder = tmp_path / "run"
    for interruption in interruptions:
        code, _ = run_process(train, str(folder), start, interruption)
        assert code == -signal.SIGKILL
    assert_same_end(train(str(folder), start), folder, undisturbed[start])


@pytest.mark.parametrize("start", ["last", "original"])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_that_is_asked_to_stop_ends_its_step_and_can_go_on(
    tmp_path, start, step, undisturbed
):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step + 1} of 6"):
        train(str(folder), start, ("asked after a step", step))
    assert read_checkpoint(folder / CHECKPOINT)[1]["step"] == step + 1
    assert_same_end(train(str(folder), start), folder, undisturbed[start])


@pytest.mark.parametrize("number, step", [(3, 1), (SAVED + 3, 4)])
def test_a_run_that_is_asked_to_stop_in_the_last_samples_keeps_them(
    tmp_path, number, step, undisturbed
):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step} of 6"):
        train(str(folder), "last", ("asked while it samples", number))
    assert_same_end(train(str(folder), "last"), folder, undisturbed["last"])


def test_a_finished_run_stays_as_it_is(undisturbed):
    for start, (_, folder) in undisturbed.items():
        assert_same_end(train(str(folder), start), folder, undisturbed[start])


def test_a_round_that_has_begun_wants_its_examples(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(str(folder), "last", ("asked after a step", 4))
    (folder / "examples-2.json").unlink()
    with pytest.raises(FileNotFoundError, match="examples-2.json"):
        train(str(folder), "last")
