"""Exercises of chapter 06: PPO, piece by piece.

Write your lines where `raise NotImplementedError` stands; what is around it is given. Then

    make check CH=6        or one of them:  make check CH=6 ONLY=gae

Hints stand at the end of the file. Shapes: B sequences, T tokens. A mask is not 0 where a token
counts; what stands elsewhere may be anything, NaN included, and must change neither a value nor a
gradient.
"""

# ruff: noqa: F841  (what is imported and prepared here waits for your lines)

import math

import torch
from torch import Tensor

from reasoning_from_scratch import losses
from reasoning_from_scratch.checks import check_choice, check_mask, check_shape, check_tensor


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Exercise 6.1 ★★ (20 minutes, write the formula). How much better was each token than hoped?

    From the last token to the first: δ = r + γ·V(next) - V, and A = δ + γλ·A(next). "Next" is the
    next token that *counts*, and after the last one both V(next) and A(next) are 0.

    Args:
        rewards: [B,T] of each token.
        values:  [B,T] what the critic expected before the token was chosen.
        mask:    [B,T] not 0 on the tokens that the policy chose. Others may lie between them.

    Returns:
        (advantages, returns), [B,T] without gradient; returns = advantages + values, and both are
        0 where nothing counts.

    >>> rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.6, 0.7]])
    >>> gae(rewards, values, torch.ones(1, 3), lam=1.0)[0]  # what came in the end, minus V
    tensor([[0.5000, 0.4000, 0.3000]])

    Mirrors `advantages.gae`; held by tests/test_advantages.py.
    """
    check_tensor("rewards", rewards)
    if rewards.dim() != 2:
        raise ValueError(f"rewards has shape {list(rewards.shape)}, expected [B,T]")
    check_shape("values", values, rewards.shape, "one entry for each of rewards")
    check_mask(mask, rewards.shape, "one entry for each of rewards")
    for name, value in (("gamma", gamma), ("lam", lam)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, expected 0 to 1")
    advantages = torch.zeros_like(rewards + values)
    raise NotImplementedError("exercise 6.1, gae")


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Exercise 6.2 ★★ (15 minutes, write the formula). Advantages with mean 0 and deviation 1.

    Args:
        x:          [B,T]. Carries the gradient.
        mask:       [B,T] not 0 where an entry counts.
        shift_mean: False gives the mean back in the end.

    Returns:
        [B,T]: (x - mean) / sqrt(variance + 1e-8), both over all counted entries of the batch, the
        variance divided by their number. 0 where nothing counts. Seven thousand equal numbers have
        a float32 mean that is a little off: they become 0 all the same (below 1e-3 will do).

    >>> whiten(torch.tensor([[1.0, 2.0, 50.0], [3.0, 4.0, 60.0]]), torch.tensor([[1, 1, 0]] * 2))
    tensor([[-1.3416, -0.4472,  0.0000],
            [ 0.4472,  1.3416,  0.0000]])

    `losses.masked_mean` may be used. Mirrors `advantages.whiten`; held by tests/test_advantages.py.
    """
    check_mask(mask, x.shape, "one entry for each of x")
    x = x if x.dtype == torch.float64 else x.float()  # half precision would round too much
    raise NotImplementedError("exercise 6.2, whiten")


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float = 0.2
) -> Tensor:
    """Exercise 6.3 ★ (10 minutes, write the formula). The critic's error, clipped.

    Of each token's two squared errors, that of the value and that of the value held within `clip`
    of the old one, the *larger* counts: moving away from the target is never free. The old values
    and the returns are constants: detach them.

    Args:
        values:     [B,T] the critic's. Alone carries a gradient.
        old_values: [B,T] its values when the rollout was made.
        returns:    [B,T] what they should have been.
        mask:       [B,T] not 0 where a token counts.
        clip:       0 or more; math.inf for the plain squared error.

    Returns:
        A scalar: half the mean over all counted tokens.

    >>> new, old, target = torch.tensor([[1.0]]), torch.tensor([[0.9]]), torch.tensor([[0.5]])
    >>> value_loss(new, old, target, torch.ones(1, 1))  # ½ · 0.5²
    tensor(0.1250)

    `losses.masked_mean` may be used. Mirrors `losses.value_loss`; held by
    tests/test_losses_policy.py.
    """
    if values.dim() != 2 or not values.numel():
        raise ValueError(f"values has shape {list(values.shape)}, expected [B,T] with an entry")
    check_shape("old_values", old_values, values.shape, "one entry for each of values")
    check_shape("returns", returns, values.shape, "one entry for each of values")
    check_mask(mask, values.shape, "one entry for each of values")
    if not clip >= 0:
        raise ValueError(f"clip is {clip}, expected a number of at least 0")
    raise NotImplementedError("exercise 6.3, value_loss")


def bounded_expm1(x: Tensor) -> Tensor:
    """Return exp(x) - 1, and above x = 20 its tangent, which cannot overflow. Given."""
    beyond = math.exp(losses.MAX_LOG_RATIO) * (x - losses.MAX_LOG_RATIO).relu()
    return torch.expm1(x.clamp(max=losses.MAX_LOG_RATIO)) + beyond


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, *, kind: str = "k3") -> Tensor:
    """Exercise 6.4 ★★ (15 minutes, write the formula). KL(policy‖reference), from one sample.

    With r = reference(token) / policy(token): "k1" is -log r, "k2" is (log r)² / 2, and "k3" is
    r - 1 - log r.

    Args:
        logprobs:     [B,T] log π(token) of tokens sampled from the policy. Carries the gradient.
        ref_logprobs: [B,T] the reference's, of the same tokens.
        kind:         "k1", "k2" or "k3".

    Returns:
        [B,T] in nats. Start with "k1": its tests run alone.

    >>> kl_estimate(torch.tensor([[-1.0]]), torch.tensor([[-2.0]]), kind="k1")
    tensor([[1.]])

    Mirrors `losses.kl_estimate`; held by tests/test_losses.py.
    """
    check_shape("ref_logprobs", ref_logprobs, logprobs.shape, "one entry for each of logprobs")
    check_choice("kind", kind, ("k1", "k2", "k3"))
    # What is not finite is set aside and comes back as NaN: a mask may take it out later, and
    # 0 · NaN in its gradient would still be NaN.
    finite = (logprobs - ref_logprobs).isfinite()
    policy, reference = torch.where(finite, logprobs, 0), torch.where(finite, ref_logprobs, 0)
    estimate = torch.zeros_like(policy - reference)
    raise NotImplementedError("exercise 6.4, kl_estimate: put the estimate in the place of zeros")
    return torch.where(finite, estimate, math.nan)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ratio: str = "token",
    clip: str = "ppo",
    aggregate: str = "sequence_mean",
    max_tokens: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Exercise 6.5 ★★ (15 minutes, find the bug). The loss that makes good tokens more likely.

    This stood in published code: at first training works, and no curve looks odd. One line is
    wrong. Delete the first line, work the four cases by hand (advantage ±1, ratio 1.5 and 0.5), and
    mend it.

    Args:
        logprobs:     [B,T] of the policy in training. Alone carries a gradient.
        old_logprobs: [B,T] of the policy that sampled.
        advantages:   [B,T], or [B] for one number a sequence.
        mask:         [B,T] not 0 on the tokens that the policy sampled.
        clip_low, clip_high: how far the ratio may move from 1.
        ratio:        "token", or "sequence" for exp of the mean log-ratio of a sequence.
        clip:         "ppo", "cispo" or "none".
        aggregate, max_tokens: how tokens become one number, see `losses.aggregate_tokens`.

    Returns:
        The loss, a scalar to minimise, and what is worth logging.

    >>> old, bad = torch.tensor([[-1.0]]), torch.tensor([-1.0])  # a bad token, gone likelier
    >>> policy_loss(old + math.log(1.5), old, bad, torch.ones(1, 1))[0]  # pays in full
    tensor(1.5000)

    Mirrors `losses.policy_loss`; held by tests/test_losses.py and tests/test_losses_policy.py.
    """
    raise NotImplementedError("exercise 6.5, policy_loss: delete this line, find the bug")
    losses._check_policy_inputs(logprobs, old_logprobs, advantages, clip_low, clip_high)
    check_choice("ratio", ratio, ("token", "sequence"))
    check_choice("clip", clip, ("ppo", "cispo", "none"))
    check_mask(mask, logprobs.shape, "one entry for each of logprobs")
    counted = mask != 0
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand_as(logprobs)
    logprobs = torch.where(counted, logprobs, 0)
    old_logprobs = torch.where(counted, old_logprobs.detach(), 0)
    advantages = torch.where(counted, advantages.detach(), 0)

    log_ratio = logprobs - old_logprobs
    if ratio == "sequence":
        log_ratio = losses.masked_mean(log_ratio, counted, dim=1)[:, None].expand_as(logprobs)
    ratios = losses._bounded_exp(log_ratio)  # exp, without an overflow
    bounds = (1 - clip_low, 1 + clip_high)
    clipped = ratios.clamp(*bounds)
    if clip == "ppo":
        good, raw, held = advantages >= 0, ratios * advantages, clipped * advantages
        objective = torch.where(good, torch.minimum(raw, held), torch.maximum(raw, held))
    elif clip == "cispo":
        objective = clipped.detach() * advantages * logprobs
    else:
        objective = ratios * advantages
    loss = -losses.aggregate_tokens(objective, counted, aggregate=aggregate, max_tokens=max_tokens)

    with torch.no_grad():
        low, high = losses._where_clip_acts(clip, ratios, advantages, bounds)
        stats = {
            "ratio_mean": losses.masked_mean(ratios, counted),
            "approx_kl": losses.masked_mean(losses.kl_estimate(old_logprobs, logprobs), counted),
            "clip_low_fraction": losses.masked_mean(low, counted),
            "clip_high_fraction": losses.masked_mean(high, counted),
            "ratio_max": torch.where(counted, ratios, 0).max(),
        }
    return loss, stats


def adapt_kl_coef(coef: float, kl: float, *, target: float, horizon: float, n: int) -> float:
    """Exercise 6.6 ★★ (15 minutes, design). Keep the policy at a chosen distance from its start.

    A fixed KL weight is too small on one day and too large on the next. Steer it: when the KL of
    this step is above its target, the weight grows, when it is below, it shrinks, in proportion to
    the *relative* error, how far kl lies from the target as a share of the target. One wild
    measurement must not move it far: the error is clamped to a fifth either way. And the size of a
    step must not matter: `horizon` completions move it by that error, n of them by n / horizon of
    it. In one line: relative change of the weight = clamped error · n / horizon.

    Args:
        coef:    the weight so far.
        kl:      measured, in nats a completion.
        target:  what it should be, above 0.
        horizon: in completions, above 0.
        n:       completions of this step.

    Returns:
        The weight for the next step.

    >>> round(adapt_kl_coef(0.1, 12.0, target=6.0, horizon=1000, n=100), 6)  # +20 % · 100/1000
    0.102

    Mirrors `ppo.adapt_kl_coef`; held by tests/test_ppo.py.
    """
    for name, value in (("target", target), ("horizon", horizon)):
        if not value > 0:
            raise ValueError(f"{name} is {value}, expected a number above 0")
    if not 0 <= n < 5 * horizon:
        raise ValueError(f"n is {n}, expected 0 to less than 5 · horizon = {5 * horizon}")
    raise NotImplementedError("exercise 6.6, adapt_kl_coef")


# region Hints: open one at a time
#
# 6.1  Two variables, the next value and the next advantage, [B] each, start at 0. After a token
#      that counts they are its own; after another they stay. `torch.where`, at every step.
#
# 6.2  What happens to 0 · NaN, and where would `torch.where` come first? Equal numbers: after
#      subtracting a mean that is a little off, what is the mean of what is left?
#
# 6.3  `clamp(old - clip, old + clip)` takes tensors. Take what does not count out first.
#
# 6.4  The policy was sampled, so it stands below the line of r. exp(x) - 1 of a small x loses its
#      digits, and exp(x) of a large one overflows: `bounded_expm1` does neither.
#
# 6.5  A bad token (advantage -1) that became likelier (ratio 1.5): the raw objective is -1.5, the
#      clipped one -1.2. PPO takes the smaller, whatever the sign of the advantage.
#
# 6.6  Relative error: kl / target - 1. Multiply the weight, do not add to it.
#
# endregion
