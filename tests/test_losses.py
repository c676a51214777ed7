"""The losses but the policy's: numbers worked by hand, exact expectations, slow references."""

import math

import pytest
import torch
from hypothesis import given
from torch.nn import functional as F
from torch.testing import assert_close

from reasoning_from_scratch import losses
from reasoning_from_scratch.exact import TablePolicy
from tests.tensors import float64, gradient, masks, random, refuses, seeds, spoil

# token_logprobs


def test_token_logprobs_of_odds_one_two_five(subject):
    logits = float64(1, 2, 5).log().expand(1, 3, 3)  # probabilities 1/8, 2/8, 5/8
    result = subject("token_logprobs")(logits, torch.tensor([[0, 1, 2]]))
    assert_close(result, float64([1 / 8, 2 / 8, 5 / 8]).log())


def test_token_logprobs_gradient_is_the_token_minus_the_probabilities(subject):
    logits = float64([[1, 2, 5]]).log().requires_grad_()
    result = subject("token_logprobs")(logits, torch.tensor([[1]]))
    assert_close(gradient(3 * result.sum(), logits), 3 * float64([[-1 / 8, 6 / 8, -5 / 8]]))


@pytest.mark.parametrize("part", [1, 20, 2**22])  # how many logits are handled at once
def test_token_logprobs_equals_log_softmax_and_gather(subject, monkeypatch, part):
    token_logprobs = subject("token_logprobs")
    monkeypatch.setitem(token_logprobs.__globals__, "PART_ENTRIES", part)
    logits = random(0, 5, 4, 7).requires_grad_()
    tokens = torch.randint(7, (5, 3), generator=torch.Generator().manual_seed(1))
    ours = token_logprobs(logits[:, :-1], tokens)  # not contiguous, as in every training loop
    slow = logits[:, :-1].log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    assert_close(ours, slow)
    weights = random(2, 5, 3)
    assert_close(gradient((weights * ours).sum(), logits), gradient((weights * slow).sum(), logits))


def test_token_logprobs_of_bfloat16_logits_are_computed_in_float32(subject):
    logits = (10 * random(0, 2, 3, 50)).bfloat16().requires_grad_()
    tokens = torch.zeros(2, 3, dtype=torch.int32)
    ours = subject("token_logprobs")(logits, tokens)
    assert ours.dtype == torch.float32 and gradient(ours.sum(), logits).dtype == torch.bfloat16
    assert_close(ours, logits.float().log_softmax(-1)[..., 0])


def test_token_logprobs_allow_impossible_tokens(subject):
    logits = float64([[0, -math.inf, 0], [0, -math.inf, 0]]).requires_grad_()
    result = subject("token_logprobs")(logits, torch.tensor([[0, 1]]))
    assert_close(result.detach(), float64([-math.log(2), -math.inf]))
    assert_close(gradient(result.sum(), logits), float64([[0.5, 0, -0.5], [-0.5, 1, -0.5]]))


def test_token_logprobs_never_look_at_a_row_that_has_no_gradient(subject):
    logits = float64([[1, 2], [math.nan, math.nan], [-math.inf, -math.inf]]).requires_grad_()
    result = subject("token_logprobs")(logits, torch.zeros(1, 3, dtype=torch.long))
    slope = gradient(result[0, 0], logits)[0]
    assert slope[0].abs().sum() > 0 and (slope[1:] == 0).all()


def test_token_logprobs_of_nothing_are_nothing(subject):
    tokens = torch.zeros(0, 3, dtype=torch.long)
    assert subject("token_logprobs")(torch.zeros(0, 3, 4), tokens).shape == (0, 3)


def test_token_logprobs_says_what_it_refuses(subject):
    token_logprobs, tokens = subject("token_logprobs"), torch.zeros(2, 3, dtype=torch.long)
    refuses(token_logprobs, torch.zeros(2, 4, 5), tokens, match=r"tokens has shape \[2, 3\].*2, 4")
    refuses(token_logprobs, torch.zeros(5), tokens, match=r"logits has shape \[5\]")
    refuses(token_logprobs, torch.zeros(2, 3, 5), tokens - 1, match="tokens holds -1, .* 0 to 4")
    refuses(token_logprobs, torch.zeros(2, 3, 5), tokens + 5, match="tokens holds 5, .* 0 to 4")
    refuses(token_logprobs, torch.zeros(2, 3, 5), tokens.float(), match="tokens has dtype")


# token_entropy


def test_token_entropy_of_a_half_and_two_quarters(subject):
    logits = float64([[0.5, 0.25, 0.25], [1, 1, 1]]).log() + 7  # 1/2·log 2 + 2·1/4·log 4; log 3
    assert_close(subject("token_entropy")(logits), float64([1.5 * math.log(2), math.log(3)]))


def test_token_entropy_of_logits_far_below_zero_is_that_of_their_differences(subject):
    # Odds of e^3 to 1, p = 0.952574: -p·log p - (1 - p)·log(1 - p) = 0.190865.
    for shift in (0, -150, -1e4):
        entropy = subject("token_entropy")(float64([shift, shift - 3.0])[None])
        assert entropy.item() == pytest.approx(0.190865, abs=1e-6)


def test_token_entropy_is_finite_with_impossible_tokens(subject):
    logits = float64([[[0, -math.inf, 0], [3, -math.inf, -math.inf], [-math.inf] * 3]])[0]
    logits.requires_grad_()
    entropy = subject("token_entropy")(logits)
    assert_close(entropy.detach(), float64([math.log(2), 0, 0]))
    assert gradient(entropy.sum(), logits).isfinite().all()


@pytest.mark.parametrize("part", [1, 20, 2**22])
def test_token_entropy_equals_the_sum_over_the_vocabulary(subject, monkeypatch, part):
    token_entropy = subject("token_entropy")
    monkeypatch.setitem(token_entropy.__globals__, "PART_ENTRIES", part)
    logits = random(0, 3, 2, 4).requires_grad_()
    slow = [[sum(-p * math.log(p) for p in row) for row in rows] for rows in
            logits.softmax(-1).tolist()]  # fmt: skip
    assert_close(token_entropy(logits).detach(), float64(*slow))
    assert torch.autograd.gradcheck(token_entropy, logits)
    refuses(token_entropy, torch.zeros(4), match=r"logits has shape \[4\]")


# masked_mean


def test_masked_mean_by_hand(subject):
    x = float64([1, 2, 9], [4, 9, 9], [9, 9, 9])
    mask = float64([1, 1, 0], [1, 0, 0], [0, 0, 0])
    masked_mean = subject("masked_mean")
    assert_close(masked_mean(x, mask), torch.tensor(7 / 3, dtype=torch.float64))
    assert_close(masked_mean(x, mask.bool(), dim=1), float64(1.5, 4, 0))
    assert_close(masked_mean(x, mask, dim=0), float64(2.5, 2, 0))
    assert_close(masked_mean(torch.tensor([1, 2]), torch.tensor([1, 1])), torch.tensor(1.5))
    assert masked_mean(x, torch.zeros(3, 3)) == 0
    refuses(masked_mean, x, mask[:1], match=r"mask has shape \[1, 3\], expected \[3, 3\]")


@given(rows=masks, seed=seeds)
def test_masked_mean_ignores_whatever_is_masked(subject, rows, seed):
    mask = torch.tensor(rows)
    x = spoil(random(seed, *mask.shape).requires_grad_(), mask, seed)
    for dim in (None, 0, 1):
        mean = subject("masked_mean")(x, mask, dim)
        slope = gradient(mean.sum(), x)
        assert mean.isfinite().all() and (slope[~mask] == 0).all()
        if dim is None and mask.any():
            assert_close(mean, x[mask].mean())


# sft_loss


def logits_with(nll):
    """Two-token logits under which token 0 has the given negative log-probabilities."""
    p = (-nll).exp()
    return torch.stack([p, 1 - p], -1).log()


def test_sft_loss_averages_over_the_assistants_tokens_only(subject):
    logits = logits_with(float64([0.5, 1.0, 2.0, 0.25]))
    targets, mask = torch.zeros(1, 4, dtype=torch.long), torch.tensor([[0, 1, 1, 0]])
    assert subject("sft_loss")(logits, targets, mask).item() == pytest.approx(1.5)


def test_sft_loss_of_parts_adds_up_over_tokens_not_over_parts(subject):
    # Losses 6 over 2 tokens and 4 over 8: the mean of means is 1.75, the mean over tokens 1.
    nll, mask = float64([3.0] * 8, [0.5] * 8), float64([1, 1] + [0] * 6, [1] * 8)
    total = 0
    for row in (slice(0, 1), slice(1, 2)):
        share = subject("losses.aggregate_share")(
            mask[row], aggregate="token_mean", total_sequences=2, total_tokens=10
        )
        targets = torch.zeros(1, 8, dtype=torch.long)
        total += share * subject("sft_loss")(logits_with(nll[row]), targets, mask[row])
    assert total.item() == pytest.approx(1.0)


@given(rows=masks, seed=seeds)
def test_sft_loss_equals_cross_entropy_and_ignores_whatever_is_masked(subject, rows, seed):
    mask = torch.tensor(rows)
    logits = random(seed, *mask.shape, 3).requires_grad_()
    targets = torch.where(mask, seed % 3, -100)
    spoiled = spoil(logits, mask, seed)
    loss = subject("sft_loss")(spoiled, targets, mask)
    slope = gradient(loss, spoiled)
    if not mask.any():
        assert loss == 0 and (slope == 0).all()
        return
    slow = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    assert_close(loss, slow)
    assert_close(slope, gradient(slow, logits))


def test_sft_loss_says_what_it_refuses(subject):
    sft_loss, targets, mask = subject("sft_loss"), torch.zeros(2, 3).long(), torch.ones(2, 3)
    logits = torch.zeros(2, 3, 5)
    refuses(sft_loss, logits, targets[:, 1:], mask, match=r"targets has shape \[2, 2\]")
    refuses(sft_loss, logits, targets, mask[:1], match=r"mask has shape \[1, 3\], expected \[2, 3")
    refuses(sft_loss, logits, targets - 100, mask, match="holds -100")
    refuses(sft_loss, logits[:0], targets[:0], mask[:0], match=r"targets has shape \[0, 3\]")


# bradley_terry_loss and dpo_loss


@pytest.mark.parametrize("chosen, rejected, margin, loss", [
    (1.0, 0.2, 0.0, 0.371101),    # log(1 + e^-0.8)
    (1.0, 0.2, 1 / 3, 0.486793),  # log(1 + e^-0.466667)
    (2.0, 1.0, 0.0, 0.313262),    # three pairs of one ranking [2, 1, -0.5]
    (2.0, -0.5, 0.0, 0.078890),
    (1.0, -0.5, 0.0, 0.201413),
    (0.5, 0.5, 0.0, 0.693147),    # log 2
])  # fmt: skip
def test_bradley_terry_loss_by_hand(subject, chosen, rejected, margin, loss):
    function = subject("bradley_terry_loss")
    result = function(float64(chosen), float64(rejected), margin=margin)
    assert result.item() == pytest.approx(loss, abs=1e-6)
    # The mean over pairs, each with a margin of its own.
    pair = function(float64(chosen, 0), float64(rejected, 0), margin=float64(margin, 0))
    assert pair.item() == pytest.approx((loss + math.log(2)) / 2, abs=1e-6)


def test_bradley_terry_loss_stays_exact_for_a_hopeless_pair(subject):
    chosen = torch.tensor([-500.0, 500.0], requires_grad=True)
    loss = subject("bradley_terry_loss")(chosen, -chosen.detach())
    assert_close(loss.detach(), torch.tensor(500.0))  # the mean of 1000 and 0
    assert_close(gradient(loss, chosen), torch.tensor([-0.5, 0.0]))


@given(seed=seeds)
def test_bradley_terry_loss_of_a_swapped_pair_differs_by_the_difference(subject, seed):
    chosen, rejected = random(seed, 2, 5).requires_grad_()
    loss = subject("bradley_terry_loss")
    assert_close(loss(chosen, rejected) - loss(rejected, chosen), (rejected - chosen).mean())
    assert_close(loss(chosen + 3, rejected + 3), loss(chosen, rejected))


@pytest.mark.parametrize("name, count", [("bradley_terry_loss", 2), ("dpo_loss", 4)])
def test_losses_of_pairs_say_what_they_refuse(subject, name, count):
    loss, good = subject(name), [torch.zeros(3)] * count
    for wrong in range(1, count):
        tensors = [*good[:wrong], torch.zeros(1), *good[wrong + 1 :]]
        refuses(loss, *tensors, match=r"has shape \[1\], expected \[3\]: one entry for each of cho")
    refuses(loss, *[torch.zeros(3, 1)] * count, match=r"chosen has shape \[3, 1\], expected \[B\]")
    refuses(loss, *[torch.zeros(0)] * count, match=r"chosen has shape \[0\]")
    if count == 2:
        refuses(loss, *good, margin=torch.zeros(2), match=r"margin has shape \[2\]")
    else:
        refuses(loss, *good, beta=0.0, match="beta is 0.0, expected a number above 0")


def test_dpo_loss_by_hand(subject):
    # 0.1·((-12 + 13) - (-15 + 14)) = 0.2, and log(1 + e^-0.2) = 0.598139.
    tensors = [float64(x).requires_grad_() for x in (-12.0, -15.0, -13.0, -14.0)]
    loss = subject("dpo_loss")(*tensors)
    assert loss.item() == pytest.approx(0.598139, abs=1e-6)
    loss.backward()
    slopes = [tensor.grad.item() for tensor in tensors[:2]]
    assert slopes == pytest.approx([-0.0450166, 0.0450166], abs=1e-6)  # 0.1·σ(-0.2)
    assert tensors[2].grad is None and tensors[3].grad is None  # the reference stays as it is


def test_dpo_loss_stays_exact_for_a_hopeless_pair(subject):
    # 0.1·((-20000 + 100) - 0) = -1990: log(1 + e^1990) is 1990, and σ(1990) is 1.
    chosen = float64(-20000.0).requires_grad_()
    loss = subject("dpo_loss")(chosen, *(float64(x) for x in (-100.0, -100.0, -100.0)))
    assert loss.item() == pytest.approx(1990)
    assert gradient(loss, chosen).item() == pytest.approx(-0.1)


@given(seed=seeds)
def test_dpo_loss_is_bradley_terry_on_implicit_rewards(subject, seed):
    chosen, rejected, ref_chosen, ref_rejected = -10 * random(seed, 4, 5).abs()
    loss = subject("dpo_loss")(chosen, rejected, ref_chosen, ref_rejected, beta=0.3)
    rewards = 0.3 * (chosen - ref_chosen), 0.3 * (rejected - ref_rejected)
    assert_close(loss, F.softplus(rewards[1] - rewards[0], threshold=100).mean())
    initial = subject("dpo_loss")(chosen, rejected, chosen, rejected)
    assert initial.item() == pytest.approx(math.log(2))


# kl_estimate


def test_kl_estimate_by_hand(subject):
    # π = (1/2, 1/2), reference = (1/4, 3/4), log(ref/π) = (-log 2, log 1.5).
    logprobs, ref_logprobs = float64([0.5, 0.5]).log(), float64([0.25, 0.75]).log()
    expected = {
        "k1": [0.693147, -0.405465],
        "k2": [0.240227, 0.082201],  # half the squares of those
        "k3": [0.193147, 0.094535],  # 1/2 - 1 + log 2, and 3/2 - 1 - log 1.5
    }
    for kind, values in expected.items():
        estimate = subject("kl_estimate")(logprobs, ref_logprobs, kind=kind)
        assert estimate[0].tolist() == pytest.approx(values, abs=1e-6)
    default = subject("kl_estimate")(float64([-1.0]), float64([-1.2]))
    assert default.item() == pytest.approx(0.018731, abs=1e-6)  # k3: e^-0.2 - 1 + 0.2


# No sampling. Weighting every completion by its probability gives the expectation exactly.
@pytest.mark.parametrize("kind", ["k1", "k3"])
@pytest.mark.parametrize("seed", range(3))
def test_kl_estimate_has_the_true_kl_as_its_mean(subject, kind, seed):
    policy, reference = TablePolicy.random(seed), TablePolicy.random(seed + 100)
    estimate = subject("kl_estimate")(policy.logprobs(), reference.logprobs(), kind=kind)
    assert_close(policy.expectation(estimate.sum(1)), policy.kl(reference))


@pytest.mark.parametrize("seed", range(3))
def test_kl_estimate_as_a_loss_has_the_gradient_it_promises(subject, seed):
    # One token, so that the whole completion is what the estimator sees.
    policy = TablePolicy.random(seed, max_tokens=1)
    reference = TablePolicy.random(seed + 100, max_tokens=1)
    promised = {
        "k1": 0 * policy.entropy(),
        "k2": policy.kl(reference),
        "k3": reference.kl(policy),  # the other way round!
    }
    for kind, divergence in promised.items():
        estimate = subject("kl_estimate")(policy.logprobs(), reference.logprobs(), kind=kind)
        loss = policy.sample_mean(estimate.sum(1))
        assert_close(policy.gradient(loss), policy.gradient(divergence))


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimate_stays_finite_and_pulls_the_right_way_far_from_the_reference(subject, kind):
    logprobs = torch.tensor([[-200.0, -1.0, -1.0]], requires_grad=True)
    ref_logprobs = torch.tensor([[-1.0, -200.0, -1.0]])
    estimate = subject("kl_estimate")(logprobs, ref_logprobs, kind=kind)
    slope = gradient(estimate.sum(), logprobs)[0]
    assert estimate.isfinite().all() and slope.isfinite().all() and estimate[0, 2] == 0
    if kind != "k1":
        assert slope[0] < 0 < slope[1] and slope[2] == 0  # towards the reference, on both sides


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimate_can_be_masked_afterwards(subject, kind):
    bad = [-1.0, -2.0, math.nan, -math.inf, -math.inf, -1.0]
    logprobs = torch.tensor([bad], requires_grad=True)
    ref_logprobs = torch.tensor([[-1.5, -2.5, -1.0, -math.inf, -1.0, -math.inf]])
    estimate = subject("kl_estimate")(logprobs, ref_logprobs, kind=kind)
    assert not estimate[0, 2:].isfinite().any()  # what is not finite is not hidden
    mean = subject("masked_mean")(estimate, torch.tensor([[1, 1, 0, 0, 0, 0]]))
    slope = gradient(mean, logprobs)[0]
    assert mean.isfinite() and (slope[:2] != 0).all() and (slope[2:] == 0).all()


def test_kl_estimate_keeps_the_digits_of_a_small_difference(subject):
    logprobs = torch.tensor([[-1.0]])
    estimate = subject("kl_estimate")(logprobs, logprobs + 2**-12, kind="k3")
    exact = math.expm1(2**-12) - 2**-12  # 3e-8, where the steps of float32 near 1 are 1.2e-7
    assert estimate.item() == pytest.approx(exact, rel=1e-2)


def test_kl_estimate_says_what_it_refuses(subject):
    logprobs = torch.zeros(2, 3)
    refuses(
        subject("kl_estimate"), logprobs, logprobs[:1], match=r"ref_logprobs has shape \[1, 3\]"
    )
    refuses(
        subject("kl_estimate"), logprobs, logprobs, kind="k4", match="kind is 'k4', expected 'k"
    )


@pytest.mark.cuda
def test_language_losses_are_the_same_on_a_gpu(subject):
    logits, tokens, mask = random(0, 4, 6, 9), torch.arange(24).view(4, 6) % 9, random(1, 4, 6) > 0
    a, b, c, d = random(2, 4, 6)[..., 0], *random(3, 3, 4)
    calls = [
        ("token_logprobs", logits, tokens), ("token_entropy", logits),
        ("masked_mean", random(4, 4, 6), mask), ("sft_loss", logits, tokens, mask),
        ("bradley_terry_loss", a, b), ("dpo_loss", a, b, c, d), ("kl_estimate", a[None], b[None]),
    ]  # fmt: skip
    for name, *tensors in calls:
        here, there = subject(name)(*tensors), subject(name)(*(tensor.cuda() for tensor in tensors))
        assert_close(there, here, check_device=False)


def test_a_list_is_refused_by_name(subject):
    ones = torch.ones(1, 2)
    with pytest.raises(ValueError, match="advantages is a list, expected a tensor"):
        subject("policy_loss")(ones, ones, [1.0], ones)
    with pytest.raises(ValueError, match="logprobs is a list, expected a tensor"):
        subject("policy_loss")([[1.0]], ones, ones, ones)
    with pytest.raises(ValueError, match="logits is a list, expected a tensor"):
        subject("token_entropy")([[[1.0]]])


def test_a_list_is_refused_by_name_in_the_package():
    # Not of the `subject`: the stubs of the exercises bring checks of their own.
    ones = torch.ones(1, 2)
    refuses(losses.masked_mean, [[1.0, 1.0]], ones, match="x is a list, expected a tensor")
    refuses(losses.kl_estimate, [[1.0]], ones, match="logprobs is a list, expected a tensor")
    refuses(
        losses.bradley_terry_loss, ones[0], ones[0], margin=[1.0, 1.0],
        match="margin is a list, expected a number or a tensor",
    )  # fmt: skip


@pytest.mark.parametrize("wrong", [-100, -1, math.nan])
def test_a_mask_of_something_else_is_refused(wrong):
    ones, mask = torch.ones(1, 2), torch.tensor([[1.0, wrong]])
    logits, match = torch.zeros(1, 2, 3), f"mask holds {float(wrong)}, expected 0 or above"
    refuses(losses.masked_mean, ones, mask, match=match)
    refuses(losses.sft_loss, logits, ones.long(), mask, match=match)
    half = torch.tensor([[0.5, 0.0]])
    assert losses.masked_mean(torch.tensor([[4.0, 9.0]]), half) == 4  # no weight: it counts
