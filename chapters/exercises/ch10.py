"""Exercises of chapter 10: what was mended in GRPO.

Write your lines where `raise NotImplementedError` stands; what is around it is given. Then

    make check CH=10        or one of them:  make check CH=10 ONLY=overlong_penalty

Hints stand at the end of the file. Shapes: B sequences, T tokens, V entries of the vocabulary, G
completions of a problem. A mask is not 0 where a token counts; what stands elsewhere may be
anything, NaN included, and must change neither a value nor a gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from reasoning_from_scratch import losses
from reasoning_from_scratch.checks import check_choice, check_mask, check_shape


def overlong_penalty(length: int, *, max_length: int, cache_length: int) -> float:
    """Exercise 10.1 ★ (10 minutes, write the formula). Warn before the limit, not at it.

    A completion that is cut off may have been on the right way. So the last `cache_length` tokens
    before the limit get dearer and dearer: the penalty goes from 0 to -1 along a straight line.

    Args:
        length:       tokens of the completion.
        max_length:   tokens at which a completion is cut off.
        cache_length: tokens over which the penalty grows. With 0 there is none up to the limit, the
                      limit included, and beyond it all of it.

    Returns:
        A float: 0 up to and at max_length - cache_length, whatever cache_length; above that on the
        line, which reaches -1 at max_length and stays there.

    >>> overlong_penalty(90, max_length=100, cache_length=20)
    -0.5

    Mirrors `lengths.overlong_penalty`; held by tests/test_lengths.py.
    """
    for name, amount in (("length", length), ("cache_length", cache_length)):
        if not 0 <= amount < float("inf"):
            raise ValueError(f"{name} is {amount}, expected a finite number of at least 0")
    if cache_length > max_length:
        raise ValueError(
            f"cache_length is {cache_length}, expected at most max_length={max_length}"
        )
    raise NotImplementedError("exercise 10.1, overlong_penalty")


def probability_ratio(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, *, ratio: str = "token"
) -> Tensor:
    """Exercise 10.2 ★★ (15 minutes, write the formula). How much likelier has it become?

    PPO gives each token its own ratio, π / π_old. GSPO gives all tokens of a sequence the same one:
    the geometric mean of their ratios, that is exp of the mean of their log-ratios.

    Args:
        logprobs:     [B,T] of the policy in training. Alone carries a gradient.
        old_logprobs: [B,T] of the policy that sampled. A constant: detach it.
        mask:         [B,T] not 0 on the tokens that the policy sampled.
        ratio:        "token" or "sequence".

    Returns:
        [B,T]: on a counted token its own ratio or that of its sequence, on any other 1. It must not
        overflow, nor its gradient, however far apart the two are.

    >>> new, mask = torch.tensor([[0.1, -0.3, 0.2, 0.4, 7.0]]), torch.tensor([[1, 1, 1, 1, 0]])
    >>> probability_ratio(new, torch.zeros(1, 5), mask, ratio="sequence")
    tensor([[1.1052, 1.1052, 1.1052, 1.1052, 1.0000]])

    `losses._bounded_exp` is an exp that cannot overflow; `losses.masked_mean` may be used, too.
    Mirrors `losses.probability_ratio`; held by tests/test_losses_policy.py.
    """
    check_choice("ratio", ratio, ("token", "sequence"))
    check_mask(mask, logprobs.shape, "one entry for each of logprobs")
    check_shape("old_logprobs", old_logprobs, logprobs.shape, "one entry for each of logprobs")
    if logprobs.dtype != torch.float64:
        logprobs = logprobs.float()  # half precision would round too much
    raise NotImplementedError("exercise 10.2, probability_ratio")


def token_entropy(logits: Tensor) -> Tensor:
    """Exercise 10.3 ★★ (10 minutes, find the bug). How undecided is the policy?

    -Σ p · log p, the number by which clip-higher is judged. This one was right for months, until
    somebody forbade a token by setting its logit to -inf. One line is wrong. Delete the first
    line, work out what an impossible token adds to the sum, and mend it.

    Args:
        logits: [B,T,V] of the next token, may hold -inf. Carries the gradient.

    Returns:
        [B,T] in nats; 0 where no token is possible at all.

    >>> token_entropy(torch.tensor([[[0.0, 0.0, -9e9]]]))  # log 2: as good as impossible
    tensor([[0.6931]])

    Mirrors `losses.token_entropy`; held by tests/test_losses.py.
    """
    raise NotImplementedError("exercise 10.3, token_entropy: delete this line, find the bug")
    losses._check_logits(logits)
    if logits.dtype != torch.float64:
        logits = logits.float()  # half precision would round too much
    possible = logits != -torch.inf
    somewhere = possible.any(-1, keepdim=True)
    logprobs = torch.where(somewhere, logits, 0).log_softmax(-1)
    surprise = torch.where(somewhere, -logprobs, 0)
    return (logprobs.exp() * surprise).sum(-1)


def fill_with_mixed(
    draw: Callable[[int], Tensor], wanted: int, *, rounds: int
) -> list[tuple[int, int]]:
    """Exercise 10.4 ★★★ (25 minutes, design). Fill a batch with groups that teach.

    A group whose completions are all worth the same has no advantage. Draw until enough groups are
    *mixed*, the largest worth in it above the smallest. A draw costs as much as it samples, so ask
    each time for no more than what is still missing, and not at all when nothing is. After the last
    round the batch must be full all the same.

    Args:
        draw:   called with a number of groups p, it samples them and returns what each completion
                is worth, [p,G].
        wanted: how many groups the batch has.
        rounds: how often `draw` may be called.

    Returns:
        `wanted` pairs (round, group of that round), both counted from 0: the mixed ones in the
        order in which they came, then, if those are too few, the first of the others.

    >>> def draw(count, worths=torch.tensor([[1.0, 1.0], [1.0, 0.0]])):
    ...     return worths[:count]  # the first group agrees, the second is mixed
    >>> fill_with_mixed(draw, 2, rounds=2)  # draws two groups, then the first again
    [(0, 1), (0, 0)]

    Mirrors `rollouts.fill_with_mixed`; held by tests/test_rollouts.py.
    """
    for name, count in (("wanted", wanted), ("rounds", rounds)):
        if count < 1:
            raise ValueError(f"{name} is {count}, expected at least 1")

    def checked(scores: Tensor, count: int) -> Tensor:
        """Refuse what is not one row for each group that was asked for. Given."""
        if scores.dim() != 2 or len(scores) != count:
            raise ValueError(
                f"draw returned shape {list(scores.shape)}, expected [{count},G]: one row for each "
                "group it was asked for"
            )
        return scores

    raise NotImplementedError("exercise 10.4, fill_with_mixed")


# region Hints: open one at a time
#
# 10.1  Three cases: before the line begins, on it, behind it. What would the line divide by if
#       `cache_length` were 0, and which case is left then?
#
# 10.2  Take out what does not count *before* you subtract: NaN - NaN is NaN, and 0 · NaN in a
#       gradient still is. `masked_mean(x, mask, dim=1)` is [B]; the result wants [B,T].
#
# 10.3  What is 0 · inf in floating point? And its gradient, if a `where` comes after the product?
#
# 10.4  Two lists, the mixed and the others, and a pair (round, group) for each. What is the loop
#       asked for in the second round, and when does it end early?
#
# endregion
