"""Exercises of chapter 11: paying for length.

Write your lines where `raise NotImplementedError` stands; what is around it is given. Then

    make check CH=11        or one of them:  make check CH=11 ONLY=lcpo_max

Hints stand at the end of the file. Lengths are in tokens. Shapes: B pairs, G completions of a
problem.
"""

import math
from collections.abc import Sequence

import torch.nn.functional as F  # noqa: F401  (waits for your lines)
from torch import Tensor

from reasoning_from_scratch import lengths as given
from reasoning_from_scratch import losses


def lcpo_exact(correct: float, length: int, target: int, *, alpha: float = 0.0003) -> float:
    """Exercise 11.1 ★ (5 minutes, write the formula). Think for exactly so long.

    Being right is worth 1, and each token off the target, too few or too many, costs `alpha`. A
    wrong answer pays as well: it may practise the length even where it can't find the answer.

    Args:
        correct: 1 or True if right, else 0; a score between counts as it is.
        length:  tokens of the completion.
        target:  tokens that the prompt asks for.

    Returns:
        A float.

    >>> lcpo_exact(1, 20, 32, alpha=0.01)  # twelve too few
    0.88

    Mirrors `lengths.lcpo_exact`; held by tests/test_lengths.py.
    """
    given._check(correct, length=length, target=target, alpha=alpha)
    correct, length, target = float(correct), float(length), float(target)
    raise NotImplementedError("exercise 11.1, lcpo_exact")


def lcpo_max(
    correct: float, length: int, target: int, *, alpha: float = 0.0003, delta: float = 0.5
) -> float:
    """Exercise 11.2 ★ (10 minutes, write the formula). Think for at most so long.

    A right answer that uses up all of its budget is worth `delta`, one that saves tokens `alpha`
    more for each of them, one that overdraws it `alpha` less for each; never more than 1, never
    less than 0. A wrong answer is worth 0, however short: the parts are not added.

    Args:
        correct: 1 or True if right, else 0.
        length:  tokens of the completion.
        target:  tokens that the prompt allows.

    Returns:
        A float from 0 to 1.

    >>> lcpo_max(1, 20, 30, alpha=0.02, delta=0.5)  # ten saved
    0.7

    Mirrors `lengths.lcpo_max`; held by tests/test_lengths.py.
    """
    given._check(correct, length=length, target=target, alpha=alpha)
    correct, length, target = float(correct), float(length), float(target)
    raise NotImplementedError("exercise 11.2, lcpo_max")


def kimi_length_reward(
    lengths: "Sequence[float] | Tensor", correct: "Sequence[float] | Tensor"
) -> "list[float] | Tensor":
    """Exercise 11.3 ★★ (15 minutes, write the formula). Shorter than the others of the group?

    The shortest completion of the group gets 0.5, the longest -0.5, and between them the share
    falls along a straight line. Shortest and longest are taken over *all* of the group, right and
    wrong. A wrong completion gets at most 0: to be short must not pay for being wrong. In a group
    where all are equally long everybody gets 0.

    Args:
        lengths: [G] tokens.
        correct: [G] 1 or True where right, else 0.

    Returns:
        [G], to be weighted and added to the reward.

    >>> kimi_length_reward([10, 20, 30, 50], [0, 1, 1, 0])
    [0.0, 0.25, 0.0, -0.5]

    Mirrors `lengths.kimi_length_reward`; held by tests/test_lengths.py.
    """
    sizes, right = given._flat("lengths", lengths), given._flat("correct", correct)
    if len(right) != len(sizes):
        raise ValueError(f"correct has {len(right)} entries, expected {len(sizes)}: as lengths")
    for length, is_right in zip(sizes, right, strict=True):
        given._check(is_right, lengths=length)
        if is_right not in (0, 1):
            raise ValueError(f"correct holds {is_right}, expected 0 or 1")
    rewards = [0.0] * len(sizes)  # sizes and right are lists of floats now
    raise NotImplementedError("exercise 11.3, kimi_length_reward: put the rewards in place of 0.0")
    if hasattr(lengths, "new_tensor"):
        like = lengths if lengths.is_floating_point() else lengths.float()
        return like.new_tensor(rewards)
    return rewards


def cosine_reward(
    correct: float,
    length: int,
    max_length: int,
    *,
    right_short: float = 2.0,
    right_long: float = 1.0,
    wrong_short: float = -10.0,
    wrong_long: float = 0.0,
    exceeded: float | None = None,
) -> float:
    """Exercise 11.4 ★★ (10 minutes, find the bug). Right: be brief. Wrong: think on.

    This is how published code has it, and as long as nobody writes more than `max_length` nothing
    is wrong. Then one run found out that endless answers pay. One line is wrong. Delete the first
    line, draw the reward up to twice `max_length`, and mend it.

    Args:
        correct:     1 or True if right, else 0.
        length:      tokens of the completion.
        max_length:  tokens at which the "long" value is reached; it stays beyond.
        right_short, right_long: worth of a right completion of no length, and of `max_length`.
        wrong_short, wrong_long: of a wrong one.
        exceeded:    worth of any completion of `max_length` or more; None leaves it to the curve.

    Returns:
        A float: from "short" to "long" along half a wave of the cosine.

    >>> round(cosine_reward(1, 25, 100), 3)  # 2 at length 0, 1 at 100
    1.854

    Mirrors `lengths.cosine_reward`; held by tests/test_lengths.py.
    """
    raise NotImplementedError("exercise 11.4, cosine_reward: delete this line, find the bug")
    given._check(correct, length=length)
    if correct not in (0, 1):
        raise ValueError(f"correct is {correct}, expected 0 or 1")
    if not max_length > 0:
        raise ValueError(f"max_length is {max_length}, expected above 0")
    if exceeded is not None and length >= max_length:
        return float(exceeded)
    short, long = (right_short, right_long) if correct else (wrong_short, wrong_long)
    progress = float(length) / max_length
    return float(long + (short - long) * (1 + math.cos(math.pi * progress)) / 2)


def dpo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float = 0.1
) -> Tensor:
    """Exercise 11.5 ★★ (15 minutes, write the formula). Prefer, without a reward model.

    A policy's *implicit reward* of a completion is beta · log(policy / reference). DPO asks of it
    what Bradley and Terry ask of a reward model: -log σ(reward of chosen - reward of rejected).

    Args:
        chosen:       [B] the policy's log-probability of the preferred completion, the sum over its
                      tokens. Carries the gradient.
        rejected:     [B] of the other completion. Carries the gradient.
        ref_chosen:   [B] the reference's of the preferred one. A constant: detach it.
        ref_rejected: [B] the reference's of the other. A constant, too.
        beta:         above 0.

    Returns:
        A scalar, the mean over the pairs.

    >>> from torch import tensor
    >>> dpo_loss(tensor([-12.0]), tensor([-15.0]), tensor([-13.0]), tensor([-14.0]))
    tensor(0.5981)

    Mirrors `losses.dpo_loss`; held by tests/test_losses.py.
    """
    losses._check_pairs(
        chosen=chosen, rejected=rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected
    )
    if not beta > 0:
        raise ValueError(f"beta is {beta}, expected a number above 0")
    chosen, rejected = (losses._at_least_float32(x) for x in (chosen, rejected))
    raise NotImplementedError("exercise 11.5, dpo_loss")


def shortest_right_pairs(
    correct: Sequence[float],
    lengths: Sequence[int],
    finished: Sequence[bool],
    *,
    longer: float = 1.5,
) -> list[tuple[int, int]]:
    """Exercise 11.6 ★★★ (20 minutes, design). Pairs from which a model learns to be brief.

    One problem was sampled several times. Make pairs (chosen, rejected) for DPO that say: be right,
    and don't take longer than you need. Choose the shortest sample that is right and ended by
    itself; of several, the first. Against it, reject what is wrong *and longer*, and what is right
    but more than `longer` times as long. What of a wrong sample that is shorter? Preferring the
    longer of the two would teach the opposite, so it is in no pair. What was cut off has not ended,
    so it can't be an example, but it may be rejected like any other.

    Args:
        correct:  [G] scores, 0 to 1; right is 1.
        lengths:  [G] in tokens.
        finished: [G] whether each ended by itself.
        longer:   at least 1.

    Returns:
        Pairs of rows (chosen, rejected), by the rejected one's row; none if nothing can be chosen.

    >>> shortest_right_pairs([0, 1, 0, 1, 1], [5, 20, 25, 28, 40], [True] * 5)
    [(1, 2), (1, 4)]

    Mirrors `preferences.shortest_right_pairs`; held by tests/test_preferences.py.
    """
    for name, column in (("lengths", lengths), ("finished", finished)):
        if len(column) != len(correct):
            raise ValueError(f"{name} has {len(column)} entries, expected {len(correct)}")
    if not longer >= 1:
        raise ValueError(f"longer is {longer}, expected at least 1")
    raise NotImplementedError("exercise 11.6, shortest_right_pairs")


# region Hints: open one at a time
#
# 11.1  Which function makes the same of three tokens too few and of three too many?
#
# 11.2  First the worth of a right answer, then keep it between 0 and 1, and only then look whether
#       it was right.
#
# 11.3  How far is a completion from the shortest, as a share of how far the longest is? And what
#       would you divide by where all are equally long?
#
# 11.4  The cosine goes down from 0 to π. What does it do from π to 2π?
#
# 11.5  log(a / b) = log a - log b. `F.logsigmoid` is exact where log(sigmoid(x)) is -inf.
#
# 11.6  Two steps: which row is chosen, and how long may each other row be before it is rejected?
#       The second has two answers, one for right rows and one for wrong ones. Is the chosen row
#       ever longer than its own limit?
#
# endregion
