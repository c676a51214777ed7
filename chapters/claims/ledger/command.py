"""The command line of a claim's script: run it, tune it, try it in small, say how long it takes."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ledger.records import (
    CRITERIA,
    TUNING,
    Places,
    assess,
    find,
    numbers,
    read_records,
    read_seed,
    sha,
    tuned,
)
from ledger.runner import CONFIGURATIONS, Claim, make_job, merged, run_jobs, still_to_make
from ledger.table import write_page
from ledger.verdict import UNDECIDED, load_criteria, seeds_of


def main(
    claim: Claim, arguments: Sequence[str] | None = None, *, seeds: Sequence[int] = ()
) -> None:
    """Run a claim's script from the command line.

    Args:
        seeds: of what is no claim, such as the bases; a claim's follow from its criteria.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--estimate", action="store_true", help="print minutes, run nothing")
    parser.add_argument("--pilot", action="store_true", help="seed 100, a tenth of the steps")
    parser.add_argument("--smoke", action="store_true", help="two tiny seeds, to see that it works")
    parser.add_argument("--tune", action="store_true", help="the tuning seeds: try configurations")
    parser.add_argument("--out", type=Path, help="keep records and runs in this folder instead")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at once")
    options = parser.parse_args(arguments)
    places = Places(options.out / "data", options.out / "runs") if options.out else Places()
    try:
        if options.estimate:
            seeds = seeds or seeds_of(load_criteria(CRITERIA)[claim.key], 0)
            minutes = estimate_minutes(claim, places, options.workers, seeds)
            print(f"{claim.key}: about {minutes:.0f} min for {len(seeds)} seeds")
        elif options.pilot or options.smoke:
            rehearse(claim, places, options.workers, smoke=options.smoke)
        elif options.tune:
            tune(claim, places, options.workers)
        else:
            if seeds:
                run_jobs(claim, seeds, places, options.workers)
            else:
                run_claim(claim, places, options.workers)
            if options.out is None:
                write_page()
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"{claim.key}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{claim.key}: stopped; the same command goes on")


def run_claim(claim: Claim, places: Places, workers: int) -> None:
    """Run what is missing of the first look, and of the second if the first is undecided.

    Raises:
        ValueError: the working tree has changes, or settings that tuning did not choose.
    """
    criteria = load_criteria(CRITERIA)[claim.key]
    check_tuned(claim, places)
    for look in range(len(criteria.looks)):
        run_jobs(claim, seeds_of(criteria, look), places, workers)
        found = assess(criteria, claim.statistics, list(claim.arms), places)
        print(f"{claim.key} at look {found.look}: {found.verdict}")
        if found.verdict != UNDECIDED:
            break


def tune(claim: Claim, places: Places, workers: int) -> None:
    """Try each tuned arm's configurations on the tuning seeds; print their held-out accuracy."""
    for arm, changes in claim.tuning.items():
        if len(changes) != CONFIGURATIONS:
            raise ValueError(f"{arm} has {len(changes)} configurations, expected {CONFIGURATIONS}")
    tried = claim.tuning or dict.fromkeys(claim.arms, [{}])  # without any, the arms as they stand
    variants = [{a: merged(claim.arms[a], c)} for a, changes in tried.items() for c in changes]
    run_jobs(claim, TUNING, places, workers, variants=variants)
    for arm in tried:
        for accuracy, seeds, found in tuned(claim.key, arm, places):
            frozen = "  <- frozen in the script" if found == sha(claim.arms[arm]) else ""
            print(f"{claim.key} {arm} {found}: {100 * accuracy:.1f} %, {seeds} seeds{frozen}")


def check_tuned(claim: Claim, places: Places) -> None:
    """Refuse frozen settings that the tuning seeds did not choose, where an arm was tuned."""
    for arm in claim.tuning:
        rows = tuned(claim.key, arm, places)
        if len(rows) > 1 and rows[0][2] != sha(claim.arms[arm]):
            raise ValueError(f"arm {arm}: tuning chose {rows[0][2]}: freeze that in the script")


def rehearse(claim: Claim, places: Places, workers: int, *, smoke: bool) -> None:
    """Run a claim in small; print its numbers, never a verdict. A smoke has a place of its own."""
    seeds, role = (TUNING[:2], "smoke") if smoke else (TUNING[:1], "pilot")
    if smoke:
        folder = places.runs / "smoke" / claim.key
        places = Places(folder / "data", folder)
        shutil.rmtree(places.runs, ignore_errors=True)
    run_jobs(claim, seeds, places, workers, role=role)
    records = read_records(places.records(claim.key))
    for s in seeds:
        jobs = {a: make_job(claim.key, a, claim.arms[a], s, places, role) for a in claim.arms}
        found = {arm: find(records, job.wanted) for arm, job in jobs.items()}
        for arm, record in found.items():
            note = f", failed: {record['failed']}" if record["failed"] else ""
            print(f"{role} {arm}-{s}: {record['wall_s']:.0f} s, {record['precondition']}{note}")
        if smoke:
            rows = numbers(claim.statistics, read_seed(places, claim.key, s, found))
            print(f"{role} seed {s}:", ", ".join(f"{k} {v:.3g}" for k, (v, _) in rows.items()))


def estimate_minutes(claim: Claim, places: Places, workers: int, seeds: Sequence[int]) -> float:
    """Return how long the runs that are missing should take, from recorded ones where there are."""
    records, total = read_records(places.records(claim.key)), 0.0
    jobs = [make_job(claim.key, *arm, s, places, None) for s in seeds for arm in claim.arms.items()]
    missing = still_to_make(claim, jobs)
    for arm, guess in claim.minutes.items():
        known = [r["wall_s"] / 60 for r in records if r["arm"] == arm and r["role"] != "pilot"]
        each = sum(known) / len(known) if known else guess
        total += each * sum(job.arm == arm for job in missing)
    if total:
        total += workers * sum(estimate_minutes(c, places, workers, seeds) for c in claim.needs)
    return total / workers
