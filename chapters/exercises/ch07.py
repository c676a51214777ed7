"""Exercises of chapter 07: GRPO, from rewards to one number.

Write your lines where `raise NotImplementedError` stands; what is around it is given. Then

    make check CH=7        or one of them:  make check CH=7 ONLY=group_advantages

Hints stand at the end of the file. Shapes: P prompts, G completions of each, B = P·G sequences,
T tokens. A mask is not 0 where a token counts; what stands elsewhere may be anything, NaN included,
and must change neither a value nor a gradient.
"""

# ruff: noqa: F401  (what is imported here waits for your lines)

import math

import torch
from torch import Tensor

from reasoning_from_scratch import losses
from reasoning_from_scratch.checks import check_choice, check_mask, check_tensor


def group_advantages(
    rewards: Tensor, *, baseline: str = "mean", scale: str = "group_std", eps: float = 1e-4
) -> Tensor:
    """Exercise 7.1 ★ (15 minutes, write the formula). How much better than the others of its group?

    Args:
        rewards:  [P,G] row p holds the completions of prompt p.
        baseline: what is subtracted: "mean" the group's mean, "leave_one_out" the mean of the
                  *other* completions of the group, "none" nothing.
        scale:    what the difference is divided by: "group_std" the deviation of the group's
                  rewards (dividing by n - 1) + eps, "batch_std" that of all rewards + eps,
                  "none" 1.
        eps:      0 or more.

    Returns:
        [P,G]. A group that agrees gets exactly 0 throughout, unless baseline is "none": with
        eps = 0 too, and where seven times 0.1 has a mean that is not 0.1. What would be divided by
        0, as only eps = 0 can have it, is 0 whatever the baseline.

    >>> group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), eps=0.0)
    tensor([[ 1.5000, -0.5000, -0.5000, -0.5000]])

    Mirrors `advantages.group_advantages`; held by tests/test_advantages.py.
    """
    check_choice("baseline", baseline, ("mean", "leave_one_out", "none"))
    check_choice("scale", scale, ("group_std", "batch_std", "none"))
    check_tensor("rewards", rewards)
    if rewards.dim() != 2:
        raise ValueError(f"rewards has shape {list(rewards.shape)}, expected [P,G]")
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
    if not eps >= 0:
        raise ValueError(f"eps is {eps}, expected a number of at least 0")
    rewards = rewards if rewards.dtype == torch.float64 else rewards.float()
    if rewards.numel() == 0:
        return rewards
    raise NotImplementedError("exercise 7.1, group_advantages")


def aggregate_tokens(
    x: Tensor, mask: Tensor, *, aggregate: str = "sequence_mean", max_tokens: int | None = None
) -> Tensor:
    """Exercise 7.2 ★★ (15 minutes, write the formula). From one number a token to one number.

    Args:
        x:          [B,T]. Carries the gradient.
        mask:       [B,T] not 0 where a token counts.
        aggregate:  "sequence_mean" (GRPO) the mean over all B sequences of each one's mean over
                    its counted tokens, which is 0 for a sequence that has none; "token_mean"
                    (DAPO) the mean over all counted tokens; "constant" (Dr. GRPO) the sum over
                    counted tokens, divided by B · max_tokens.
        max_tokens: the same number for every batch of a run.

    Returns:
        A scalar; 0 if nothing counts.

    >>> x, mask = torch.tensor([[1.0, 2.0], [6.0, 9.0]]), torch.tensor([[1, 1], [1, 0]])
    >>> [aggregate_tokens(x, mask, aggregate=a).item() for a in ("sequence_mean", "token_mean")]
    [3.75, 3.0]

    Mirrors `losses.aggregate_tokens`; held by tests/test_losses_policy.py.
    """
    check_choice("aggregate", aggregate, ("sequence_mean", "token_mean", "constant"))
    if x.dim() != 2 or not x.numel():
        raise ValueError(f"x has shape {list(x.shape)}, expected [B,T] with at least one entry")
    check_mask(mask, x.shape, "one entry for each of x")
    if aggregate == "constant" and (max_tokens is None or not max_tokens > 0):
        raise ValueError(f"max_tokens is {max_tokens}, but aggregate='constant' divides by it")
    x = x if x.dtype == torch.float64 else x.float()  # half precision would round too much
    raise NotImplementedError("exercise 7.2, aggregate_tokens")


def aggregate_share(
    mask: Tensor, *, aggregate: str, total_sequences: int, total_tokens: int | Tensor
) -> Tensor:
    """Exercise 7.3 ★★ (15 minutes, write the formula). What a part of the batch weighs.

    A batch does not fit into memory, so it is cut into parts of some sequences each. The loss of
    each part is that of `aggregate_tokens`, averaged over *this part*. With which weights do the
    parts' losses add up to the loss of the whole?

    Args:
        mask:            [b,T] of the part.
        aggregate:       "sequence_mean", "token_mean" or "constant", as in exercise 7.2.
        total_sequences: B of the whole batch.
        total_tokens:    how many tokens count in the whole batch: a number, or a tensor with one.

    Returns:
        A scalar tensor. 0 where tokens are averaged and none counts in the whole.

    >>> mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    >>> aggregate_share(mask, aggregate="token_mean", total_sequences=8, total_tokens=12)
    tensor(0.2500)

    Mirrors `losses.aggregate_share`; held by tests/test_losses.py and tests/test_losses_policy.py.
    """
    check_choice("aggregate", aggregate, ("sequence_mean", "token_mean", "constant"))
    if mask.dim() != 2 or not mask.numel():
        raise ValueError(f"mask has shape {list(mask.shape)}, expected [b,T] with an entry")
    check_mask(mask, mask.shape, "as it came")
    if len(mask) > total_sequences:
        raise ValueError(f"total_sequences is {total_sequences}, but mask alone has {len(mask)}")
    counted, total = (mask != 0).sum(), torch.as_tensor(total_tokens)
    if aggregate == "token_mean" and counted > total:
        raise ValueError(f"total_tokens is {total.item()}, but mask alone has {counted.item()}")
    raise NotImplementedError("exercise 7.3, aggregate_share")


def process_advantages(
    rewards: Tensor, mask: Tensor, *, group_size: int, eps: float = 1e-4
) -> Tensor:
    """Exercise 7.4 ★★★ (20 minutes, find the bug). Compare the steps of a group's completions.

    GRPO with a reward for each *step*: those of all steps of a group are brought to mean 0 and
    deviation 1, and a token gets the sum of those of its own step and of all later ones. It runs,
    all shapes are right, and half of what it says is nonsense. One line is wrong. Delete the first
    line, follow four rows of two prompts through it by hand, and mend it.

    Args:
        rewards:    [B,T] the reward of a step, on its last token.
        mask:       [B,T] not 0 on the last token of each step.
        group_size: G; the rows are in the order in which `sample` returns completions: all those
                    of the first prompt, then all those of the second, and so on.
        eps:        ≥ 0, added to the deviation (n - 1) of a group's steps.

    Returns:
        [B,T], 0 after a completion's last step.

    >>> rewards, ends = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.ones(2, 2)
    >>> process_advantages(rewards, ends, group_size=2, eps=0.0)  # mean 0.75, deviation 0.5
    tensor([[-1.0000, -1.5000],
            [ 1.0000,  0.5000]])

    Mirrors `advantages.process_advantages`; held by tests/test_advantages.py.
    """
    raise NotImplementedError("exercise 7.4, process_advantages: delete this line, find the bug")
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
    rewards = rewards if rewards.dtype == torch.float64 else rewards.float()
    members = torch.arange(len(rewards)).view(group_size, -1).T  # [P,G]
    counted, paid = mask[members] != 0, rewards[members]  # [P,G,T]
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
    advantages[members] = scaled.flip(2).cumsum(2).flip(2)  # this step's and all later ones'
    return advantages


def mixed_group_chance(n: int, c: int, group_size: int) -> float:
    """Exercise 7.5 ★★ (20 minutes, design). How often would this problem teach anything?

    A group of completions teaches only if it is *mixed*, neither all right nor all wrong. Of a
    problem that is solved with probability p a group of G is mixed with probability
    1 - p^G - (1-p)^G. But p is not known: n completions were sampled and c of them were right, and
    c/n in the place of p would say "never" of every problem that was not solved in n tries or was
    solved in all of them, and too little on average. Find an estimate that is right on average,
    whatever p is: among *these* n completions, how many sets of G are mixed?

    Args:
        n:          completions sampled.
        c:          how many were right, 0 to n.
        group_size: G, 1 to n.

    >>> mixed_group_chance(4, 2, 2)  # of six pairs four are mixed
    0.6666666666666666

    Mirrors `stats.mixed_group_chance`; held by tests/test_stats.py.
    """
    for name, value in (("n", n), ("c", c), ("group_size", group_size)):
        if value != int(value):
            raise ValueError(f"{name} is {value}, expected a whole number")
    if not 0 <= c <= n:
        raise ValueError(f"c is {c}, expected 0 to n={n}: the right ones among n completions")
    if not 1 <= group_size <= n:
        raise ValueError(f"group_size is {group_size}, expected 1 to n={n}: draw at least as many")
    raise NotImplementedError("exercise 7.5, mixed_group_chance")


# region Hints: open one at a time
#
# 7.1  Subtract the group's first reward from all of the group before anything else: the advantages
#      stay the same, and where all agree everything is 0 before it can round. The others' mean is
#      (G · mean - own) / (G - 1): how does own minus that compare with own minus mean?
#
# 7.2  What is 0 · NaN? `losses.masked_mean` takes a `dim`.
#
# 7.3  Write the loss of the whole as a sum over parts. By what was a part's sum divided, and by
#      what should it have been? "sequence_mean" and "constant" divide by sequences, all of them.
#
# 7.4  With four rows, which are the two completions of the first prompt? `repeat_interleave` and
#      `repeat` would number the rows 0, 0, 1, 1 and 0, 1, 0, 1.
#
# 7.5  `math.comb(c, G)` is the number of sets that are all right, also where G is larger than c.
#
# endregion
