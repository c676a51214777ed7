"""Rewards that look at length: numbers worked by hand, order, slow references, refusals."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.tensors import float64, refuses

lengths = st.integers(0, 5000)
groups = st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=8)


# lcpo_exact


@pytest.mark.parametrize("correct, length, target, expected", [
    (1, 1500, 1000, 0.85),   # 1 - 0.0003 · 500
    (1, 500, 1000, 0.85),
    (0, 800, 1000, -0.06),
    (1, 1000, 1000, 1.0),
    (True, 0, 5000, -0.5),   # right and far off is worth less than wrong at the right length
    (0.5, 1100, 1000, 0.47),
])  # fmt: skip
def test_lcpo_exact_by_hand(subject, correct, length, target, expected):
    assert subject("lcpo_exact")(correct, length, target) == pytest.approx(expected)


def test_lcpo_exact_takes_alpha_and_numbers_in_tensors(subject):
    assert subject("lcpo_exact")(1, 7, 10, alpha=0.1) == pytest.approx(0.7)
    reward = subject("lcpo_exact")(torch.tensor(True), torch.tensor(7), torch.tensor(10), alpha=0.1)
    assert type(reward) is float and reward == pytest.approx(0.7)


@given(target=lengths, off=lengths, more=st.integers(1, 100))
def test_lcpo_exact_falls_evenly_on_both_sides(subject, target, off, more):
    lcpo_exact = subject("lcpo_exact")
    assert lcpo_exact(1, target + off, target) == pytest.approx(lcpo_exact(1, target, target + off))
    assert lcpo_exact(1, target + off + more, target) < lcpo_exact(1, target + off, target)


def test_lcpo_exact_refuses(subject):
    lcpo_exact = subject("lcpo_exact")
    refuses(lcpo_exact, 2, 10, 10, match="correct is 2, expected 0 to 1")
    refuses(lcpo_exact, 1, -1, 10, match="length is -1, expected a finite number of at least 0")
    refuses(lcpo_exact, 1, 1, math.nan, match="target is nan")
    refuses(lcpo_exact, 1, 1, 10, alpha=-0.1, match="alpha is -0.1")


# lcpo_max


@pytest.mark.parametrize("correct, length, expected", [
    (1, 500, 0.65),    # 0.0003 · 500 + 0.5
    (1, 1000, 0.5),
    (1, 1500, 0.35),
    (1, 3000, 0.0),    # -0.6 + 0.5 is clipped
    (0, 500, 0.0),     # multiplied, so that a short wrong answer gets nothing
    (0, 3000, 0.0),
])  # fmt: skip
def test_lcpo_max_by_hand(subject, correct, length, expected):
    assert subject("lcpo_max")(correct, length, 1000) == pytest.approx(expected)


def test_lcpo_max_is_at_most_1_and_takes_alpha_and_delta(subject):
    assert subject("lcpo_max")(1, 0, 5000) == 1  # 1.5 + 0.5 is clipped
    assert subject("lcpo_max")(1, 8, 10, alpha=0.1, delta=0.3) == pytest.approx(0.5)
    reward = subject("lcpo_max")(torch.tensor(1), torch.tensor(8), torch.tensor(10), alpha=0.1)
    assert type(reward) is float and reward == pytest.approx(0.7)


@given(length=lengths, more=lengths, target=lengths)
def test_lcpo_max_never_pays_for_length_or_for_being_wrong(subject, length, more, target):
    short, long = (subject("lcpo_max")(1, n, target) for n in (length, length + more))
    assert 0 <= long <= short <= 1
    assert subject("lcpo_max")(0, length, target) == 0


def test_lcpo_max_refuses(subject):
    refuses(subject("lcpo_max"), -1, 10, 10, match="correct is -1, expected 0 to 1")
    refuses(subject("lcpo_max"), 1, 10, -10, match="target is -10")


# kimi_length_reward


@pytest.mark.parametrize("sizes, correct, expected", [
    ([100, 200, 300, 500], [1, 1, 0, 0], [0.5, 0.25, 0, -0.5]),
    ([100, 200, 300, 500], [0, 0, 1, 1], [0, 0, 0, -0.5]),  # wrong and short gets nothing
    ([100, 500], [0, 1], [0, -0.5]),     # a wrong completion still sets the shortest length
    ([100, 300, 500], [1, 1, 0], [0.5, 0, -0.5]),           # and the longest
    ([70, 70, 70], [1, 0, 1], [0, 0, 0]),
    ([70], [1], [0]),
])  # fmt: skip
def test_kimi_length_reward_by_hand(subject, sizes, correct, expected):
    assert subject("kimi_length_reward")(sizes, correct) == pytest.approx(expected)


@given(group=groups, shift=st.integers(0, 50), scale=st.integers(2, 5))
def test_kimi_length_reward_only_sees_lengths_relative_to_the_group(subject, group, shift, scale):
    sizes, correct = zip(*group, strict=True)
    rewards = subject("kimi_length_reward")(sizes, correct)
    for reward, right in zip(rewards, correct, strict=True):
        assert -0.5 <= reward <= (0.5 if right else 0)
    moved = subject("kimi_length_reward")([scale * n + shift for n in sizes], correct)
    assert moved == pytest.approx(rewards)
    turned = subject("kimi_length_reward")(sizes[::-1], correct[::-1])
    assert turned[::-1] == pytest.approx(rewards)


@given(group=groups)
def test_kimi_length_reward_equals_a_slow_loop(subject, group):
    sizes, correct = zip(*group, strict=True)
    slow = []
    for length, right in group:
        if max(sizes) == min(sizes):
            slow.append(0.0)
            continue
        share = 0.5 - (length - min(sizes)) / (max(sizes) - min(sizes))
        slow.append(share if right else min(0.0, share))
    assert subject("kimi_length_reward")(sizes, correct) == pytest.approx(slow)


def test_kimi_length_reward_returns_the_kind_that_came(subject):
    reward = subject("kimi_length_reward")
    sizes, correct = torch.tensor([100, 200, 500]), torch.tensor([True, False, True])
    assert_close(reward(sizes, correct), torch.tensor([0.5, 0, -0.5]))
    expected = float64([0.5, 0, -0.5])[0]
    assert_close(reward(sizes.double(), correct.tolist()), expected)
    assert reward(sizes.tolist(), correct) == [0.5, 0, -0.5]


def test_kimi_length_reward_refuses(subject):
    reward = subject("kimi_length_reward")
    refuses(reward, [1, 2], [1], match="correct has 1 entries, expected 2: as lengths")
    refuses(reward, [], [], match=r"lengths is \[\], expected \[G\]")
    refuses(reward, torch.ones(1, 2), torch.ones(1, 2), match=r"lengths is \[\[1.0, 1.0\]\]")
    refuses(reward, [1, -2], [1, 1], match="lengths is -2.0, expected a finite number")
    refuses(reward, [1, 2], [1, 0.5], match="correct holds 0.5, expected 0 or 1")


# cosine_reward


@pytest.mark.parametrize("length, right, wrong", [
    (0, 2, -10),
    (25, 1.853553, -8.535534),  # cos 45° = 0.707107: 1 + 0.853553 and -10 · 0.853553
    (50, 1.5, -5),
    (75, 1.146447, -1.464466),
    (100, 1, 0),
    (150, 1, 0),                # the wave does not turn
    (200, 1, 0),
])  # fmt: skip
def test_cosine_reward_by_hand(subject, length, right, wrong):
    assert subject("cosine_reward")(1, length, 100) == pytest.approx(right, abs=1e-6)
    assert subject("cosine_reward")(0, length, 100) == pytest.approx(wrong, abs=1e-6)


def test_cosine_reward_takes_its_four_ends(subject):
    # Open-RS: right from 1 to 0.5, wrong from -1 to -0.5.
    ends = {"right_short": 1.0, "right_long": 0.5, "wrong_short": -1.0, "wrong_long": -0.5}
    sizes = (0, 1792, 3584, 5376, 7168)
    rewards = [subject("cosine_reward")(1, n, 3584, **ends) for n in sizes]
    assert rewards == pytest.approx([1, 0.75, 0.5, 0.5, 0.5])
    rewards = [subject("cosine_reward")(0, n, 3584, **ends) for n in sizes]
    assert rewards == pytest.approx([-1, -0.75, -0.5, -0.5, -0.5])


def test_cosine_reward_of_what_was_cut_off(subject):
    rewards = [
        subject("cosine_reward")(c, n, 100, exceeded=-10) for c in (0, 1) for n in (100, 180)
    ]
    assert rewards == [-10] * 4
    assert subject("cosine_reward")(1, 99, 100, exceeded=-10) == pytest.approx(1, abs=1e-3)


@given(length=lengths, more=lengths, max_length=st.integers(1, 4000))
def test_cosine_reward_ranks_right_above_wrong_and_never_turns(subject, length, more, max_length):
    cosine_reward = subject("cosine_reward")
    right, right_longer = (cosine_reward(True, n, max_length) for n in (length, length + more))
    wrong, wrong_longer = (cosine_reward(False, n, max_length) for n in (length, length + more))
    assert 2 >= right >= right_longer >= 1 > 0 >= wrong_longer >= wrong >= -10
    if more >= max_length > length:  # and it does fall and rise
        assert right > right_longer and wrong < wrong_longer


def test_cosine_reward_takes_numbers_in_tensors(subject):
    reward = subject("cosine_reward")(torch.tensor(True), torch.tensor(50), 100)
    assert type(reward) is float and reward == pytest.approx(1.5)


def test_cosine_reward_refuses(subject):
    cosine_reward = subject("cosine_reward")
    refuses(cosine_reward, 0.5, 10, 100, match="correct is 0.5, expected 0 or 1")
    refuses(cosine_reward, 1, 10, 0, match="max_length is 0, expected above 0")
    refuses(cosine_reward, 1, -10, 100, match="length is -10")


# overlong_penalty


@pytest.mark.parametrize("length, max_length, cache_length, expected", [
    (0, 100, 20, 0),
    (80, 100, 20, 0),
    (81, 100, 20, -0.05),    # 1 of 20 tokens
    (90, 100, 20, -0.5),
    (100, 100, 20, -1),
    (101, 100, 20, -1),
    (5000, 100, 20, -1),
    (18_432, 20_480, 4_096, -0.5),
    (100, 100, 0, 0),        # without a cache only what is beyond the limit
    (101, 100, 0, -1),
    (50, 100, 100, -0.5),
])  # fmt: skip
def test_overlong_penalty_by_hand(subject, length, max_length, cache_length, expected):
    penalty = subject("overlong_penalty")(length, max_length=max_length, cache_length=cache_length)
    assert type(penalty) is float and penalty == pytest.approx(expected)


@given(length=st.integers(0, 300), cache_length=st.integers(0, 200))
def test_overlong_penalty_agrees_with_trl(subject, length, cache_length):
    rewards = pytest.importorskip("trl.rewards")
    penalty = subject("overlong_penalty")(length, max_length=200, cache_length=cache_length)
    theirs = rewards.get_soft_overlong_punishment(200, cache_length)
    assert penalty == pytest.approx(theirs(completion_ids=[[0] * length])[0])


def test_overlong_penalty_refuses(subject):
    penalty = subject("overlong_penalty")
    refuses(
        penalty, 5, max_length=10, cache_length=11,
        match="cache_length is 11, expected at most max_length=10",
    )  # fmt: skip
    refuses(penalty, -5, max_length=10, cache_length=1, match="length is -5")
    refuses(penalty, 5, max_length=10, cache_length=-1, match="cache_length is -1")


# length_part: what is added to being right


@pytest.mark.parametrize("kind, correct, lengths, expected", [
    ("none", [1, 0], [5, 9], [0.0, 0.0]),
    ("kimi", [1, 1, 0, 0], [100, 200, 300, 500], [0.2, 0.1, 0.0, -0.2]),  # 0.4 · 0.5, 0.25, 0, -0.5
    ("cosine", [1, 1, 1], [0, 500, 1000], [0.0, -0.2, -0.4]),     # right: 1 to 0.6
    ("cosine", [0, 0, 0], [0, 500, 1000], [-0.4, -0.2, 0.0]),     # wrong: -0.4 to 0
])  # fmt: skip
def test_length_part_by_hand(subject, kind, correct, lengths, expected):
    found = subject("length_part")(kind, correct, lengths, coef=0.4, max_length=1000)
    assert found == pytest.approx(expected)


def test_length_part_with_a_target_by_hand(subject):
    length_part = subject("length_part")
    how = dict(coef=0.01, max_length=1000, target=50)
    assert length_part("lcpo_exact", [1, 0], [60, 20], **how) == pytest.approx([-0.1, -0.3])
    # Right at 60: 0.5 - 0.1 instead of 1. Wrong: nothing to lose.
    assert length_part("lcpo_max", [1, 0], [60, 20], **how) == pytest.approx([-0.6, 0.0])


@given(groups, st.sampled_from(["kimi", "cosine", "lcpo_exact", "lcpo_max"]))
def test_length_part_and_being_right_are_the_reward_of_that_name(subject, group, kind):
    sizes, right = [n for n, _ in group], [float(c) for _, c in group]
    parts = subject("length_part")(kind, right, sizes, coef=0.3, max_length=60, target=20)
    cosine = dict(right_short=1.0, right_long=0.7, wrong_short=-0.3, wrong_long=0.0)
    whole = {
        "kimi": lambda c, n, k: c + 0.3 * k,
        "cosine": lambda c, n, k: subject("cosine_reward")(c, n, 60, **cosine),
        "lcpo_exact": lambda c, n, k: subject("lcpo_exact")(c, n, 20, alpha=0.3),
        "lcpo_max": lambda c, n, k: subject("lcpo_max")(c, n, 20, alpha=0.3),
    }[kind]
    compared = subject("kimi_length_reward")(sizes, right)
    expected = [whole(*row) for row in zip(right, sizes, compared, strict=True)]
    assert [c + x for c, x in zip(right, parts, strict=True)] == pytest.approx(expected)


def test_length_part_refuses(subject):
    length_part, how = subject("length_part"), dict(coef=0.1, max_length=10)
    refuses(length_part, "short", [1], [5], **how, match="kind is 'short', expected one of none, k")
    refuses(length_part, "kimi", [1], [5], coef=-1, max_length=10, match="coef is -1, expected")
    for kind in ("lcpo_exact", "lcpo_max"):
        refuses(length_part, kind, [1], [5], **how, match=f"target is None, but {kind} compares")
