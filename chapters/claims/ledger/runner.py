"""A claim's runs: one process and one thread each, as many at once as the machine has cores.

A finished run is read, a killed one goes on from its checkpoint, and a test seed runs once.
"""

import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ledger.records import (
    CRITERIA,
    LOOKED_AT,
    ROOT,
    Places,
    Seed,
    Statistic,
    add_record,
    criteria_sha,
    find,
    locked,
    machine,
    provenance,
    read_records,
    role_of,
    sha,
    side_by_side,
    stem,
)
from ledger.verdict import Estimate, load_criteria, precondition_holds
from reasoning_from_scratch.runs import write_atomically
from reasoning_from_scratch.training import keep_freed_memory

SMOKE = {  # the most of everything in --smoke
    "steps": 8, "batch": 8, "prompts": 4, "group_size": 4, "problems": 8, "samples": 2, "pairs": 16,
    "test_pairs": 16, "choose_problems": 4, "choose_samples": 2, "curve_problems": 8,
    "curve_samples": 2, "evaluate_every": 2, "checkpoint_every": 2, "max_new_tokens": 40,
}  # fmt: skip
SMOKE_BASE = SMOKE | {"steps": 400, "batch": 16, "checkpoint_every": 100}  # is now and then right
CONFIGURATIONS = 6  # of each tuned arm


@dataclass(frozen=True)
class Job:
    """One arm at one seed."""

    key: str
    arm: str
    seed: int
    role: str  # test and reserve count in a verdict; tune, pilot and smoke do not
    settings: dict
    places: Places

    @property
    def name(self) -> str:
        """What the run is called, by its settings too where those may change."""
        changing = "" if self.role in LOOKED_AT else f"-{sha(self.settings)[:6]}"
        return f"{self.arm}-{self.seed}{changing}"

    @property
    def folder(self) -> Path:
        """Where checkpoints and logs lie."""
        return self.places.runs / stem(self.key) / self.name

    @property
    def split(self) -> str:
        """Where held-out problems come from: test problems are for test seeds alone."""
        return "test" if self.role in LOOKED_AT else "tune"

    @property
    def wanted(self) -> dict[str, object]:
        """What identifies its record."""
        found = {"claim": self.key, "arm": self.arm, "seed": self.seed, "role": self.role}
        found |= {"settings": self.settings, "settings_sha": sha(self.settings)}
        return found | {"machine": machine()}

    def report(self, step: int, steps: int) -> None:
        """Say how far the run is, for the line of progress and a resumed run's wall time."""
        write_atomically(self.folder / "progress", f"{step}/{steps}")


@dataclass
class Outcome:
    """What a run brings."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # [..., N] over held-out problems
    final: dict[str, object] = field(default_factory=dict)  # numbers of the end
    evaluations: list[dict] = field(default_factory=list)  # along the run
    precondition: dict[str, float] = field(default_factory=dict)
    base: dict | None = None  # {"family", "sha256"}
    completions_sampled: int = 0
    tokens_sampled: int = 0
    tokens_trained: int = 0
    optimiser_steps: int = 0
    collapsed: bool = False
    failed: str | None = None  # the error of a run that counts with its last finite checkpoint


@dataclass(frozen=True)
class Claim:
    """What a claim's script fixes: its arms, and the numbers that the table of criteria names."""

    key: str
    run: Callable[[Job], Outcome]  # one arm at one seed, in a process of its own
    arms: Mapping[str, dict]  # arm -> every setting, frozen
    statistics: Mapping[str, Statistic] = field(default_factory=dict)
    minutes: Mapping[str, float] = field(default_factory=dict)  # a run's, until one is recorded
    needs: tuple["Claim", ...] = ()  # runs that this one starts from, at the same seed
    leaves: str = ""  # what those who need this run read in its folder
    tuning: Mapping[str, Sequence[dict]] = field(default_factory=dict)  # arm -> changes to try
    # Numbers of all seeds at once, with an interval of their own.
    pooled: Mapping[str, Callable[[list[Seed]], Estimate]] = field(default_factory=dict)
    figure: Callable[[list[Seed], Path], None] | None = None


def run_jobs(
    claim: Claim, seeds: Sequence[int], places: Places, workers: int, *, role: str | None = None,
    variants: Sequence[Mapping[str, dict]] = (),
) -> None:  # fmt: skip
    """Run every arm at every seed that is not recorded yet, and before them what they need.

    A seed of which another machine has made some arms and not all is made here as a whole.

    Args:
        role:     "pilot" or "smoke"; None: the seeds' own.
        variants: other settings of some arms, in place of the frozen ones.

    Raises:
        ValueError: other settings than recorded, or a test seed in a changed working tree.
        RuntimeError: a run failed; the others are recorded.
    """
    arms = [pair for variant in variants or [claim.arms] for pair in variant.items()]
    jobs = [make_job(claim.key, *pair, s, places, role) for s in seeds for pair in arms]
    missing = still_to_make(claim, jobs)
    if not missing:
        return
    code = provenance()
    for job in missing:
        check_clean(job, code)
    for needed in claim.needs:  # a pilot starts from whole ones
        here = sorted({job.seed for job in missing})
        run_jobs(needed, here, places, workers, role="smoke" if role == "smoke" else None)
    work_off(claim.run, missing, len(jobs), workers)


def check_clean(job: Job, code: Mapping[str, object]) -> None:
    """Refuse a test seed to code that no commit holds: it runs once, and must be repeatable."""
    if code["dirty"] and job.role in LOOKED_AT:
        raise ValueError(
            "the package or the claims have changes that are not committed, or the package that is "
            f"imported is not the one in {ROOT.name}: a test seed runs once; commit first, or work "
            "in a clone of its own with PYTHONPATH=."
        )


def still_to_make(claim: Claim, jobs: Sequence[Job]) -> list[Job]:
    """Return the runs that are not recorded, or whose leavings others read and are not here."""
    records, found = read_records(jobs[0].places.records(claim.key)), []
    for seed in dict.fromkeys(job.seed for job in jobs):
        here = [job for job in jobs if job.seed == seed]
        if claim.leaves:
            found += [
                job for job in here
                if not (job.folder / claim.leaves).exists() or not find(records, job.wanted)
            ]  # fmt: skip
        elif not side_by_side(records, [job.wanted for job in here]):
            found += [job for job in here if not find(records, job.wanted)]
    return found


def make_job(
    key: str, arm: str, settings: dict, seed: int, places: Places, role: str | None
) -> Job:
    """Return an arm's run at a seed, in small where it is a rehearsal."""
    settings = json.loads(json.dumps(settings))  # tuples as lists: as they are read back
    if role == "smoke":
        most = SMOKE_BASE if key == "bases" else SMOKE
        settings = scaled(settings, lambda name, value: min(value, most.get(name, value)))
    elif role == "pilot":
        small = ("steps", "evaluate_every", "checkpoint_every")
        settings = scaled(settings, lambda name, v: max(1, v // 10) if name in small else v)
    return Job(key, arm, seed, role or role_of(seed), settings, places)


def scaled(settings: dict, change: Callable[[str, int], int]) -> dict:
    """Return nested settings with `change` applied to every whole number, also in lists, but for
    the task's: its problems stay what they are."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found[name] = value if name == "task" else scaled(value, change)
        elif isinstance(value, list) and value and all(type(v) is int for v in value):
            found[name] = [change(name, v) for v in value]
        else:
            found[name] = change(name, value) if type(value) is int else value
    return found


def merged(settings: dict, changes: Mapping[str, object]) -> dict:
    """Return nested settings with nested changes."""
    found = dict(settings)
    for name, value in changes.items():
        if name not in found:
            raise ValueError(f"settings have no {name!r}, expected one of {sorted(found)}")
        found[name] = merged(found[name], value) if isinstance(value, dict) else value
    return found


def work_off(run: Callable[[Job], Outcome], jobs: Sequence[Job], total: int, workers: int) -> None:
    """Run jobs in processes, record each as it finishes, show a line of progress.

    Raises:
        RuntimeError: some failed; the others are finished and recorded.
    """
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # read when a child starts
    context = multiprocessing.get_context("spawn")
    waiting, running, failed, started = list(jobs), {}, [], time.perf_counter()
    shown = 0.0
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop(0)
            process = context.Process(target=execute, args=(run, job))
            process.start()
            running[job.name] = job, process
        for name, (job, process) in list(running.items()):
            process.join(timeout=0.2)
            if process.exitcode is not None:
                del running[name]
                if process.exitcode == 0:
                    collect(job)
                else:
                    failed.append(f"{name} (exit code {process.exitcode})")
        if time.perf_counter() - shown > (1 if sys.stderr.isatty() else 60):
            shown = time.perf_counter()
            at = [f"{name} {_progress(job)}" for name, (job, _) in running.items()]
            done = total - len(waiting) - len(running)
            minutes = (shown - started) / 60
            line = f"{jobs[0].key}: {done} of {total} runs, {minutes:.0f} min; {', '.join(at)}"
            start, end = ("\r\033[K", "") if sys.stderr.isatty() else ("", "\n")
            print(start + line, end=end, file=sys.stderr, flush=True)
    if failed:
        raise RuntimeError(f"not finished: {', '.join(failed)}; the same command goes on")


def execute(run: Callable[[Job], Outcome], job: Job) -> None:
    """Do one run in this process, and leave its record in its folder.

    Raises:
        ValueError: the folder holds a run with other settings or of another machine, or another
            process is at it.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    job.folder.mkdir(parents=True, exist_ok=True)
    with locked(job.folder / "lock", wait=False):
        execute_alone(run, job)


def execute_alone(run: Callable[[Job], Outcome], job: Job) -> None:
    """Do what `execute` says, where no other process can be at the same run."""
    started = job.folder / "job.json"
    if (job.folder / "record.json").exists():  # finished, but not moved to the ledger yet
        return
    if not started.exists():
        write_atomically(started, json.dumps(job.wanted))
    elif json.loads(started.read_text()) != job.wanted:
        raise ValueError(
            f"{job.folder} was started with other settings or on another machine: remove it to "
            "begin anew"
        )
    before = provenance()
    check_clean(job, before)
    earlier, begun = earlier_seconds(job), time.time()
    write_atomically(job.folder / "clock.json", json.dumps([earlier, begun]))
    outcome = run(job)
    found = job.wanted | before | vars(outcome)
    arrays = found.pop("arrays")
    rows = load_criteria(CRITERIA)[job.key].preconditions if criteria_sha(job.key) else ()
    measured = found["precondition"]
    rows = [row for row in rows if row["name"] in measured]
    ok = all(precondition_holds(row, measured[row["name"]]) for row in rows)
    found["precondition"] = measured | {"ok": ok}
    kept = arrays if job.role in (*LOOKED_AT, "smoke") or job.key == "bases" else {}
    found["final"]["per_problem"] = f"{job.key}/{job.name}.npz" if kept else None
    found["criteria_sha"] = criteria_sha(job.key)
    found["wall_s"] = round(earlier + time.time() - begun, 1)
    found["peak_mib"] = _peak_mib()
    np.savez_compressed(job.folder / "per_problem.npz", **kept)
    write_atomically(job.folder / "record.json", json.dumps(found, allow_nan=False))


def collect(job: Job) -> None:
    """Move a finished run's record to the ledger.

    Raises:
        ValueError: a run made again on the same machine, for what it leaves, came out otherwise
            than recorded.
    """
    record = json.loads((job.folder / "record.json").read_text())
    with np.load(job.folder / "per_problem.npz") as file:
        arrays = {name: file[name] for name in file.files}
    earlier = find(read_records(job.places.records(job.key)), record)
    if earlier is None:
        add_record(job.places, record, arrays)
    elif result(earlier) != result(record):
        raise ValueError(
            f"{job.key} {job.name} made here is not the recorded one, though machine and torch are "
            "the same: other code or libraries; repeat the whole claim with --out FOLDER"
        )


def result(record: Mapping[str, dict]) -> dict[str, object]:
    """Return the numbers of a run's end, without the name of the file beside them."""
    return {name: value for name, value in record["final"].items() if name != "per_problem"}


def earlier_seconds(job: Job) -> float:
    """Return how long earlier attempts of a run took, up to the last step that they reported."""
    clock, progress = job.folder / "clock.json", job.folder / "progress"
    if not clock.exists():
        return 0.0
    earlier, begun = json.loads(clock.read_text())
    return earlier + (max(0.0, progress.stat().st_mtime - begun) if progress.exists() else 0.0)


def _progress(job: Job) -> str:
    path = job.folder / "progress"
    return path.read_text() if path.exists() else "starting"


def _peak_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
