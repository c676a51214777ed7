"""The page of the ledger, made from the records alone: verdicts, numbers, bases, preconditions."""

import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ledger.records import (
    CRITERIA,
    HOME,
    LOOKED_AT,
    TUNING,
    Assessment,
    Places,
    assess,
    made_on,
    read_records,
    sha,
    tuned,
)
from ledger.runner import Claim
from ledger.verdict import (
    IN_PART,
    NOT_TESTED,
    OPPOSITE,
    SEEN,
    SHARPER,
    UNDECIDED,
    Criteria,
    Estimate,
    Part,
    Q,
    benjamini_hochberg,
    claim_p,
    holm,
    load_criteria,
    missing,
    precondition_holds,
    verdict,
)
from reasoning_from_scratch.runs import write_atomically

CORRELATIONS = ("r", "ρ")  # units of Pearson's and of Spearman's
SIGNS = {SEEN: "🟩 ✓", SHARPER: "🟩 ✓", OPPOSITE: "🟧 ↺"}  # any other: "⬜ ·"
HEAD = """# The claims ledger

What the literature claims, tried in miniature. Arms, criteria and controls were fixed before any
test seed was run ([criteria.json](criteria.json)); the verdicts on this page are computed from
the records in [data/claims](../../data/claims) by `make claims`, and none is typed.

A claim is tried on five seeds, each with its own base, problems and samples, and on five more if
these leave it undecided; some are on ten from the start. Every estimate stands with its 97.5 %
interval over seeds. ✓ seen, ↺ the opposite, · not seen at this scale, and why; *undecided*: the
interval of some part leaves open whether it holds. † marks the part that decides whether it is the
opposite.

Each part asks something: "≥ 10" holds if the interval lies above 0 *and* the estimate is 10 or
more; "within ±4" and the like if the whole interval is. The answer is *no* where the interval rules
that out, *not clear* otherwise. A claim is seen if all its parts hold. Controls decide no verdict;
those that failed stand at the end of the sentence, and the claim must be read with them. A run is
*collapsed* if it ends with less than half of the accuracy it began with, or unfinished.

p is the largest of a claim's parts, for all must hold, times two for the two looks (a claim with
ten seeds from the start may have one). Benjamini and Hochberg's procedure (BH) keeps the false
share of the article's claims seen below 5 %; a claim that cannot pass it, whatever the open ones
bring, is undecided. Holm's column is for those who want no false one at all.

A seed on another machine, which is a processor and a version of PyTorch, makes another model. So
the arms of a seed are compared only where one machine has made them all; of several, the one whose
set was complete first counts. (This rule was added on 1 December 2026, after C4's first look and
before its second, when the machine had changed.)

`make claims ONLY=C4` runs what is missing of one claim, on all cores, and goes on where it was
stopped. `python chapters/claims/c04_r1_zero.py --estimate` says how long that takes, `--pilot`
tries a tenth of one seed, `--out FOLDER` repeats the whole claim elsewhere.
"""


def write_page(places: Places | None = None, home: Path = HOME) -> None:
    """Write README.md, and the figures of the claims that have a verdict."""
    criteria = load_criteria(CRITERIA)
    text = page(criteria, scripts(criteria), places or Places(), home / "figures")
    write_atomically(home / "README.md", text)


def scripts(criteria: Mapping[str, Criteria]) -> dict[str, Claim]:
    """Return the claims that have a script."""
    names = {key: row.script.removesuffix(".py") for key, row in criteria.items() if row.script}
    return {key: importlib.import_module(name).CLAIM for key, name in names.items()}


def page(
    criteria: Mapping[str, Criteria], claims: Mapping[str, Claim], places: Places, figures: Path
) -> str:
    """Return the whole page as Markdown; draw the claims' figures."""
    found = {
        key: assess(criteria[key], claim.statistics, list(claim.arms), places)
        for key, claim in claims.items()
    }
    text = HEAD
    for family, title in (("article", "The article's claims"), ("new", "Beyond the article")):
        rows = {key: row for key, row in criteria.items() if row.family == family}
        corrected = correction(rows, found)
        lines = [
            claim_cells(row, claims.get(key), found.get(key), corrected, places, figures)
            for key, row in rows.items()
        ]
        text += section(title, lines)
    for key, claim in claims.items():
        text += details(criteria[key], claim, found[key], places)
    text += section("Bases", base_cells(places))
    cells = precondition_cells(criteria, claims, places)
    return text + section("Preconditions on the tuning seeds", cells)


def correction(
    rows: Mapping[str, Criteria], found: Mapping[str, Assessment]
) -> dict[str, tuple[float, bool | None, float]]:
    """Return (p, whether it passes, Holm's p) of the family's claims whose last look is over.

    The article's claims pass by Benjamini and Hochberg, the new ones by Holm. None: it does not
    pass with those that are in, and may when all are; False: not even if all others have p = 0.
    """
    final = {key: found[key] for key in rows if key in found and is_over(rows[key], found[key])}
    p = {  # what was not tested claims nothing
        key: 1.0 if a.verdict == NOT_TESTED else claim_p(rows[key], a.estimates)
        for key, a in final.items()
    }
    adjusted = holm(p, len(rows))

    def passing(known: Mapping[str, float]) -> dict[str, bool]:
        if any(row.family == "new" for row in rows.values()):
            return {key: value <= Q for key, value in holm(known, len(rows)).items()}
        return benjamini_hochberg(known, len(rows))

    now, at_best = passing(p), passing(dict.fromkeys(rows, 0.0) | p)
    return {
        key: (p[key], True if now[key] else None if at_best[key] else False, adjusted[key])
        for key in p
    }


def is_over(row: Criteria, found: Assessment) -> bool:
    """Whether a claim's last look is over."""
    return found.look == len(row.looks) or found.verdict not in (None, UNDECIDED)


def claim_cells(
    row: Criteria, claim: Claim | None, found: Assessment | None,
    corrected: Mapping[str, tuple[float, bool | None, float]], places: Places, figures: Path,
) -> dict[str, str]:  # fmt: skip
    """Return a claim's row; what has no records is open."""
    cells = dict.fromkeys(
        ("claim", "verdict", "estimate [97.5 % interval]", "seeds", "p", "BH", "Holm"), ""
    )
    cells |= dict.fromkeys(("precondition", "to see it", "in a sentence"), "")
    cells |= {"claim": f"{row.key} {row.title} (ch {row.chapter:02d})", "verdict": "open"}
    if claim:
        cells["to see it"] = f"`make claims ONLY={row.key}`"
    if found is None or found.verdict is None:
        return cells
    p, passes, adjusted = corrected.get(row.key, (None, None, None))
    printed = verdict(
        row, found.estimates, untested=found.untested, survives=passes is not False
    )  # fmt: skip
    sign = SIGNS.get(printed, "⬜ ·")
    if printed != found.verdict:
        printed += ": fails the correction"
    elif printed in (SEEN, SHARPER) and passes is None:
        printed += ", correction open"
    cells["verdict"] = f"{sign} {printed}" + ("" if p is not None else ", second look to come")
    cells["estimate [97.5 % interval]"] = shown(found.estimates[row.main.name], row.main.unit)
    cells["seeds"] = f"{len(found.seeds)}, look {found.look}"
    if p is not None:
        cells |= {"p": f"{p:.2g}", "Holm": f"{adjusted:.2g}"}
        cells["BH"] = {True: "passes", False: "fails", None: "open"}[passes]
    cells["precondition"] = "; ".join(
        f"{wanted['name'].replace('_', ' ')} {min(values):.3g} to {max(values):.3g}, holds in "
        f"{sum(precondition_holds(wanted, v) for v in values)} of {len(values)}"
        for wanted in row.preconditions
        for values in [found.preconditions[wanted["name"]]]
    )
    seconds = [r["wall_s"] for r in read_records(places.records(row.key)) if r["role"] in LOOKED_AT]
    see = [f"{sum(seconds) / 60:.0f} min of one core", cells["to see it"]]
    if claim.figure:
        figures.mkdir(parents=True, exist_ok=True)
        claim.figure(found.seeds, figures / f"{row.key}.svg")
        see.insert(0, f"[figure]({figures.name}/{row.key}.svg)")
    return cells | {"to see it": ", ".join(see), "in a sentence": sentence(row, claim, found)}


def all_numbers(claim: Claim, found: Assessment) -> dict[str, Estimate]:
    """Return every estimate of a claim, those of all seeds at once included."""
    return found.estimates | {name: pool(found.seeds) for name, pool in claim.pooled.items()}


def sentence(row: Criteria, claim: Claim, found: Assessment) -> str:
    """Return the claim's sentence with its numbers, and what is missing of it."""
    numbers = all_numbers(claim, found)
    filled = {name: shown(value, row.unit(name)) for name, value in numbers.items()}
    for word, choice in (row.words or {}).items():
        filled[word] = choice["above" if numbers[choice["of"]].low > 0 else "else"]
    text = f"{row.sentence.format_map(filled)} {len(found.seeds)} seeds."
    if found.verdict == IN_PART:
        absent = [f"{p.text} ({filled[p.name]})" for p in missing(row, found.estimates)]
        text += f" Missing: {'; '.join(absent)}."
    if failed := [p for p in row.controls if p.excluded(found.estimates[p.name])]:
        text += (
            f" Controls that failed: {'; '.join(f'{p.text} ({filled[p.name]})' for p in failed)}."
        )
    return text


def details(row: Criteria, claim: Claim, found: Assessment, places: Places) -> str:
    """Return what stands below the table about one claim: all numbers, then its runs."""
    lines = []
    if found.verdict is not None:
        for kind, parts in (("part", row.parts), ("control", row.controls)):
            for part in parts:
                e = found.estimates[part.name]
                holds = "yes" if part.holds(e) else "no" if part.excluded(e) else "not clear"
                name = f"{kind}: {part.text}" + " †" * part.dagger
                cells = (name, shown(e, part.unit), asked(part), holds)
                lines.append(
                    dict(zip(("number", "estimate", "asked", "holds"), cells, strict=True))
                )
        for name, unit in row.secondary.items():
            value = shown(all_numbers(claim, found)[name], unit)
            lines.append(
                {"number": name.replace("_", " "), "estimate": value, "asked": "", "holds": ""}
            )
    notes = [f"{cell(reason)}: not counted" for reason in found.refused]
    recorded = [r for r in read_records(places.records(row.key)) if r["role"] in LOOKED_AT]
    for arm in claim.arms:
        runs = [seed.records[arm] for seed in found.seeds]
        tried = tuned(row.key, arm, places) if arm in claim.tuning else []
        bad = [sum(r["collapsed"] for r in runs), sum(r["failed"] is not None for r in runs)]
        chosen = "not tuned"
        if tried:
            seeds = f"{tried[0][1]} of the {len(TUNING)} tuning seeds"
            chosen = f"settings chosen among {len(tried)} on {seeds}"
        text = f"{arm}: {len(runs)} runs, {bad[0]} collapsed, {bad[1]} failed; {chosen}"
        notes += [text] if runs else []
    notes += machines(found, [r for r in recorded if r["arm"] in claim.arms])
    if not lines and not notes:
        return ""
    text = section(f"{row.key} {cell(row.title)}", lines, level=3)
    return text + "".join(f"- {note}\n" for note in notes)


def machines(found: Assessment, recorded: Sequence[Mapping]) -> list[str]:
    """Return on what the seeds that count were made, and how many runs of other machines do not."""
    made: dict[str, list[int]] = {}
    for seed in found.seeds:
        cpu, _ = made_on(next(iter(seed.records.values())))
        made.setdefault(cpu, []).append(seed.number)
    places = [f"seeds {', '.join(map(str, numbers))} on {cpu}" for cpu, numbers in made.items()]
    left = len(recorded) - sum(len(s.records) for s in found.seeds) - len(found.refused)
    beside = f"; {left} runs of other seeds or machines are not counted" if left else ""
    return [f"made: {'; '.join(places)}{beside}"] if places else []


def asked(part: Part) -> str:
    """Return what a part asks, as text."""
    side, size = (-1 if part.down else 1), amount(part.delta, part.unit)
    if part.kind == "equal":
        return f"within ±{size.lstrip('+')}"
    if part.kind == "no_worse":
        return f"{'below' if part.down else 'above'} {amount(-side * part.delta, part.unit)}"
    above = f", interval above {part.above:g}" if part.above else ""
    return f"{'≤' if part.down else '≥'} {amount(side * part.delta, part.unit)}{above}"


def shown(e: Estimate, unit: str) -> str:
    """Return an estimate as "12.3 points [9.1, 15.5]"; a log as a change in percent.

    The interval of a correlation ends at 1, which Student's t knows nothing of.
    """
    ends = (min(max(x, -1), 1) if unit in CORRELATIONS else x for x in (e.low, e.high))
    low, high = (amount(x, unit).removesuffix(f" {unit}") for x in ends)
    return f"{amount(e.mean, unit)} [{low}, {high}]"


def amount(value: float, unit: str) -> str:
    """Return a number in its unit."""
    if unit == "%":
        return f"{100 * math.expm1(value):+.1f} %"
    return (f"{value:.1f}" if unit == "points" else f"{value:.2f}") + f" {unit}".rstrip()


def base_cells(places: Places) -> list[dict[str, str]]:
    """Return a row for each family of bases on each machine, tuning and test seeds apart."""
    groups: dict[tuple[str, str, tuple], list[dict]] = {}
    for record in read_records(places.records("bases")):
        key = record["arm"], record["role"], made_on(record)
        groups.setdefault(key, []).append(record)
    rows = []
    for (family, _, (cpu, _)), records in sorted(groups.items()):
        seeds = ", ".join(str(seed) for seed in sorted(r["seed"] for r in records))
        numbers = ("accuracy", "thinking", "length", "finished")
        mean = {n: sum(r["final"][n] for r in records) / len(records) for n in numbers}
        rates = {n: f"{mean[n]:.1f} tokens" if n == "length" else f"{mean[n]:.1%}" for n in mean}
        seconds = sum(r["wall_s"] for r in records) / len(records)
        rows.append({
            "family": family, "seeds": seeds, **rates, "each": f"{seconds:.0f} s", "processor": cpu
        })  # fmt: skip
    return rows


def precondition_cells(
    criteria: Mapping[str, Criteria], claims: Mapping[str, Claim], places: Places
) -> list[dict[str, str]]:
    """Return a row for each precondition, [] before any was measured on the tuning seeds.

    What settings brought that the claim's script no longer has, and so were given up, is left out.
    """
    values: dict[str, dict[int, float]] = {}  # "C4 thinking_rate" -> by seed
    for key in ("preconditions", *criteria):
        frozen = {sha(arm) for arm in claims[key].arms.values()} if key in claims else None
        for record in read_records(places.records(key)):
            if frozen is not None and record["settings_sha"] not in frozen:
                continue
            for name, value in record["precondition"].items():
                name = name if key == "preconditions" else f"{key} {name}"
                if record["role"] == "tune" and name.split()[-1] != "ok":
                    values.setdefault(name, {}).setdefault(record["seed"], value)
    rows = []
    for row in criteria.values() if values else ():
        for wanted in row.preconditions:
            found = values.get(f"{row.key} {wanted['name']}", {})
            ends = [end for end in (("low", "≥"), ("high", "≤")) if end[0] in wanted]
            limits = [f"{sign} {wanted[end]:g}" for end, sign in ends]
            held = sum(precondition_holds(wanted, value) for value in found.values())
            each = ", ".join(f"{found[seed]:.3g} ({seed})" for seed in sorted(found))
            rows.append({
                "claim": row.key, "precondition": wanted["text"], "asked": ", ".join(limits),
                "measured (seed)": each or "open: needs its claim's own runs",
                "holds in": f"{held} of {len(found)}" if found else "",
            })  # fmt: skip
    return rows


def section(title: str, rows: list[dict[str, str]], level: int = 2) -> str:
    """Return a heading and a Markdown table, "" without rows."""
    if not rows and level == 2:
        return ""
    lines = [rows[0], dict.fromkeys(rows[0], "---"), *rows] if rows else []
    table = [table_line(lines[0])] if lines else []
    table += [table_line(line.values()) for line in lines[1:]]
    return (
        f"\n{'#' * level} {title}\n\n" + "".join(f"{line}\n" for line in table) + "\n" * bool(table)
    )


def table_line(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cell(text) for text in cells)} |"


def cell(text: str) -> str:
    """Return text that no table is broken by: one line, no bars, no tags."""
    for character, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        text = text.replace(character, safe)
    return " ".join(text.split())
