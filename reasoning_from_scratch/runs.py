"""What a training run leaves on disk, and how it goes on after it was killed.

A run lives in a folder of its own:

    settings.json            the command and every setting
    log.jsonl                a line a step, in the order of the steps
    rollouts.jsonl           a line for each group of completions that was recorded
    checkpoint.safetensors   weights, optimiser and random state after the last saved step

A checkpoint is written under another name and renamed, so that there is always a whole one. Lines
that a killed run wrote after its last checkpoint are dropped when it goes on, and the steps they
came from run again with the same random numbers: the end is the same, bit for bit.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from reasoning_from_scratch.training import (
    gather_over_processes,
    rank,
    sum_over_processes,
    world_size,
)

CHECKPOINT = "checkpoint.safetensors"


class Run:
    """A run's record: its history in memory, and in a folder where it has one.

    `Run()` keeps everything in memory; `Run.create` and `Run.resume` have a folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.history: list[dict] = []  # the lines of log.jsonl
        self.on_step: Callable[[dict], None] | None = None  # called with each line: progress bars
        self.stopping = False  # set it from a signal handler: the run saves and stops

    @classmethod
    def create(cls, folder: str | Path, settings: Mapping | object) -> "Run":
        """Start a run in a new folder.

        Raises:
            FileExistsError: the folder already holds a run; nothing of it is touched.
            OSError: the folder cannot be made or written to.
        """
        folder = Path(folder)
        if rank() == 0:  # the other processes might come when it has just been made
            if (folder / "settings.json").exists():
                raise FileExistsError(
                    f"{folder} already holds a run: resume it with --resume {folder}, or choose "
                    "another --out"
                )
            folder.mkdir(parents=True, exist_ok=True)
            if dataclasses.is_dataclass(settings):
                settings = dataclasses.asdict(settings)
            write_atomically(folder / "settings.json", json.dumps(settings, indent=1) + "\n")
        return cls(folder)

    @classmethod
    def resume(cls, folder: str | Path) -> "Run":
        """Open the run in `folder` to go on from its checkpoint, or from the start without one.

        Raises:
            FileNotFoundError: the folder holds no run.
        """
        folder = Path(folder)
        if not (folder / "settings.json").exists():
            raise FileNotFoundError(f"no run in {folder}: settings.json is missing")
        return cls(folder)

    @property
    def settings(self) -> dict:
        """What `settings.json` holds."""
        return json.loads((self.folder / "settings.json").read_text())

    def log(self, step: int, stats: Mapping[str, object]) -> None:
        """Append a step's numbers to the history and to log.jsonl."""
        line = {"step": step, **stats}
        self.history.append(line)
        self.append("log.jsonl", [line])

    def end_step(
        self,
        step: int,
        stats: Mapping[str, object],
        settings: object,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator | None = None,
        **extra: object,
    ) -> None:
        """Log a step; save if it is one of `settings.checkpoint_every`, or the last.

        Raises:
            KeyboardInterrupt: `stopping` was set; the step is saved.
        """
        self.log(step, stats)
        if self.on_step is not None:
            self.on_step(self.history[-1])
        done = step + 1
        stopping = sum_over_processes(float(self.stopping)) != [0.0]  # one of them is enough
        if done % settings.checkpoint_every == 0 or done == settings.steps or stopping:
            self.save(done, model, optimizer, generator, **extra)
        if stopping and done < settings.steps:
            raise KeyboardInterrupt(f"stopped after step {done} of {settings.steps}")

    def record(self, groups: Iterable[Mapping[str, object]]) -> None:
        """Append groups of completions to rollouts.jsonl."""
        self.append("rollouts.jsonl", groups)

    def append(self, name: str, lines: Iterable[Mapping[str, object]]) -> None:
        """Append JSON lines to a file of the run, complete before this returns."""
        if self.folder is None or rank() != 0:
            return
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator | None = None,
        **extra: object,
    ) -> None:
        """Write the state after `step` steps; the earlier checkpoint stays until this is whole.

        Raises:
            OSError: it cannot be written (disk full, read-only); the earlier one is intact.
        """
        if self.folder is None:
            return
        random_state = None if generator is None else gather_over_processes(generator.get_state())
        if rank() != 0:
            return
        tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{index}.{name}"] = value
        if random_state is not None:
            tensors["generator"] = random_state  # [processes, bytes]
        tensors = {name: value.contiguous() for name, value in tensors.items()}
        path = self.folder / CHECKPOINT
        partial = path.with_suffix(".partial")
        try:
            save_file(tensors, partial, {"state": json.dumps({"step": step, **extra})})
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # on disk before the name points to it
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            kept = f"the one in {path} is intact" if path.exists() else "there is no earlier one"
            raise OSError(f"cannot write a checkpoint to {self.folder}: {error}; {kept}") from error

    def restore(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator | None = None,
    ) -> dict:
        """Load the checkpoint into what is given, if there is one; return {"step": …, extras}.

        Lines of the log from that step on are dropped, for those steps will run again.

        Raises:
            ValueError: the checkpoint is of another model, or damaged.
        """
        state = {"step": 0}
        if self.folder is None:
            return state
        path = self.folder / CHECKPOINT
        if rank() == 0:
            path.with_suffix(".partial").unlink(missing_ok=True)
        if path.exists():
            tensors, state = read_checkpoint(path)
            check_model(model, tensors, path)
            if generator is not None:
                if len(tensors.get("generator", ())) != world_size():
                    raise ValueError(
                        f"{path} holds no random state for {world_size()} processes: it was "
                        "written by another algorithm, or by another number of processes"
                    )
                generator.set_state(tensors["generator"][rank()].clone())
            load_model(model, tensors)
            load_optimizer(optimizer, tensors)
        self.cut(self.folder / "rollouts.jsonl", state["step"])
        self.history = self.cut(self.folder / "log.jsonl", state["step"])
        return state

    @staticmethod
    def cut(path: Path, step: int) -> list[dict]:
        """Drop the lines of `step` and later, and a last line cut short; return the rest."""
        if not path.exists():
            return []
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n") or json.loads(line)["step"] >= step:
                break
            kept.append(line)
        if rank() == 0:
            write_atomically(path, "".join(kept))
        return [json.loads(line) for line in kept]


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is either the old or the new one, never a half."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Return a checkpoint's tensors and its state {"step": …}."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return tensors, json.loads(file.metadata()["state"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a checkpoint of this project: {error}") from error


def check_model(model: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse a checkpoint that does not hold exactly the model's weights, before any is loaded."""
    expected = {f"model.{name}": list(p.shape) for name, p in model.named_parameters()}
    found = {n: list(t.shape) for n, t in tensors.items() if n.startswith("model.")}
    for name in [*expected, *found]:
        short = name.removeprefix("model.")
        if name not in expected:
            raise ValueError(f"{path} holds {short}, which this model does not have")
        if found.get(name) != expected[name]:
            what = f"has shape {found[name]}" if name in found else "is missing"
            raise ValueError(f"{path}: {short} {what}, expected {expected[name]}")


@torch.no_grad()
def load_model(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy a checkpoint's weights into `model`."""
    for name, parameter in model.named_parameters():
        parameter.copy_(tensors[f"model.{name}"])


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give the optimiser a checkpoint's moments."""
    state: dict[int, dict] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            index, _, name = rest.partition(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
