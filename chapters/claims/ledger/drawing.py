"""What the claims' figures have in common: a mean with its band over seeds, an arm's logs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ledger.records import Seed
from reasoning_from_scratch.stats import t_interval


def aligned(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Put curves side by side, NaN where a run ended before the longest: [n,K]."""
    found = np.full((len(rows), max(map(len, rows))), np.nan)
    for line, row in zip(found, rows, strict=True):
        line[: len(row)] = row
    return found


def steps_of(seeds: Sequence[Seed], arm: str) -> list[int]:
    """Return the steps of an arm's evaluations, as far as any seed got."""
    return max((seed.curve(arm, "step") for seed in seeds), key=len)


def draw_band(axes: Axes, x: Sequence[float], rows: Sequence[np.ndarray], **look: object) -> None:
    """Draw the mean over seeds with its 95 % t band, where every seed has a number.

    Args:
        x:    [K] places.
        rows: a row of up to K numbers a seed, two seeds at least; NaN where there is none.
        look: of the line, its label among it.
    """
    found = aligned(rows)
    there = np.isfinite(found).all(0)
    columns = found[:, there].T
    ends = np.array([t_interval(column) for column in columns]).reshape(-1, 2)
    (line,) = axes.plot(np.asarray(x)[there], columns.mean(1), marker="o", markersize=2.5, **look)
    axes.fill_between(line.get_xdata(), *ends.T, color=line.get_color(), alpha=0.2, linewidth=0)


def logs_of(seeds: Sequence[Seed], labels: Mapping[str, str]) -> dict[str, list[list[dict]]]:
    """Return each arm's evaluations by its label, for `learning_curves`.

    Of an arm that collapsed in some seed, every seed stands by itself: a mean would hide it.
    """
    runs = {}
    for label, arm in labels.items():
        logs = {f"{label}, seed {s.number}": [s.records[arm]["evaluations"]] for s in seeds}
        bad = any(s.records[arm]["collapsed"] for s in seeds)
        runs |= logs if bad else {label: [log for (log,) in logs.values()]}
    return runs


def save(figure: Figure, path: Path, title: str, seeds: Sequence[Seed]) -> None:
    """Write a figure with its title, which says how many seeds it is of."""
    figure.suptitle(f"{title} (n = {len(seeds)})", x=0.01, ha="left")
    figure.savefig(path, metadata={"Date": None})
