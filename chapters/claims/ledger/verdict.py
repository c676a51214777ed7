"""What counts as an answer: an estimate with its interval, the parts of a claim, the verdict.

A claim is a row of `criteria.json`, fixed before its test seeds are run. Everything here is a
function of numbers: nothing is read from disk, nothing is typed.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import mpmath
import numpy as np

from reasoning_from_scratch.checks import check_choice
from reasoning_from_scratch.stats import t_quantile

LEVEL = 0.975  # of each look: two looks together are wrong in at most 5 % of cases
DRAWS = 2000  # of the problems, to see how far a seed's number depends on them
Q = 0.05  # false discovery rate over the ledger

SEEN, SHARPER, OPPOSITE = "seen", "seen (sharpening only)", "the opposite"
NOT_TESTED, IN_PART, ABSENT, TOO_SMALL, UNDECIDED = (
    f"not seen at this scale ({why})"
    for why in ("not tested", "in part", "absent", "too small", "undecided")
)


class Estimate(NamedTuple):
    """A mean over seeds, its interval, its standard error; n seeds."""

    mean: float
    low: float
    high: float
    error: float
    n: int

    def __neg__(self) -> "Estimate":
        return Estimate(-self.mean, -self.high, -self.low, self.error, self.n)


def estimate(values: Sequence[float], variances: Sequence[float] | float = 0.0) -> Estimate:
    """Return the mean of one number a seed with its interval over seeds.

    Args:
        values:    [n] at least two, one for each seed.
        variances: [n] of each seed's number, from drawing its problems again. Every seed has its
                   own problems, so the spread over seeds holds that part already: this is a floor,
                   for the case that a few seeds agree by luck.

    Raises:
        ValueError: fewer than two values, or one that is not finite.
    """
    numbers = np.asarray(values, dtype=float)
    if numbers.ndim != 1 or len(numbers) < 2:
        raise ValueError(f"values has shape {list(numbers.shape)}, expected [n], n at least 2")
    if not (np.isfinite(numbers).all() and np.isfinite(variances).all()):
        raise ValueError(f"values are {numbers.tolist()}, variances {variances}, expected finite")
    n, mean = len(numbers), float(numbers.mean())
    error = math.sqrt(max(float(numbers.var(ddof=1)), float(np.mean(variances))) / n)
    reach = _quantile(n - 1) * error
    return Estimate(mean, mean - reach, mean + reach, error, n)


@functools.cache
def _quantile(freedom: int) -> float:
    return t_quantile((1 + LEVEL) / 2, freedom)


@dataclass(frozen=True)
class Part:
    """One thing that a claim asks of one number; all parts of a claim must hold.

    Ratios are asked and estimated as logs. `down` turns the number over: a *fall* of `delta`.
    """

    name: str  # of the statistic
    kind: str  # effect, equal, no_worse, or estimate (only its sign is asked)
    text: str
    unit: str = "points"
    delta: float = 0.0  # the effect asked for, or the margin; a log where a ratio was given
    above: float = 0.0  # of an effect: where its interval must lie above
    down: bool = False
    dagger: bool = False  # decides "the opposite"
    at_best_t: str | None = None  # the same number at each arm's best temperature

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("effect", "equal", "no_worse", "estimate"))
        if self.delta < 0:
            raise ValueError(f"delta is {self.delta} in part {self.name!r}, expected 0 or more")

    @classmethod
    def of(cls, row: Mapping[str, object]) -> "Part":
        """Read a part from a row of the table, where "ratio": 1.2 stands for delta = |log 1.2|."""
        row = dict(row)
        if "ratio" in row:
            row["delta"] = abs(math.log(row.pop("ratio")))
        return cls(**row)

    def oriented(self, found: Estimate) -> Estimate:
        """Return the estimate so that upwards is the claim's side."""
        return -found if self.down else found

    def holds(self, found: Estimate) -> bool:
        """Whether the estimate meets what the part asks."""
        e = self.oriented(found)
        return {
            "effect": e.low > self.above and e.mean >= self.delta,
            "equal": -self.delta < e.low and e.high < self.delta,
            "no_worse": e.low > -self.delta,
            "estimate": e.mean >= 0,
        }[self.kind]

    def excluded(self, found: Estimate) -> bool:
        """Whether the whole interval contradicts what the part asks."""
        e = self.oriented(found)
        return {
            "effect": e.high < self.delta or e.high <= self.above,
            "equal": e.low >= self.delta or e.high <= -self.delta,
            "no_worse": e.high <= -self.delta,
            "estimate": e.high < 0,
        }[self.kind]

    def reversed(self, found: Estimate) -> bool:
        """Whether the interval lies on the other side: of 0 for an effect, of ±m for a margin."""
        e = self.oriented(found)
        if self.kind == "equal":
            return e.low > self.delta or e.high < -self.delta
        if self.kind == "no_worse":
            return e.high < -self.delta
        return e.high < 0 and e.mean <= -self.delta

    def p(self, found: Estimate) -> float:
        """Return the t test's p-value at one look: two-sided for an effect; for a margin twice the
        larger of the one-sided ones, so that p < 0.025 where a 97.5 % interval lies inside."""
        e = self.oriented(found)
        if self.kind == "effect":
            return student_p(e.mean - self.above, e.error, e.n - 1)
        if self.kind == "estimate":
            return 0.0  # asks no test
        ends = [self.delta + e.mean] + [self.delta - e.mean] * (self.kind == "equal")
        worst = min(ends)  # the distance to the nearer margin
        p = student_p(worst, e.error, e.n - 1)
        return p if worst > 0 else 2 - p


def student_p(distance: float, error: float, freedom: int) -> float:
    """Return the two-sided probability of |t| ≥ |distance| / error."""
    if error == 0:
        return float(distance == 0)
    t = distance / error
    x = freedom / (freedom + t * t)
    return float(mpmath.betainc(freedom / 2, 0.5, 0, x, regularized=True))


@dataclass(frozen=True)
class Criteria:
    """A row of the table of criteria."""

    key: str
    title: str
    chapter: int
    parts: tuple[Part, ...]
    controls: tuple[Part, ...] = ()  # printed with whether they hold; they decide no verdict
    secondary: Mapping[str, str] = field(
        default_factory=dict
    )  # printed with interval: {name: unit}
    preconditions: tuple[dict, ...] = ()  # {"name", "low", "high", "text"}, checked in every seed
    looks: tuple[int, ...] = (5, 10)  # seeds at each look
    p_times: int = 2  # two looks double the p-value
    first_seed: int = 0  # 10 for a rerun after an amendment
    family: str = "article"  # or "new": corrected apart
    opposite: Part | None = None  # a number of its own that decides "the opposite"
    budget: str | None = None  # what the arms of a seed must have had alike
    words: dict | None = None  # {word: {"of": statistic, "above": text, "else": text}}
    sentence: str = ""  # its {names} are filled with estimates
    script: str | None = None

    @classmethod
    def of(cls, key: str, row: Mapping[str, object]) -> "Criteria":
        """Read a row; the decisive fields are checked.

        Raises:
            ValueError: not exactly one part carries the dagger.
        """
        row = dict(row)
        for name in ("parts", "controls"):
            row[name] = tuple(Part.of(part) for part in row[name])
        for name in ("preconditions", "looks"):
            row[name] = tuple(row[name])
        if "opposite" in row:
            row["opposite"] = Part.of(row["opposite"])
        found = cls(key=key, **row)
        if sum(part.dagger for part in found.parts) != 1:
            raise ValueError(f"{key} has not one part with the dagger: which decides the opposite?")
        return found

    def unit(self, name: str) -> str:
        """Return the unit of a statistic."""
        rows = (*self.parts, *self.controls, *([self.opposite] if self.opposite else []))
        return self.secondary.get(name) or next((r.unit for r in rows if r.name == name), "")

    @property
    def main(self) -> Part:
        """The part with the dagger."""
        return next(part for part in self.parts if part.dagger)


def load_criteria(path: Path) -> dict[str, Criteria]:
    """Read the whole table."""
    rows = json.loads(path.read_text(encoding="utf-8"))["claims"]
    return {key: Criteria.of(key, row) for key, row in rows.items()}


def seeds_of(claim: Criteria, look: int) -> range:
    """Return the seeds of a look, counted from 0; a second look has those of the first as well."""
    return range(claim.first_seed, claim.first_seed + claim.looks[look])


def precondition_holds(row: Mapping[str, object], value: float) -> bool:
    """Whether a precondition's value lies in its range, ends included."""
    return row.get("low", -math.inf) <= value <= row.get("high", math.inf)


def verdict(
    claim: Criteria, found: Mapping[str, Estimate], *, untested: int, survives: bool = True
) -> str:
    """Return what is printed: the first rule that applies, top to bottom.

    Args:
        found:    the estimate of each part, of `opposite`, and at best T where a part has one.
        untested: seeds in which a precondition failed.
        survives: whether the claim passes the correction over the ledger.
    """
    main = claim.main
    estimates = {part.name: found[part.name] for part in claim.parts}
    seeds = found[main.name].n
    if untested * 5 > seeds:  # more than one of five
        return NOT_TESTED
    if all(part.holds(estimates[part.name]) for part in claim.parts):
        if not survives:
            return UNDECIDED
        sharper = [p for p in claim.parts if p.at_best_t and not p.holds(found[p.at_best_t])]
        return SHARPER if sharper else SEEN
    if claim.opposite is not None:
        turned = claim.opposite.holds(found[claim.opposite.name])
    else:
        turned = main.reversed(estimates[main.name])
    if turned:
        return OPPOSITE
    if main.holds(estimates[main.name]) and missing(claim, found):
        return IN_PART
    e = main.oriented(estimates[main.name])
    if main.kind == "effect" and -main.delta < e.low and e.high < main.delta:
        return ABSENT
    if main.kind == "effect" and e.low > main.above and e.mean < main.delta:
        return TOO_SMALL
    return UNDECIDED


def missing(claim: Criteria, found: Mapping[str, Estimate]) -> list[Part]:
    """Return the other parts whose interval excludes what they ask."""
    return [p for p in claim.parts if not p.dagger and p.excluded(found[p.name])]


def claim_p(claim: Criteria, found: Mapping[str, Estimate]) -> float:
    """Return the claim's p-value: the largest of its parts', since all must hold."""
    return min(1.0, claim.p_times * max(part.p(found[part.name]) for part in claim.parts))


def benjamini_hochberg(p: Mapping[str, float], family: int) -> dict[str, bool]:
    """Return which claims pass at rate `Q` among `family` claims.

    Those that are not in yet count as p = 1: what passes now passes whatever they bring.

    Source: Benjamini and Hochberg 1995.
    """
    ranked = sorted(p, key=p.get)
    passed = [i for i, key in enumerate(ranked, 1) if p[key] <= Q * i / family]
    return {key: i <= max(passed, default=0) for i, key in enumerate(ranked, 1)}


def holm(p: Mapping[str, float], family: int) -> dict[str, float]:
    """Return Holm's adjusted p-values among `family` claims: none false at all, at that level.

    Source: Holm 1979.
    """
    adjusted, largest = {}, 0.0
    for i, key in enumerate(sorted(p, key=p.get)):
        largest = max(largest, min(1.0, (family - i) * p[key]))
        adjusted[key] = largest
    return adjusted
