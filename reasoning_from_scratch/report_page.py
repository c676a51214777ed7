"""A run's records: reading them, its metrics as a table, and one HTML page that needs no server.

The page (`report_page.html` filled with the run's data) shows before and after, the learning
curves, every recorded completion with its reward, advantage and log-probabilities, and the same
problems before and after. Nothing it shows is trusted: what a model wrote may be any text.

Log-probabilities are in nats, lengths in tokens. A metric is {"mean", "low", "high", "n"}: a mean
over n problems and its 95 % interval.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

Log = list[dict[str, object]]  # the lines of a log.jsonl
Point = tuple[float, float | None, float | None]  # value, and its interval's ends where it has one

# What a key of log.jsonl or before.json is called, and its unit; "%" is of a fraction.
METRICS = {
    "reward": ("reward", ""),
    "accuracy": ("accuracy", "%"),
    "eval.greedy": ("greedy accuracy", "%"),
    "eval.sampled": ("sampled accuracy", "%"),
    "length": ("length", "tokens"),
    "thinks": ("thinks aloud", "%"),
    "entropy": ("entropy", "nats"),
    "finished": ("finished", "%"),
    "mixed_groups": ("groups of mixed reward", "%"),
    "reward_correct": ("samples that are right", "%"),
    "kl": ("KL to the reference", "nats"),
    "grad_norm": ("gradient norm", ""),
    "lr": ("learning rate", ""),
    "seconds": ("time a step", "s"),
    "by_steps": ("accuracy", "%"),
    "longer": ("accuracy, longer than in training", "%"),
}
STAGES = ("pretrain", "sft", "reward_model", "ppo", "grpo")  # in the order in which they run
MAX_POINTS = 500  # of a curve on the page; a longer one is averaged in bins
MAX_TOKENS = 400_000  # on the page, about 4 MB; of more rollouts, steps are left out evenly


def read_settings(folder: str | Path) -> dict[str, object]:
    """Return what `settings.json` in a run folder holds; {} where there is none."""
    return _read_json(Path(folder) / "settings.json")


def read_log(folder: str | Path) -> Log:
    """Return the lines of `log.jsonl` in a run folder.

    A last line that a killed run left half-written is skipped.

    Raises:
        FileNotFoundError: there is none; the message names the stages that have one.
        ValueError: another line is damaged.
    """
    path = Path(folder) / "log.jsonl"
    if not path.exists():
        stages = ", ".join(str(found.parent) for found in sorted(Path(folder).glob("*/log.jsonl")))
        raise FileNotFoundError(f"no log.jsonl in {folder}" + (stages and f": try {stages}"))
    return _read_lines(path)


def read_curve(log: Log, key: str) -> dict[float, Point]:
    """Return step -> (value, low, high) wherever `key` was logged and is finite, fractions in %.

    Args:
        key: as in the log's lines; "eval.greedy" is the entry "greedy" of "eval", and a metric.
    """
    scale = 100.0 if metric_name(key)[1] == "%" else 1.0
    curve: dict[float, Point] = {}
    for line in log:
        value: object = line
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        metric = value if isinstance(value, dict) else {"mean": value}
        if _finite(metric.get("mean")):
            ends = (metric.get("low"), metric.get("high"))
            low, high = (scale * end if _finite(end) else None for end in ends)
            curve[line["step"]] = (scale * metric["mean"], low, high)
    return curve


def metric_name(key: str) -> tuple[str, str]:
    """Return what a key is called and its unit: "eval.pass_at_8" -> ("pass@8", "%")."""
    short = key.removeprefix("eval.")
    for known in (key, short):
        if known in METRICS:
            return METRICS[known]
    if short.startswith("pass"):
        return short.replace("pass_at_", "pass@"), "%"
    # "longest_length" and "length_greedy" are in tokens, too.
    ends = (short.rpartition("_")[2], short.partition("_")[0])
    known = [METRICS[end] for end in ends if end in METRICS]
    return short.replace("_", " "), known[0][1] if known else ""


def metric_rows(before: Mapping[str, object], after: Mapping[str, object]) -> list[dict]:
    """Return {"name", "unit", "before", "after"} for each metric of either, nested ones in line."""
    rows = []
    for key in dict.fromkeys([*before, *after]):
        name, unit = metric_name(f"eval.{key}")
        pair = [side.get(key) for side in (before, after)]
        pair = [{"mean": value} if _finite(value) else value for value in pair]
        sides = [value if isinstance(value, dict) else {} for value in pair]
        if any("mean" in side for side in sides):
            rows.append({"name": name, "unit": unit, "before": sides[0], "after": sides[1]})
            continue
        ending = " steps" if key in ("by_steps", "longer") else ""
        for row in metric_rows(*sides):
            rows.append(row | {"name": f"{name}, {row['name']}{ending}", "unit": unit})
    return rows


def before_after_table(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """Return the metrics before and after as aligned text, each with its 95 % interval and n."""
    table = [("", "before", "95 % interval", "after", "95 % interval", "n")]
    for row in metric_rows(before, after):
        sides = [row["before"], row["after"]]
        cells = [cell for side in sides for cell in _cells(side, row["unit"])]
        counts = dict.fromkeys(str(side["n"]) for side in sides if side.get("n"))
        name = f"{row['name']} ({row['unit']})" if row["unit"] else row["name"]
        table.append((name, *cells, " / ".join(counts)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *cells in table:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *aligned]).rstrip())
    return "\n".join(lines)


def write_page(run_folder: str | Path, path: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about a run, or about a job with a folder a stage.

    Args:
        run_folder: what is missing in it is said on the page; half-written last lines are skipped.
        path:       where to write; None means report.html in the run folder.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: the folder holds no run at all.
    """
    folder = Path(run_folder)
    before, after = _read_json(folder / "before.json"), _read_json(folder / "after.json")
    vocabulary: dict[str, int] = {}
    stages = [_stage(stage, vocabulary) for stage in _stage_folders(folder)]
    if not (stages or before or after):
        raise FileNotFoundError(f"no run in {folder}: expected a log.jsonl or before.json in it")
    data = {
        "name": folder.resolve().name,
        "metrics": metric_rows(before, after),
        "stages": stages,
        "comparison": _read_lines(folder / "comparison.jsonl"),
        "vocabulary": list(vocabulary),
    }
    template = resources.files(__package__).joinpath("report_page.html").read_text("utf-8")
    # The browser runs this one script and nothing else, whatever might slip into the page.
    script = template.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = template.replace("@SCRIPT@", f"sha256-{digest}").replace("@DATA@", _embed(data))
    path = folder / "report.html" if path is None else Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(page.encode())
    return path


def _embed(data: object) -> str:
    """Return JSON that stays data inside a <script> element."""
    # ASCII only: U+2028, lone surrogates and NUL become escapes. Without < no tag can begin or
    # end, without & no entity. NaN is no JSON.
    text = json.dumps(_clean(data), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _clean(value: object) -> object:
    """Replace what JSON has no word for, NaN and infinities, by None."""
    if isinstance(value, dict):
        return {str(key): _clean(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _stage_folders(folder: Path) -> list[Path]:
    """Return the folder itself where it holds a run, then its stages in the order they ran."""
    records = ("log.jsonl", "rollouts.jsonl", "settings.json")
    inner = sorted({path.parent for name in records[:2] for path in folder.glob(f"*/{name}")})
    inner.sort(key=lambda path: STAGES.index(path.name) if path.name in STAGES else len(STAGES))
    return [folder] * any((folder / name).exists() for name in records) + inner


def _stage(folder: Path, vocabulary: dict[str, int]) -> dict[str, object]:
    """Return what the page shows of one stage."""
    log, groups = _read_lines(folder / "log.jsonl"), _read_lines(folder / "rollouts.jsonl")
    keys = {key for line in log for key, value in line.items() if _finite(value)} - {"step"}
    keys |= {f"eval.{key}" for line in log for key in line.get("eval") or {}}
    order = {key: place for place, key in enumerate(METRICS)}
    curves = []
    for key in sorted(keys, key=lambda key: (order.get(key, len(order)), key)):
        points = [(step, *point) for step, point in read_curve(log, key).items()]
        name, unit = metric_name(key)
        if points:
            curves.append({"key": key, "name": name, "unit": unit, "points": _bin(points)})
    kept = _thin(groups)
    return {
        "name": folder.resolve().name,
        "settings": read_settings(folder),
        "curves": curves,
        "every": -(-len(log) // MAX_POINTS),
        "groups": [_group(group, vocabulary) for group in kept],
        "left_out": len(groups) - len(kept),
    }


def _bin(points: list[tuple]) -> list[list[float | None]]:
    """Return at most MAX_POINTS points [step, value, low, high], each the mean of a bin."""
    size = -(-len(points) // MAX_POINTS)
    if size == 1:
        return [[None if x is None else float(f"{x:.5g}") for x in point] for point in points]
    bins = [points[i : i + size] for i in range(0, len(points), size)]
    return [[b[-1][0], float(f"{sum(p[1] for p in b) / len(b):.5g}"), None, None] for b in bins]


def _thin(groups: Log) -> Log:
    """Return the groups of evenly spaced steps with at most about MAX_TOKENS tokens in all."""
    tokens = sum(len(c.get("tokens", [])) for group in groups for c in group["completions"])
    if tokens <= MAX_TOKENS:
        return groups
    steps = sorted({group["step"] for group in groups})
    count = max(2, int(len(steps) * MAX_TOKENS / tokens))
    kept = {steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)}
    return [group for group in groups if group["step"] in kept]


def _group(group: Mapping[str, object], vocabulary: dict[str, int]) -> dict[str, object]:
    """Return a group with its tokens as places in the page's vocabulary."""
    completions = []
    for completion in group["completions"]:
        kept = ("reward", "parts", "advantage", "length", "finished")
        entry = {name: completion.get(name) for name in kept}
        tokens, text = completion.get("tokens") or [], completion.get("text", "")
        entry["tokens"] = [vocabulary.setdefault(token, len(vocabulary)) for token in tokens]
        joined = "".join(tokens)
        if tokens and joined.startswith(text):  # the usual case: not said twice
            entry["ending"] = joined[len(text) :]  # the stop token's text
        else:
            entry["text"] = text
        logprobs = completion.get("logprobs") or []
        # In hundredths of a nat below 0: 123 is shorter than -1.23, and there are many.
        entry["surprise"] = [round(-100 * x) if _finite(x) else None for x in logprobs]
        if not all(completion.get("mask") or [1]):
            entry["mask"] = completion["mask"]
        completions.append(entry)
    head = {name: group.get(name) for name in ("step", "prompt", "answer")}
    return head | {"completions": completions}


def _cells(metric: Mapping[str, float], unit: str) -> tuple[str, str]:
    """Return a metric's mean and interval as text."""
    scale, digits = (100, 1) if unit == "%" else (1, 1 if unit == "tokens" else 2)
    values = (metric.get(name) for name in ("mean", "low", "high"))
    mean, low, high = (f"{scale * v:.{digits}f}" if _finite(v) else "" for v in values)
    return mean, f"[{low}, {high}]" if low and high else ""


def _finite(value: object) -> bool:
    """Whether this is a number to show; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_json(path: Path) -> dict[str, object]:
    return json.loads(path.read_bytes()) if path.exists() else {}


def _read_lines(path: Path) -> Log:
    """Return the JSON lines of a file, [] where there is none."""
    if not path.exists():
        return []
    # Bytes: a cut may fall inside a character, and U+2028 inside a string ends no line.
    lines, found = path.read_bytes().split(b"\n"), []
    for number, line in enumerate(lines, 1):
        try:
            found += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            if number < len(lines):  # only a line without its newline was cut short
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
    return found
