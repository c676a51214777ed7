"""The advantages: numbers worked by hand, exact expectations, properties, and slow references."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from reasoning_from_scratch import advantages
from reasoning_from_scratch.exact import TablePolicy
from tests.tensors import float64, gradient, masks, random, refuses, seeds, spoil

BASELINES, SCALES = ("mean", "leave_one_out", "none"), ("group_std", "batch_std", "none")
groups = st.integers(2, 5).flatmap(
    lambda size: st.lists(
        st.lists(st.sampled_from([0.0, 0.1, 1.0, -2.5]), min_size=size, max_size=size),
        min_size=1,
        max_size=3,
    )
)


# group_advantages


@pytest.mark.parametrize("rewards, options, advantages", [
    ([1, 0, 0, 1], {"scale": "none"}, [0.5, -0.5, -0.5, 0.5]),
    ([1, 0, 0, 1], {}, [0.866025, -0.866025, -0.866025, 0.866025]),  # deviation √(1/3)
    ([1, 0, 0, 0], {}, [1.5, -0.5, -0.5, -0.5]),                     # 0.75 / 0.5
    ([1, 1, 1, 0, 0, 0, 0, 0], {}, [1.207615] * 3 + [-0.724569] * 5),
    ([1, 0, 0.5], {"baseline": "leave_one_out", "scale": "none"}, [0.75, -0.75, 0]),
    ([1, 0, 0, 0], {"baseline": "leave_one_out", "scale": "none"}, [1, -1 / 3, -1 / 3, -1 / 3]),
    ([1, 0, 0, 0], {"baseline": "none"}, [2, 0, 0, 0]),              # 1 / 0.5
    ([3, 1], {"baseline": "none", "scale": "none"}, [3, 1]),
    ([1, 0], {"eps": 1.0}, [0.292893, -0.292893]),                   # 0.5 / (√0.5 + 1)
])  # fmt: skip
def test_group_advantages_of_one_group_by_hand(subject, rewards, options, advantages):
    result = subject("group_advantages")(float64(rewards), **{"eps": 0.0} | options)
    assert result[0].tolist() == pytest.approx(advantages, abs=1e-6)


def test_group_advantages_scaled_by_the_batch_by_hand(subject):
    # Deviation of the rewards 1, 0, 1, 1 themselves: √(0.75 / 3) = 0.5. That of the centred
    # 0.5, -0.5, 0, 0 would be 0.408248.
    rewards = float64([1, 0], [1, 1])
    result = subject("group_advantages")(rewards, scale="batch_std", eps=0.0)
    assert_close(result, float64([1, -1], [0, 0]))
    result = subject("group_advantages")(rewards, scale="batch_std", eps=0.5)
    assert_close(result, float64([0.5, -0.5], [0, 0]))


def test_group_advantages_default_is_grpo(subject):
    rewards = random(0, 2, 4)
    result = subject("group_advantages")(rewards)
    options = {"baseline": "mean", "scale": "group_std", "eps": 1e-4}
    assert_close(result, subject("group_advantages")(rewards, **options), rtol=0, atol=0)


@given(rows=groups, shift=st.sampled_from([0.0, 1.0, -1000.0]))
def test_group_advantages_of_a_group_add_up_to_zero_wherever_its_zero_lies(subject, rows, shift):
    rewards = float64(*rows)
    for baseline in BASELINES[:2]:
        for scale in SCALES:
            options = {"baseline": baseline, "scale": scale}
            result = subject("group_advantages")(rewards, **options)
            assert_close(result.sum(1), torch.zeros(len(rewards), dtype=torch.float64))
            moved = subject("group_advantages")(rewards + shift, **options)
            assert_close(moved, result, rtol=1e-6, atol=1e-6)  # 1000.1 - 1000 is not quite 0.1


@given(rows=groups)
def test_group_advantages_equal_a_slow_loop(subject, rows):
    everything = [reward for row in rows for reward in row]
    for baseline in BASELINES:
        for scale in SCALES:
            slow = []
            for row in rows:
                deviation = {"group_std": statistics.stdev(row) + 0.01, "none": 1.0,
                             "batch_std": statistics.stdev(everything) + 0.01}[scale]  # fmt: skip
                for i, reward in enumerate(row):
                    others = row[:i] + row[i + 1 :]
                    subtracted = {"mean": statistics.fmean(row), "none": 0.0,
                                  "leave_one_out": statistics.fmean(others)}[baseline]  # fmt: skip
                    slow.append((reward - subtracted) / deviation)
            result = subject("group_advantages")(
                float64(*rows), baseline=baseline, scale=scale, eps=0.01
            )
            assert result.flatten().tolist() == pytest.approx(slow, abs=1e-9)


@pytest.mark.parametrize("eps", [0.0, 1e-4, 1e-12])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("baseline", BASELINES[:2])
def test_group_advantages_are_exactly_zero_where_a_group_agrees(subject, baseline, scale, eps):
    # In float32 the mean of seven times 0.1 is not 0.1, and its deviation not 0.
    rewards = torch.tensor([[0.1] * 7, [1e6 / 3] * 7])
    result = subject("group_advantages")(rewards, baseline=baseline, scale=scale, eps=eps)
    assert (result == 0).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16, torch.float32])
def test_group_advantages_take_any_kind_of_number(subject, dtype):
    rewards = torch.tensor([[1, 0, 0, 0]]).to(dtype)
    result = subject("group_advantages")(rewards)
    assert_close(result, torch.tensor([[1.5, -0.5, -0.5, -0.5]]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("baseline", BASELINES)
def test_group_advantages_without_scale_follow_the_expected_reward(subject, baseline):
    # All 225 pairs of completions, each with its probability: no baseline adds a bias, except that
    # the group's own mean contains the reward it is subtracted from and shrinks all by (G-1)/G.
    policy = TablePolicy.random(0)
    rewards = random(1, len(policy.tokens))
    rows, weights = policy.groups(2)
    advantages = subject("group_advantages")(rewards[rows], baseline=baseline, scale="none")
    per_group = (advantages * policy.logprobs().sum(1)[rows]).mean(1)
    truth = policy.gradient(policy.expectation(rewards))
    shrunk = 1 / 2 if baseline == "mean" else 1
    assert_close(policy.gradient((weights * per_group).sum()), shrunk * truth)


def test_group_advantages_divided_by_the_deviation_favour_lopsided_problems(subject):
    # Rewards 0 and 1: in groups of 2 or 3 every mixed group has the same deviation, and all grow
    # alike. From 4 on, one right in four weighs more than two in four: 1 / 0.5 against 1 / √(1/3).
    lopsided, even = subject("group_advantages")(float64([1, 0, 0, 0], [1, 1, 0, 0]), eps=0.0)
    plain = subject("group_advantages")(float64([1, 0, 0, 0], [1, 1, 0, 0]), scale="none")
    assert_close(lopsided / plain[0], torch.full_like(lopsided, 2.0))
    assert_close(even / plain[1], torch.full_like(even, math.sqrt(3)))


def test_group_advantages_say_what_they_refuse(subject):
    function, rewards = subject("group_advantages"), torch.zeros(2, 1)
    refuses(function, torch.zeros(4), match=r"rewards has shape \[4\], expected \[P,G\]")
    refuses(function, rewards, match="group_size is 1, but baseline='mean' compares .* at least 2")
    refuses(function, rewards, baseline="leave_one_out", match="but baseline='leave_one_out'")
    refuses(function, rewards, baseline="none", match="group_size is 1, but scale='group_std'")
    refuses(function, rewards[:1], baseline="none", scale="batch_std", match="needs at least 2")
    refuses(function, torch.tensor([[1, math.nan]]), match="rewards holds nan, expected finite")
    refuses(function, torch.zeros(2, 2), baseline="median", match="baseline is 'median', expected")
    refuses(function, torch.zeros(2, 2), scale="std", match="scale is 'std', expected")
    refuses(function, torch.zeros(2, 2), eps=-1.0, match="eps is -1.0, expected")
    alone = function(torch.ones(2, 1), baseline="none", scale="none")
    assert_close(alone, torch.ones(2, 1))
    assert function(torch.zeros(0, 4)).shape == (0, 4)


# process_advantages


def test_process_advantages_by_hand(subject):
    # Two completions of one prompt. Steps end at tokens 2 and 5 (rewards 1 and 0), and at 1 and 4
    # (0.5 each): mean 0.5, deviation √(0.5 / 3) = 0.408248. A token gets its own step and all
    # later ones: 1.224745 - 1.224745 in the first step, -1.224745 in the second, 0 after the last.
    rewards = float64([9, 9, 1, 9, 9, 0, 9], [9, 0.5, 9, 9, 0.5, 9, 9])
    ends = torch.tensor([[0, 0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 1, 0, 0]])
    result = subject("process_advantages")(rewards, ends, group_size=2, eps=0.0)
    expected = float64([0, 0, 0, -1.224745, -1.224745, -1.224745, 0], [0] * 7)
    assert_close(result, expected, rtol=0, atol=1e-6)


def test_process_advantages_compare_the_completions_of_one_prompt(subject):
    # Two prompts of two completions, one step each. The first prompt's are at rows 0 and 1: both
    # right, nothing to learn. Rows 0 and 2, or 0 and 3, would be compared with another prompt's.
    rewards, ends = float64([1], [1], [1], [0]), torch.ones(4, 1)
    result = subject("process_advantages")(rewards, ends, group_size=2, eps=0.0)
    assert_close(result, float64([0], [0], [0.5**0.5], [-(0.5**0.5)]))


@given(masks, seeds, st.sampled_from([0.0, 1e-4, 1.0]))
def test_process_advantages_equal_a_slow_loop(subject, rows, seed, eps):
    group_size = max(2, len(rows))
    ends = torch.tensor([*rows, *rows[::-1]])  # one group of two, or two groups of len(rows)
    rewards = random(seed, *ends.shape).round()
    slow = torch.zeros_like(rewards)
    for first in range(0, len(ends), group_size):
        members = range(first, first + group_size)
        steps = [rewards[b, t].item() for b in members for t in range(ends.shape[1]) if ends[b, t]]
        mean = statistics.fmean(steps) if steps else 0.0
        deviation = statistics.stdev(steps) if len(steps) > 1 else 0.0
        for b in members:
            for t in range(ends.shape[1]):
                later = [u for u in range(t, ends.shape[1]) if ends[b, u]]
                for u in later if deviation else ():
                    slow[b, t] += (rewards[b, u] - mean) / (deviation + eps)
    options = {"group_size": group_size, "eps": eps}
    result = subject("process_advantages")(rewards, ends, **options)
    assert_close(result, slow, rtol=1e-9, atol=1e-9)
    spoiled = subject("process_advantages")(spoil(rewards, ends), ends, **options)
    assert_close(spoiled, result, rtol=0, atol=0)


@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_process_advantages_are_exactly_zero_where_a_group_agrees(subject, eps):
    ends = torch.ones(4, 7)
    ends[2:] = 0  # and where it has no step at all
    result = subject("process_advantages")(torch.full((4, 7), 0.1), ends, group_size=2, eps=eps)
    assert (result == 0).all()


def test_process_advantages_of_one_step_each_are_group_advantages(subject):
    rewards, ends = random(0, 3, 4), torch.zeros(12, 5)
    ends[:, 2] = 1
    paid = torch.where(ends != 0, rewards.flatten()[:, None], 0)
    result = subject("process_advantages")(paid, ends, group_size=4)
    assert_close(result[:, 0], advantages.group_advantages(rewards).flatten())
    assert_close(result[:, 2], result[:, 0])
    assert not result[:, 3:].any()


def test_process_advantages_say_what_they_refuse(subject):
    function, x = subject("process_advantages"), torch.zeros(4, 3)
    refuses(function, x[0], x[0], group_size=2, match=r"rewards has shape \[3\], expected \[B,T\]")
    refuses(function, x, x[:2], group_size=2, match=r"mask has shape \[2, 3\], expected \[4, 3\]")
    refuses(function, x, x, group_size=3, match="group_size is 3, expected at least 2, and 4 rows")
    refuses(function, x, x, group_size=1, match="group_size is 1, expected at least 2")
    refuses(function, x / 0, x + 1, group_size=2, match="rewards holds nan, expected finite")
    refuses(function, x, x, group_size=2, eps=-1.0, match="eps is -1.0, expected")


# gae


@pytest.mark.parametrize("lam, advantages, returns", [
    (0.0, [0.1, 0.1, 0.3], [0.6, 0.7, 1.0]),  # the surprise alone: V(next) - V, at the end 1 - V
    (0.95, [0.46575, 0.385, 0.3], [0.96575, 0.985, 1.0]),  # 0.1 + 0.95·0.3, 0.1 + 0.95·0.385
    (1.0, [0.5, 0.4, 0.3], [1.0, 1.0, 1.0]),  # what came in the end, minus V
])  # fmt: skip
def test_gae_by_hand(subject, lam, advantages, returns):
    rewards, values = float64([0, 0, 1]), float64([0.5, 0.6, 0.7])
    result = subject("gae")(rewards, values, torch.ones(1, 3), lam=lam)
    assert_close(result, (float64(advantages), float64(returns)))


def test_gae_defaults_do_not_discount(subject):
    batch = float64([0, 0, 1]), float64([0.5, 0.6, 0.7]), torch.ones(1, 3)
    assert_close(subject("gae")(*batch), subject("gae")(*batch, gamma=1.0, lam=0.95))


def test_gae_discounts_by_gamma_and_again_by_lambda(subject):
    # V = 0: A = 1·(γλ)^2, 1·γλ, 1, and with V = 0.4 throughout δ = 0.5·0.4 - 0.4 = -0.2.
    advantages, _ = subject("gae")(
        float64([0, 0, 1]), torch.zeros(1, 3), torch.ones(1, 3), gamma=0.5, lam=0.8
    )
    assert_close(advantages, float64([0.16, 0.4, 1]))
    values = torch.full((1, 2), 0.4, dtype=torch.float64)
    advantages, returns = subject("gae")(
        float64([0, 1]), values, torch.ones(1, 2), gamma=0.5, lam=0.0
    )
    assert_close(advantages, float64([-0.2, 0.6]))
    assert_close(returns, float64([0.2, 1.0]))


@pytest.mark.parametrize("reward", [1.0, -1.0])
@pytest.mark.parametrize(
    "length, mean", [(1, 1.0), (10, 0.802526), (100, 0.198816), (300, 0.066667)]
)
def test_gae_with_lambda_below_one_makes_a_long_failure_cheap(subject, length, mean, reward):
    # A = λ^(T-t)·R, so the mean over T tokens is R/T · (1 - 0.95^T) / 0.05; with λ = 1 it is R.
    rewards = torch.zeros(1, length, dtype=torch.float64)
    rewards[0, -1] = reward
    blank = torch.zeros_like(rewards), torch.ones(1, length)
    assert subject("gae")(rewards, *blank)[0].mean().item() == pytest.approx(
        reward * mean, abs=1e-6
    )
    assert subject("gae")(rewards, *blank, lam=1.0)[0].mean().item() == pytest.approx(reward)


@given(rows=masks, seed=seeds, gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_gae_equals_a_slow_loop_over_the_tokens_that_count(subject, rows, seed, gamma, lam):
    mask = torch.tensor(rows)
    rewards, values = random(seed, 2, *mask.shape)
    advantages, returns = subject("gae")(
        spoil(rewards, mask, seed),
        spoil(values, mask, seed + 1),
        mask.float(),
        gamma=gamma,
        lam=lam,
    )
    for b, row in enumerate(rows):
        counted = [t for t in range(len(row)) if row[t]]
        r, v = rewards[b, counted].tolist(), [*values[b, counted].tolist(), 0.0]
        surprises = [r[i] + gamma * v[i + 1] - v[i] for i in range(len(r))]
        slow = [
            sum((gamma * lam) ** (j - i) * surprises[j] for j in range(i, len(r)))
            for i in range(len(r))
        ]
        assert advantages[b, counted].tolist() == pytest.approx(slow)
        total = [a + value for a, value in zip(slow, v, strict=False)]
        assert returns[b, counted].tolist() == pytest.approx(total)
    assert (advantages[~mask] == 0).all() and (returns[~mask] == 0).all()


def test_gae_carries_no_gradient(subject):
    rewards, values = random(0, 2, 2, 3).requires_grad_()
    advantages, returns = subject("gae")(rewards, values, torch.ones(2, 3))
    assert not advantages.requires_grad and not returns.requires_grad


def test_gae_says_what_it_refuses(subject):
    gae, x = subject("gae"), torch.zeros(2, 3)
    refuses(gae, x, x[:1], x, match=r"values has shape \[1, 3\], expected \[2, 3\]")
    refuses(gae, x, x, x[:, :1], match=r"mask has shape \[2, 1\], expected \[2, 3\]")
    refuses(gae, x[0], x[0], x[0], match=r"rewards has shape \[3\], expected \[B,T\]")
    refuses(gae, x, x, x, gamma=1.1, match="gamma is 1.1, expected 0 to 1")
    refuses(gae, x, x, x, lam=math.nan, match="lam is nan, expected 0 to 1")
    assert gae(x[:0], x[:0], x[:0])[0].shape == (0, 3)


# whiten


@pytest.mark.parametrize("shift_mean, expected", [
    (True, [-1.341641, -0.447214, 0.447214, 1.341641]),  # deviation √1.25, divided by n
    (False, [1.158359, 2.052786, 2.947214, 3.841641]),   # the same plus the mean, 2.5
])  # fmt: skip
def test_whiten_by_hand(subject, shift_mean, expected):
    x, mask = float64([1, 2, 50], [3, 4, 60]), torch.tensor([[1, 1, 0], [1, 1, 0]])
    result = subject("whiten")(x, mask, shift_mean=shift_mean)
    assert result[:, :2].flatten().tolist() == pytest.approx(expected, abs=1e-6)
    assert (result[:, 2] == 0).all()


@given(rows=masks, seed=seeds, shift_mean=st.booleans())
def test_whiten_ignores_whatever_is_masked(subject, rows, seed, shift_mean):
    mask = torch.tensor(rows)
    clean = 3 + 7 * random(seed, *mask.shape)
    x = spoil(clean.clone().requires_grad_(), mask, seed)
    result = subject("whiten")(x, mask.float(), shift_mean=shift_mean)
    slope = gradient((result * clean).sum(), x)
    assert (result[~mask] == 0).all() and (slope[~mask] == 0).all() and slope.isfinite().all()
    if mask.sum() > 1:
        kept = clean[mask]
        slow = (kept - kept.mean()) / torch.sqrt(kept.var(correction=0) + 1e-8)
        assert_close(result[mask], slow if shift_mean else slow + kept.mean())


@pytest.mark.parametrize("value", [0.1, 12345.678, -7.3])
def test_whiten_makes_nothing_of_equal_numbers(subject, value):
    x = torch.full((7, 1001), value)
    result = subject("whiten")(x, torch.ones(7, 1001))
    assert result.abs().max() < 1e-3  # the mean of 7007 equal float32 is off by a few steps
    assert subject("whiten")(x, torch.zeros(7, 1001)).eq(0).all()


def test_whiten_takes_half_precision_and_says_what_it_refuses(subject):
    x = torch.tensor([[1.0, 2, 3, 4]])
    assert_close(subject("whiten")(x.bfloat16(), x > 0), subject("whiten")(x, x > 0))
    refuses(subject("whiten"), x, x[:, :2], match=r"mask has shape \[1, 2\], expected \[1, 4\]")


@pytest.mark.parametrize("wrong", [-100.0, math.nan])
def test_a_mask_of_something_else_is_refused(wrong):
    # Not of the `subject`: the stubs of the exercises bring checks of their own.
    x, mask = torch.ones(1, 2), torch.tensor([[1, wrong]])
    match = f"mask holds {wrong}, expected 0 or above"
    refuses(advantages.whiten, x, mask, match=match)
    refuses(advantages.gae, x, x, mask, match=match)
    refuses(advantages.whiten, [[1.0, 1.0]], x, match="x is a list, expected a tensor")


@pytest.mark.cuda
def test_advantages_are_the_same_on_a_gpu(subject):
    x, values, mask = random(0, 4, 6), random(1, 4, 6), random(2, 4, 6) > 0
    calls = [("group_advantages", x), ("gae", x, values, mask), ("whiten", x, mask)]
    for name, *tensors in calls:
        here, there = subject(name)(*tensors), subject(name)(*(tensor.cuda() for tensor in tensors))
        assert_close(there, here, check_device=False)


@pytest.mark.parametrize("name", ["group_advantages", "gae"])
def test_a_list_is_refused_by_name(subject, name):
    rows = [[1.0, 0.0]]
    arguments = (rows,) if name == "group_advantages" else (rows, rows, rows)
    with pytest.raises(ValueError, match="rewards is a list, expected a tensor"):
        subject(name)(*arguments)
