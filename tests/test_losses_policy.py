"""The losses of policy and critic: numbers worked by hand, exact expectations, slow references."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from reasoning_from_scratch import losses
from reasoning_from_scratch.exact import TablePolicy
from tests.tensors import float64, gradient, masks, random, refuses, seeds, spoil

RATIOS, CLIPS = ("token", "sequence"), ("ppo", "cispo", "none")
AGGREGATES = ("sequence_mean", "token_mean", "constant")
VARIANTS = list(itertools.product(RATIOS, CLIPS, AGGREGATES))


def random_batch(seed, shape=(4, 6)):
    """(logprobs, old_logprobs, advantages, mask): ratios on all sides of 0.8 and 1.2."""
    old_logprobs = -random(seed, *shape).abs() - 0.1
    logprobs = (old_logprobs + random(seed + 1, *shape) / 3).requires_grad_()
    mask = random(seed + 3, *shape) > -0.5
    return logprobs, old_logprobs, random(seed + 2, *shape), mask


# probability_ratio


def test_probability_ratio_by_hand(subject):
    # Log-ratios 0.1, -0.3, 0.2, 0.4: a sequence's is exp(0.1), not the product exp(0.4).
    old = torch.full((2, 5), -2.0, dtype=torch.float64)
    new = old + float64([0.1, -0.3, 0.2, 0.4, 7], [0.5, 7, 7, 7, 7])
    mask, function = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0]]), subject("probability_ratio")
    tokens = float64([1.105171, 0.740818, 1.221403, 1.491825, 1], [1.648721, 1, 1, 1, 1])
    assert_close(function(new, old, mask), tokens, rtol=0, atol=1e-6)
    sequences = float64([1.105171] * 4 + [1], [1.648721, 1, 1, 1, 1])
    assert_close(function(new, old, mask, ratio="sequence"), sequences, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ratio, slopes", [
    ("token", [2.0, 0.5, 0]),      # d ratio / d logprob = ratio
    ("sequence", [1.0, 1.0, 0]),   # the mean log-ratio is 0; each of two tokens has half of both
])  # fmt: skip
def test_probability_ratio_has_the_gradient_of_what_counts(subject, ratio, slopes):
    old = torch.full((1, 3), -2.0, dtype=torch.float64, requires_grad=True)
    new = (old.detach() + float64([2.0, 0.5, 1]).log()).requires_grad_()
    with torch.no_grad():
        new[0, 2] = math.nan
    ratios = subject("probability_ratio")(new, old, torch.tensor([[1, 1, 0]]), ratio=ratio)
    assert_close(gradient(ratios.sum(), new), float64(slopes))
    (of_old,) = torch.autograd.grad(ratios.sum(), old, allow_unused=True)
    assert ratios[0, 2] == 1 and of_old is None


def test_probability_ratio_takes_a_mask_for_yes_or_no_and_not_for_a_weight(subject):
    new, old, mask = float64([0.4, 0.1, 7]), torch.zeros(1, 3), float64([2, 0.5, 0])
    function = subject("probability_ratio")
    assert_close(function(new, old, mask), float64([0.4, 0.1, 0]).exp())
    mean = float64([0.25, 0.25, 0]).exp()  # (0.4 + 0.1) / 2
    assert_close(function(new, old, mask, ratio="sequence"), mean)


@given(rows=masks, seed=seeds)
def test_probability_ratio_equals_a_slow_loop(subject, rows, seed):
    mask = torch.tensor(rows)
    new, old = random(seed, *mask.shape), random(seed + 1, *mask.shape)
    for ratio in RATIOS:
        found = subject("probability_ratio")(new, old, mask, ratio=ratio)
        for row, counted in enumerate(mask.tolist()):
            tokens = [t for t, counts in enumerate(counted) if counts]
            for t in range(mask.shape[1]):
                over = tokens if ratio == "sequence" else [t]
                logs = [(new[row, i] - old[row, i]).item() for i in over]
                slow = math.exp(sum(logs) / len(logs)) if t in tokens else 1.0
                assert found[row, t].item() == pytest.approx(slow)


def test_probability_ratio_does_not_overflow_and_half_precision_becomes_float32(subject):
    far = torch.tensor([[100.0]], requires_grad=True)
    ratios = subject("probability_ratio")(far, torch.zeros(1, 1), torch.ones(1, 1))
    assert ratios.isfinite().all() and gradient(ratios.sum(), far).isfinite().all()
    half = torch.zeros(1, 2, dtype=torch.bfloat16)
    assert subject("probability_ratio")(half, half, torch.ones(1, 2)).dtype == torch.float32


def test_probability_ratio_refuses(subject):
    function, x = subject("probability_ratio"), torch.zeros(2, 3)
    refuses(function, x, x[:1], x, match=r"old_logprobs has shape \[1, 3\], expected \[2, 3\]")
    refuses(function, x, x, x[:1], match=r"mask has shape \[1, 3\], expected \[2, 3\]")
    refuses(
        function, x, x, x, ratio="word", match="ratio is 'word', expected 'token' or 'sequence'"
    )


# policy_loss


@pytest.mark.parametrize("ratio, advantage, objective, slope", [
    (1.5, +1.0, 1.2, 0.0),    # capped at 1 + 0.2
    (1.5, -1.0, -1.5, -1.5),  # the smaller of -1.5 and -1.2: a bad token gone likelier pays in full
    (0.5, +1.0, 0.5, 0.5),    # the smaller of 0.5 and 0.8
    (0.5, -1.0, -0.8, 0.0),   # capped at 1 - 0.2
    (1.1, +1.0, 1.1, 1.1),    # between the bounds both are the same
])  # fmt: skip
def test_policy_loss_takes_the_smaller_of_raw_and_clipped(
    subject, ratio, advantage, objective, slope
):
    old, mask = float64([-1.0]), torch.ones(1, 1)
    new = (old + math.log(ratio)).requires_grad_()
    loss, _ = subject("policy_loss")(new, old, float64(advantage), mask)
    assert loss.item() == pytest.approx(-objective)
    assert gradient(loss, new).item() == pytest.approx(-slope)  # d ratio / d logprob = ratio


@pytest.mark.parametrize("clip, advantage, slopes", [
    ("cispo", +1.0, [0.5, 1.0, 2.0]),  # the weight is cut at 1 + 1, no token loses its gradient
    ("cispo", -1.0, [-0.5, -1.0, -2.0]),
    ("none", -1.0, [-0.5, -1.0, -3.0]),
])  # fmt: skip
def test_policy_loss_without_ppo_keeps_the_gradient_of_every_token(
    subject, clip, advantage, slopes
):
    old, mask = float64([-1.0, -2.0, -3.0]), torch.ones(1, 3)
    new = (old + float64([0.5, 1.0, 3.0]).log()).requires_grad_()
    loss, _ = subject("policy_loss")(
        new, old, float64(advantage), mask,
        clip=clip, clip_low=math.inf, clip_high=1.0, aggregate="constant", max_tokens=1,
    )  # fmt: skip
    assert_close(gradient(-loss, new), float64(slopes))
    if clip == "cispo":  # weights times log-probabilities: not a ratio
        assert_close(-loss.detach(), (float64(slopes) * new.detach()).sum())


@pytest.mark.parametrize("aggregate, first, second", [
    ("sequence_mean", 1 / 4, -1 / 8),  # 1/(2·2) and 1/(2·4): GRPO, a long wrong answer pays less
    ("token_mean", 1 / 6, -1 / 6),     # one sixth each: DAPO
    ("constant", 1 / 16, -1 / 16),     # 1/(2·8), whatever the lengths: Dr. GRPO
])  # fmt: skip
def test_policy_loss_shares_the_gradient_among_tokens(subject, aggregate, first, second):
    logprobs = -torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    logprobs.retain_grad()
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    loss, _ = subject("policy_loss")(
        logprobs, logprobs, float64(1.0, -1.0), mask, aggregate=aggregate, max_tokens=8
    )
    expected = float64([first, first, 0, 0], [second] * 4)
    assert_close(gradient(-loss, logprobs), expected)


def test_policy_loss_of_a_sequence_uses_the_mean_counted_log_ratio(subject):
    # GSPO: mean of 0.1, -0.3, 0.2, 0.4 is 0.1, s = 1.105171; each token's gradient is s·A/|y|.
    old = torch.full((1, 6), -2.0, dtype=torch.float64)
    new = (old + float64([0.1, -0.3, 0.2, 0.4, 5, 5])).requires_grad_()
    mask, function = torch.tensor([[1, 1, 1, 1, 0, 0]]), subject("policy_loss")
    loss, stats = function(new, old, float64(-2.0), mask, ratio="sequence", clip_high=4e-4)
    assert loss.item() == pytest.approx(2 * 1.105171, abs=1e-5)
    assert_close(gradient(-loss, new), -2 * math.exp(0.1) / 4 * mask.double())
    assert stats["ratio_mean"].item() == pytest.approx(1.105171, abs=1e-6)
    good, stats = function(new, old, float64(2.0), mask, ratio="sequence", clip_high=4e-4)
    assert good.item() == pytest.approx(-2 * 1.0004) and not gradient(good, new).any()
    assert stats["clip_high_fraction"] == 1


def slow_policy_loss(logprobs, old_logprobs, advantages, mask, ratio, clip, aggregate, max_tokens):
    """Objective, one token after the other, in plain numbers."""
    sums, counts = [], []
    for new, old, gains, counted in zip(logprobs, old_logprobs, advantages, mask, strict=True):
        tokens = [t for t in range(len(new)) if counted[t]]
        sums.append(0.0)
        counts.append(len(tokens))
        for t in tokens:
            over = tokens if ratio == "sequence" else [t]
            r = math.exp(sum(new[i] - old[i] for i in over) / len(over))
            c = min(max(r, 0.7), 1.4)
            ppo, cispo = min(r * gains[t], c * gains[t]), c * gains[t] * new[t]
            sums[-1] += {"ppo": ppo, "cispo": cispo, "none": r * gains[t]}[clip]
    if aggregate == "token_mean":
        return sum(sums) / sum(counts)
    if aggregate == "constant":
        return sum(sums) / (len(sums) * max_tokens)
    return sum(s / n for s, n in zip(sums, counts, strict=True) if n) / len(sums)


@pytest.mark.parametrize("ratio, clip, aggregate", VARIANTS)
def test_policy_loss_equals_a_slow_loop(subject, ratio, clip, aggregate):
    for seed in range(3):
        batch = random_batch(seed)
        batch[3][1] = False
        options = {"ratio": ratio, "clip": clip, "aggregate": aggregate, "max_tokens": 7}
        loss, _ = subject("policy_loss")(*batch, clip_low=0.3, clip_high=0.4, **options)
        slow = slow_policy_loss(*(x.tolist() for x in batch), **options)
        assert loss.item() == pytest.approx(-slow)


@given(rows=masks, seed=seeds, variant=st.sampled_from(VARIANTS))
def test_policy_loss_ignores_whatever_is_masked(subject, rows, seed, variant):
    mask = torch.tensor(rows)
    logprobs, old_logprobs, advantages, _ = random_batch(seed, mask.shape)
    options = dict(zip(("ratio", "clip", "aggregate"), variant, strict=True), max_tokens=4)
    results = []
    for counted, move in ((mask, lambda x: x), (mask.float(), lambda x: spoil(x, mask, seed))):
        new = move(logprobs)
        loss, stats = subject("policy_loss")(
            new, move(old_logprobs), move(advantages), counted, **options
        )
        results.append((loss, gradient(loss, new), stats))
    assert_close(*results)
    assert (results[1][1][~mask] == 0).all() and results[1][0].isfinite()


@given(seed=seeds, variant=st.sampled_from(VARIANTS))
def test_policy_loss_does_not_see_padding_or_order(subject, seed, variant):
    options = dict(zip(("ratio", "clip", "aggregate"), variant, strict=True), max_tokens=4)
    batch = random_batch(seed)
    expected, _ = subject("policy_loss")(*batch, **options)
    padded = [F.pad(x, (2, 1)) for x in batch]
    assert_close(subject("policy_loss")(*padded, **options)[0], expected)
    turned = [x.flip(0, 1) for x in batch]
    assert_close(subject("policy_loss")(*turned, **options)[0], expected)


def test_policy_loss_takes_one_advantage_a_sequence(subject):
    logprobs, old_logprobs, _, mask = random_batch(0, (3, 3))  # square: the wrong way would fit too
    advantages = float64(1.0, -2.0, 3.0)
    short, _ = subject("policy_loss")(logprobs, old_logprobs, advantages, mask)
    full, _ = subject("policy_loss")(logprobs, old_logprobs, advantages[:, None].expand(3, 3), mask)
    assert_close(short, full)


def test_policy_loss_sends_a_gradient_to_the_logprobs_alone(subject):
    logprobs, old_logprobs, advantages, mask = random_batch(1)
    old_logprobs.requires_grad_(), advantages.requires_grad_()
    loss, stats = subject("policy_loss")(logprobs, old_logprobs, advantages, mask)
    loss.backward()
    assert old_logprobs.grad is None and advantages.grad is None and logprobs.grad.any()
    assert not any(value.requires_grad for value in stats.values())
    assert all(value.shape == () for value in stats.values())


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_policy_loss_survives_an_exploded_ratio(subject, ratio, clip):
    old = torch.full((2, 2), -300.0)
    new = torch.full((2, 2), -1.0, requires_grad=True)
    for advantages in (torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])):
        loss, _ = subject("policy_loss")(
            new, old, advantages, torch.ones(2, 2), ratio=ratio, clip=clip
        )
        slope = gradient(loss, new)
        assert loss.isfinite() and slope.isfinite().all() and (slope[1] == 0).all()
        if advantages[0] < 0:
            assert (slope[0] > 0).all()  # a bad token that shot up is still pushed down


def test_policy_loss_does_not_hide_a_nan_that_counts(subject):
    for clip in CLIPS:
        new = torch.tensor([[math.nan, -1.0]])
        loss, _ = subject("policy_loss")(
            new, torch.ones(1, 2), torch.ones(1), torch.ones(1, 2), clip=clip
        )
        assert loss.isnan()


def test_policy_loss_reports_where_the_clip_acts(subject):
    old = torch.zeros(2, 4, dtype=torch.float64)
    new = float64([1.5, 0.5, 1.0, 9.0], [1.5, 0.5, 0.5, 9.0]).log()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]])
    advantages = float64(1.0, -1.0)  # ppo stops 1.5 of the good one, both 0.5 of the bad one
    expected = {"ppo": (2 / 6, 1 / 6), "cispo": (3 / 6, 2 / 6), "none": (0, 0)}
    for clip, (low, high) in expected.items():
        _, stats = subject("policy_loss")(new, old, advantages, mask, clip=clip)
        assert stats["clip_low_fraction"].item() == pytest.approx(low)
        assert stats["clip_high_fraction"].item() == pytest.approx(high)
    assert stats["ratio_mean"].item() == pytest.approx(5.5 / 6)
    assert stats["ratio_max"].item() == pytest.approx(1.5)
    kl = sum(r - 1 - math.log(r) for r in (1.5, 0.5, 1.0, 1.5, 0.5, 0.5)) / 6
    assert stats["approx_kl"].item() == pytest.approx(kl)


@pytest.mark.parametrize("ratio, clip", list(itertools.product(RATIOS, CLIPS)))
def test_policy_loss_on_policy_follows_the_expected_reward(subject, ratio, clip):
    # The policy-gradient theorem, without a sample: "constant" with max_tokens=1 sums over tokens.
    policy = TablePolicy.random(0)
    rewards = random(1, len(policy.tokens))
    truth = policy.gradient(policy.expectation(rewards))
    for baseline in (0.0, 5.0):  # any baseline: it only adds noise
        logprobs = policy.logprobs()
        losses = [
            subject("policy_loss")(
                logprobs[i : i + 1], logprobs[i : i + 1], rewards[i : i + 1] - baseline,
                policy.mask[i : i + 1], ratio=ratio, clip=clip, aggregate="constant", max_tokens=1,
            )[0]
            for i in range(len(rewards))
        ]  # fmt: skip
        assert_close(policy.gradient(-policy.sample_mean(torch.stack(losses))), truth)


@pytest.mark.parametrize("seed", range(3))
def test_policy_loss_of_ppo_never_promises_more_than_the_unclipped_one(subject, seed):
    # Taking the larger of the two for bad tokens, a slip often seen, would break this bound.
    batch = random_batch(seed, (1, 1000))
    clipped, plain = (subject("policy_loss")(*batch, clip=clip)[0] for clip in ("ppo", "none"))
    one_by_one = [
        [subject("policy_loss")(*(x[:, t : t + 1] for x in batch), clip=clip)[0] for t in range(60)]
        for clip in ("ppo", "none")
    ]
    assert clipped > plain and all(a >= b for a, b in zip(*one_by_one, strict=True))


def test_policy_loss_of_nothing_that_counts_is_zero_with_a_gradient(subject):
    for ratio, clip, aggregate in VARIANTS:
        logprobs, old_logprobs, advantages, mask = random_batch(0)
        loss, stats = subject("policy_loss")(
            logprobs, old_logprobs, advantages, mask & False,
            ratio=ratio, clip=clip, aggregate=aggregate, max_tokens=4,
        )  # fmt: skip
        assert loss == 0 and (gradient(loss, logprobs) == 0).all()
        assert all(value == 0 for value in stats.values())


def test_policy_loss_says_what_it_refuses(subject):
    loss, x, a = subject("policy_loss"), torch.zeros(2, 3), torch.zeros(2)
    refuses(loss, x, x[:1], a, x, match=r"old_logprobs has shape \[1, 3\], expected \[2, 3\]")
    refuses(loss, x, x, a[:1], x, match=r"advantages has shape \[1\], expected \[2\]")
    refuses(loss, x, x, a[:, None], x, match=r"advantages has shape \[2, 1\], expected \[2, 3\]")
    refuses(loss, x, x, torch.zeros(3), x, match=r"advantages has shape \[3\], expected \[2\]")
    refuses(loss, x, x, a, x[:, :1], match=r"mask has shape \[2, 1\], expected \[2, 3\]")
    refuses(loss, a, a, a, a, match=r"logprobs has shape \[2\], expected \[B,T\]")
    refuses(loss, x[:0], x[:0], a[:0], x[:0], match=r"logprobs has shape \[0, 3\].*at least one")
    refuses(loss, x, x, a, x, clip_low=-0.1, match="clip_low is -0.1, expected")
    refuses(loss, x, x, a, x, clip_high=math.nan, match="clip_high is nan, expected")
    refuses(loss, x, x, a, x, ratio="word", match="ratio is 'word', expected 'token' or 'sequence'")
    refuses(loss, x, x, a, x, clip="min", match="clip is 'min', expected 'ppo', 'cispo' or 'none'")
    refuses(loss, x, x, a, x, aggregate="constant", match="max_tokens is None")


# aggregates


def test_aggregate_tokens_by_hand(subject):
    x = float64([1, 2, 9, 9], [4, 9, 9, 9], [9, 9, 9, 9])
    mask = float64([1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0])
    aggregate_tokens = subject("losses.aggregate_tokens")
    results = [aggregate_tokens(x, mask, aggregate=name, max_tokens=8) for name in AGGREGATES]
    assert_close(torch.stack(results), float64((1.5 + 4 + 0) / 3, 7 / 3, 7 / (3 * 8)))
    for wrong in (None, 0):
        refuses(aggregate_tokens, x, mask, aggregate="constant", max_tokens=wrong,
                match=f"max_tokens is {wrong}, but aggregate='constant' divides by it")  # fmt: skip
    refuses(aggregate_tokens, x, mask, aggregate="sum", match="aggregate is 'sum', expected 'seq")
    refuses(aggregate_tokens, x[0], mask[0], match=r"x has shape \[4\], expected \[B,T\]")


MASK = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("aggregate, first, second", [
    ("sequence_mean", 1 / 6, 1 / 3),  # a third for each of three sequences, shared by its tokens
    ("token_mean", 1 / 3, 1 / 3),     # three tokens count
    ("constant", 1 / 24, 1 / 24),     # three sequences of 8
])  # fmt: skip
def test_aggregate_tokens_has_a_gradient_and_ignores_whatever_is_masked(
    subject, aggregate, first, second
):
    x = spoil(random(0, 3, 4).requires_grad_(), MASK != 0)
    result = subject("losses.aggregate_tokens")(x, MASK, aggregate=aggregate, max_tokens=8)
    slopes = float64([first, first, 0, 0], [second, 0, 0, 0], [0, 0, 0, 0])
    assert_close(gradient(result, x), slopes)
    assert_close(result, (slopes * torch.where(MASK != 0, x, 0)).sum())


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_aggregate_tokens_of_nothing_that_counts_is_zero_with_a_gradient(subject, aggregate):
    x, none = random(0, 2, 3).requires_grad_(), torch.zeros(2, 3)
    result = subject("losses.aggregate_tokens")(x, none, aggregate=aggregate, max_tokens=8)
    assert result == 0 and (gradient(result, x) == 0).all()


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_aggregate_tokens_does_not_hide_a_nan_that_counts(subject, aggregate):
    x, mask = float64([math.nan, 1], [1, 1]), torch.ones(2, 2)
    assert subject("losses.aggregate_tokens")(x, mask, aggregate=aggregate, max_tokens=8).isnan()


@pytest.mark.parametrize("aggregate, expected", [
    ("sequence_mean", 3.5),  # (2 + 5) / 2
    ("token_mean", 3),       # (1 + 3 + 5) / 3
    ("constant", 1.125),     # 9 / (2 · 4)
])  # fmt: skip
def test_aggregate_tokens_takes_a_mask_for_yes_or_no_and_not_for_a_weight(
    subject, aggregate, expected
):
    x, mask = float64([1, 3], [5, 9]), float64([2, 1], [0.5, 0])
    result = subject("losses.aggregate_tokens")(x, mask, aggregate=aggregate, max_tokens=4)
    assert result.item() == pytest.approx(expected)


def test_aggregate_share_takes_a_mask_for_yes_or_no_and_not_for_a_weight(subject):
    share, sizes = subject("losses.aggregate_share"), {"total_sequences": 1, "total_tokens": 4}
    result = share(torch.tensor([[2, 2, 0]]), aggregate="token_mean", **sizes)
    assert result.item() == pytest.approx(2 / 4)


def test_aggregate_share_by_hand(subject):
    share, mask = subject("losses.aggregate_share"), torch.tensor([[1, 1, 0], [0, 0, 0]])
    expected = {"token_mean": 2 / 10, "sequence_mean": 2 / 4, "constant": 2 / 4}
    for aggregate, value in expected.items():
        result = share(mask, aggregate=aggregate, total_sequences=4, total_tokens=10)
        assert result.item() == pytest.approx(value)
    assert share(mask * 0, aggregate="token_mean", total_sequences=4, total_tokens=0) == 0
    refuses(share, mask, aggregate="constant", total_sequences=1, total_tokens=2,
            match="total_sequences is 1, but mask alone has 2")  # fmt: skip
    for whole in (torch.ones(2, 1), mask):  # two tokens are all there are, without padding and with
        assert share(whole, aggregate="token_mean", total_sequences=2, total_tokens=2) == 1
    for few in (1, torch.tensor(1), 1.0):
        message = f"total_tokens is {float(few):.3g}(.0)?, but mask alone has 2"
        refuses(share, mask, aggregate="token_mean", total_sequences=2, total_tokens=few,
                match=message)  # fmt: skip
    refuses(share, mask, aggregate="mean", total_sequences=2, total_tokens=2, match="aggregate is")


@pytest.mark.parametrize("ratio, clip, aggregate", VARIANTS)
@pytest.mark.parametrize("rows", [[6], [1, 5], [2, 3, 1]])
def test_micro_batches_weighted_by_their_share_equal_one_batch(
    subject, ratio, clip, aggregate, rows
):
    batch = random_batch(4, (6, 5))
    batch[3][2] = False  # a part may hold a sequence that counts for nothing
    options = {"ratio": ratio, "clip": clip, "aggregate": aggregate, "max_tokens": 9}
    whole, _ = subject("policy_loss")(*batch, **options)
    parts = []
    for part in zip(*(x.split(rows) for x in batch), strict=True):
        share = subject("losses.aggregate_share")(
            part[3], aggregate=aggregate, total_sequences=6, total_tokens=batch[3].sum()
        )
        parts.append(share * subject("policy_loss")(*part, **options)[0])
    # The shares are float32, so that a GPU can work them out without being waited for.
    assert_close(sum(parts), whole, rtol=1e-6, atol=1e-7)
    slopes = [gradient(loss, batch[0]) for loss in (sum(parts), whole)]
    assert_close(*slopes, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("wrong", [-100.0, math.nan])
def test_a_mask_of_something_else_is_refused(subject, wrong):
    ones, mask = torch.ones(1, 2), torch.tensor([[1.0, wrong]])
    match = f"mask holds {wrong}, expected 0 or above"
    # Not of the `subject`: the stubs of these two bring checks of their own.
    refuses(losses.policy_loss, ones, ones, ones, mask, match=match)
    refuses(losses.value_loss, ones, ones, ones, mask, match=match)
    refuses(subject("losses.aggregate_tokens"), ones, mask, match=match)
    share = {"aggregate": "token_mean", "total_sequences": 1, "total_tokens": 2}
    refuses(subject("losses.aggregate_share"), mask, **share, match=match)


# value_loss


@pytest.mark.parametrize("value, old, target, loss, slope", [
    (1.0, 0.5, 0.9, 0.02, 0.0),    # clipped to 0.7: ½·max(0.1², 0.2²), and the clip has no slope
    (1.0, 0.9, 0.5, 0.125, 0.5),   # not clipped: ½·0.5²
    (0.2, 0.5, 0.9, 0.245, -0.7),  # clipped to 0.3, but moving away costs in full: ½·0.7²
])  # fmt: skip
def test_value_loss_takes_the_larger_square(subject, value, old, target, loss, slope):
    values = float64([value]).requires_grad_()
    result = subject("value_loss")(values, float64([old]), float64([target]), torch.ones(1, 1))
    assert result.item() == pytest.approx(loss)
    assert gradient(result, values).item() == pytest.approx(slope)


@given(rows=masks, seed=seeds)
def test_value_loss_equals_a_slow_loop_and_ignores_whatever_is_masked(subject, rows, seed):
    mask = torch.tensor(rows)
    tensors = random(seed, 3, *mask.shape)
    values, old_values, returns = (spoil(x.requires_grad_(), mask, seed) for x in tensors.detach())
    loss = subject("value_loss")(values, old_values, returns, mask.float(), clip=0.5)
    total = sum(
        max((v - r) ** 2, (min(max(v, o - 0.5), o + 0.5) - r) ** 2)
        for v, o, r in zip(*(x[mask].tolist() for x in tensors), strict=True)
    )
    assert loss.item() == pytest.approx(total / 2 / max(1, mask.sum().item()))
    loss.backward()
    assert old_values.grad is None and returns.grad is None
    assert values.grad.isfinite().all() and (values.grad[~mask] == 0).all()


def test_value_loss_without_a_clip_is_half_the_squared_error(subject):
    values, old_values, returns = random(0, 3, 2, 4)
    loss = subject("value_loss")(values, old_values, returns, torch.ones(2, 4), clip=math.inf)
    assert_close(loss, F.mse_loss(values, returns) / 2)


def test_value_loss_computes_its_bounds_in_full_precision():
    # In bfloat16 64 + 0.2 and 64 - 0.2 are both 64: the critic could not move at all.
    values, mask = torch.tensor([[64.1]], requires_grad=True), torch.ones(1, 1)
    old, target = torch.tensor([[64.0]]), torch.tensor([[65.0]])
    loss = losses.value_loss(values, old.bfloat16(), target.bfloat16(), mask)
    loss.backward()
    assert loss.item() == pytest.approx(0.9**2 / 2, rel=1e-5)
    assert values.grad.item() == pytest.approx(-0.9, rel=1e-5)


def test_value_loss_says_what_it_refuses(subject):
    loss, x = subject("value_loss"), torch.zeros(2, 3)
    refuses(loss, x, x[:1], x, x, match=r"old_values has shape \[1, 3\], expected \[2, 3\]")
    refuses(loss, x, x, x[:, :1], x, match=r"returns has shape \[2, 1\], expected \[2, 3\]")
    refuses(loss, x, x, x, x[0], match=r"mask has shape \[3\], expected \[2, 3\]")
    refuses(loss, x, x, x, x, clip=-1.0, match="clip is -1.0, expected a number of at least 0")
    refuses(loss, x[:0], x[:0], x[:0], x[:0], match=r"values has shape \[0, 3\]")


@pytest.mark.cuda
@pytest.mark.parametrize("ratio, clip, aggregate", VARIANTS)
def test_policy_and_value_loss_are_the_same_on_a_gpu(subject, ratio, clip, aggregate):
    options = {"ratio": ratio, "clip": clip, "aggregate": aggregate, "max_tokens": 7}
    batch = [x.detach() for x in random_batch(0)]
    there = [x.cuda() for x in batch]
    results = [subject("policy_loss")(*x, **options) for x in (there, batch)]
    assert_close(*results, check_device=False)
    results = [subject("value_loss")(*x) for x in (there, batch)]
    assert_close(*results, check_device=False)
