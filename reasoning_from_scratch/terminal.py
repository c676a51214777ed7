"""What the command line shows and how it is stopped: progress, Ctrl-C, output of one process."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from reasoning_from_scratch.runs import Run
from reasoning_from_scratch.training import rank, warnings


class Bar:
    """A progress bar with a step's main numbers; ten lines where there is no terminal."""

    SHOWN = (
        "loss", "reward", "reward_correct", "length", "thinks", "entropy", "kl_completion",
        "margin", "accuracy",
    )  # fmt: skip

    def __init__(self, stage: str, total: int) -> None:
        self.stage, self.total, self.start = stage, total, time.perf_counter()
        self.bar = tqdm(total=total, desc=stage, disable=None if rank() == 0 else True)
        self.warned: set[str] = set()
        self.tenths = 0

    def __call__(self, line: dict) -> None:
        done = line["step"] + 1
        numbers = {n: f"{line[n]:.3g}" for n in self.SHOWN if n in line}
        if line.get("reward_correct") == line.get("reward"):  # the reward is being right
            numbers.pop("reward_correct", None)
        if "greedy" in line.get("eval", {}):
            numbers["greedy"] = f"{line['eval']['greedy']['mean']:.0%}"
        tenths, self.tenths = self.tenths, done * 10 // self.total
        if self.bar.disable and self.tenths > tenths:
            seconds = time.perf_counter() - self.start
            text = " ".join(f"{name}={value}" for name, value in numbers.items())
            say(f"{self.stage} {done}/{self.total} {seconds:.0f} s {text}")
        self.bar.n = done
        self.bar.set_postfix(numbers, refresh=True)
        for warning in warnings(line):
            about = warning.partition(":")[2]  # what stands before it has this step's numbers
            if about not in self.warned:
                self.warned.add(about)
                self.bar.write(f"step {done}: {warning}")
        if done >= self.total:
            self.bar.close()


@contextlib.contextmanager
def stoppable(current: Callable[[], Run | None], command: str) -> Iterator[None]:
    """Let the first Ctrl-C end the run after its step, saved; the second ends it at once.

    A run that is refused before it has done anything leaves no folder in the way of the next try.
    """

    def stop(signum: int, frame: object) -> None:
        record = current()
        if record is None or record.stopping:
            raise KeyboardInterrupt
        record.stopping = True
        say("\nstopping after this step …")

    earlier = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except KeyboardInterrupt:
        python = os.path.relpath(sys.executable)
        say(f"\nstopped; go on with: {python} -m reasoning_from_scratch {command}")
        raise
    except ValueError:
        if (record := current()) is not None and rank() == 0:
            discard_unused(record.folder)
        raise
    finally:
        signal.signal(signal.SIGINT, earlier)


def discard_unused(folder: Path) -> None:
    """Remove a run's folder that holds nothing but settings."""
    if [path.name for path in folder.iterdir()] == ["settings.json"]:
        (folder / "settings.json").unlink()
        folder.rmdir()


def fresh_folder(name: str) -> Path:
    """Return a folder under runs/ that no earlier run has."""
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_fresh(folder: Path) -> None:
    """Raise a FileExistsError where something is already: a model is never written over another."""
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: choose another folder")


def read_line(prompt: str) -> str:
    """Return a line from the keyboard; an empty one at its end."""
    try:
        return input(prompt)
    except EOFError:
        return ""


def say(text: str) -> None:
    """Print, once for all processes."""
    if rank() == 0:
        print(text, flush=True)
