"""Speed against TRL and transformers, as ratios measured side by side.

Both sides (`bench_sides.py`) run in one process and take turns, a step each, so that whatever else
the machine does meets both. A number is the median of the repeats, with the lowest and the highest;
a ratio is taken between neighbours in time.

    machine   our rollout and update as a share of the machine's own matrix-multiply rate
    trl       a GRPO step, its rollout and its update against TRL; `sample` against `generate`
    memory    the most memory of a process that takes two steps with one side
    growth    a step's time over batch, length and width
    accuracy  wall time to the same held-out accuracy on the main job, evaluations not counted

All but `machine` need trl and transformers.
"""

import gc
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from reasoning_from_scratch.bench_sides import (
    Digits,
    Ours,
    Shape,
    Theirs,
    matmul_rate,
    own_matmul_rate,
    required,
    rollout_flops,
    seconds_of,
    update_flops,
)
from reasoning_from_scratch.bench_tables import growth_figure, summary, tables
from reasoning_from_scratch.evaluate import measure
from reasoning_from_scratch.grpo import GRPOSettings, train_grpo
from reasoning_from_scratch.main_job import RECIPES, MainJob
from reasoning_from_scratch.model import GPT, GPTConfig
from reasoning_from_scratch.pretrained import find_smollm2, load_pretrained, save_pretrained
from reasoning_from_scratch.rewards import as_trl_reward, trl_columns
from reasoning_from_scratch.runs import Run, write_atomically
from reasoning_from_scratch.tasks import Task, get_task
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.training import keep_freed_memory

SECTIONS = ("machine", "trl", "memory", "growth", "accuracy")
SHAPES = {"tiny": Shape(), "smollm2": Shape(prompts=8, prompt_tokens=25, new_tokens=16)}
QUICK = Shape(prompts=2, group_size=4, prompt_tokens=4, new_tokens=4)
GROWTH = {
    "batch": (32, 64, 128, 256, 512), "length": (16, 32, 64, 128, 256), "width": (64, 128, 256, 512)
}  # fmt: skip
QUICK_GROWTH = {"batch": (8, 16), "length": (4, 8), "width": (16, 32)}


def bench(
    out: str | Path = ".", *, sections: Sequence[str] = SECTIONS, quick: bool = False,
    base: str | Path | None = None, recipe: str = "ten_minutes", target: float = 0.8,
    seeds: Sequence[int] = (0, 1), repeats: int = 7, limit: float = 1800.0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, object]:  # fmt: skip
    """Measure, and write data/bench.json, data/bench.md and figures/bench.svg under `out`.

    Args:
        out:      where to write; sections measured before, by the same machine, are kept.
        sections: any of "machine", "trl", "memory", "growth", "accuracy".
        quick:    toy sizes, to see that everything runs.
        base:     the exported model from which "accuracy" starts: the folder `base` of a main job.
                  None: made by the recipe, in `out`/runs/bench-base.
        recipe:   the main job of "accuracy".
        target:   its share of held-out problems solved greedily.
        seeds:    its runs, two sides each.
        repeats:  steps that are timed, after one that is not.
        limit:    seconds after which a run of "accuracy" is given up.
        say:      called with lines that tell what goes on.

    Raises:
        ValueError: no such section.
        ModuleNotFoundError: trl or transformers is missing, and a section needs it.
    """
    if unknown := set(sections) - set(SECTIONS):
        raise ValueError(f"sections has {sorted(unknown)}, expected some of {', '.join(SECTIONS)}")
    if set(sections) - {"machine"}:
        required("trl")
    keep_freed_memory()
    out, path = Path(out), Path(out) / "data" / "bench.json"
    about = {**describe_machine(), "quick": quick}
    known = json.loads(path.read_text()) if path.exists() else {}
    results = known if known.get("about") == about else {}
    results["about"] = about
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for section in sections:
            say(f"{section} …")
            if section == "accuracy":
                base = base or base_model(out / "runs" / "bench-base", recipe)
                results[section] = time_to_accuracy(
                    Path(base), recipe, target=target, seeds=seeds, limit=limit, say=say,
                    every=1 if quick else 5, problems=16 if quick else 256,
                )  # fmt: skip
            elif section == "growth":
                results[section] = growth(Path(scratch), quick=quick, repeats=repeats, say=say)
            else:
                results[section] = {}
                for name, folder, shape in models(Path(scratch), quick=quick):
                    measured = MEASUREMENTS[section](folder, shape, repeats=repeats)
                    results[section][name] = measured
                    say(f"{name}: {json.dumps(summary(measured))}")
                    gc.collect()
            write_atomically(path, json.dumps(results, indent=1) + "\n")
            write_atomically(out / "data" / "bench.md", tables(results))
            if "growth" in results:
                growth_figure(results["growth"], out / "figures" / "bench.svg")
    return results


def models(scratch: Path, *, quick: bool) -> Iterator[tuple[str, Path, Shape]]:
    """Yield the models to measure: name, exported folder, shape of a step."""
    if quick:
        yield "toy", tiny_folder(scratch / "toy", width=32, layers=2), QUICK
        return
    yield "tiny", tiny_folder(scratch / "tiny"), SHAPES["tiny"]
    if not (scratch / "smollm2").exists():
        save_pretrained(*load_pretrained(find_smollm2()), scratch / "smollm2")
    yield "smollm2", scratch / "smollm2", SHAPES["smollm2"]


def race(
    folder: Path, shape: Shape, *, repeats: int, rows: int, turns: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Let TRL take steps, and others their turn after each; return all but the first.

    Args:
        folder: the weights that both start from.
        rows:   completions in TRL's micro-batch.
        turns:  who else: "ours" takes a step; "samplers": `sample` and `generate`, no training.

    Returns:
        Seconds of "trl.step", "ours.rollout" and so on, "generate", "sample": one a repeat.
    """
    found: dict[str, list[float]] = {}
    ours = Ours(folder, shape) if turns else None

    def on_step(seconds: float, rollout_seconds: float) -> None:
        laps = {"step": seconds, "rollout": rollout_seconds, "update": seconds - rollout_seconds}
        add(found, {f"trl.{name}": value for name, value in laps.items()})
        if "ours" in turns:
            add(found, {f"ours.{name}": value for name, value in ours.step().items()})
        if "samplers" in turns:
            add(found, {"generate": seconds_of(lambda: theirs.generate(ours.prompts))})
            add(found, {"sample": seconds_of(ours.sample)})

    settings = shape.settings(steps=1 + repeats)
    task = Digits(shape.prompt_tokens)
    problems = task.generate((1 + repeats) * shape.prompts, seed=0, split="train")
    with tempfile.TemporaryDirectory() as scratch:
        theirs = Theirs(
            folder, trl_columns(problems), as_trl_reward(task.score), settings,
            rows=rows, shape=shape, scratch=Path(scratch), on_step=on_step,
        )  # fmt: skip
        theirs.trainer.train()
    return {name: values[1:] for name, values in found.items()}


def fastest_rows(folder: Path, shape: Shape) -> int:
    """Return the micro-batch, in completions, with which TRL's step is shortest."""
    options = [shape.batch // parts for parts in (1, 2, 4, 8) if shape.batch % parts == 0]
    laps = {rows: race(folder, shape, repeats=2, rows=rows) for rows in options}
    return min(laps, key=lambda rows: min(laps[rows]["trl.step"]))


def against_trl(folder: Path, shape: Shape, *, repeats: int) -> dict[str, object]:
    """Race against TRL with its fastest micro-batch, "rows"."""
    rows = fastest_rows(folder, shape)
    laps = race(folder, shape, repeats=repeats, rows=rows, turns=("ours", "samplers"))
    return {"rows": rows, **laps}


def growth(
    scratch: Path, *, quick: bool, repeats: int, say: Callable[[str], None]
) -> dict[str, dict[str, dict[str, object]]]:
    """Race over sizes: {"batch": {"32": laps, …}, "length": …, "width": …}.

    TRL's micro-batch holds about as many tokens as the fastest one at the middle size.
    """
    found: dict[str, dict[str, dict]] = {name: {} for name in GROWTH}
    start = QUICK if quick else Shape()
    best = fastest_rows(tiny_folder(scratch / "start", width=32 if quick else 128), start)
    tokens = best * start.tokens // start.batch
    for axis, value, width, shape in growth_grid(quick=quick):
        folder = tiny_folder(scratch / f"width-{width}", width=width)
        parts = [p for p in range(1, shape.batch + 1) if shape.batch % p == 0]
        rows = next(
            shape.batch // p for p in parts if shape.tokens // p <= tokens or p == parts[-1]
        )
        laps = race(folder, shape, repeats=min(repeats, 3), rows=rows, turns=("ours",))
        found[axis][str(value)] = {"rows": rows, **laps}
        say(f"{axis} {value}: {json.dumps(summary(laps))}")
    return found


def growth_grid(*, quick: bool) -> list[tuple[str, int, int, Shape]]:
    """Return the sizes to measure, one thing changed at a time: (axis, value, width, shape)."""
    start, width = (QUICK, 32) if quick else (Shape(), 128)
    grid = []
    for axis, values in (QUICK_GROWTH if quick else GROWTH).items():
        for value in values:
            shape = start
            if axis == "batch":
                shape = replace(start, prompts=value // start.group_size)
            elif axis == "length":
                shape = replace(start, new_tokens=value)
            grid.append((axis, value, value if axis == "width" else width, shape))
    return grid


def machine(folder: Path, shape: Shape, *, repeats: int) -> dict[str, list[float]]:
    """Measure our step alone and, next to each, how fast the machine multiplies matrices.

    Returns:
        seconds of "ours.step", "ours.rollout", "ours.update"; floating-point operations a second
        of "matmul", "own_matmul" (at the model's own sizes), "rollout", "update"; and the shares
        "rollout_share", "update_share" of "matmul".
    """
    ours, found = Ours(folder, shape), {}
    work = {"rollout": rollout_flops, "update": update_flops}
    work = {name: count(ours.policy.config, shape) for name, count in work.items()}
    for _ in range(1 + repeats):
        laps = ours.step()
        peak = max(matmul_rate(size, size, size) for size in (256, 512, 1024, 2048))
        rates = {name: flops / laps[name] for name, flops in work.items()}
        add(found, {f"ours.{name}": value for name, value in laps.items()})
        add(found, {"matmul": peak, "own_matmul": own_matmul_rate(ours.policy)} | rates)
        add(found, {f"{name}_share": rate / peak for name, rate in rates.items()})
    return {name: values[1:] for name, values in found.items()}


def time_to_accuracy(
    base: Path, recipe: str, *, target: float, seeds: Sequence[int], every: int, problems: int,
    limit: float, say: Callable[[str], None],
) -> dict[str, object]:  # fmt: skip
    """Train from the same base with both until `target` of held-out problems are solved greedily.

    Args:
        base:     the exported model that both start from.
        recipe:   of the main job, whose task and GRPO settings both take.
        every:    steps between two evaluations, whose time does not count.
        problems: held-out ones, of the split "tune".
        limit:    seconds after which a run is given up.

    Returns:
        {"target", "rows" of TRL's micro-batch, "ours": runs, "trl": runs}, a run for each seed:
        "reached", "seconds", "steps" and "curve", a list of (step, seconds, accuracy).
    """
    s = RECIPES[recipe].grpo
    work = Shape(s.prompts, s.group_size, prompt_tokens=32, new_tokens=s.max_new_tokens // 2)
    rows = fastest_rows(base, work)
    task = get_task(RECIPES[recipe].task, **RECIPES[recipe].options)
    held_out = task.generate(problems, seed=0, split="tune")
    found: dict[str, list[dict]] = {"ours": [], "trl": []}
    for seed in seeds:
        s = replace(RECIPES[recipe].grpo, seed=seed, evaluate_every=0)
        s = replace(s, checkpoint_every=s.steps, record_every=s.steps)

        def accuracy(model: GPT, tokenizer: Tokenizer, s: GRPOSettings = s) -> float:
            how = {"samples": 0, "max_new_tokens": s.max_new_tokens, "stop": s.stop}
            return measure(model, tokenizer, task, held_out, **how)["greedy"]["mean"]

        order = ("ours", "trl") if seed % 2 == 0 else ("trl", "ours")
        for side in order:
            train = train_ours if side == "ours" else train_theirs
            watch = Stopwatch(target=target, every=every, steps=s.steps, limit=limit)
            try:
                train(base, task, s, watch, accuracy, rows)
            except Stopped:
                pass
            found[side].append(watch.result())
            say(f"{side}, seed {seed}: {json.dumps(watch.result())}")
    return {"target": target, "rows": rows, **found}


class Stopped(Exception):
    """Ends a training run from within its callback."""


class Stopwatch:
    """Adds up a run's seconds without its evaluations, and stops it at the target or the limit."""

    def __init__(self, *, target: float, every: int, steps: int, limit: float) -> None:
        self.target, self.every, self.steps, self.limit = target, every, steps, limit
        self.seconds, self.step = 0.0, 0
        self.curve: list[tuple[int, float, float]] = []
        self.start = time.perf_counter()

    def lap(self, accuracy: Callable[[], float]) -> None:
        """End a step; evaluate where it is time to.

        Raises:
            Stopped: the target is reached, the time is up, or this was the last step.
        """
        self.seconds += time.perf_counter() - self.start
        self.step += 1
        over = self.step == self.steps or self.seconds > self.limit
        if self.step % self.every == 0 or over:
            self.curve.append((self.step, self.seconds, accuracy()))
            if over or self.curve[-1][2] >= self.target:
                raise Stopped
        self.start = time.perf_counter()

    def result(self) -> dict[str, object]:
        """Return what the run came to."""
        reached = bool(self.curve) and self.curve[-1][2] >= self.target
        found = {"reached": reached, "seconds": self.seconds, "steps": self.step}
        return found | {"curve": self.curve}


def train_ours(
    base: Path, task: Task, s: GRPOSettings, watch: Stopwatch,
    accuracy: Callable[[GPT, Tokenizer], float], rows: int,
) -> None:  # fmt: skip
    """Train with our loop; what stands before the first step does not count, as in TRL's."""
    policy, tokenizer = load_pretrained(base)
    run = Run()
    run.on_step = lambda line: watch.lap(lambda: accuracy(policy, tokenizer))
    watch.start = time.perf_counter()
    train_grpo(policy, tokenizer, task, s, run=run)


def train_theirs(
    base: Path, task: Task, s: GRPOSettings, watch: Stopwatch,
    accuracy: Callable[[GPT, Tokenizer], float], rows: int,
) -> None:  # fmt: skip
    """Train with TRL on the same problems in the same order; evaluate with our own sampler."""
    if s.stop:
        raise ValueError(f"stop is {s.stop!r}: TRL ends a completion at the end token only")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "policy"
        shutil.copytree(base, copy)

        def on_step(seconds: float, rollout_seconds: float) -> None:
            watch.lap(current_accuracy)

        def current_accuracy() -> float:
            theirs.model.save_pretrained(copy)
            return accuracy(*load_pretrained(copy))

        problems = task.generate(s.steps * s.prompts, seed=s.seed, split="train")
        theirs = Theirs(
            base, trl_columns(problems), as_trl_reward(task.score), s,
            rows=rows, shape=None, scratch=Path(scratch), on_step=on_step,
        )  # fmt: skip
        watch.start = time.perf_counter()
        theirs.trainer.train()


def base_model(folder: Path, recipe: str) -> Path:
    """Return the folder of the recipe's base model, which is trained at need."""
    if not (folder / "base").exists():
        MainJob(folder, recipe).base()
    return folder / "base"


def memory(folder: Path, shape: Shape, *, repeats: int) -> dict[str, list[float]]:
    """Return the peaks of processes with "ours", "trl" and "neither" side, in MiB."""
    rows = fastest_rows(folder, shape)
    return {side: [peak_memory(folder, shape, side, rows)] for side in ("neither", "ours", "trl")}


def peak_memory(folder: Path, shape: Shape, side: str, rows: int) -> float:
    """Return the most memory of a process that takes two steps with one side, in MiB."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "peak"
        call = f"from reasoning_from_scratch import bench\nbench.take_two_steps({str(folder)!r}, "
        call += f"bench.{shape!r}, {side!r}, {rows}, {str(result)!r})"
        subprocess.run([sys.executable, "-c", call], check=True, stdout=subprocess.DEVNULL)
        return float(result.read_text())


def take_two_steps(folder: str, shape: Shape, side: str, rows: int, result: str) -> None:
    """Take two steps in this process, and write to `result` how much memory it has needed."""
    keep_freed_memory()
    if side == "trl":
        race(Path(folder), shape, repeats=1, rows=rows)
    elif side == "ours":
        ours = Ours(Path(folder), shape)
        ours.step()
        ours.step()
    Path(result).write_text(str(peak_of_this_process()))


def peak_of_this_process() -> float:
    """Return the most memory this process has held, in MiB.

    Linux hands `ru_maxrss` on from the parent to what it starts, so there the kernel's own
    high-water mark is read.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def tiny_folder(folder: Path, *, width: int = 128, layers: int = 4) -> Path:
    """Export a model of random weights, 0.9 M at the default width; return its folder."""
    tokenizer = Tokenizer.train([], vocab_size=261)  # bytes, and the project's special tokens
    config = GPTConfig(
        tokenizer.vocab_size, width, layers, heads=max(width // 32, 1), mlp_width=3 * width,
        max_positions=512,
    )  # fmt: skip
    model = GPT(config, generator=torch.Generator().manual_seed(0))
    save_pretrained(model, tokenizer, folder)
    return folder


MEASUREMENTS = {"machine": machine, "trl": against_trl, "memory": memory}


def describe_machine() -> dict[str, object]:
    """Return what a measurement depends on: processor, threads, versions."""
    versions = {"python": platform.python_version()}
    for name in ("torch", "transformers", "trl"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    vectors = torch.backends.cpu.get_cpu_capability()
    return {
        "cpu": f"{cpu} ({vectors})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def add(found: dict[str, list[float]], values: Mapping[str, float]) -> None:
    """Append one repeat's numbers."""
    for name, value in values.items():
        found.setdefault(name, []).append(value)
