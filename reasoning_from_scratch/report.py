"""Pictures of runs: how every figure looks, and the two that a run's results need.

    figure_style(), line_styles()   how every figure of the book looks
    learning_curves()               what changed during training, with intervals over seeds
    before_after_figure()           accuracy by the number of steps in the problem
    write_page(), before_after_table(), read_log(), read_settings()     see `report_page.py`

Figures are made without pyplot, so that no window opens and nothing global changes; a notebook
shows the `Figure` that a function returns.
"""

import contextlib
import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reasoning_from_scratch.report_page import (
    Log,
    Point,
    before_after_table,
    metric_name,
    read_curve,
    read_log,
    read_settings,
    write_page,
)  # fmt: skip
from reasoning_from_scratch.stats import t_interval

__all__ = [
    "METHOD_COLOURS", "METHOD_STYLES", "before_after_figure", "before_after_table", "figure_style",
    "learning_curves", "line_styles", "read_log", "read_settings", "write_page",
]  # fmt: skip

WIDTH = 6.4  # inches, of every figure

# Okabe and Ito's colours, which stay apart under the common colour blindnesses. Their yellow is
# left out: a thin yellow line on white cannot be seen. Grey stands for what RL has not touched.
BLACK, GREY, ORANGE, SKY = "#000000", "#7f7f7f", "#E69F00", "#56B4E9"
GREEN, BLUE, VERMILLION, PURPLE = "#009E73", "#0072B2", "#D55E00", "#CC79A7"
COLOURS, LINES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK), ("-", "--", "-.", ":")

# A method looks the same in every figure, and no two share both colour and line.
METHOD_STYLES = {
    "base": (GREY, ":"),
    "sft": (GREY, "-"),
    "control": (BLACK, ":"),
    "reinforce": (BLACK, "-"),
    "rloo": (GREEN, "--"),
    "ppo": (VERMILLION, "-"),
    "grpo": (BLUE, "-"),
    "dr_grpo": (ORANGE, "--"),
    "dapo": (VERMILLION, "-."),
    "reinforce_pp": (GREY, "-."),
    "gspo": (SKY, (0, (5, 1))),
    "cispo": (PURPLE, (0, (3, 1, 1, 1))),
    "dpo": (PURPLE, "-"),
    "distillation": (GREEN, "-"),
    "imitation": (ORANGE, "-"),
    "oreal": (SKY, "-"),
}
METHOD_COLOURS = {name: colour for name, (colour, _) in METHOD_STYLES.items()}
MAIN_CURVES = ("reward", "accuracy", "length", "thinks", "entropy", "eval.greedy")

_STYLE = {
    "figure.figsize": (WIDTH, 3.2),
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",  # a transparent figure cannot be read on a dark page
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "svg.hashsalt": "reasoning_from_scratch",  # the same figure is the same bytes
    "font.family": ["sans-serif", "DejaVu Sans"],
    "font.sans-serif": ["Arial", "Liberation Sans", "Helvetica", "DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS[:4], linestyle=LINES),
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.6,
    "figure.titlesize": 10,
    "figure.titleweight": "bold",
}


def figure_style() -> contextlib.ExitStack:
    """Set the style of the book's figures.

    `figure_style()` alone sets it for the rest of the program, as a notebook's first cell does;
    `with figure_style():` for the block only. Save inside it: SVG keeps text as text only there.
    """
    before = {name: matplotlib.rcParams[name] for name in _STYLE}
    matplotlib.rcParams.update(_STYLE)
    stack = contextlib.ExitStack()
    stack.callback(matplotlib.rcParams.update, before)
    return stack


def line_styles(labels: Iterable[str]) -> dict[str, dict[str, object]]:
    """Return for each label the `color` and `linestyle` to plot it with.

    "Dr. GRPO", "dr-grpo" and "dr_grpo" are one method. A label that is no method gets a look that
    nothing else among `labels` has.
    """
    plain = str.maketrans({" ": "_", "-": "_", ".": None})
    looks = {label: METHOD_STYLES.get(label.lower().translate(plain)) for label in labels}
    spare = [(colour, line) for line, colour in itertools.product(LINES, COLOURS)]
    spare = iter([look for look in spare if look not in looks.values()])
    looks = {label: look or next(spare) for label, look in looks.items()}
    return {label: {"color": colour, "linestyle": line} for label, (colour, line) in looks.items()}


def learning_curves(
    runs: Mapping[str, Sequence[str | Path | Log]],
    path: str | Path | None = None,
    *,
    title: str,
    keys: Sequence[str] | None = None,
    smooth: int = 1,
) -> Figure:
    """Draw what changed during training: small multiples, one line a method.

    With three seeds or more a line is their mean with a 95 % Student-t band, over the steps that
    all of them reached; with fewer there is no band. Up to six runs are also drawn one by one.

    Args:
        runs:   label -> one run folder, or one list of log lines, for each seed.
        path:   where to write the figure (SVG by its name); None only returns it.
        title:  what the figure shows, as a sentence.
        keys:   keys of the log lines, "eval.greedy" for one inside "eval"; None takes those of
                `MAIN_CURVES` that were logged.
        smooth: width in steps of a running mean over each seed; the figure says so.

    Raises:
        ValueError: a key that no run logged, or a log where a list of logs was expected.
    """
    logs = {label: _seeds(label, seeds) for label, seeds in runs.items()}
    every = [log for seeds in logs.values() for log in seeds]
    logged = [key for key in keys or MAIN_CURVES if any(read_curve(log, key) for log in every)]
    missing = sorted(set(keys or MAIN_CURVES) - set(logged))
    if not logged or (keys and missing):
        raise ValueError(f"no run logged {', '.join(missing)}: choose other keys")
    columns = min(3, len(logged))
    rows = -(-len(logged) // columns)
    singly = 1 < len(every) <= 6  # more lines than that hide what they should show
    with figure_style():
        more_lines = -(-len(logs) // _legend_columns(logs)) - 1
        figure = Figure(figsize=(WIDTH, 1.7 * rows + 0.7 + 0.15 * more_lines))
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for key, axes in zip(logged, panels, strict=False):
            for label, look in line_styles(logs).items():
                curves = [_smooth(read_curve(log, key), smooth) for log in logs[label]]
                _draw_seeds(axes, [curve for curve in curves if curve], look, singly=singly)
            _label_panel(axes, key)
        _label_seeds(figure, panels[len(logged) :], logs, smooth, singly=singly)
        return _finish(figure, title, path)


def before_after_figure(
    before: Mapping[str, object],
    after: Mapping[str, object],
    path: str | Path | None = None,
    *,
    title: str,
    labels: tuple[str, str] = ("before RL", "after RL"),
    over: str = "problems",
) -> Figure:
    """Draw accuracy by the number of steps in the problem, before and after.

    Args:
        before, after: metrics with "by_steps": {"2": metric, …}, and maybe "longer": a metric, or
                       {"6": metric, …}, of problems with more steps than any in training.
        path, title:   as for `learning_curves`.
        over:          what the metrics' intervals are over, for the legend.

    Raises:
        ValueError: there is no "by_steps" in one of them.
    """
    series = [_by_steps(metrics) for metrics in (before, after)]
    names = list(dict.fromkeys(name for points in series for name in points))
    with figure_style():
        figure = Figure(figsize=(WIDTH, 2.9))
        axes = figure.subplots()
        looks = [(GREY, "--", "o", "white"), (BLUE, "-", "s", BLUE)]
        for label, points, (colour, line, marker, face) in zip(labels, series, looks, strict=True):
            look = {"color": colour, "linestyle": line, "markerfacecolor": face}
            for far, shape in ((False, marker), (True, "D")):
                found = {names.index(n) + 0.35 * far: m for n, (m, f) in points.items() if f is far}
                _draw_metrics(axes, found, look | {"marker": shape})
            axes.plot([], [], label=label, marker=marker, **look)
        _label_steps(axes, names, series)
        figure.legend(
            loc="outside lower left", ncols=2, title=f"bars: 95 % interval over {over}",
            title_fontsize=7, alignment="left",
        )  # fmt: skip
        return _finish(figure, title, path)


def _seeds(label: str, seeds: Sequence[str | Path | Log]) -> list[Log]:
    """Return the log of each seed."""
    if isinstance(seeds, str | Path) or not seeds or isinstance(seeds[0], dict):
        raise ValueError(f"runs[{label!r}] is {seeds!r:.60}, expected a list of folders or logs")
    return [read_log(seed) if isinstance(seed, str | Path) else seed for seed in seeds]


def _smooth(curve: dict[float, Point], width: int) -> dict[float, Point]:
    """Return the running mean over `width` steps, over fewer at the ends."""
    if width == 1:
        return curve
    smooth: dict[float, Point] = {}
    for step, point in curve.items():
        near = [value for at, (value, _, _) in curve.items() if 2 * abs(at - step) < width]
        smooth[step] = (sum(near) / len(near), None, None) if len(near) > 1 else point
    return smooth


def _draw_seeds(
    axes: Axes, curves: list[dict[float, Point]], look: dict[str, object], *, singly: bool
) -> None:
    """Draw one method's seeds into one panel: each, their mean, and the band about it."""
    if not curves:
        return
    thin = {"color": look["color"], "linestyle": "-"}
    for curve in curves if singly else []:
        values = [value for value, _, _ in curve.values()]
        axes.plot(list(curve), values, **thin, linewidth=0.5, alpha=0.4)
    steps = sorted(set.intersection(*map(set, curves)))
    columns = [[curve[step][0] for curve in curves] for step in steps]
    means = [sum(column) / len(column) for column in columns]
    look = look | {"linewidth": 1.4 if len(curves) > 1 else 1.0}
    if len(steps) <= 30:  # evaluations now and then: show where they are
        look |= {"marker": "o", "markersize": 2.5}
    axes.plot(steps, means, **look)
    if len(curves) >= 3:
        low, high = zip(*[t_interval(column) for column in columns], strict=True)
        axes.fill_between(steps, low, high, color=look["color"], alpha=0.2, linewidth=0)
    elif len(curves) == 1:
        for step, (_, low, high) in curves[0].items():  # an evaluation's interval, over problems
            if low is not None and high is not None:
                axes.plot([step, step], [low, high], **thin, linewidth=0.8)


def _label_panel(axes: Axes, key: str) -> None:
    """Name the axes and choose limits that do not exaggerate."""
    name, unit = metric_name(key)
    axes.set(xlabel="step", ylabel=f"{name} ({unit})" if unit else name)
    if unit == "%":
        axes.set(ylim=(-3, 103), yticks=range(0, 101, 25))
    elif axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)


def _label_seeds(
    figure: Figure, free: list[Axes], logs: Mapping[str, list[Log]], smooth: int, *, singly: bool
) -> None:
    """Add the legend with n, in a free panel where there is one, and say what the lines are."""
    looks, sizes = line_styles(logs), [len(seeds) for seeds in logs.values()]
    handles = [
        Line2D([], [], label=f"{label} (n = {n})", **looks[label])
        for label, n in zip(logs, sizes, strict=True)
    ]
    notes = {
        "n: number of seeds": True,
        "band: 95 % t interval over seeds": max(sizes) >= 3,
        "thin lines: single seeds": singly,
        f"running mean over {smooth} steps": smooth > 1,
    }
    notes = [note for note, holds in notes.items() if holds]
    look = {"handles": handles, "title_fontsize": 7, "alignment": "left"}
    for axes in free:
        axes.set_axis_off()
    if free:
        free[0].legend(loc="center left", title="\n".join(notes), **look)
    else:
        columns = _legend_columns(logs)
        figure.legend(loc="outside lower left", ncols=columns, title="; ".join(notes), **look)


def _legend_columns(labels: Iterable[str]) -> int:
    """Return how many entries, each with its line and its n, stand in a row below the panels."""
    return max(1, min(4, 104 // (max(map(len, labels)) + 16)))


def _by_steps(metrics: Mapping[str, object]) -> dict[str, tuple[Mapping, bool]]:
    """Return name -> (metric, whether it is longer than any problem in training)."""
    if not metrics.get("by_steps"):
        raise ValueError(f"metrics has {sorted(metrics)}, expected 'by_steps' among them")
    longer = metrics.get("longer") or {}
    longer = {"longer": longer} if "mean" in longer else longer
    points = {name: (metric, False) for name, metric in metrics["by_steps"].items()}
    return points | {name: (metric, True) for name, metric in longer.items()}


def _draw_metrics(
    axes: Axes, found: Mapping[float, Mapping[str, float]], look: dict[str, object]
) -> None:
    """Draw accuracies with their intervals, each number beside its point."""
    means = [100 * metric["mean"] for metric in found.values()]
    axes.plot(list(found), means, **look, linewidth=1, markersize=5, zorder=3)
    for (x, metric), mean in zip(found.items(), means, strict=True):
        if metric.get("low") is not None:
            ends = [100 * metric["low"], 100 * metric["high"]]
            axes.plot([x, x], ends, "-", color=look["color"], linewidth=1.2, zorder=2)
        axes.annotate(f"{mean:.0f}", (x, mean), (6, 3), textcoords="offset points", zorder=4)


def _label_steps(axes: Axes, names: list[str], series: list[dict]) -> None:
    """Name the places of the x axis with their n, and set apart what was never trained on."""
    known = {name: entry for points in reversed(series) for name, entry in points.items()}
    places = [i + 0.35 * known[name][1] for i, name in enumerate(names)]
    counts = [known[name][0].get("n") for name in names]
    ticks = [f"{name}\nn = {n}" if n else name for name, n in zip(names, counts, strict=True)]
    axes.set_xticks(places, ticks)
    axes.set(xlim=(-0.4, places[-1] + 0.5), ylim=(-4, 112), yticks=range(0, 101, 25))
    axes.set(xlabel="steps in the problem", ylabel="accuracy (%)")
    axes.grid(axis="x", visible=False)
    for i, name in enumerate(names):
        if known[name][1]:
            axes.axvline(i - 0.33, color=BLACK, linewidth=0.6, linestyle=":")
            axes.text(i - 0.28, 110, "longer than any in training", va="top", fontsize=7)
            break


def _finish(figure: Figure, title: str, path: str | Path | None) -> Figure:
    """Set the title, write the file, return the figure."""
    figure.suptitle(textwrap.fill(title, 84), x=0.01, ha="left")
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # Without a date the same numbers give the same file.
        figure.savefig(path, metadata={"Date": None} if str(path).endswith(".svg") else None)
    return figure
