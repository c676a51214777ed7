"""When a run gets somewhere: a level that the tuning seeds settle, and where a curve passes it."""

from collections.abc import Mapping, Sequence

import numpy as np

from ledger.records import LOOKED_AT, TUNING, Places, read_records
from ledger.runner import Job

SHARE = 0.8  # of the gain in accuracy


def own_level(evaluations: Sequence[Mapping[str, float]]) -> float:
    """Return the accuracy that is 80 % of the way from a run's start to the mean of its last three
    evaluations."""
    accuracy = [line["accuracy"] for line in evaluations]
    return accuracy[0] + SHARE * (float(np.mean(accuracy[-3:])) - accuracy[0])


def settled(job: Job, name: str) -> float | None:
    """Return a final number as the tuning seeds settled it: its mean over them, for the same arm
    with the same settings; None where `job` is no run that counts, and takes its own.

    Raises:
        ValueError: a tuning seed has not run with these settings.
    """
    if job.role not in LOOKED_AT:
        return None
    # A claim that is repeated elsewhere takes what this ledger's tuning has settled.
    records = read_records(Places().records(job.key)) + read_records(job.places.records(job.key))
    found = {
        record["seed"]: record["final"][name]
        for record in records
        if (record["role"], record["arm"]) == ("tune", job.arm)
        and record["settings_sha"] == job.wanted["settings_sha"]
    }
    if set(found) != set(TUNING):
        raise ValueError(
            f"{job.key}, arm {job.arm}: {name} is settled on seeds {min(TUNING)} to {max(TUNING)}, "
            f"of which {sorted(found)} have run with these settings: use --tune first"
        )
    return float(np.mean([found[seed] for seed in TUNING]))


def passing(curve: np.ndarray, level: float) -> np.ndarray:
    """Return where a curve first reaches a level, as a place between its points.

    Args:
        curve: [T,...] one point an evaluation; each is averaged with its neighbours first.

    Returns:
        [...] from 0 to T - 1, on the line between two points; T - 1 where it never gets there.
    """
    ones = np.ones_like(curve)
    smooth = three(curve) / three(ones)
    above = smooth >= level
    first = np.asarray(above.argmax(0))
    before = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(smooth, at[None], 0)[0] for at in (before, first))
    part = (level - low) / np.where(high > low, high - low, 1)
    found = np.where(first == 0, 0.0, before + part)
    return np.where(above.any(0), found, len(curve) - 1.0)


def three(curve: np.ndarray) -> np.ndarray:
    """Return each point of [T,...] plus its neighbours."""
    wide = np.pad(curve, [(1, 1), *[(0, 0)] * (curve.ndim - 1)])
    return wide[:-2] + wide[1:-1] + wide[2:]


def at_place(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return values [T,...] at places between their points, as `passing` gives them: [...]."""
    place = np.asarray(place)
    values = np.broadcast_to(
        values.reshape(len(values), *values.shape[1:] or [1] * place.ndim),
        (len(values), *place.shape),
    )
    below = np.floor(place).astype(int)
    ends = (below, np.minimum(below + 1, len(values) - 1))
    low, high = (np.take_along_axis(values, end[None], 0)[0] for end in ends)
    return low + (place - below) * (high - low)
