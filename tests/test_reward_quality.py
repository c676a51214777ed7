"""Pair accuracy, calibration, best of n and Gao's laws: by hand, by enumeration, refusals."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tensors import refuses

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=7)
chances = st.floats(0, 1)


# pair_accuracy


@pytest.mark.parametrize("chosen, rejected, expected", [
    ([2.0, 1.0, 0.0, 5.0], [1.0, 2.0, -1.0, 4.0], 0.75),  # three of four
    ([1.0, 1.0], [1.0, 0.0], 0.75),                       # a tie and a right one
    ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0.5),              # a model that says nothing
    ([-1e-30], [0.0], 0.0),
])  # fmt: skip
def test_pair_accuracy_by_hand(subject, chosen, rejected, expected):
    assert subject("pair_accuracy")(chosen, rejected) == expected
    found = subject("pair_accuracy")(torch.tensor(chosen), torch.tensor(rejected))
    assert type(found) is float and found == expected


@given(pairs=st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=9))
def test_pair_accuracy_of_swapped_pairs_is_the_rest(subject, pairs):
    chosen, rejected = zip(*pairs, strict=True)
    accuracy = subject("pair_accuracy")
    assert accuracy(chosen, rejected) + accuracy(rejected, chosen) == pytest.approx(1)
    shifted = accuracy([c + 7 for c in chosen], [r + 7 for r in rejected])
    assert shifted == accuracy(chosen, rejected)  # a constant added to every reward is nothing


def test_pair_accuracy_refuses(subject):
    accuracy = subject("pair_accuracy")
    refuses(accuracy, [1.0], [1.0, 2.0], match="rejected has 2 entries, expected 1: one for each")
    refuses(accuracy, [], [], match=r"chosen has shape \[0\], expected \[N\] with at least one")
    refuses(accuracy, [math.nan], [0.0], match="chosen holds nan, expected finite numbers")
    refuses(accuracy, [[1.0]], [[0.0]], match=r"chosen has shape \[1, 1\]")


# pair_confidence


def test_pair_confidence_by_hand(subject):
    # σ(1) = 0.731059, σ(2) = 0.880797, σ(0) = 0.5.
    probabilities, outcomes = subject("pair_confidence")([1.0, 0.0, 3.0], [0.0, 2.0, 3.0])
    assert probabilities == pytest.approx([0.731059, 0.880797, 0.5], abs=1e-6)
    assert outcomes.tolist() == [1, 0, 0.5]  # the first ranked rightly, the second wrongly


@given(chosen=scores)
def test_pair_confidence_has_the_pair_accuracy_as_mean_outcome(subject, chosen):
    rejected = chosen[::-1]
    probabilities, outcomes = subject("pair_confidence")(chosen, rejected)
    assert outcomes.mean() == pytest.approx(subject("pair_accuracy")(chosen, rejected))
    assert (probabilities >= 0.5).all() and (probabilities <= 1).all()
    swapped, others = subject("pair_confidence")(rejected, chosen)
    assert (swapped == probabilities).all() and (others == 1 - outcomes).all()


def test_pair_confidence_does_not_overflow(subject):
    probabilities, outcomes = subject("pair_confidence")([1e5, -1e5], [0.0, 0.0])
    assert probabilities.tolist() == [1, 1] and outcomes.tolist() == [1, 0]


def test_pair_confidence_refuses(subject):
    refuses(subject("pair_confidence"), [1.0], [], match="rejected has shape")


# calibration_curve


def test_calibration_curve_by_hand(subject):
    probabilities = [0.05, 0.52, 0.58, 0.58, 1.0, 0.9]
    outcomes = [0, 1, 0, 1, 1, 0.5]
    # 0.52 and twice 0.58 share a bin: 1.68 / 3 and 2 / 3. 0.9 and 1 share the last: 0.95 and 0.75.
    first, middle, last = subject("calibration_curve")(probabilities, outcomes)
    assert first == pytest.approx((0.0, 0.1, 0.05, 0, 1))
    assert middle == pytest.approx((0.5, 0.6, 0.56, 2 / 3, 3))
    assert last == pytest.approx((0.9, 1.0, 0.95, 0.75, 2))
    (one,) = subject("calibration_curve")(probabilities, outcomes, bins=1)
    assert one == pytest.approx((0, 1, 3.63 / 6, 3.5 / 6, 6))


@given(
    pairs=st.lists(st.tuples(chances, chances), min_size=1, max_size=20), bins=st.integers(1, 12)
)
def test_calibration_curve_puts_every_prediction_in_one_bin(subject, pairs, bins):
    probabilities, outcomes = zip(*pairs, strict=True)
    curve = subject("calibration_curve")(probabilities, outcomes, bins=bins)
    assert sum(b.count for b in curve) == len(pairs)
    assert sum(b.count * b.predicted for b in curve) == pytest.approx(sum(probabilities))
    assert sum(b.count * b.observed for b in curve) == pytest.approx(sum(outcomes))
    for b in curve:
        assert b.count and b.low - 1e-9 <= b.predicted <= b.high + 1e-9
        assert b.high - b.low == pytest.approx(1 / bins)
    assert [b.low for b in curve] == sorted({b.low for b in curve})


def test_calibration_curve_of_a_calibrated_model_is_the_diagonal(subject):
    generator = np.random.default_rng(0)
    probabilities = generator.random(40_000)
    outcomes = generator.random(40_000) < probabilities
    for b in subject("calibration_curve")(probabilities, outcomes):
        assert abs(b.observed - b.predicted) < 0.03  # four deviations of 4,000 coins


def test_calibration_curve_refuses(subject):
    curve = subject("calibration_curve")
    refuses(curve, [0.5], [1, 0], match="outcomes has 2 entries, expected 1: one for each of prob")
    refuses(curve, [1.5], [1], match="probabilities holds 1.5, expected 0 to 1")
    refuses(curve, [0.5], [-1], match="outcomes holds -1.0, expected 0 to 1")
    refuses(curve, [0.5], [1], bins=0, match="bins is 0, expected at least 1")
    refuses(curve, [0.5], [1], bins=2.5, match="bins is 2.5, expected a whole number")


# expected_calibration_error


def test_expected_calibration_error_by_hand(subject):
    # Bins of the curve above: 0.05 off once, 2/3 - 0.56 = 0.106667 thrice, 0.2 twice; of 6.
    error = subject("expected_calibration_error")([0.05, 0.52, 0.58, 0.58, 1, 0.9],
                                                  [0, 1, 0, 1, 1, 0.5])  # fmt: skip
    assert error == pytest.approx((0.05 + 3 * (2 / 3 - 0.56) + 2 * 0.2) / 6)
    assert subject("expected_calibration_error")([0.7], [0]) == pytest.approx(0.7)
    assert subject("expected_calibration_error")([0.2, 0.7], [1, 0.7]) == pytest.approx(0.4)


@given(pairs=st.lists(st.tuples(chances, chances), min_size=1, max_size=20))
def test_expected_calibration_error_is_at_least_that_of_all_in_one_bin(subject, pairs):
    error = subject("expected_calibration_error")
    probabilities, outcomes = zip(*pairs, strict=True)
    coarse = error(probabilities, outcomes, bins=1)
    assert coarse == pytest.approx(abs(np.mean(probabilities) - np.mean(outcomes)), abs=1e-9)
    assert coarse - 1e-9 <= error(probabilities, outcomes, bins=10) <= 1
    assert error(probabilities, probabilities) == pytest.approx(0, abs=1e-12)


def test_expected_calibration_error_refuses(subject):
    refuses(subject("expected_calibration_error"), [2], [1], match="probabilities holds 2.0")


# expected_best_of_n


def test_expected_best_of_n_by_hand(subject):
    best = subject("expected_best_of_n")
    rewards, truth = [3.0, 1.0, 2.0], [0.0, 1.0, 0.5]
    assert best(rewards, truth, 1) == pytest.approx(0.5)
    # The sets {3,1}, {3,2}, {1,2} pick truths 0, 0, 0.5.
    assert best(rewards, truth, 2) == pytest.approx(0.5 / 3)
    assert best(rewards, truth, 3) == 0
    # {1,1'}, {1,0}, {1',0}: of the equal ones either, half of the time.
    assert best([1, 1, 0], [1, 0, 0], 2) == pytest.approx(0.5)


@given(
    rewards=st.lists(st.integers(0, 3), min_size=1, max_size=6), seed=st.integers(0, 99),
    n=st.integers(1, 6),
)  # fmt: skip
def test_expected_best_of_n_is_the_mean_over_all_sets(subject, rewards, seed, n):
    truth, n = np.random.default_rng(seed).random(len(rewards)).tolist(), min(n, len(rewards))
    slow = []
    for chosen in itertools.combinations(range(len(rewards)), n):
        top = max(rewards[i] for i in chosen)
        slow.append(np.mean([truth[i] for i in chosen if rewards[i] == top]))
    assert subject("expected_best_of_n")(rewards, truth, n) == pytest.approx(np.mean(slow))


@given(rewards=scores)
def test_expected_best_of_n_believes_to_gain_with_n(subject, rewards):
    believed = [
        subject("expected_best_of_n")(rewards, rewards, n) for n in range(1, len(rewards) + 1)
    ]
    assert believed == sorted(believed) or np.diff(believed).min() > -1e-12
    assert believed[0] == pytest.approx(np.mean(rewards)) and believed[-1] == max(rewards)


def test_expected_best_of_n_of_many_completions(subject):
    # Truth is the reward: the expected largest of n among 1 to N is n (N + 1) / (n + 1).
    ranks = list(range(1, 4097))
    assert subject("expected_best_of_n")(ranks, ranks, 512) == pytest.approx(512 * 4097 / 513)


def test_expected_best_of_n_refuses(subject):
    best = subject("expected_best_of_n")
    refuses(best, [1, 2], [1], 1, match="truth has 1 entries, expected 2: one for each of rewards")
    refuses(best, [1, 2], [1, 2], 3, match="n is 3, expected 1 to 2, the number of rewards")
    refuses(best, [1, 2], [1, 2], 0, match="n is 0, expected 1 to 2")


# best_of_n_kl


@pytest.mark.parametrize("n, expected", [(1, 0.0), (4, 0.636294), (16, 1.835089)])
def test_best_of_n_kl_by_hand(subject, n, expected):
    assert subject("best_of_n_kl")(n) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [2, 5])
def test_best_of_n_kl_is_that_of_many_equally_likely_completions(subject, n):
    # Of K, the i-th is the best of n with probability (i/K)^n - ((i-1)/K)^n; each had 1/K.
    edges = (np.arange(200_001) / 200_000) ** n
    best = np.diff(edges)
    exact = (best * np.log(best * 200_000)).sum()
    assert subject("best_of_n_kl")(n) == pytest.approx(exact, abs=1e-4)


def test_best_of_n_kl_refuses(subject):
    refuses(subject("best_of_n_kl"), 0, match="n is 0, expected at least 1")
    refuses(subject("best_of_n_kl"), 2.5, match="n is 2.5, expected a whole number")


# fit_best_of_n and fit_rl


def test_fit_best_of_n_by_hand(subject):
    # alpha 1, beta 0.25: at d = 1 the gain is 0.75, at d = 2 it is 1, at d = 4 it is 0.
    fit = subject("fit_best_of_n")([0, 1, 4, 16], [0, 0.75, 1, 0])
    assert (fit.law, fit.alpha, fit.beta) == ("best_of_n", pytest.approx(1), pytest.approx(0.25))
    assert fit.residual == pytest.approx(0, abs=1e-12)
    assert fit.peak == pytest.approx((2, 1))  # alpha / (2 beta), alpha² / (4 beta)
    assert fit.gain([9]) == pytest.approx([0.75])  # 3 · (1 - 0.75)


def test_fit_rl_by_hand(subject):
    # alpha 1, beta 0.5: at d = e the gain is e · (1 - 0.5), at d = 1 it is 1.
    fit = subject("fit_rl")(torch.tensor([0, 1, math.e**2]), [0, 1, math.e / 2])
    assert (fit.law, fit.alpha, fit.beta) == ("rl", pytest.approx(1), pytest.approx(0.5))
    assert fit.peak == pytest.approx((math.e, math.e / 2))  # exp(alpha/beta - 1), beta · d
    assert fit.gain([0, math.e**4]) == pytest.approx([0, 0], abs=1e-6)  # e² · (1 - 0.5 · 2)


LAWS = {
    "fit_best_of_n": lambda d, a, b: d * (a - b * d),
    "fit_rl": lambda d, a, b: d * (a - b * math.log(d)) if d else 0.0,
}


@pytest.mark.parametrize("name", LAWS)
@given(alpha=st.floats(-3, 3), beta=st.floats(-2, 2))
def test_fit_finds_what_made_the_points(subject, name, alpha, beta):
    kl = [0.0, 0.04, 0.3, 2.0, 9.0, 30.0]
    gain = [LAWS[name](math.sqrt(k), alpha, beta) for k in kl]
    fit = subject(name)(kl, gain)
    assert (fit.alpha, fit.beta) == (pytest.approx(alpha, abs=1e-9), pytest.approx(beta, abs=1e-9))
    assert fit.gain(kl) == pytest.approx(gain, abs=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_fit_leaves_a_residual_that_no_other_line_of_its_law_beats(subject, name):
    generator = np.random.default_rng(0)
    kl = generator.random(30) * 20
    gain = generator.normal(size=30)
    fit = subject(name)(kl, gain)

    def rest(alpha, beta):
        law = np.array([LAWS[name](math.sqrt(k), alpha, beta) for k in kl])
        return math.sqrt(np.square(gain - law).mean())

    assert fit.residual == pytest.approx(rest(fit.alpha, fit.beta))
    for a, b in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert rest(fit.alpha + a, fit.beta + b) > fit.residual


@pytest.mark.parametrize("name, alpha, beta", [
    ("fit_best_of_n", 1.0, 0.25), ("fit_best_of_n", 0.3, 0.02), ("fit_rl", 1.0, 0.5),
    ("fit_rl", 0.2, 0.3),
])  # fmt: skip
def test_fit_has_its_peak_where_nothing_near_is_higher(subject, name, alpha, beta):
    kl = [0.5, 2.0, 8.0]
    fit = subject(name)(kl, [LAWS[name](math.sqrt(k), alpha, beta) for k in kl])
    distance, top = fit.peak
    around = fit.gain([(distance * step) ** 2 for step in (0.9, 1, 1.1)])
    assert around[1] == pytest.approx(top) and top > max(around[0], around[2])


def test_fit_without_a_turn_has_no_peak(subject):
    for name in LAWS:
        fit = subject(name)([1, 4], [LAWS[name](d, 1.0, -0.1) for d in (1, 2)])
        assert fit.peak is None
        straight = subject(name)([1, 4], [1, 2])
        assert straight.peak is None or straight.peak[0] > 1e6  # beta is 0 up to rounding
    falling = subject("fit_best_of_n")([1, 4], [-1.5, -4])  # d · (-1 - 0.5 d): down from the start
    assert falling.peak == (0, 0)


@pytest.mark.parametrize("name", LAWS)
def test_fit_refuses(subject, name):
    fit = subject(name)
    refuses(fit, [1, 2], [1], match="gain has 1 entries, expected 2: one for each of kl")
    refuses(fit, [1, -0.5], [1, 1], match="kl holds -0.5, expected at least 0")
    refuses(fit, [0, 1, 2], [0.4, 1, 1], match=r"gain is \[0.4\] at KL 0, expected 0: subtract")
    refuses(fit, [0, 1, 1], [0, 1, 1], match=r"kl is \[0, 1, 1\], expected two or more different")
