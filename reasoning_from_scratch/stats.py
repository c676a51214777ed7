"""Numbers with their uncertainty: intervals over problems and over seeds, paired tests, votes.

Plain numbers in (lists, arrays or tensors), plain numbers out. An interval over *problems* says
how far the score depends on which problems were asked, one over *seeds* how far it depends on
chance in training: neither contains the other. Left out: corrections for looking at many
comparisons, and for choosing the best checkpoint on the problems that it is then tested on.
"""

import math
import operator
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple, TypeVar

import numpy as np

Answer = TypeVar("Answer")
_CHUNK = 2**20  # numbers drawn at once by the bootstrap: 8 MiB


class Difference(NamedTuple):
    """A mean difference and its interval."""

    mean: float
    low: float
    high: float


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimate the probability that at least one of `k` completions is right.

    Args:
        n: completions sampled of one problem.
        c: how many of them were right, 0 to n.
        k: 1 to n. Average over problems *after* calling this for each.

    Returns:
        1 - C(n-c, k) / C(n, k): unbiased, where 1 - (1 - c/n)^k is too low.

    Raises:
        ValueError: not whole numbers, or outside these ranges.

    Source: Chen et al. 2021 (Codex), eq. 1.
    """
    n, c, k = _whole("n", n), _whole("c", c), _whole("k", k)
    if not 0 <= c <= n:
        raise ValueError(f"c is {c}, expected 0 to n={n}: the right ones among n completions")
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}, expected 1 to n={n}: draw at least k completions")
    subsets = math.comb(n, k)
    return (subsets - math.comb(n - c, k)) / subsets  # whole numbers: rounded once


def mixed_group_chance(n: int, c: int, group_size: int) -> float:
    """Estimate the probability that a group of completions is mixed: neither all right nor wrong.

    Args:
        n:          completions sampled of one problem.
        c:          how many of them were right, 0 to n.
        group_size: 1 to n. Average over problems *after* calling this for each.

    Returns:
        1 - (C(c, G) + C(n-c, G)) / C(n, G): unbiased for 1 - p^G - (1-p)^G, where c/n put in the
        place of p is biased.

    Raises:
        ValueError: not whole numbers, or outside these ranges.
    """
    n, c, group_size = _whole("n", n), _whole("c", c), _whole("group_size", group_size)
    if not 0 <= c <= n:
        raise ValueError(f"c is {c}, expected 0 to n={n}: the right ones among n completions")
    if not 1 <= group_size <= n:
        raise ValueError(f"group_size is {group_size}, expected 1 to n={n}: draw at least as many")
    subsets = math.comb(n, group_size)
    agree = math.comb(c, group_size) + math.comb(n - c, group_size)
    return (subsets - agree) / subsets  # whole numbers: rounded once


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean.

    Args:
        values:  [N] one value for each *problem*, such as its accuracy over several samples.
        level:   share of the resampled means inside, strictly between 0 and 1.
        samples: how often N of the N values are drawn again, with replacement.
        seed:    of that drawing; nothing else depends on it.

    Returns:
        (low, high). Values that all agree leave nothing to resample: the interval has no width,
        where `wilson_interval` still says how little a perfect score on a few problems proves.

    Raises:
        ValueError: no values, one that is not finite, or an option out of range.

    Source: Efron 1979; over problems as in Hochlehnert et al. 2025, "A Sober Look".
    """
    numbers = _numbers("values", values)
    _check_level(level)
    if _whole("samples", samples) < 1:
        raise ValueError(f"samples is {samples}, expected at least 1")
    origin = numbers[0]  # measured from here, values that all agree are not rounded apart
    centred, generator = numbers - origin, np.random.default_rng(seed)
    rows, means = max(1, _CHUNK // len(numbers)), []
    for start in range(0, samples, rows):
        shape = (min(rows, samples - start), len(numbers))
        means.append(centred[generator.integers(len(numbers), size=shape)].mean(1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail]) + origin
    return float(low), float(high)


def t_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean of a few runs that differ in their *seed*.

    Args:
        values: [N] at least two, one for each seed; fewer than five make a wide interval.

    Returns:
        mean ∓ t · s/√N, with s the sample deviation (N - 1) and t Student's quantile.

    Raises:
        ValueError: fewer than two values, one that is not finite, or `level` out of range.

    Source: Student 1908.
    """
    numbers = _numbers("values", values)
    _check_level(level)
    if len(numbers) < 2:
        raise ValueError("values has 1 entry, expected at least 2: one run has no spread")
    mean = float(numbers.mean())
    error = float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    reach = t_quantile((1 + level) / 2, len(numbers) - 1) * error
    return mean - reach, mean + reach


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compare two models on the *same* problems: mean of first - second, and its interval.

    What makes a problem hard is the same for both and cancels, so that this sees differences which
    two separate intervals would hide.

    Args:
        first, second: [N] score of each problem, in the same order.

    Raises:
        ValueError: as `bootstrap_interval`, or the two have different numbers of problems.

    Source: Hochlehnert et al. 2025, "A Sober Look".
    """
    ours, theirs = _pair(first, second)
    difference = ours - theirs
    low, high = bootstrap_interval(difference, level=level, samples=samples, seed=seed)
    return Difference(float(difference.mean()), low, high)


def mcnemar_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided exact p-value that two models solve the same problems equally often.

    Only problems that one solved and the other did not tell anything: if the models are equally
    good, each of those is a fair coin.

    Args:
        first, second: [N] 1 where a problem was solved, 0 where not, in the same order.

    Raises:
        ValueError: different lengths, or values that are neither 0 nor 1.

    Source: McNemar 1947, in its exact form.
    """
    ours, theirs = _pair(first, second)
    for name, numbers in (("first", ours), ("second", theirs)):
        if not np.isin(numbers, (0, 1)).all():
            odd = numbers[~np.isin(numbers, (0, 1))][0]
            raise ValueError(f"{name} holds {odd}, expected 0 or 1: was the problem solved?")
    gained, lost = int((ours > theirs).sum()), int((ours < theirs).sum())
    coins, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(coins, i) for i in range(fewer + 1))
    return min(1.0, 2 * tail / 2**coins)


def standard_error(p: float, n: int) -> float:
    """Return √(p(1-p)/n): the deviation of a rate `p` measured once on `n` problems.

    Raises:
        ValueError: p outside 0 to 1, or n below 1.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}, expected 0 to 1")
    if _whole("n", n) < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    return math.sqrt(p * (1 - p) / n)


def wilson_interval(successes: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return an interval of a rate that stays honest near 0 and 1.

    Args:
        successes: problems solved, 0 to n; a fraction where a problem may count partly.
        n:         problems asked, at least 1.

    Returns:
        (low, high) within 0 to 1. 20 right of 20 gives 0.839 to 1, not 1 to 1.

    Raises:
        ValueError: an argument out of range.

    Source: Wilson 1927.
    """
    if _whole("n", n) < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    if not 0 <= successes <= n:
        raise ValueError(f"successes is {successes}, expected 0 to n={n}")
    _check_level(level)
    p, z = successes / n, NormalDist().inv_cdf((1 + level) / 2)
    centre = p + z * z / (2 * n)
    reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - reach) / (1 + z * z / n), (centre + reach) / (1 + z * z / n)
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def majority_vote(
    answers: Sequence[Answer | None], *, equal: Callable[[Answer, Answer], bool] = operator.eq
) -> Answer | None:
    """Return the answer given most often (self-consistency).

    Args:
        answers: None where a completion gave none: those have no vote.
        equal:   whether two answers are one. Plain equality wants them normalised before;
                 `math_equal` counts "1/2" and "0.5" together. An answer joins the first seen one
                 that it equals.

    Returns:
        The answer as first written; of several with as many votes the first seen. None if there is
        no answer at all.

    Source: Wang et al. 2022, "Self-Consistency".
    """
    return weighted_vote(answers, [1.0] * len(answers), equal=equal)


def weighted_vote(
    answers: Sequence[Answer | None],
    weights: Sequence[float],
    *,
    equal: Callable[[Answer, Answer], bool] = operator.eq,
) -> Answer | None:
    """Return the answer whose votes weigh most; otherwise as `majority_vote`.

    Args:
        weights: [N] at least 0: a verifier's score, or exp of the mean log-probability.

    Raises:
        ValueError: not one weight for each answer, or one that is negative or not finite.

    Source: Wang et al. 2022, "Self-Consistency", its weighted sum.
    """
    if len(weights) != len(answers):
        raise ValueError(f"weights has {len(weights)} entries, expected {len(answers)}: as answers")
    candidates: list[Answer] = []
    votes: list[float] = []
    for answer, weight in zip(answers, map(float, weights), strict=True):
        if not 0 <= weight < math.inf:
            raise ValueError(f"weights holds {weight}, expected finite numbers of at least 0")
        if answer is None:
            continue
        for i, candidate in enumerate(candidates):
            if equal(candidate, answer):
                votes[i] += weight
                break
        else:
            candidates.append(answer)
            votes.append(weight)
    return candidates[votes.index(max(votes))] if candidates else None


def best_of_n(scores: Sequence[float]) -> int:
    """Return the index of the highest score, the first of several.

    Raises:
        ValueError: no scores, or one that is not finite.
    """
    return int(_numbers("scores", scores).argmax())


def t_quantile(probability: float, freedom: int) -> float:
    """Return t such that Student's distribution with `freedom` degrees lies below it so often.

    Args:
        probability: strictly between 0 and 1.
        freedom:     degrees of freedom, a whole number of at least 1.

    Raises:
        ValueError: an argument out of range.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability is {probability}, expected strictly between 0 and 1")
    if _whole("freedom", freedom) < 1:
        raise ValueError(f"freedom is {freedom}, expected at least 1")
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    # The share within ±t grows with the angle atan(t/√freedom): halve the range it must lie in.
    wanted, low, high = 2 * probability - 1, 0.0, math.pi / 2
    while low < (angle := (low + high) / 2) < high:
        low, high = (angle, high) if _share_within(angle, freedom) < wanted else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _share_within(angle: float, freedom: int) -> float:
    """Student's probability of |t| < √freedom · tan(angle): a finite sum, hence exact.

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    steps = np.arange(odd + 1, freedom - 2, 2)  # 1, 3, … for even freedom, 2, 4, … for odd
    terms = np.cumprod(steps / (steps + 1) * cosine**2)
    if not odd:
        return sine * float(1 + terms.sum())
    series = cosine * float(1 + terms.sum()) if freedom > 1 else 0.0
    return 2 / math.pi * (angle + sine * series)


def _numbers(name: str, values: Sequence[float]) -> np.ndarray:
    """Return [N] float64, refusing what is empty, not flat or not finite."""
    listed = (
        values.tolist() if hasattr(values, "tolist") else list(values)
    )  # a tensor, on any device
    numbers = np.asarray(listed, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        shape = list(numbers.shape)
        raise ValueError(f"{name} has shape {shape}, expected [N] with at least one entry")
    if not np.isfinite(numbers).all():
        odd = numbers[~np.isfinite(numbers)][0]
        raise ValueError(f"{name} holds {odd}, expected finite numbers")
    return numbers


def _pair(first: Sequence[float], second: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    ours, theirs = _numbers("first", first), _numbers("second", second)
    if len(ours) != len(theirs):
        raise ValueError(
            f"second has {len(theirs)} entries, expected {len(ours)}: the same problems as first"
        )
    return ours, theirs


def _whole(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}, expected a whole number") from None


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected strictly between 0 and 1, such as 0.95")
