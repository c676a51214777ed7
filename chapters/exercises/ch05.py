"""Exercises of chapter 05: a reward that was learned, and how far to trust it.

Write your lines where `raise NotImplementedError` stands; what is around it is given. Then

    make check CH=5        or one of them:  make check CH=5 ONLY=best_of_n_kl

Hints stand at the end of the file.
"""

# ruff: noqa: F401  (what is imported and prepared here waits for your lines)

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reasoning_from_scratch.checks import check_shape
from reasoning_from_scratch.reward_quality import CalibrationBin


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, *, margin: float | Tensor = 0.0) -> Tensor:
    """Exercise 5.1 ★ (10 minutes, write the formula). How surprising is what the annotator chose?

    Under Bradley and Terry's model the chosen completion wins with probability
    σ(chosen - rejected - margin).

    Args:
        chosen:   [B] reward of the preferred completion. Carries the gradient.
        rejected: [B] reward of the other one. Carries the gradient.
        margin:   one number, or [B].

    Returns:
        A scalar in nats, the mean over pairs of -log of that probability. Right for hopeless pairs,
        too: at a difference of -1000 it is 1000.

    >>> bradley_terry_loss(torch.tensor([1.0]), torch.tensor([0.2]))  # log(1 + e^-0.8)
    tensor(0.3711)

    Mirrors `losses.bradley_terry_loss`; held by tests/test_losses.py.
    """
    if chosen.dim() != 1 or not len(chosen):
        raise ValueError(f"chosen has shape {list(chosen.shape)}, expected [B] with an entry")
    check_shape("rejected", rejected, chosen.shape, "one entry for each of chosen")
    if isinstance(margin, Tensor) and margin.dim():
        check_shape("margin", margin, chosen.shape, "one entry for each pair")
    raise NotImplementedError("exercise 5.1, bradley_terry_loss")


def best_of_n_kl(n: int) -> float:
    """Exercise 5.2 ★ (15 minutes, write the formula). How far from the policy is its best of n?

    Let u, 0 to 1, be the share of the policy's completions that a completion beats. Of one
    completion u is uniform; the best of n has the density n·uⁿ⁻¹. The KL between the two is the
    mean of log(n·uⁿ⁻¹) under the second: an integral that you can do by hand.

    Args:
        n: completions of which the best is taken, at least 1.

    Returns:
        KL(best of n‖policy) in nats.

    >>> round(best_of_n_kl(2), 4)  # log 2 - ½
    0.1931

    Mirrors `reward_quality.best_of_n_kl`; held by tests/test_reward_quality.py.
    """
    if not isinstance(n, int):
        raise ValueError(f"n is {n!r}, expected a whole number")
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    raise NotImplementedError("exercise 5.2, best_of_n_kl")


def calibration_curve(
    probabilities: Sequence[float], outcomes: Sequence[float], *, bins: int = 10
) -> list[CalibrationBin]:
    """Exercise 5.3 ★★ (10 minutes, find the bug). Does what is 80 % sure happen 80 % of the time?

    Predictions are sorted into bins of equal width, and in each the mean prediction is held against
    what happened. Somebody's curve of this code has predictions above the upper end of their own
    bin. Delete the first line, find the mistake, and mend it.

    Args:
        probabilities: [N] predicted, 0 to 1.
        outcomes:      [N] what happened, 0 to 1.
        bins:          of equal width from 0 to 1; the last one holds 1, too.

    Returns:
        The bins that hold anything, from low to high.

    >>> [b.count for b in calibration_curve([0.3, 0.9, 1.0], [0, 1, 1], bins=2)]
    [1, 2]

    Mirrors `reward_quality.calibration_curve`; held by tests/test_reward_quality.py.
    """
    raise NotImplementedError("exercise 5.3, calibration_curve: delete this line, find the bug")
    p, happened = np.asarray(probabilities, dtype=float), np.asarray(outcomes, dtype=float)
    if len(happened) != len(p):
        raise ValueError(
            f"outcomes has {len(happened)} entries, expected {len(p)}: one for each of "
            "probabilities"
        )
    for name, values in (("probabilities", p), ("outcomes", happened)):
        if len(odd := values[~((values >= 0) & (values <= 1))]):
            raise ValueError(f"{name} holds {odd[0]}, expected 0 to 1")
    if not isinstance(bins, int):
        raise ValueError(f"bins is {bins}, expected a whole number")
    if bins < 1:
        raise ValueError(f"bins is {bins}, expected at least 1")
    place = np.minimum((p * bins).round().astype(int), bins - 1)
    curve = []
    for i in np.unique(place):
        inside = place == i
        means = float(p[inside].mean()), float(happened[inside].mean())
        curve.append(CalibrationBin(i / bins, (i + 1) / bins, *means, int(inside.sum())))
    return curve


def expected_best_of_n(rewards: Sequence[float], truth: Sequence[float], n: int) -> float:
    """Exercise 5.4 ★★★ (30 minutes, design). What is the reward model's favourite of n worth?

    N completions of a prompt were sampled, and both rewards of each are known. Draw n of them, and
    take the one that the reward model likes best: what true reward has it on average, over *all*
    sets of n? Drawing sets at random would be noisy, and going through all of them takes for ever:
    C(64, 16) is 5·10¹⁴. Sort, and count the sets that each completion wins.

    Args:
        rewards: [N] the reward model's. Where several are equal, each is as likely to be taken.
        truth:   [N] the true reward of the same completions.
        n:       1 to N.

    >>> expected_best_of_n([3.0, 2.0, 1.0], [0.0, 1.0, 5.0], 2)  # sets 32, 31, 21 give 0, 0, 1
    0.3333333333333333

    Mirrors `reward_quality.expected_best_of_n`; held by tests/test_reward_quality.py.
    """
    proxy, true = np.asarray(rewards, dtype=float), np.asarray(truth, dtype=float)
    if len(true) != len(proxy):
        raise ValueError(
            f"truth has {len(true)} entries, expected {len(proxy)}: one for each of rewards"
        )
    if not 1 <= n <= len(proxy):
        raise ValueError(f"n is {n}, expected 1 to {len(proxy)}, the number of rewards")
    raise NotImplementedError("exercise 5.4, expected_best_of_n")


# region Hints: open one at a time
#
# 5.1  float32's σ(-200) is 0, and its log -inf. What is -log σ(x) in terms of `softplus`?
#      `torch.nn.functional` has both `softplus` and `logsigmoid`.
#
# 5.2  The mean of log u under the density n·uⁿ⁻¹ is -1/n.
#
# 5.3  Which bin does `round` put 0.3 into, with two bins?
#
# 5.4  The completion that beats i others wins C(i, n - 1) of the sets. Equal rewards: give each of
#      them the mean of their true rewards, and it no longer matters which one wins.
#
# endregion
