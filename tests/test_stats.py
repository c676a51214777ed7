"""Intervals, paired tests and votes: numbers worked by hand, enumeration, coverage, refusals."""

import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tensors import refuses

rates = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=30)
solved = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=12)


# pass_at_k


@pytest.mark.parametrize("n, c, k, expected", [
    (10, 3, 1, 0.3),
    (10, 3, 2, 0.533333),  # 1 - 7/10 · 6/9; the naive 1 - 0.7² is 0.51
    (10, 3, 5, 0.916667),  # 1 - C(7,5)/C(10,5) = 1 - 21/252; the naive 1 - 0.7⁵ is 0.83193
    (10, 3, 8, 1.0),       # 7 wrong ones cannot fill 8 places
    (4, 0, 4, 0.0),
    (4, 4, 1, 1.0),
])  # fmt: skip
def test_pass_at_k_by_hand(subject, n, c, k, expected):
    assert subject("pass_at_k")(n, c, k) == pytest.approx(expected, abs=1e-6)


@given(n=st.integers(1, 7), data=st.data())
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one(subject, n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
    share = sum(any(subset) for subset in subsets) / len(subsets)
    assert subject("pass_at_k")(n, c, k) == pytest.approx(share)


@pytest.mark.parametrize("p, n, k", [(0.3, 5, 2), (0.05, 8, 4), (0.9, 4, 3)])
def test_pass_at_k_is_unbiased(subject, p, n, k):
    # Over every count c that n independent completions may give, weighted by its probability.
    weights = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    mean = sum(w * subject("pass_at_k")(n, c, k) for c, w in enumerate(weights))
    assert mean == pytest.approx(1 - (1 - p) ** k)


def test_pass_at_k_of_many_completions_is_the_product(subject):
    n, c, k = 10_000, 7, 2048
    product = 1 - np.prod(1 - k / np.arange(n - c + 1, n + 1))
    assert subject("pass_at_k")(n, c, k) == pytest.approx(product)


def test_pass_at_k_refuses(subject):
    pass_at_k = subject("pass_at_k")
    refuses(pass_at_k, 4, 5, 1, match="c is 5, expected 0 to n=4")
    refuses(pass_at_k, 4, -1, 1, match="c is -1, expected 0 to n=4")
    refuses(pass_at_k, 4, 2, 0, match="k is 0, expected 1 to n=4")
    refuses(pass_at_k, 4, 2, 5, match="k is 5, expected 1 to n=4")
    refuses(pass_at_k, 4, 0.5, 1, match="c is 0.5, expected a whole number")


# mixed_group_chance


@pytest.mark.parametrize("n, c, group_size, expected", [
    (4, 2, 2, 2 / 3),      # of six pairs one is right twice and one wrong twice
    (10, 3, 4, 5 / 6),     # 1 - (C(3,4) + C(7,4)) / C(10,4) = 1 - (0 + 35) / 210
    (10, 3, 8, 1.0),       # neither 3 right nor 7 wrong ones fill 8 places
    (8, 1, 8, 1.0),
    (6, 0, 4, 0.0),
    (6, 6, 4, 0.0),
    (5, 2, 1, 0.0),        # one completion always agrees with itself
    (2000, 1000, 2, 1000 / 1999),  # the second is one of the 1000 others among 1999
    (2000, 1000, 1000, 1.0),       # all but two sets, of so many that a float can't hold them
])  # fmt: skip
def test_mixed_group_chance_by_hand(subject, n, c, group_size, expected):
    assert subject("mixed_group_chance")(n, c, group_size) == pytest.approx(expected, abs=1e-12)


@given(n=st.integers(1, 7), data=st.data())
def test_mixed_group_chance_is_the_share_of_subsets_that_are_mixed(subject, n, data):
    c, group_size = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([1] * c + [0] * (n - c), group_size))
    share = sum(0 < sum(subset) < group_size for subset in subsets) / len(subsets)
    assert subject("mixed_group_chance")(n, c, group_size) == pytest.approx(share)


@pytest.mark.parametrize("p, n, group_size", [(0.3, 5, 2), (0.05, 8, 4), (0.9, 4, 4)])
def test_mixed_group_chance_is_unbiased(subject, p, n, group_size):
    weights = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    chances = [subject("mixed_group_chance")(n, c, group_size) for c in range(n + 1)]
    mean = sum(w * chance for w, chance in zip(weights, chances, strict=True))
    assert mean == pytest.approx(1 - p**group_size - (1 - p) ** group_size)


def test_mixed_group_chance_refuses(subject):
    chance = subject("mixed_group_chance")
    refuses(chance, 4, 5, 2, match="c is 5, expected 0 to n=4")
    refuses(chance, 4, -1, 2, match="c is -1, expected 0 to n=4")
    refuses(chance, 4, 2, 0, match="group_size is 0, expected 1 to n=4")
    refuses(chance, 4, 2, 5, match="group_size is 5, expected 1 to n=4")
    refuses(chance, 4, 0.5, 2, match="c is 0.5, expected a whole number")


# bootstrap_interval


def test_bootstrap_interval_of_two_values_by_hand(subject):
    # The mean of two draws from 0 and 1 is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4: the 5 %
    # quantile is 0 and the 95 % one 1; of the middle 40 % both ends are 1/2.
    assert subject("bootstrap_interval")([0, 1], level=0.9) == (0, 1)
    assert subject("bootstrap_interval")([0, 1], level=0.4) == (0.5, 0.5)


def test_bootstrap_interval_of_a_rate_is_about_two_standard_errors(subject):
    values = [1.0] * 150 + [0.0] * 350
    low, high = subject("bootstrap_interval")(values, samples=4000)
    reach = 1.959964 * math.sqrt(0.3 * 0.7 / 500)
    # The means are multiples of 1/500, and the resampling leaves about as much noise again.
    assert (low, high) == (
        pytest.approx(0.3 - reach, abs=3e-3),
        pytest.approx(0.3 + reach, abs=3e-3),
    )
    low, high = subject("bootstrap_interval")(values, level=0.68, samples=4000)
    assert high - low == pytest.approx(2 * 0.994458 * math.sqrt(0.3 * 0.7 / 500), abs=3e-3)


def test_bootstrap_interval_covers_the_true_mean_as_often_as_it_says(subject):
    # Of 40 skewed values they cover slightly less than 90 %; two errors of 300 trials are 0.035.
    generator, hits = np.random.default_rng(0), 0
    for trial in range(300):
        values = generator.exponential(size=40)
        low, high = subject("bootstrap_interval")(values, level=0.9, samples=400, seed=trial)
        hits += low <= 1 <= high
    assert 0.82 < hits / 300 < 0.93


@given(values=rates, shift=st.sampled_from([1.0, -3.0]))
def test_bootstrap_interval_lies_among_the_values_and_moves_with_them(subject, values, shift):
    low, high = subject("bootstrap_interval")(values, samples=200)
    assert min(values) <= low <= high <= max(values)
    moved = subject("bootstrap_interval")([v + shift for v in values], samples=200)
    assert moved == pytest.approx((low + shift, high + shift))


def test_bootstrap_interval_depends_on_the_seed_alone(subject):
    values = list(range(20))
    first = subject("bootstrap_interval")(values, seed=1)
    assert first == subject("bootstrap_interval")(values, seed=1)
    assert first == subject("bootstrap_interval")(torch.tensor(values), seed=1)
    assert first != subject("bootstrap_interval")(values, seed=2)
    assert all(type(end) is float for end in first)


def test_bootstrap_interval_draws_more_than_one_chunk(subject):
    # 6 · 10⁵ values leave no room for a second row in a chunk: a single chunk has no width.
    values = np.random.default_rng(0).normal(size=600_000)
    low, high = subject("bootstrap_interval")(values, samples=8)
    mean, error = values.mean(), 1 / math.sqrt(600_000)
    assert mean - 4 * error < low < mean < high < mean + 4 * error


def test_bootstrap_interval_of_values_that_agree_has_no_width(subject):
    assert subject("bootstrap_interval")([0.1] * 7) == (0.1, 0.1)
    assert subject("bootstrap_interval")([0.3]) == (0.3, 0.3)


def test_bootstrap_interval_refuses(subject):
    interval = subject("bootstrap_interval")
    refuses(interval, [], match=r"values has shape \[0\], expected \[N\] with at least one entry")
    refuses(interval, [[1.0]], match=r"values has shape \[1, 1\], expected \[N\]")
    refuses(interval, [1.0, math.nan], match="values holds nan, expected finite numbers")
    refuses(interval, [1.0], level=95, match="level is 95, expected strictly between 0 and 1")
    refuses(interval, [1.0], samples=0, match="samples is 0, expected at least 1")


# t_interval and t_quantile


def test_t_interval_by_hand(subject):
    # Mean 2, deviation √((1 + 0 + 1) / 2) = 1, error 1/√3, and t = 4.302653 at 2 degrees.
    reach = 4.302653 / math.sqrt(3)
    low, high = subject("stats.t_interval")([1, 2, 3])
    assert (low, high) == (pytest.approx(2 - reach, abs=1e-6), pytest.approx(2 + reach, abs=1e-6))
    low, high = subject("stats.t_interval")([0, 1], level=0.5)  # t = 1 at one degree: the quartile
    assert (low, high) == (pytest.approx(0), pytest.approx(1))


def test_t_interval_covers_the_true_mean_as_often_as_it_says(subject):
    draws = np.random.default_rng(0).normal(size=(1000, 4))
    ends = [subject("stats.t_interval")(row, level=0.9) for row in draws]
    assert 0.88 < sum(low <= 0 <= high for low, high in ends) / 1000 < 0.92


def test_t_interval_refuses(subject):
    refuses(subject("stats.t_interval"), [0.5], match="values has 1 entry, expected at least 2")
    refuses(subject("stats.t_interval"), [0, 1], level=1.0, match="level is 1.0, expected strictly")
    refuses(subject("stats.t_interval"), [0, math.inf], match="values holds inf")


@pytest.mark.parametrize("probability, freedom, expected", [
    (0.975, 1, 12.7062047),  # the table of every statistics book
    (0.975, 2, 4.3026527),
    (0.975, 3, 3.1824463),
    (0.975, 4, 2.7764451),
    (0.995, 5, 4.0321430),
    (0.975, 9, 2.2621572),
    (0.95, 10, 1.8124611),
    (0.975, 30, 2.0422725),
    (0.975, 120, 1.9799304),
    (0.5, 7, 0.0),
    (0.05, 10, -1.8124611),
])  # fmt: skip
def test_t_quantile_agrees_with_the_tables(subject, probability, freedom, expected):
    quantile = subject("stats.t_quantile")(probability, freedom)
    assert quantile == pytest.approx(expected, abs=6e-8)


@given(freedom=st.integers(1, 40), probability=st.floats(0.01, 0.99))
def test_t_quantile_inverts_the_integral_of_the_density(subject, freedom, probability):
    t = subject("stats.t_quantile")(probability, freedom)
    gammas = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    scale = math.exp(gammas) / math.sqrt(freedom * math.pi)
    middles = (np.arange(4000) + 0.5) * (t / 4000)
    density = scale * (1 + middles**2 / freedom) ** (-(freedom + 1) / 2)
    # The midpoint rule with 4,000 steps: its error falls with their square.
    assert 0.5 + density.sum() * t / 4000 == pytest.approx(probability, abs=1e-5)


def test_t_quantile_of_many_degrees_is_nearly_the_normal_one(subject):
    # Cornish–Fisher: z + (z³ + z) / 4ν, the next term is of order 1/ν².
    z = statistics.NormalDist().inv_cdf(0.975)
    quantile = subject("stats.t_quantile")(0.975, 100_000)
    assert quantile == pytest.approx(z + (z**3 + z) / 400_000, abs=1e-9)


def test_t_quantile_agrees_with_scipy(subject):
    distributions = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 7, 50, 999):
        for probability in (0.01, 0.3, 0.9, 0.999):
            expected = distributions.t.ppf(probability, freedom)
            assert subject("stats.t_quantile")(probability, freedom) == pytest.approx(expected)


def test_t_quantile_refuses(subject):
    quantile = subject("stats.t_quantile")
    refuses(quantile, 1.0, 3, match="probability is 1.0, expected strictly between 0 and 1")
    refuses(quantile, 0.5, 0, match="freedom is 0, expected at least 1")


# paired_difference and mcnemar_p


def test_paired_difference_by_hand(subject):
    # Differences 0, 1, 0, 0. Resampled means are quarters: 0 with probability 0.75⁴ = 0.32, so the
    # lower end is 0; 4/4 has 0.004 and 3/4 or more 0.051, so the upper end of 95 % is 3/4.
    difference = subject("stats.paired_difference")([1, 1, 0, 1], [1, 0, 0, 1])
    assert difference == (0.25, 0, 0.75)
    assert difference.mean == 0.25 and difference.low == 0 and difference.high == 0.75


def test_paired_difference_sees_what_two_intervals_hide(subject):
    # 100 problems, of which both solve the same 49; the first solves 6 more.
    first, second = [1] * 55 + [0] * 45, [1] * 49 + [0] * 51
    mean, low, high = subject("stats.paired_difference")(first, second)
    assert mean == pytest.approx(0.06) and low > 0
    assert subject("bootstrap_interval")(first)[0] < subject("bootstrap_interval")(second)[1]


@given(pairs=solved)
def test_paired_difference_turns_round_with_its_arguments(subject, pairs):
    first, second = zip(*pairs, strict=True)
    mean, low, high = subject("stats.paired_difference")(first, second, samples=100)
    assert low <= high
    turned = subject("stats.paired_difference")(second, first, samples=100)
    assert turned == pytest.approx((-mean, -high, -low))


def test_paired_difference_takes_its_options(subject):
    first, second = [1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 1, 0]
    options = {"level": 0.5, "samples": 300, "seed": 3}
    _, *ends = subject("stats.paired_difference")(first, second, **options)
    expected = subject("bootstrap_interval")([1, 0, 0, 1, -1, 1], **options)
    assert tuple(ends) == expected


def test_paired_difference_refuses(subject):
    refuses(
        subject("stats.paired_difference"), [1, 0], [1, 0, 1],
        match="second has 3 entries, expected 2: the same problems as first",
    )  # fmt: skip


@pytest.mark.parametrize("gained, lost, expected", [
    (1, 0, 1.0),        # one coin: any fall is as extreme
    (0, 0, 1.0),        # nothing to compare
    (5, 0, 0.0625),     # 2 · 1/32
    (5, 1, 0.21875),    # 2 · (1 + 6) / 64
    (2, 2, 1.0),        # 2 · 11/16 is more than all
    (1, 9, 0.021484),   # 2 · (1 + 10) / 1024
])  # fmt: skip
def test_mcnemar_p_by_hand(subject, gained, lost, expected):
    first = [1] * gained + [0] * lost + [1, 0]
    second = [0] * gained + [1] * lost + [1, 0]
    assert subject("stats.mcnemar_p")(first, second) == pytest.approx(expected, abs=1e-6)


@given(pairs=solved)
def test_mcnemar_p_is_the_share_of_coin_falls_at_least_as_uneven(subject, pairs):
    uneven = [a - b for a, b in pairs if a != b]
    falls = [sum(fall) for fall in itertools.product((-1, 1), repeat=len(uneven))]
    share = sum(abs(fall) >= abs(sum(uneven)) for fall in falls) / len(falls)
    first, second = zip(*pairs, strict=True)
    assert subject("stats.mcnemar_p")(first, second) == pytest.approx(share)


def test_mcnemar_p_stands_thousands_of_problems(subject):
    first, second = [1] * 2000 + [0] * 1900, [0] * 2000 + [1] * 1900
    # The normal approximation with its continuity correction: z = (100 - 1) / √3900.
    z = 99 / math.sqrt(3900)
    expected = 2 * statistics.NormalDist().cdf(-z)
    assert subject("stats.mcnemar_p")(first, second) == pytest.approx(expected, rel=1e-3)


def test_mcnemar_p_refuses(subject):
    refuses(subject("stats.mcnemar_p"), [1, 0.5], [1, 0], match="first holds 0.5, expected 0 or 1")
    refuses(subject("stats.mcnemar_p"), [1, 0], [1, 2], match="second holds 2.0, expected 0 or 1")
    refuses(subject("stats.mcnemar_p"), [1], [1, 0], match="second has 2 entries, expected 1")


# standard_error and wilson_interval


@pytest.mark.parametrize("p, n, expected", [
    (0.3, 30, 0.083666),   # √(0.21 / 30): 8.4 points on AIME
    (0.5, 40, 0.079057),
    (0.8, 500, 0.017889),
    (1.0, 30, 0.0),
])  # fmt: skip
def test_standard_error_by_hand(subject, p, n, expected):
    assert subject("stats.standard_error")(p, n) == pytest.approx(expected, abs=1e-6)


def test_standard_error_refuses(subject):
    refuses(subject("stats.standard_error"), 1.5, 30, match="p is 1.5, expected 0 to 1")
    refuses(subject("stats.standard_error"), 0.5, 0, match="n is 0, expected at least 1")


def test_wilson_interval_by_hand(subject):
    # 20 of 20: p = 1, and the lower end is n / (n + z²) = 20 / 23.841459.
    assert subject("stats.wilson_interval")(20, 20) == (pytest.approx(0.838875, abs=1e-6), 1.0)
    assert subject("stats.wilson_interval")(0, 20) == (0.0, pytest.approx(0.161125, abs=1e-6))
    # 8 of 10: (0.8 + 0.192073 ± 1.959964 · √(0.016 + 0.009604)) / 1.384146.
    low, high = subject("stats.wilson_interval")(8, 10)
    assert (low, high) == (pytest.approx(0.490162, abs=1e-6), pytest.approx(0.943318, abs=1e-6))


@given(n=st.integers(1, 200), share=st.floats(0, 1), level=st.sampled_from([0.5, 0.95, 0.999]))
def test_wilson_interval_ends_where_the_rate_would_just_be_this_far_off(subject, n, share, level):
    successes = round(share * n)
    low, high = subject("stats.wilson_interval")(successes, n, level=level)
    assert 0 <= low <= successes / n <= high <= 1
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    for end in (low, high):
        if 0 < end < 1:  # the defining equation: the distance is z standard errors at the end
            error = math.sqrt(end * (1 - end) / n)
            assert abs(successes / n - end) == pytest.approx(z * error, rel=1e-6)
    turned = subject("stats.wilson_interval")(n - successes, n, level=level)
    assert turned == pytest.approx((1 - high, 1 - low))


def test_wilson_interval_refuses(subject):
    refuses(subject("stats.wilson_interval"), 5, 4, match="successes is 5, expected 0 to n=4")
    refuses(subject("stats.wilson_interval"), 0, 0, match="n is 0, expected at least 1")
    refuses(subject("stats.wilson_interval"), 1, 2, level=0, match="level is 0, expected strictly")


# majority_vote, weighted_vote, best_of_n


@pytest.mark.parametrize("answers, expected", [
    (["7", "7", "5"], "7"),
    (["5", "7", "7"], "7"),
    (["7", "5", "5", "7"], "7"),                 # a tie goes to the first seen
    ([None, None, None, "5"], "5"),              # no answer has no vote
    ([None, None], None),
    ([], None),
    ([[1], [2], [2]], [2]),                      # answers need not be hashable
    ([0, 1, 0], 0),
])  # fmt: skip
def test_majority_vote_by_hand(subject, answers, expected):
    assert subject("majority_vote")(answers) == expected


def test_majority_vote_counts_equal_answers_together_and_returns_the_first(subject):
    def equal(a, b):
        return float(a) == float(b)

    answers = ["3", "0.5", "3", "0.50", "5e-1"]
    assert subject("majority_vote")(answers) == "3"
    assert subject("majority_vote")(answers, equal=equal) == "0.5"


def test_majority_vote_of_five_is_right_as_often_as_the_binomial_says(subject):
    # Right with probability 0.6 each, one wrong answer: P(3 or more of 5) = 0.68256.
    votes = itertools.product((1, 0), repeat=5)
    right = sum(
        math.prod(0.6 if vote else 0.4 for vote in ballot)
        for ballot in votes
        if subject("majority_vote")(list(ballot)) == 1
    )
    assert right == pytest.approx(0.68256)


@given(answers=st.lists(st.sampled_from([None, "a", "b", "c"]), max_size=12))
def test_majority_vote_equals_a_slow_count(subject, answers):
    votes = [answer for answer in answers if answer is not None]
    slow = max(dict.fromkeys(votes), key=votes.count, default=None)  # max keeps the first
    assert subject("majority_vote")(answers) == slow


def test_weighted_vote_by_hand(subject):
    # 7 has 0.2 + 0.3 = 0.5, 5 has 0.6; the plain vote gives 7.
    assert subject("stats.weighted_vote")([7, 7, 5], [0.2, 0.3, 0.6]) == 5
    assert subject("stats.weighted_vote")([7, 7, 5], torch.tensor([1, 1, 1])) == 7
    assert subject("stats.weighted_vote")([None, 7], [9.0, 0.0]) == 7
    assert subject("stats.weighted_vote")([5, 7], [0.0, 0.0]) == 5
    assert subject("stats.weighted_vote")(["7", "5", "7.0"], [2, 3, 2], equal=lambda a, b: (
        float(a) == float(b)
    )) == "7"  # fmt: skip


@given(votes=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), min_size=1, max_size=9))
def test_weighted_vote_is_a_majority_vote_with_each_answer_repeated(subject, votes):
    answers, weights = zip(*votes, strict=True)
    repeated = [answer for answer, weight in votes for _ in range(weight)]
    won = subject("stats.weighted_vote")(answers, weights)
    counts = [repeated.count(answer) for answer in answers]
    assert won == answers[counts.index(max(counts))]


def test_weighted_vote_refuses(subject):
    vote = subject("stats.weighted_vote")
    refuses(vote, [7, 5], [1.0], match="weights has 1 entries, expected 2: as answers")
    refuses(vote, [7], [-1.0], match="weights holds -1.0, expected finite numbers of at least 0")
    refuses(vote, [7], [math.nan], match="weights holds nan")


def test_best_of_n_by_hand(subject):
    assert subject("stats.best_of_n")([0.1, 0.9, 0.4]) == 1
    assert subject("stats.best_of_n")([-3.0, -1.0, -1.0]) == 1  # the first of several
    assert type(subject("stats.best_of_n")(torch.tensor([0.0, 1.0]))) is int


@given(scores=st.lists(st.integers(-3, 3), min_size=1, max_size=6))
def test_best_of_n_holds_the_highest(subject, scores):
    assert scores[subject("stats.best_of_n")(scores)] == max(scores)


def test_best_of_n_refuses(subject):
    refuses(subject("stats.best_of_n"), [], match=r"scores has shape \[0\]")
    refuses(subject("stats.best_of_n"), [1.0, math.nan], match="scores holds nan")
