"""From rewards to advantages: how much better a completion, or a token, was than expected.

`group_advantages` compares completions of one prompt with each other, `process_advantages` their
steps, `gae` compares tokens with a critic's estimate, `whiten` gives any of them mean 0 and
deviation 1. Left out on purpose: rewards,
and the KL that some algorithms subtract from them first.

Shapes: P prompts, G completions of each, B = P·G sequences, T tokens. A mask [B,T] is bool or
numeric; a token counts where it is not 0 (0.5 as much as 1; negative and NaN are refused on a CPU),
and what stands elsewhere never matters. Half precision and whole numbers are computed in float32.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from reasoning_from_scratch.checks import check_choice, check_mask, check_shape, check_tensor
from reasoning_from_scratch.losses import masked_mean

Baseline = Literal["mean", "leave_one_out", "none"]
Scale = Literal["group_std", "batch_std", "none"]


def group_advantages(
    rewards: Tensor, *, baseline: Baseline = "mean", scale: Scale = "group_std", eps: float = 1e-4
) -> Tensor:
    """Compare each completion with the other completions of its own prompt.

    Args:
        rewards:  [P,G] finite; row p holds the completions of prompt p, and of no other.
        baseline: what is subtracted. "mean" the group's mean; "leave_one_out" the mean of the
                  *others* in the group, which is G/(G-1) times further away; "none" nothing.
        scale:    what it is then divided by. "group_std" the group's sample deviation (n - 1)
                  + eps; "batch_std" that of all rewards + eps; "none" 1.
        eps:      ≥ 0, keeps groups that nearly agree from being blown up.

    Returns:
        [P,G]. Exactly 0 throughout a group that agrees, unless baseline is "none"; 0 also where
        the divisor is 0, which takes eps = 0, whatever the baseline.

    Raises:
        ValueError: not [P,G], a reward is not finite, fewer than two completions to compare, an
            unknown option, or a negative eps.

    Source: "mean" and "group_std" Shao et al. 2024 (GRPO), section 4.1.2; without scale Liu et al.
        2025 (Dr. GRPO); "leave_one_out" Ahmadian et al. 2024 (RLOO); "batch_std" Hu et al.
        2025 (REINFORCE++).
    """
    check_choice("baseline", baseline, get_args(Baseline))
    check_choice("scale", scale, get_args(Scale))
    _check_rewards(rewards, baseline, scale)
    if not eps >= 0:
        raise ValueError(f"eps is {eps}, expected a number of at least 0")
    rewards = _at_least_float32(rewards)
    if rewards.numel() == 0:
        return rewards

    # Measured from the group's first, a group that agrees is all zeros before anything can round.
    centred = rewards - rewards[:, :1]
    centred = centred - centred.mean(1, keepdim=True)
    if baseline == "mean":
        advantages = centred
    elif baseline == "leave_one_out":
        group_size = rewards.shape[1]
        advantages = centred * (group_size / (group_size - 1))
    else:
        advantages = rewards

    if scale == "none":
        return advantages
    if scale == "group_std":
        divisor = centred.std(1, keepdim=True) + eps
    else:
        divisor = (rewards - rewards[0, 0]).std() + eps
    agree = divisor == 0  # only with eps = 0: nothing to compare, rather than 0 / 0
    return torch.where(agree, 0, advantages / torch.where(agree, 1, divisor))


def process_advantages(
    rewards: Tensor, mask: Tensor, *, group_size: int, eps: float = 1e-4
) -> Tensor:
    """Compare the steps of completions with all steps of their group, where each step has a reward.

    GRPO's process supervision: the rewards of all steps of a group get mean 0 and deviation 1, and
    a token is given credit for its own step and all later ones.

    Args:
        rewards:    [B,T] the reward of a step, on its last token.
        mask:       [B,T] not 0 on the last token of each step, prompt and padding left out.
        group_size: G; rows p·G to p·G + G - 1 are the completions of prompt p, as `sample` returns
                    them.
        eps:        ≥ 0, added to the deviation (n - 1) of a group's steps.

    Returns:
        [B,T] the sum of the scaled rewards of the steps that end at this token or later: 0 after
        the last step, and throughout a group whose steps agree. A prompt's tokens get a number
        too: the loss's mask leaves them out. With one step a completion, `group_advantages`.

    Raises:
        ValueError: shapes differ, B is no multiple of a group_size of at least 2, a reward that
            counts is not finite, or a negative eps.

    Source: Shao et al. 2024 (GRPO), section 4.1.3.
    """
    check_tensor("rewards", rewards)
    if rewards.dim() != 2:
        raise ValueError(f"rewards has shape {list(rewards.shape)}, expected [B,T]")
    check_mask(mask, rewards.shape, "one entry for each of rewards")
    if group_size < 2 or len(rewards) % group_size:
        raise ValueError(
            f"group_size is {group_size}, expected at least 2, and {len(rewards)} rows of rewards "
            "to be a multiple of it"
        )
    if (wrong := (mask != 0) & ~rewards.isfinite()).any():
        raise ValueError(f"rewards holds {rewards[wrong][0].item()}, expected finite")
    if not eps >= 0:
        raise ValueError(f"eps is {eps}, expected a number of at least 0")
    rewards = _at_least_float32(rewards)
    rows = torch.arange(len(rewards), device=rewards.device).view(-1, group_size)  # [P,G]
    counted, paid = mask[rows] != 0, rewards[rows]  # [P,G,T]
    whole = {"dim": (1, 2), "keepdim": True}  # a group: all tokens of all its completions

    # Measured from the largest, a group that agrees is all zeros before anything can round.
    centred = paid - torch.where(counted, paid, -math.inf).amax(**whole)
    steps = counted.sum(**whole)
    mean = torch.where(counted, centred, 0).sum(**whole) / steps.clamp(min=1)
    centred = torch.where(counted, centred - mean, 0)
    deviation = (centred.square().sum(**whole) / (steps - 1).clamp(min=1)).sqrt() + eps
    agree = deviation == 0  # only with eps = 0: nothing to compare, rather than 0 / 0
    scaled = torch.where(agree, 0, centred / torch.where(agree, 1, deviation))

    advantages = torch.zeros_like(rewards)
    advantages[rows] = scaled.flip(2).cumsum(2).flip(2)
    return advantages


@torch.no_grad()
def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Estimate each token's advantage over the critic's expectation, and the critic's target.

    From the last token to the first: δ = r + γ·V(next) - V and A = δ + γλ·A(next). "Next" is the
    next token that *counts*, so a tool's output inside a completion is stepped over; after the last
    one both are 0, also where the completion was cut off.

    Args:
        rewards: [B,T] reward of each token, usually 0 but on the last one that counts.
        values:  [B,T] the critic's expectation *before* the token was chosen.
        mask:    [B,T] not 0 on the tokens that the policy chose.
        gamma:   0 to 1, the worth of a reward one token later.
        lam:     0 to 1. 0 trusts the critic most; 1 not at all: A = sum of what followed - V.

    Returns:
        (advantages, returns), both [B,T], 0 where nothing counts, without gradient;
        returns = advantages + values. Take them before whitening the advantages.

    Raises:
        ValueError: shapes differ, or gamma or lam outside 0 to 1.

    Source: Schulman et al. 2015, eq. 11–16.
    """
    check_tensor("rewards", rewards)
    if rewards.dim() != 2:
        raise ValueError(f"rewards has shape {list(rewards.shape)}, expected [B,T]")
    check_shape("values", values, rewards.shape, "one entry for each of rewards")
    check_mask(mask, rewards.shape, "one entry for each of rewards")
    for name, value in (("gamma", gamma), ("lam", lam)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, expected 0 to 1")
    counted = mask != 0
    rewards, values = _at_least_float32(rewards), _at_least_float32(values)

    advantages = torch.zeros_like(rewards + values)
    next_value = next_advantage = advantages.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        surprise = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = surprise + gamma * lam * next_advantage
        next_advantage = torch.where(counted[:, t], advantage, next_advantage)
        next_value = torch.where(counted[:, t], values[:, t], next_value)
        advantages[:, t] = torch.where(counted[:, t], advantage, 0)
    return advantages, torch.where(counted, advantages + values, 0)


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Scale the counted entries to deviation 1, and shift them to mean 0.

    Args:
        x:          [B,T], any shape will do.
        mask:       the same shape, not 0 where an entry counts.
        shift_mean: False keeps the mean where it was (for rewards, whose sign has a meaning).

    Returns:
        The shape of x; (x - mean) / sqrt(var + 1e-8), both over all counted entries, var divided
        by n as in OpenAI's code (not n - 1). 0 where nothing counts.

    Raises:
        ValueError: shapes differ.

    Source: Ziegler et al. 2019, code; Huang et al. 2024, "The N+ implementation details of RLHF".
    """
    check_tensor("x", x)
    check_mask(mask, x.shape, "one entry for each of x")
    counted, x = mask != 0, _at_least_float32(x)
    mean = masked_mean(x, counted)
    centred = torch.where(counted, x - mean, 0)
    # The mean of a million equal numbers is a little off; that must not be scaled up to 1.
    centred = centred - masked_mean(centred, counted)
    white = centred * torch.rsqrt(masked_mean(centred.square(), counted) + 1e-8)
    return torch.where(counted, white if shift_mean else white + mean, 0)


def _check_rewards(rewards: Tensor, baseline: str, scale: str) -> None:
    check_tensor("rewards", rewards)
    if rewards.dim() != 2:
        shape = list(rewards.shape)
        raise ValueError(f"rewards has shape {shape}, expected [P,G]: a row for each prompt")
    group_size = rewards.shape[1]
    for name, value in (("baseline", baseline), ("scale", scale)):
        if value in ("mean", "leave_one_out", "group_std") and group_size < 2:
            raise ValueError(
                f"group_size is {group_size}, but {name}={value!r} compares a completion with its "
                "group: use at least 2"
            )
    if scale == "batch_std" and rewards.numel() == 1:
        raise ValueError("rewards has one entry, but scale='batch_std' needs at least 2")
    if not rewards.isfinite().all():
        raise ValueError(f"rewards holds {rewards[~rewards.isfinite()][0].item()}, expected finite")


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
