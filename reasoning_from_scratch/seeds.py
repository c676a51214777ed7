"""Several runs of one recipe together: means over seeds with their intervals, and the figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from reasoning_from_scratch.report import before_after_figure, before_after_table, learning_curves
from reasoning_from_scratch.runs import write_atomically
from reasoning_from_scratch.stats import t_interval


def over_seeds(metrics: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return each metric's mean over runs with a 95 % Student-t interval over them.

    Args:
        metrics: one dictionary a run, as `measure` makes them; those of a dictionary are nested.
            Only what every run has is kept, and n becomes the number of runs. The interval of a
            rate ends at 0 and 1, which Student's knows nothing of; a length is no rate.
    """
    joined: dict[str, object] = {}
    for name, first in metrics[0].items():
        found = [m.get(name) for m in metrics]
        if not all(isinstance(value, dict) for value in found):
            continue
        if "mean" not in first:
            joined[name] = over_seeds(found)
            continue
        values = [value["mean"] for value in found]
        low, high = t_interval(values) if len(values) > 1 else (values[0], values[0])
        if not name.startswith("length"):
            low, high = max(low, 0.0), min(high, 1.0)
        mean = sum(values) / len(values)
        joined[name] = {"mean": mean, "low": low, "high": high, "n": len(values), "runs": values}
    return joined


def record_seeds(folders: Sequence[Path], name: str, *, root: Path = Path()) -> str:
    """Write what several finished main jobs found: a JSON file and two figures.

    Args:
        folders: of jobs that differ in their seed alone.
        name:    names data/NAME.json, figures/NAME_curves.svg and figures/NAME_steps.svg.
        root:    the folder that holds data and figures.

    Returns:
        The table before and after, intervals over seeds, as text.

    Raises:
        ValueError: no folders, unfinished jobs, or jobs of different recipes.
    """
    if not folders:
        raise ValueError("folders is empty, expected finished runs of the main job")
    settings = [json.loads((f / "settings.json").read_text()) for f in folders]
    if any(s["recipe"] != settings[0]["recipe"] for s in settings):
        raise ValueError("folders hold runs of different recipes, which have no common mean")
    for folder in folders:
        if not (folder / "after.json").exists():
            raise ValueError(f"{folder} is not finished: after.json is missing")
    before, after = (
        over_seeds([json.loads((f / f"{name}.json").read_text()) for f in folders])
        for name in ("before", "after")
    )
    logs = [f / "grpo" for f in folders]
    seconds = [stage_seconds(f) for f in folders]
    found = {
        "recipe": settings[0]["name"], "model": settings[0]["model"],
        "seeds": [s["seed"] for s in settings], "before": before, "after": after,
        "seconds": seconds, "settings": settings[0]["recipe"],
    }  # fmt: skip
    figures, title = root / "figures", settings[0]["recipe"]["message"]
    for folder in (root / "data", figures):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(root / "data" / f"{name}.json", json.dumps(found, indent=1) + "\n")
    learning_curves({"GRPO": logs}, figures / f"{name}_curves.svg", title=title)
    if "by_steps" in before:
        before_after_figure(before, after, figures / f"{name}_steps.svg", title=title, over="seeds")
    return before_after_table(before, after)


def stage_seconds(folder: Path) -> dict[str, float]:
    """Return how long each training stage of a job took, in seconds, evaluations left out."""
    totals = {}
    for log in sorted(folder.glob("*/log.jsonl")):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        totals[log.parent.name] = round(sum(line.get("seconds", 0.0) for line in lines), 1)
    return totals
