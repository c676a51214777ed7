"""The run folder: what is written, what is refused, what a checkpoint gives back."""

import errno
import json
import os
import resource
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file

from reasoning_from_scratch import runs
from reasoning_from_scratch.runs import CHECKPOINT, Run, read_checkpoint
from reasoning_from_scratch.training import make_optimizer, optimiser_step
from tests.toys import toy_model, weights
from tests.workers import run_process


@dataclass(frozen=True)
class Settings:
    steps: int = 10
    checkpoint_every: int = 4


def trained(seed=0, steps=2, **changes):
    """A model, its optimiser with moments, and a generator that has been used."""
    model, generator = toy_model(seed, **changes), torch.Generator().manual_seed(seed)
    optimizer = make_optimizer(model, lr=0.01, weight_decay=0.1)
    for _ in range(steps):
        tokens = torch.randint(18, (2, 5), generator=generator)
        loss = model(tokens).square().mean()
        optimiser_step(model, optimizer, [loss], lr=0.01, max_grad_norm=1.0)
    return model, optimizer, generator


def lines(path):
    return [json.loads(line) for line in path.open()]


def steps_of(path):
    return [line["step"] for line in lines(path)]


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", Settings())


# The folder.


def test_a_new_run_writes_its_settings(tmp_path):
    folder = tmp_path / "a" / "b"
    assert Run.create(folder, Settings(steps=3)).folder == folder
    assert Run.resume(str(folder)).settings == {"steps": 3, "checkpoint_every": 4}
    assert Run.create(tmp_path / "c", {"command": "sft"}).settings == {"command": "sft"}
    assert [path.name for path in folder.iterdir()] == ["settings.json"]  # nothing half-written


def test_a_second_run_never_overwrites_a_first(run):
    run.log(0, {"loss": 1.0})
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(FileExistsError, match=f"{run.folder} already holds a run: resume it with"):
        Run.create(run.folder, Settings(steps=99))
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


def test_only_a_run_can_be_resumed(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no run in {tmp_path}: settings.json is missing"):
        Run.resume(tmp_path)


def test_the_other_processes_of_a_run_join_the_folder_that_the_first_made(run, monkeypatch):
    monkeypatch.setattr(runs, "rank", lambda: 1)
    assert Run.create(run.folder, Settings()).folder == run.folder


# The log.


def test_each_step_is_a_line_in_the_folder_and_in_memory(run):
    run.log(0, {"loss": 1.5, "eval": {"greedy": {"mean": 0.5}}})
    run.log(1, {"loss": float("inf")})
    assert lines(run.folder / "log.jsonl") == run.history
    assert run.history[0] == {"step": 0, "loss": 1.5, "eval": {"greedy": {"mean": 0.5}}}
    run.record([{"step": 0, "prompt": "1\u2028\n="}, {"step": 0, "prompt": "é"}])
    prompts = [line["prompt"] for line in lines(run.folder / "rollouts.jsonl")]
    assert prompts == ["1\u2028\n=", "é"]


def test_a_run_without_a_folder_keeps_everything_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, (model, optimizer, generator) = Run(), trained()
    run.record([{"step": 0}])
    run.end_step(0, {"loss": 1.0}, Settings(checkpoint_every=1), model, optimizer, generator)
    assert run.history == [{"step": 0, "loss": 1.0}]
    assert run.restore(model, optimizer, generator) == {"step": 0}
    assert not list(tmp_path.iterdir())


def test_only_the_first_process_writes(run, monkeypatch):
    monkeypatch.setattr(runs, "rank", lambda: 1)
    model, optimizer, generator = trained()
    run.end_step(9, {}, Settings(), model, optimizer, generator)
    run.record([{"step": 9}])
    assert [path.name for path in run.folder.iterdir()] == ["settings.json"]
    assert run.history == [{"step": 9}]


def test_cutting_drops_later_steps_and_a_half_line(tmp_path):
    path = tmp_path / "log.jsonl"
    whole = "".join(f'{{"step": {step}, "loss": 1}}\n' for step in (0, 1, 1, 2, 3))
    for tail in ("", '{"step": 4, "lo', '{"step": 4}'):
        path.write_text(whole + tail)
        Run.cut(path, 4)
        assert path.read_text() == whole
    Run.cut(path, 2)
    assert steps_of(path) == [0, 1, 1]
    Run.cut(path, 0)
    assert path.read_text() == ""
    Run.cut(tmp_path / "nothing.jsonl", 2)
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_process_that_does_not_write_is_not_confused_by_a_half_line(run, monkeypatch):
    model, optimizer, generator = trained()
    run.log(0, {"loss": 1.0})
    run.save(1, model, optimizer, generator)
    with (run.folder / "log.jsonl").open("a") as file:
        file.write('{"step": 1}\n{"step": 2, "lo')
    monkeypatch.setattr(runs, "rank", lambda: 1)  # the first process may not have cut it yet
    other = Run.resume(run.folder)
    assert other.restore(model, optimizer)["step"] == 1
    assert other.history == [{"step": 0, "loss": 1.0}]


# Checkpoints.


def test_a_checkpoint_gives_back_weights_moments_and_random_state(run):
    model, optimizer, generator = trained(seed=0, steps=3)
    run.save(3, model, optimizer, generator, problems=48)
    expected = weights(model)
    other, fresh, its_generator = trained(seed=1, steps=0)
    state = Run.resume(run.folder).restore(other, fresh, its_generator)
    assert state == {"step": 3, "problems": 48}
    assert torch.equal(weights(other), expected)
    assert torch.equal(its_generator.get_state(), generator.get_state())
    for pair in ((model, optimizer), (other, fresh)):  # the moments show in the next step
        tokens = torch.tensor([[1, 2, 3]])
        optimiser_step(*pair, [pair[0](tokens).square().mean()], lr=0.01, max_grad_norm=1.0)
    assert torch.equal(weights(other), weights(model))


def test_a_checkpoint_is_safetensors_and_json(run):
    model, optimizer, generator = trained()
    run.save(2, model, optimizer, generator)
    tensors, state = read_checkpoint(run.folder / CHECKPOINT)
    assert state == {"step": 2}
    assert torch.equal(tensors["model.embedding.weight"], model.embedding.weight)
    assert set(load_file(run.folder / CHECKPOINT)) == set(tensors)
    assert sorted(p.name for p in run.folder.iterdir()) == [CHECKPOINT, "settings.json"]


def test_a_checkpoint_is_replaced_in_one_stroke(run):
    run.save(1, *trained())
    before = (run.folder / CHECKPOINT).read_bytes()
    with (run.folder / CHECKPOINT).open("rb") as opened:
        run.save(2, *trained(1))
        # The name points to another file; the one that it pointed to was never written to.
        assert opened.read() == before != (run.folder / CHECKPOINT).read_bytes()


def test_steps_are_saved_as_often_as_asked_and_at_the_end(run):
    model, optimizer, _ = trained()
    saved, seen = [], []
    run.on_step = seen.append
    for step in range(10):
        run.end_step(step, {"loss": 1.0}, Settings(), model, optimizer)
        if (run.folder / CHECKPOINT).exists():
            saved.append(read_checkpoint(run.folder / CHECKPOINT)[1]["step"])
    assert saved == [4, 4, 4, 4, 8, 8, 10]
    assert seen == run.history and steps_of(run.folder / "log.jsonl") == list(range(10))


def test_restoring_drops_what_came_after_the_checkpoint(run):
    model, optimizer, generator = trained()
    for step in range(6):
        run.record([{"step": step}, {"step": step}])
        run.end_step(step, {}, Settings(), model, optimizer, generator)
    (run.folder / "checkpoint.partial").write_bytes(b"half")
    again = Run.resume(run.folder)
    assert again.restore(model, optimizer, generator) == {"step": 4}
    assert again.history == [{"step": step} for step in range(4)]
    assert steps_of(run.folder / "log.jsonl") == [0, 1, 2, 3]
    assert steps_of(run.folder / "rollouts.jsonl") == [0, 0, 1, 1, 2, 2, 3, 3]
    assert not (run.folder / "checkpoint.partial").exists()


def test_a_run_that_never_saved_starts_from_the_beginning(run):
    model, optimizer, generator = trained()
    before = weights(model)
    run.log(0, {})
    again = Run.resume(run.folder)
    assert again.restore(model, optimizer, generator) == {"step": 0}
    assert again.history == [] and torch.equal(weights(model), before)


def test_asked_to_stop_it_saves_and_stops(run):
    model, optimizer, generator = trained()
    run.end_step(0, {}, Settings(), model, optimizer, generator)
    assert not (run.folder / CHECKPOINT).exists()
    run.stopping = True
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2 of 10"):
        run.end_step(1, {}, Settings(), model, optimizer, generator)
    assert read_checkpoint(run.folder / CHECKPOINT)[1] == {"step": 2}
    run.end_step(9, {}, Settings(), model, optimizer, generator)  # the last step ends by itself


# What cannot be written.


def save_twice(folder, obstacle):
    """Save, meet an obstacle, save again; return the message and whether the first is intact."""
    os.chdir(folder)  # pytest's folders are closed to others; who is inside stays inside
    run, (model, optimizer, generator) = Run.resume("."), trained()
    if obstacle != "no earlier one":
        run.save(1, model, optimizer, generator)
    if obstacle == "read-only":
        os.chmod(".", 0o555)
        if os.geteuid() == 0:
            os.setuid(65534)  # nobody: root writes where it likes
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as a full disk would
    try:
        run.save(2, model, optimizer, generator)
    except OSError as error:
        return str(error)


@pytest.mark.parametrize("obstacle", ["full disk", "no earlier one", "read-only"])
def test_a_checkpoint_that_cannot_be_written_says_so_and_leaves_the_earlier_one(run, obstacle):
    code, message = run_process(save_twice, str(run.folder), obstacle)
    os.chmod(run.folder, 0o755)
    assert code == 0
    assert message.startswith("cannot write a checkpoint to .: ")
    names = sorted(path.name for path in run.folder.iterdir())
    if obstacle == "no earlier one":
        assert message.endswith("; there is no earlier one") and names == ["settings.json"]
    else:
        assert message.endswith(f"; the one in {CHECKPOINT} is intact")
        assert names == [CHECKPOINT, "settings.json"]
        assert read_checkpoint(run.folder / CHECKPOINT)[1] == {"step": 1}


def test_no_space_left_is_named(run, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs, "save_file", full)
    with pytest.raises(OSError, match="No space left on device; there is no earlier one"):
        run.save(1, *trained())
    assert [path.name for path in run.folder.iterdir()] == ["settings.json"]


# What cannot be read.


def spoil(path, how):
    whole, tensors = path.read_bytes(), load_file(path)
    if how == "foreign":
        save_file(tensors, path)
    elif how == "no json":
        save_file(tensors, path, {"state": "step 1"})
    elif how == "no random state":
        tensors = {k: v for k, v in tensors.items() if not k.startswith("generator")}
        save_file(tensors, path, {"state": '{"step": 1}'})
    else:
        spoiled = {"empty": b"", "text": b"not a checkpoint\n" * 99, "cut": whole[:-1000]}
        path.write_bytes(spoiled[how])


@pytest.mark.parametrize("how", ["empty", "text", "cut", "foreign", "no json", "no random state"])
def test_a_damaged_or_foreign_checkpoint_is_named(run, how):
    run.save(1, *trained())
    path = run.folder / CHECKPOINT
    spoil(path, how)
    with pytest.raises(ValueError, match=f"{path}"):
        run.restore(*trained(1))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(width=32), r"embedding.weight has shape \[18, 32\], expected \[18, 16\]"),
        (dict(layers=1), r"blocks.1.attention_norm.weight is missing, expected \[16\]"),
        (dict(layers=3), "blocks.2"),
        (dict(tied=False), "head.weight"),
        (dict(attention_bias=True), "bias"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(run, changes, message):
    run.save(1, *trained(**changes))
    model, optimizer, generator = trained()
    before = weights(model)
    with pytest.raises(ValueError, match=f"{run.folder / CHECKPOINT}.*{message}"):
        run.restore(model, optimizer, generator)
    assert torch.equal(weights(model), before)  # no half of one and half of the other
