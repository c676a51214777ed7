"""Rewards that look at how long a completion is.

Lengths are in *tokens* of the completion (a known slip is to count characters). Each function
takes numbers of one completion, but `kimi_length_reward`, which compares a group. The ones whose
name says reward contain the reward for being right; `overlong_penalty` and Kimi's are to be added
to it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

LengthReward = Literal["none", "kimi", "cosine", "lcpo_exact", "lcpo_max"]
TARGETED = ("lcpo_exact", "lcpo_max")  # those that compare with what the prompt asks for

if TYPE_CHECKING:  # works on tensors, without loading PyTorch for those who have lists
    from torch import Tensor


def lcpo_exact(correct: float, length: int, target: int, *, alpha: float = 0.0003) -> float:
    """Reward being right, minus `alpha` for each token off the requested length.

    Args:
        correct: 1 or True if right, else 0; a score between also counts.
        length:  tokens of the completion.
        target:  tokens asked for in the prompt ("Think for 1000 tokens.").
        alpha:   per token. At the default a right answer 3,333 tokens off is worth a wrong one
                 of exactly the right length.

    Returns:
        correct - alpha · |target - length|.

    Raises:
        ValueError: correct outside 0 to 1, or a negative length, target or alpha.

    Source: Aggarwal & Welleck 2025 (L1), LCPO-Exact.
    """
    _check(correct, length=length, target=target, alpha=alpha)
    return float(correct) - alpha * abs(float(target) - float(length))


def lcpo_max(
    correct: float, length: int, target: int, *, alpha: float = 0.0003, delta: float = 0.5
) -> float:
    """Reward being right, the more the further below the allowed length.

    Args:
        correct: 1 or True if right, else 0.
        target:  tokens allowed in the prompt ("Think for maximum 1000 tokens.").
        alpha:   per token; 1/alpha should be of the order of the lengths, or the clip always acts.
        delta:   worth of a right answer that uses exactly `target`.

    Returns:
        correct · clip(alpha · (target - length) + delta, 0, 1). A wrong answer gets 0 at any
        length: were the two added, a short wrong one would pay.

    Raises:
        ValueError: as `lcpo_exact`.

    Source: Aggarwal & Welleck 2025 (L1), LCPO-Max.
    """
    _check(correct, length=length, target=target, alpha=alpha)
    return float(correct) * min(max(alpha * (float(target) - float(length)) + delta, 0.0), 1.0)


def kimi_length_reward(
    lengths: "Sequence[float] | Tensor", correct: "Sequence[float] | Tensor"
) -> "list[float] | Tensor":
    """Compare the completions of one prompt: the shortest gets 0.5, the longest -0.5.

    Args:
        lengths: [G] tokens, of right and wrong completions together.
        correct: [G] 1 or True where right, else 0.

    Returns:
        [G] between -0.5 and 0.5, to be weighted and added to the reward: a tensor like `lengths`
        if that is one (float32 if it holds whole numbers), else a list. A wrong completion gets
        at most 0: being short must not pay for being wrong. All 0 if all are equally long.

    Raises:
        ValueError: not one `correct` for each of `lengths`, an empty group, a negative length, or
            a `correct` that is neither 0 nor 1.

    Source: Kimi Team 2025 (Kimi k1.5), "Length Penalty".
    """
    sizes, right = _flat("lengths", lengths), _flat("correct", correct)
    if len(right) != len(sizes):
        raise ValueError(f"correct has {len(right)} entries, expected {len(sizes)}: as lengths")
    for length, is_right in zip(sizes, right, strict=True):
        _check(is_right, lengths=length)
        if is_right not in (0, 1):
            raise ValueError(f"correct holds {is_right}, expected 0 or 1")
    shortest, spread = min(sizes), max(sizes) - min(sizes)
    rewards = []
    for length, is_right in zip(sizes, right, strict=True):
        reward = 0.5 - (length - shortest) / spread if spread else 0.0
        rewards.append(reward if is_right else min(0.0, reward))
    if hasattr(lengths, "new_tensor"):
        like = lengths if lengths.is_floating_point() else lengths.float()
        return like.new_tensor(rewards)
    return rewards


def cosine_reward(
    correct: float,
    length: int,
    max_length: int,
    *,
    right_short: float = 2.0,
    right_long: float = 1.0,
    wrong_short: float = -10.0,
    wrong_long: float = 0.0,
    exceeded: float | None = None,
) -> float:
    """Reward being right and short; when wrong, punish giving up early.

    From 0 to `max_length` the reward goes from its "short" to its "long" value along half a cosine
    wave: flat at both ends.

    Args:
        correct:     1 or True if right, else 0.
        length:      tokens of the completion. Beyond `max_length` the long value stays (without
                     that the wave would turn, and twice the length be worth as much as none).
        max_length:  tokens at which the long value is reached, above 0.
        right_short, right_long: of a right completion. With the defaults every right one is worth
                     more than every wrong one.
        wrong_short, wrong_long: of a wrong completion.
        exceeded:    value of *any* completion of `max_length` or more, which was cut off; None
                     leaves it to the curve. The paper has -10.

    Raises:
        ValueError: correct is neither 0 nor 1, a negative length, or max_length not above 0.

    Source: Yeo et al. 2025, "Demystifying Long Chain-of-Thought Reasoning in LLMs", in the
        form of its code: its printed formula swaps the two ends.
    """
    _check(correct, length=length)
    if correct not in (0, 1):
        raise ValueError(f"correct is {correct}, expected 0 or 1")
    if not max_length > 0:
        raise ValueError(f"max_length is {max_length}, expected above 0")
    if exceeded is not None and length >= max_length:
        return float(exceeded)
    short, long = (right_short, right_long) if correct else (wrong_short, wrong_long)
    progress = min(float(length) / max_length, 1.0)
    return float(long + (short - long) * (1 + math.cos(math.pi * progress)) / 2)


def overlong_penalty(length: int, *, max_length: int, cache_length: int) -> float:
    """Punish the last `cache_length` tokens before the limit, linearly from 0 to -1.

    Args:
        length:       tokens of the completion.
        max_length:   tokens at which a completion is cut off.
        cache_length: tokens over which the penalty grows; 0 punishes only beyond the limit.

    Returns:
        0 up to and at max_length - cache_length, above that down to -1 at max_length, where it
        stays; to be added to the reward.

    Raises:
        ValueError: a negative length, or cache_length outside 0 to max_length.

    Source: Yu et al. 2025 (DAPO), eq. 13.
    """
    _check(0, length=length, cache_length=cache_length)
    if not cache_length <= max_length:
        raise ValueError(
            f"cache_length is {cache_length}, expected at most max_length={max_length}"
        )
    allowed = max_length - cache_length
    if length <= allowed:
        return 0.0
    return float(max(allowed - length, -cache_length) / cache_length) if cache_length else -1.0


def length_part(
    kind: LengthReward,
    correct: Sequence[float],
    lengths: Sequence[int],
    *,
    coef: float,
    max_length: int,
    target: int | None = None,
) -> list[float]:
    """Return what length adds to the rewards of one prompt's completions, beside being right.

    Args:
        kind:       kimi: coef · `kimi_length_reward`; cosine: `cosine_reward` with a right answer's
                    worth falling from 1 to 1 - coef, a wrong one's rising from -coef to 0;
                    lcpo_exact, lcpo_max: the functions of that name, coef being their alpha;
                    none: nothing.
        correct:    [G] 1 where right, else 0.
        lengths:    [G] tokens.
        coef:       ≥ 0.
        max_length: tokens at which a completion is cut off.
        target:     tokens that the prompt asks for; wanted by lcpo_exact and lcpo_max.

    Returns:
        [G], to be added to `correct`.

    Raises:
        ValueError: no such kind, no target where one is wanted, or what the functions refuse.
    """
    if kind not in get_args(LengthReward):
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(get_args(LengthReward))}")
    if not coef >= 0:
        raise ValueError(f"coef is {coef}, expected a number of at least 0")
    if kind == "kimi":
        return [coef * reward for reward in kimi_length_reward(list(lengths), list(correct))]
    if kind in TARGETED and target is None:
        raise ValueError(f"target is None, but {kind} compares with what the prompt asks for")
    parts = []
    for right, length in zip(correct, lengths, strict=True):
        if kind == "cosine":
            how = {"right_short": 1.0, "right_long": 1.0 - coef, "wrong_short": -coef}
            parts.append(cosine_reward(right, length, max_length, **how) - right)
        elif kind == "lcpo_exact":
            parts.append(lcpo_exact(right, length, target, alpha=coef) - right)
        elif kind == "lcpo_max":
            parts.append(lcpo_max(right, length, target, alpha=coef) - right)
        else:
            parts.append(0.0)
    return parts


def _check(correct: float, **amounts: float) -> None:
    if not 0 <= correct <= 1:
        raise ValueError(f"correct is {correct}, expected 0 to 1")
    for name, amount in amounts.items():
        if not 0 <= amount < math.inf:
            raise ValueError(f"{name} is {amount}, expected a finite number of at least 0")


def _flat(name: str, values: "Sequence[float] | Tensor") -> list[float]:
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    if not isinstance(listed, list) or not listed or isinstance(listed[0], list):
        raise ValueError(f"{name} is {listed}, expected [G]: one entry for each completion")
    return [float(value) for value in listed]
