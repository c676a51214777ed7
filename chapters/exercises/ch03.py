"""Exercises of chapter 03: more answers, and how to choose among them.

Write your lines where `raise NotImplementedError` stands; what is around it is given. Then

    make check CH=3        or one of them:  make check CH=3 ONLY=pass_at_k

Hints stand at the end of the file.
"""

import math
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def choose(
    logits: Tensor, uniform: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """Exercise 3.1 ★★ (15 minutes, find the bug). From logits to a token, by a uniform number.

    The probabilities of a row lie side by side on the line from 0 to 1; the token in whose part the
    uniform number lies is chosen. With `top_p` below 1, only the smallest set of tokens that
    together have *at least* that much probability stays, and is stretched over the line.
    Users of this one complain that top_p=0.9 makes texts duller than elsewhere, and that a tiny
    top_p gives rubbish. Delete the first line, find out why, and mend it.

    Args:
        logits:      [B,V].
        uniform:     [B] 0 to 1, 1 excluded.
        temperature: 0 takes the likeliest token, and its log-probability at temperature 1.
        top_p:       above 0, at most 1.

    Returns:
        (ids [B], log-probabilities [B] of the whole distribution at that temperature).

    >>> probabilities = torch.tensor([[0.1, 0.5, 0.05, 0.35]])
    >>> choose(probabilities.log(), torch.tensor([0.99]), 1.0, 0.8)[0]  # .5 and .35 are enough
    tensor([3])

    Mirrors `sampling.choose`; held by tests/test_sampling.py.
    """
    raise NotImplementedError("exercise 3.1, choose: delete this line, find the bug")
    logits = logits.float()
    if temperature == 0:
        chosen = logits.argmax(-1)
        return chosen, logits.log_softmax(-1).gather(-1, chosen[:, None]).squeeze(-1)
    logprobs = (logits / temperature).log_softmax(-1)
    probabilities = logprobs.exp()
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) > top_p
        probabilities = probabilities.scatter(-1, order, ordered.masked_fill(outside, 0))
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1]
    # Strictly below the total, or rounding could choose a token after the last possible one.
    threshold = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    chosen = torch.searchsorted(cumulative, threshold[:, None], right=True)
    return chosen.squeeze(-1), logprobs.gather(-1, chosen).squeeze(-1)


def majority_vote(
    answers: Sequence[object], *, equal: Callable[[object, object], bool] = operator.eq
) -> object:
    """Exercise 3.2 ★ (10 minutes, write the formula). The answer that is given most often.

    Args:
        answers: [N]; None where a completion gave none, which is no vote. They need not be
                 hashable.
        equal:   whether two answers are one: each joins the first seen one that it equals.

    Returns:
        The answer as it was first written; of several with as many votes the first seen. None if
        there is no answer at all.

    >>> majority_vote(["7", "5", None, "5", "7"])
    '7'

    Mirrors `stats.majority_vote`; held by tests/test_stats.py.
    """
    raise NotImplementedError("exercise 3.2, majority_vote")


def weighted_vote(
    answers: Sequence[object],
    weights: Sequence[float],
    *,
    equal: Callable[[object, object], bool] = operator.eq,
) -> object:
    """Exercise 3.3 ★★ (15 minutes, design). A vote in which some completions count for more.

    As `majority_vote`, but the weights of equal answers are added up. Decide what happens to an
    answer whose weights are all 0 while others abstained, and see what the tests say.

    Args:
        weights: [N] at least 0, such as a verifier's score of each completion.

    >>> weighted_vote([7, 7, 5], [0.2, 0.3, 0.6])  # 0.5 against 0.6
    5

    Mirrors `stats.weighted_vote`; held by tests/test_stats.py.
    """
    if len(weights) != len(answers):
        raise ValueError(f"weights has {len(weights)} entries, expected {len(answers)}: as answers")
    for weight in map(float, weights):
        if not 0 <= weight < math.inf:
            raise ValueError(f"weights holds {weight}, expected finite numbers of at least 0")
    raise NotImplementedError("exercise 3.3, weighted_vote")


def pass_at_k(n: int, c: int, k: int) -> float:
    """Exercise 3.4 ★ (10 minutes, write the formula). Would one of k completions be right?

    n completions were sampled and c of them were right. 1 - (1 - c/n)^k is too low on average: it
    draws the same completion more than once. Draw k *different* ones of the n instead: how often is
    at least one of them right?

    Args:
        n: completions sampled.
        c: right ones among them, 0 to n.
        k: 1 to n.

    >>> round(pass_at_k(10, 3, 2), 4)  # 1 - 7/10 · 6/9
    0.5333

    Mirrors `stats.pass_at_k`; held by tests/test_stats.py.
    """
    for name, value in (("n", n), ("c", c), ("k", k)):
        if not isinstance(value, int):
            raise ValueError(f"{name} is {value!r}, expected a whole number")
    if not 0 <= c <= n:
        raise ValueError(f"c is {c}, expected 0 to n={n}: the right ones among n completions")
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}, expected 1 to n={n}: draw at least k completions")
    raise NotImplementedError("exercise 3.4, pass_at_k")


# region Hints: open one at a time
#
# 3.1  Probabilities .5, .35, .1, .05 and top_p .8: which tokens are `outside`, and is what is left
#      enough? What stands *before* a token decides whether it is still needed.
#
# 3.2  Two lists, the answers seen so far and their votes. `list.index(max(...))` gives the first.
#
# 3.3  Which of these are candidates: [None, 7] with weights [9, 0]?
#
# 3.4  In how many ways are k of the n drawn, and in how many of those are all k wrong? `math.comb`
#      is 0 where there are too few to choose from, and exact: divide last.
#
# endregion
