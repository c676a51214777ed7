"""Exercises of chapter 01: how good is an answer, and how sure is a score?

Write your lines where `raise NotImplementedError` stands; what is around it is given. Then

    make check CH=1        or one of them:  make check CH=1 ONLY=mcnemar_p

Hints stand at the end of the file.
"""

# ruff: noqa: F401, F841  (what is imported and prepared here waits for your lines)

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from reasoning_from_scratch import stats


def standard_error(p: float, n: int) -> float:
    """Exercise 1.1 ★ (5 minutes, write the formula). How far may one measured accuracy be off?

    Args:
        p: the rate, such as an accuracy, 0 to 1.
        n: problems it was measured on once, each solved or not.

    Returns:
        The standard deviation of such a measurement.

    >>> round(standard_error(0.5, 100), 3)
    0.05

    Mirrors `stats.standard_error`; held by tests/test_stats.py.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}, expected 0 to 1")
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    raise NotImplementedError("exercise 1.1, standard_error")


def wilson_interval(successes: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Exercise 1.2 ★★ (15 minutes, write the formula). An interval that is honest at 0 and at 1.

    p ∓ z · standard error has no width at 20 right of 20. Wilson asks the other way round: which
    true rates q lie no further than z of *their own* standard errors from what was measured? The
    two ends are the roots of (p - q)² = z² · q(1 - q) / n. Solve it for q.

    Args:
        successes: problems solved, 0 to n.
        n:         problems asked.
        level:     the share of intervals that hold the true rate; half of the rest lies on each
                   side.

    Returns:
        (low, high). With no success low is exactly 0, with n of n high is exactly 1.

    >>> [round(end, 4) for end in wilson_interval(8, 10)]
    [0.4902, 0.9433]

    Mirrors `stats.wilson_interval`; held by tests/test_stats.py.
    """
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    if not 0 <= successes <= n:
        raise ValueError(f"successes is {successes}, expected 0 to n={n}")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected strictly between 0 and 1")
    p = successes / n
    z = NormalDist().inv_cdf(0.5)  # this is 0: which quantile belongs to `level`?
    raise NotImplementedError("exercise 1.2, wilson_interval")


def mcnemar_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Exercise 1.3 ★★ (15 minutes, write the formula). Is the second model better, or was it luck?

    Both models answered the same problems. Where both were right or both wrong, nothing tells them
    apart. If they are equally good, each of the other problems is a fair coin. How probable is it
    that the coins fall at least as unevenly as they did, to either side?

    Args:
        first, second: [N] 1 where a problem was solved, 0 where not, in the same order.

    Returns:
        The two-sided exact p-value, at most 1.

    >>> mcnemar_p([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0])  # five coins, all to one side: 2 / 2⁵
    0.0625

    Mirrors `stats.mcnemar_p`; held by tests/test_stats.py.
    """
    ours, theirs = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if len(ours) != len(theirs):
        raise ValueError(f"second has {len(theirs)} entries, expected {len(ours)}: as first")
    for name, numbers in (("first", ours), ("second", theirs)):
        if len(odd := numbers[(numbers != 0) & (numbers != 1)]):
            raise ValueError(f"{name} holds {odd[0]}, expected 0 or 1: was the problem solved?")
    gained = int((ours > theirs).sum())  # the first solved them, the second did not
    lost = int((ours < theirs).sum())
    raise NotImplementedError("exercise 1.3, mcnemar_p")


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Exercise 1.4 ★★ (10 minutes, find the bug). An interval of a mean, from the values alone.

    Draw N of the N values again and again, with replacement, and see how far the means scatter.
    Somebody wrote this and measured: of a hundred such intervals only ninety held the true mean,
    not ninety-five. Delete the first line, find the mistake, and mend it.

    Args:
        values:  [N] one value for each problem.
        level:   share of the means that shall lie inside, strictly between 0 and 1.
        samples: how often N values are drawn.
        seed:    of the drawing.

    Returns:
        (low, high).

    >>> bootstrap_interval([0, 1], level=0.9)  # the mean is 0, ½ or 1, with probability ¼, ½, ¼
    (0.0, 1.0)

    Mirrors `stats.bootstrap_interval`; held by tests/test_stats.py.
    """
    raise NotImplementedError("exercise 1.4, bootstrap_interval: delete this line, find the bug")
    numbers = stats._numbers("values", values)  # refuses what is empty, not flat or not finite
    stats._check_level(level)
    if samples < 1:
        raise ValueError(f"samples is {samples}, expected at least 1")
    origin = numbers[0]  # measured from here, values that all agree are not rounded apart
    centred, generator = numbers - origin, np.random.default_rng(seed)
    rows, means = max(1, 2**20 // len(numbers)), []  # as many at once as fit 8 MiB
    for start in range(0, samples, rows):
        shape = (min(rows, samples - start), len(numbers))
        means.append(centred[generator.integers(len(numbers), size=shape)].mean(1))
    tail = 1 - level
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail]) + origin
    return float(low), float(high)


def extract_answer(text: str) -> str | None:
    r"""Exercise 1.5 ★★★ (30 minutes, design). What does a completion give as its answer?

    Models open a tag and think again, put boxes in boxes, or break off. These rules leave no case
    open; the code that follows them is yours.

    - The answer is what the last *closed* `<answer>…</answer>` holds: from the last `<answer>` that
      stands before the last `</answer>`, up to the next `</answer>` after it.
    - If that holds `\boxed`, the answer is instead its last `\boxed{…}`, or None if none of them is
      closed.
    - Without such a tag it is the last `\boxed{…}` of the text.
    - A box may have white space before its brace. It ends where its braces balance; `\{` and `\}`
      are no braces, `\\` is no start of one of these, and of nested boxes the inner one is last.
    - White space at both ends goes. Nothing found is None; an empty answer is "".

    >>> extract_answer("<answer>1</answer> wait, <answer>2</answer>")
    '2'
    >>> extract_answer(r"so it is \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'

    Mirrors `verify.extract_answer`; held by tests/test_verify.py.
    """
    raise NotImplementedError("exercise 1.5, extract_answer")


# region Hints: open one at a time
#
# 1.1  One problem is a coin with variance p(1 - p). What is the variance of a mean of n coins?
#
# 1.2  `inv_cdf(0.95)` leaves 5 % above it, and as much below its negative: an interval of 90 %.
#      Written out: q² (1 + z²/n) - q (2p + z²/n) + p² = 0. Halve everything before you take a root.
#
# 1.3  Of gained + lost coins: how probable are min(gained, lost) heads, or fewer? `math.comb`.
#      Both sides, and not more than 1.
#
# 1.4  How much lies outside an interval of level 0.95 in all? And on one side?
#
# 1.5  One pass with a stack for the braces: push where a box's content starts, or None for a brace
#      that opens no box. What does a closing brace pop, and when is it the last box so far?
#
# endregion
