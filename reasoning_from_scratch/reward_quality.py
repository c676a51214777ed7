"""How far a reward model can be trusted: pair accuracy, calibration, over-optimisation.

A reward model that ranks most held-out pairs rightly is still no safe target: whoever optimises
against it leaves the completions that it was trained on. `expected_best_of_n` shows that for the
best of n, and `fit_best_of_n` and `fit_rl` put Gao's two laws through measured points.

Plain numbers in (lists, arrays or tensors), plain numbers out. Left out: intervals (`stats.py`).
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Law = Literal["best_of_n", "rl"]


def pair_accuracy(chosen: Sequence[float], rejected: Sequence[float]) -> float:
    """Return the share of pairs in which the chosen completion has the higher reward.

    Args:
        chosen:   [N] the reward model's score of the preferred completion of each pair.
        rejected: [N] that of the other one.

    Returns:
        0 to 1. A tie is half right, so a model that says the same of everything has 0.5.

    Raises:
        ValueError: no pair, not one reward for each, or one that is not finite.
    """
    difference = _differences(chosen, rejected)
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def pair_confidence(
    chosen: Sequence[float], rejected: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return how sure the reward model is of the completion it prefers, and whether it was right.

    σ(chosen - rejected) would not do for `calibration_curve`: the chosen one is always chosen, so
    every outcome would be 1.

    Args:
        chosen, rejected: [N] as for `pair_accuracy`.

    Returns:
        probabilities [N], σ(|difference|), 0.5 to 1; outcomes [N], 1 right, 0 wrong, 0.5 a tie.

    Raises:
        ValueError: as `pair_accuracy`.
    """
    difference = _differences(chosen, rejected)
    return 1 / (1 + np.exp(-np.abs(difference))), (np.sign(difference) + 1) / 2


class CalibrationBin(NamedTuple):
    """The predictions between two probabilities, and how often they came true."""

    low: float
    high: float
    predicted: float  # mean probability
    observed: float  # mean outcome
    count: int


def calibration_curve(
    probabilities: Sequence[float], outcomes: Sequence[float], *, bins: int = 10
) -> list[CalibrationBin]:
    """Sort predictions into bins of equal width, and compare each bin with what happened.

    Args:
        probabilities: [N] predicted, 0 to 1.
        outcomes:      [N] what happened, 0 to 1; for a reward model see `pair_confidence`.
        bins:          of equal width from 0 to 1; the last one holds 1, too.

    Returns:
        The bins that hold anything, from low to high. In a calibrated model `predicted` equals
        `observed` but for chance, of which a bin with a small `count` has much.

    Raises:
        ValueError: not one outcome for each probability, a number outside 0 to 1, or no bin.

    Source: Niculescu-Mizil and Caruana 2005, reliability diagrams.
    """
    p, happened = _numbers("probabilities", probabilities), _numbers("outcomes", outcomes)
    _check_length("outcomes", happened, len(p), "one for each of probabilities")
    for name, values in (("probabilities", p), ("outcomes", happened)):
        if values.min() < 0 or values.max() > 1:
            odd = values[(values < 0) | (values > 1)][0]
            raise ValueError(f"{name} holds {odd}, expected 0 to 1")
    if _whole("bins", bins) < 1:
        raise ValueError(f"bins is {bins}, expected at least 1")
    place = np.minimum((p * bins).astype(int), bins - 1)
    curve = []
    for i in np.unique(place):
        inside = place == i
        means = float(p[inside].mean()), float(happened[inside].mean())
        curve.append(CalibrationBin(i / bins, (i + 1) / bins, *means, int(inside.sum())))
    return curve


def expected_calibration_error(
    probabilities: Sequence[float], outcomes: Sequence[float], *, bins: int = 10
) -> float:
    """Return the mean distance between predicted and observed, over the predictions.

    Even a perfect model has some: with few predictions a bin, its outcomes scatter.

    Args:
        probabilities, outcomes, bins: as for `calibration_curve`.

    Source: Guo et al. 2017, eq. 3.
    """
    curve = calibration_curve(probabilities, outcomes, bins=bins)
    distances = sum(b.count * abs(b.observed - b.predicted) for b in curve)
    return distances / sum(b.count for b in curve)


def expected_best_of_n(rewards: Sequence[float], truth: Sequence[float], n: int) -> float:
    """Return the mean true reward of the completion that the reward model likes best of n.

    The mean over all sets of n among the N completions, as a sum: nothing is drawn.

    Args:
        rewards: [N] the reward model's, of N completions of one prompt; equal ones are as likely
                 to be picked.
        truth:   [N] the true reward of the same completions; `rewards` again gives what the reward
                 model believes to have gained.
        n:       1 to N. N much above the largest n, or few sets stand behind the result.

    Raises:
        ValueError: not one true reward for each, or n out of range.

    Source: Hilton and Gao 2022, "Measuring Goodhart's law".
    """
    proxy, true = _numbers("rewards", rewards), _numbers("truth", truth)
    _check_length("truth", true, len(proxy), "one for each of rewards")
    if not 1 <= _whole("n", n) <= len(proxy):
        raise ValueError(f"n is {n}, expected 1 to {len(proxy)}, the number of rewards")
    # Equal rewards: each of them is picked as often, so each counts as their mean.
    _, place, counts = np.unique(proxy, return_inverse=True, return_counts=True)
    even = (np.bincount(place, true) / counts)[place]
    # The completion above i others is the best of n in C(i, n-1) of the C(N, n) sets.
    total, sets = math.comb(len(proxy), n), (math.comb(i, n - 1) for i in range(len(proxy)))
    ordered = even[np.argsort(proxy, kind="stable")].tolist()
    return sum(value * (share / total) for value, share in zip(ordered, sets, strict=True))


def best_of_n_kl(n: int) -> float:
    """Return KL(best of n‖one completion) in nats: log n - (n-1)/n.

    Exact where no two completions have the same reward, else an upper bound (Beirami et al. 2024).

    Raises:
        ValueError: n is not a whole number of at least 1.

    Source: Stiennon et al. 2020, appendix G.3.
    """
    if _whole("n", n) < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    return math.log(n) - (n - 1) / n


@dataclass(frozen=True)
class OveroptimisationFit:
    """A law of Gao et al.: the gain in true reward at distance d = √KL from the start."""

    law: Law  # "best_of_n": d·(alpha - beta·d); "rl": d·(alpha - beta·log d)
    alpha: float  # gain for each unit of distance
    beta: float  # how fast that wears off
    residual: float  # root mean square of what the fit leaves, in units of the gain

    def gain(self, kl: Sequence[float]) -> np.ndarray:
        """Return the law's gain at each KL [N], in nats: [N]."""
        return _terms(self.law, _distances(kl)) @ (self.alpha, self.beta)

    @property
    def peak(self) -> tuple[float, float] | None:
        """Where the true reward turns, as (distance √KL, gain); None if it never does."""
        if self.beta <= 0:
            return None
        if self.law == "best_of_n":
            distance = max(self.alpha / (2 * self.beta), 0.0)
            return distance, distance * (self.alpha - self.beta * distance)
        if self.alpha / self.beta > 700:  # e^710 is beyond any number, and any measurement
            return None
        distance = math.exp(self.alpha / self.beta - 1)
        return distance, self.beta * distance


def fit_best_of_n(kl: Sequence[float], gain: Sequence[float]) -> OveroptimisationFit:
    """Fit d·(alpha - beta·d) to the true reward of the best of n by a reward model.

    Args:
        kl:   [N] KL to the start, in nats a *completion*, at least 0: `best_of_n_kl`.
        gain: [N] true reward minus that of the start, so 0 at KL 0.

    Returns:
        The least-squares fit. Linear in alpha and beta, so it is the only one.

    Raises:
        ValueError: not one gain for each KL, a negative KL, a gain at KL 0, or fewer than two
            different KLs above 0.

    Source: Gao, Schulman and Hilton 2022, R_bon in section 1.
    """
    return _fit("best_of_n", kl, gain)


def fit_rl(kl: Sequence[float], gain: Sequence[float]) -> OveroptimisationFit:
    """Fit d·(alpha - beta·log d) to the true reward along a run of RL against a reward model.

    Args, returns and raises as `fit_best_of_n`, but the KL is measured: per completion, summed over
    its tokens, not the mean over tokens that a loss has; and an estimate below 0 is refused.

    Source: Gao, Schulman and Hilton 2022, R_RL in section 1. Its slope at 0 is infinite: it does
        not hold there.
    """
    return _fit("rl", kl, gain)


def _fit(law: Law, kl: Sequence[float], gain: Sequence[float]) -> OveroptimisationFit:
    distances, gains = _distances(kl), _numbers("gain", gain)
    _check_length("gain", gains, len(distances), "one for each of kl")
    if (gains[distances == 0] != 0).any():
        raise ValueError(
            f"gain is {gains[distances == 0].tolist()} at KL 0, expected 0: subtract the start's"
        )
    if len(np.unique(distances[distances > 0])) < 2:
        raise ValueError(f"kl is {list(kl)}, expected two or more different numbers above 0")
    terms = _terms(law, distances)
    (alpha, beta), *_ = np.linalg.lstsq(terms, gains, rcond=None)
    residual = math.sqrt(np.square(gains - terms @ (alpha, beta)).mean())
    return OveroptimisationFit(law, float(alpha), float(beta), residual)


def _terms(law: Law, distances: np.ndarray) -> np.ndarray:
    """Return [N,2]: what alpha and beta are multiplied by."""
    if law == "best_of_n":
        return np.stack([distances, -np.square(distances)], 1)
    logs = np.log(np.where(distances > 0, distances, 1))  # d·log d is 0 at 0
    return np.stack([distances, -distances * logs], 1)


def _distances(kl: Sequence[float]) -> np.ndarray:
    numbers = _numbers("kl", kl)
    if numbers.min() < 0:
        raise ValueError(
            f"kl holds {numbers.min()}, expected at least 0 (an estimate from few samples may be "
            "below: take more, or leave it out)"
        )
    return np.sqrt(numbers)


def _differences(chosen: Sequence[float], rejected: Sequence[float]) -> np.ndarray:
    ours, theirs = _numbers("chosen", chosen), _numbers("rejected", rejected)
    _check_length("rejected", theirs, len(ours), "one for each of chosen")
    return ours - theirs


def _numbers(name: str, values: Sequence[float]) -> np.ndarray:
    """Return [N] float64, refusing what is empty, not flat or not finite."""
    # By way of a list: a tensor may be on another device.
    numbers = np.asarray(values.tolist() if hasattr(values, "tolist") else list(values), float)
    if numbers.ndim != 1 or not len(numbers):
        shape = list(numbers.shape)
        raise ValueError(f"{name} has shape {shape}, expected [N] with at least one entry")
    if not np.isfinite(numbers).all():
        odd = numbers[~np.isfinite(numbers)][0]
        raise ValueError(f"{name} holds {odd}, expected finite numbers")
    return numbers


def _check_length(name: str, numbers: np.ndarray, length: int, why: str) -> None:
    if len(numbers) != length:
        raise ValueError(f"{name} has {len(numbers)} entries, expected {length}: {why}")


def _whole(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}, expected a whole number") from None
