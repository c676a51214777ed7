"""The benchmark's results as tables and a figure: medians, with the lowest and highest repeat.

Not here: the measurements (`bench.py`).
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from reasoning_from_scratch.report import figure_style, line_styles

UNITS = {"batch": "completions", "length": "tokens a completion", "width": "channels"}


def summary(measured: Mapping[str, object]) -> dict[str, list[float]]:
    """Return [median, lowest, highest] of each list of repeats."""
    lists = {name: values for name, values in measured.items() if isinstance(values, list)}
    return {
        name: [float(f"{f(values):.4g}") for f in (statistics.median, min, max)]
        for name, values in lists.items()
    }


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio of each pair of neighbours in time."""
    return [a / b for a, b in zip(above, below, strict=True)]


def spread(values: Sequence[float], form: str = ".2f", unit: str = "") -> str:
    """Write the median with the lowest and the highest: "0.62 s (0.60 to 0.66)"."""
    median = f"{statistics.median(values):{form}}{unit}"
    return (
        median if len(values) == 1 else f"{median} ({min(values):{form}} to {max(values):{form}})"
    )


def markdown(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a titled table."""
    lines = [f"## {title}", "", *(" | ".join(row).join(("| ", " |")) for row in (head, *rows))]
    lines.insert(3, "|---" * len(head) + "|")
    return "\n".join(lines) + "\n"


def tables(results: Mapping[str, Mapping]) -> str:
    """Write all that was measured as Markdown: medians, with the lowest and highest repeat."""
    about = results["about"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    parts = [
        f"# Speed\n\n{about['cpu']}, {about['threads']} threads; {versions}. Median (lowest to "
        "highest) of the repeats; both sides in one process, in turns.\n"
    ]
    writers = {
        "trl": trl_table, "machine": machine_table, "memory": memory_table,
        "growth": growth_table, "accuracy": accuracy_table,
    }  # fmt: skip
    return "\n".join(parts + [w(results[name]) for name, w in writers.items() if name in results])


def trl_table(found: Mapping[str, Mapping]) -> str:
    """Write the races at fixed tokens."""
    rows = []
    for model, laps in found.items():
        pairs = {n: (f"trl.{n}", f"ours.{n}") for n in ("step", "rollout", "update")}
        pairs["`sample` against `generate`"] = ("generate", "sample")
        for name, (theirs, ours) in pairs.items():
            ratio = spread(ratios(laps[theirs], laps[ours]))
            seconds = [spread(laps[side], unit=" s") for side in (ours, theirs)]
            rows.append([model, name, *seconds, f"{ratio} ×"])
    sizes = "; ".join(f"{model}: {laps['rows']} completions" for model, laps in found.items())
    head = ["model", "part", "ours", "TRL or transformers", "times as fast"]
    return markdown("At equal tokens", head, rows) + f"\nTRL's micro-batch: {sizes}.\n"


def machine_table(found: Mapping[str, Mapping]) -> str:
    """Write our rates next to the machine's."""
    rows = []
    for model, laps in found.items():
        giga = {n: [x / 1e9 for x in laps[n]] for n in ("matmul", "own_matmul")}
        peaks = [spread(values, ".0f") for values in giga.values()]
        for part in ("rollout", "update"):
            share = spread([100 * x for x in laps[f"{part}_share"]], ".0f", " %")
            rate = spread([x / 1e9 for x in laps[part]], ".0f")
            rows.append([model, part, rate, *peaks, share])
    head = ["model", "part", "GFLOP/s", "matrix multiply", "at the model's sizes", "share"]
    return markdown("Against the machine's matrix multiply", head, rows)


def memory_table(found: Mapping[str, Mapping]) -> str:
    """Write the peaks."""
    rows = [
        [model, *(f"{peaks[side][0]:,.0f} MiB" for side in ("ours", "trl", "neither"))]
        for model, peaks in found.items()
    ]
    return markdown("Peak memory of a process", ["model", "ours", "TRL", "only imports"], rows)


def growth_table(found: Mapping[str, Mapping]) -> str:
    """Write a step's time over each size."""
    rows = [
        [axis, value, *(spread(laps[f"{side}.step"], ".3f", " s") for side in ("ours", "trl")),
         f"{spread(ratios(laps['trl.step'], laps['ours.step']))} ×"]
        for axis, values in found.items() for value, laps in values.items()
    ]  # fmt: skip
    return markdown("A step's growth", ["over", "size", "ours", "TRL", "times as fast"], rows)


def accuracy_table(found: Mapping[str, object]) -> str:
    """Write the runs to the target; a run that did not reach it is a lower bound."""
    rows = []
    for seed, (ours, theirs) in enumerate(zip(found["ours"], found["trl"], strict=True)):
        cells = [
            f"{'' if run['reached'] else 'more than '}{run['seconds']:.0f} s, {run['steps']} steps"
            for run in (ours, theirs)
        ]
        rows.append([str(seed + 1), *cells, f"{theirs['seconds'] / ours['seconds']:.2f} ×"])
    title = f"Time to {found['target']:.0%} of held-out problems, main job"
    return markdown(title, ["run", "ours", "TRL", "times as fast"], rows)


def growth_figure(found: Mapping[str, Mapping], path: Path) -> Figure:
    """Draw a step's time over batch, length and width, on logarithmic axes."""
    shares = [
        ratios(laps["trl.step"], laps["ours.step"]) for v in found.values() for laps in v.values()
    ]
    each = [statistics.median(share) for share in shares]
    with figure_style():
        figure = Figure()
        panels = figure.subplots(1, len(found), sharey=True)
        for axes, (axis, values) in zip(panels, found.items(), strict=True):
            sizes = [int(value) for value in values]
            for side, name in (("ours", "this package"), ("trl", "TRL")):
                laps = [values[str(size)][f"{side}.step"] for size in sizes]
                look = line_styles(["this package", "TRL"])[name]
                axes.plot(sizes, [statistics.median(x) for x in laps], label=name, **look)
                axes.fill_between(
                    sizes,
                    *([f(x) for x in laps] for f in (min, max)),
                    color=look["color"],
                    alpha=0.2,
                )
            axes.set(xscale="log", yscale="log", xlabel=f"{axis} ({UNITS[axis]})")
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()
        low, high = panels[0].get_ylim()  # shared by all panels
        ticks = [2.0**power for power in range(-12, 13) if low <= 2.0**power <= high]
        panels[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        panels[0].set_ylabel("seconds a step")
        panels[0].legend()
        figure.suptitle(
            f"At every size a step takes TRL {min(each):.1f} to {max(each):.1f} times as long"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
    return figure
