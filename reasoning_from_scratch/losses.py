"""The losses of the book, as pure functions of tensors.

Language modelling (`token_logprobs`, `token_entropy`, `sft_loss`), preferences
(`bradley_terry_loss`, `dpo_loss`), reinforcement learning (`kl_estimate`, `probability_ratio`,
`policy_loss`, `value_loss`), and how tokens become one number (`masked_mean`, `aggregate_tokens`,
`aggregate_share`). Left out on purpose: models, sampling, and the shift by one token, which
happens once, in a training loop.

Shapes: B sequences, T tokens, V entries of the vocabulary. A mask [B,T] is bool or numeric; a token
counts where it is not 0, and 0.5 counts as much as 1. A mask on a CPU with a negative entry or NaN
is refused (it may hold labels); on a GPU looking would stall, and they count. What stands where it
is 0, NaN and infinities included, changes neither a value nor a gradient, and a sequence with no
counted token adds 0. Nothing broadcasts, except `advantages[B]`. Half precision is computed and
returned in float32. No function looks for NaN among counted entries, which would stall a GPU: a
counted NaN makes the loss NaN, and the loop must look.
"""

import math
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from reasoning_from_scratch.checks import check_choice, check_mask, check_shape, check_tensor

KLEstimator = Literal["k1", "k2", "k3"]
Ratio = Literal["token", "sequence"]
Clip = Literal["ppo", "cispo", "none"]
Aggregate = Literal["sequence_mean", "token_mean", "constant"]

# Log-ratios above this are continued by a straight line: exp(89) overflows float32, and the
# gradient of an infinity is NaN even where a clip or a mask throws its value away.
MAX_LOG_RATIO = 20.0

PART_ENTRIES = 2**22  # logits handled at once where a temporary copy is unavoidable: 16 MiB


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return log p(token) under the distribution that stands above each token.

    The same as `log_softmax` and `gather`, which at their peak hold three more tensors of the size
    of the logits; this holds one, their gradient.

    Args:
        logits: [B,T,V] (any leading shape will do), may hold -inf. Carries the gradient, once:
                there is no second derivative. A row whose gradient is 0 is never looked at.
        tokens: [B,T] whole numbers below V; logits[b,t] must already speak of tokens[b,t].

    Returns:
        [B,T] in nats, ≤ 0, at least float32.

    Raises:
        ValueError: shapes don't fit, tokens are not whole numbers, or (on a CPU; a GPU stops
            with an assertion of its own) one lies outside the vocabulary.
    """
    _check_logits(logits)
    check_shape("tokens", tokens, logits.shape[:-1], "one token for each row of logits")
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(f"tokens has dtype {tokens.dtype}, expected whole numbers")
    if tokens.device.type == "cpu" and tokens.numel():
        low, high = tokens.min().item(), tokens.max().item()
        if low < 0 or high >= logits.shape[-1]:
            wrong = low if low < 0 else high
            raise ValueError(f"tokens holds {wrong}, expected 0 to {logits.shape[-1] - 1}")
    return _TokenLogprobs.apply(logits, tokens.long())


def token_entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each next-token distribution, in nats: [B,T,V] -> [B,T].

    An entry at -inf is impossible and adds 0, so the result and its gradient stay finite; a row
    of nothing but -inf has entropy 0. At least float32.
    """
    _check_logits(logits)
    return torch.cat([_entropy(_at_least_float32(part)) for part in _parts(logits, logits)])


def masked_mean(x: Tensor, mask: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Average `x` over the entries that count; 0 where none does.

    Args:
        x:    any shape. Carries the gradient.
        mask: the same shape, not 0 where an entry counts.
        dim:  the dimensions to average over, None for all.
    """
    counted = _counted(mask, x, "x")
    total = torch.where(counted, _at_least_float32(x), 0).sum(dim)
    return total / counted.sum(dim).clamp(min=1)


def sft_loss(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return the mean negative log-probability of the counted targets, in nats.

    Args:
        logits:  [B,T,V]. Carries the gradient.
        targets: [B,T] the token that should come next at each place; anything where masked.
        mask:    [B,T] not 0 where the target is the assistant's, its end token included.

    Returns:
        A scalar, averaged over tokens: weigh a micro-batch by `aggregate_share` ("token_mean").

    Raises:
        ValueError: shapes don't fit, the batch is empty, or a counted target is no token.

    Source: Ouyang et al. 2022, section 3.5.
    """
    _check_logits(logits)
    check_shape("targets", targets, logits.shape[:-1], "one target for each row of logits")
    _check_batch("targets", targets)
    counted = _counted(mask, targets, "targets")
    logprobs = token_logprobs(logits, torch.where(counted, targets, 0))
    return masked_mean(-logprobs, counted)


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, *, margin: float | Tensor = 0.0) -> Tensor:
    """Return the mean of -log σ(chosen - rejected - margin), for training a reward model.

    Args:
        chosen:   [B] reward of the preferred completion. Carries the gradient.
        rejected: [B] reward of the other completion of the same prompt. Carries the gradient.
        margin:   how far apart they should be: one number, or [B], one for each pair.

    Returns:
        A scalar in nats; log 2 where the two are equal and the margin is 0.

    Raises:
        ValueError: not one number a completion, no pair at all, or a margin that is neither.

    Source: Ouyang et al. 2022, eq. 1; the margin is eq. 2 of Touvron et al. 2023 (Llama 2).
    """
    _check_pairs(chosen=chosen, rejected=rejected)
    if not isinstance(margin, Real | Tensor):
        came = type(margin).__name__
        raise ValueError(f"margin is a {came}, expected a number or a tensor")
    if isinstance(margin, Tensor) and margin.dim():
        check_shape("margin", margin, chosen.shape, "one entry for each pair")
    difference = _at_least_float32(chosen) - _at_least_float32(rejected)
    return -F.logsigmoid(difference - margin).mean()  # log(sigmoid(x)) is -inf below -104


def dpo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float = 0.1
) -> Tensor:
    """Return the mean of -log σ(β · (how much more the policy prefers `chosen` than ref does)).

    Args:
        chosen:       [B] log π(completion) of the preferred one, in nats: the *sum* over its
                      tokens. Carries the gradient.
        rejected:     [B] the same of the other completion. Carries the gradient.
        ref_chosen:   [B] the reference's log-probability of the preferred completion.
        ref_rejected: [B] the reference's of the other.
        beta:         > 0; how dearly the policy pays for leaving the reference.

    Returns:
        A scalar in nats; log 2 where policy and reference agree.

    Raises:
        ValueError: not one number a completion, no pair at all, or `beta` not above 0.

    Source: Rafailov et al. 2023, eq. 7.
    """
    _check_pairs(chosen=chosen, rejected=rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected)
    if not beta > 0:
        raise ValueError(f"beta is {beta}, expected a number above 0")
    chosen_gain = _at_least_float32(chosen) - ref_chosen.detach()
    rejected_gain = _at_least_float32(rejected) - ref_rejected.detach()
    return -F.logsigmoid(beta * (chosen_gain - rejected_gain)).mean()


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, *, kind: KLEstimator = "k3") -> Tensor:
    """Estimate KL(policy‖reference) at each token from the one token that was sampled.

    Args:
        logprobs:     [B,T] log π(token), in nats, of tokens *sampled from the policy*.
                      Carries the gradient.
        ref_logprobs: [B,T] the reference's log-probability of the same tokens. Computed with a
                      gradient, it carries one too: compute it under `torch.no_grad()`.
        kind:         "k1" unbiased, any sign; "k2" biased, ≥ 0; "k3" unbiased, ≥ 0.

    Returns:
        [B,T] in nats, unmasked: average it with `masked_mean` or `aggregate_tokens`. 0 where the
        two agree. As a loss its mean gradient is, on policy: of "k1" zero, of "k2" that of
        KL(policy‖reference), of "k3" that of KL(reference‖policy). Where the reference is over
        e^20 times as sure, "k3" goes on along its tangent. What is not finite stays so.

    Raises:
        ValueError: shapes differ, or `kind` is none of the three.

    Source: Schulman 2020, "Approximating KL divergence"; k3 is eq. 4 of Shao et al. 2024.
    """
    check_tensor("logprobs", logprobs)
    check_shape("ref_logprobs", ref_logprobs, logprobs.shape, "one entry for each of logprobs")
    check_choice("kind", kind, get_args(KLEstimator))
    # The model that was sampled is below the line.
    given = _at_least_float32(ref_logprobs) - _at_least_float32(logprobs)
    if kind == "k1":
        return -given
    # A mask that comes later multiplies a gradient by 0, and 0 · NaN is NaN: there must be none.
    finite = given.isfinite()
    log_ratio = torch.where(finite, given, 0)
    if kind == "k2":
        estimate = log_ratio.square() / 2
    else:  # exp(x) - 1 would lose every digit of a small x
        beyond = math.exp(MAX_LOG_RATIO) * (log_ratio - MAX_LOG_RATIO).relu()
        estimate = torch.expm1(log_ratio.clamp(max=MAX_LOG_RATIO)) + beyond - log_ratio
    return torch.where(finite, estimate, given.detach().square())


def probability_ratio(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, *, ratio: Ratio = "token"
) -> Tensor:
    """Return how much likelier what was sampled has become: π / π_old.

    Args:
        logprobs:     [B,T] log π(token) of the policy in training. Carries the gradient.
        old_logprobs: [B,T] the same tokens under the policy that sampled them.
        mask:         [B,T] not 0 on the tokens that the policy sampled.
        ratio:        "token" each token's own; "sequence" the geometric mean over the counted
                      tokens of a sequence, exp(mean log-ratio), for each of them.

    Returns:
        [B,T], 1 where the mask is 0. Above e^20 it goes on along its tangent, so that it does not
        overflow.

    Raises:
        ValueError: shapes differ, or an unknown ratio.

    Source: Schulman et al. 2017, section 3 (token); Zheng et al. 2025, eq. 7 (sequence).
    """
    check_choice("ratio", ratio, get_args(Ratio))
    counted = _counted(mask, logprobs, "logprobs")
    check_shape("old_logprobs", old_logprobs, logprobs.shape, "one entry for each of logprobs")
    # Masked entries are replaced before they are used: 0 · NaN is NaN, in a gradient too.
    new = torch.where(counted, _at_least_float32(logprobs), 0)
    log_ratio = new - torch.where(counted, old_logprobs.detach(), 0)
    if ratio == "sequence":
        log_ratio = masked_mean(log_ratio, counted, dim=1)[:, None].expand_as(log_ratio)
    return torch.where(counted, _bounded_exp(log_ratio), 1)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ratio: Ratio = "token",
    clip: Clip = "ppo",
    aggregate: Aggregate = "sequence_mean",
    max_tokens: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss whose gradient makes completions with a positive advantage more likely.

    Args:
        logprobs:     [B,T] log π(token) of the policy in training. Alone carries a gradient.
        old_logprobs: [B,T] the same tokens under the policy that sampled them.
        advantages:   [B,T], or [B] for one number a sequence.
        mask:         [B,T] not 0 on the tokens that the policy sampled.
        clip_low:     how far below 1 the ratio may fall, ≥ 0; math.inf for any distance.
        clip_high:    how far above 1 it may rise, ≥ 0.
        ratio:        "token" or "sequence", see `probability_ratio`. The sequence's pushes all its
                      tokens alike, by the mean of their advantages (GSPO, not GSPO-token).
        clip:         "ppo" the smaller of ratio·A and clipped ratio·A, whatever the sign of A;
                      "cispo" stop-gradient(clipped ratio)·A·logprob; "none" ratio·A.
        aggregate:    how tokens become one number, see `aggregate_tokens`.
        max_tokens:   the constant of aggregate="constant"; not used otherwise.

    Returns:
        The loss, a scalar to minimise (a micro-batch weighs `aggregate_share`), and a dict of
        detached scalars over the counted tokens: "ratio_mean", "ratio_max", "approx_kl" (k3 of
        KL(old policy‖policy), nats), and "clip_low_fraction", "clip_high_fraction": the share on
        which a bound acts, that is (of "ppo") stops the gradient or (of "cispo") cuts the weight.

    Raises:
        ValueError: shapes don't fit, the batch is empty, or an option is out of its range.

    Source: Schulman et al. 2017, eq. 7 (ppo); MiniMax 2025, eq. 4–5 (cispo); Zheng et al. 2025,
        eq. 5–7 (sequence); two clip distances: Yu et al. 2025 (DAPO), eq. 8.
    """
    _check_policy_inputs(logprobs, old_logprobs, advantages, clip_low, clip_high)
    check_choice("ratio", ratio, get_args(Ratio))
    check_choice("clip", clip, get_args(Clip))
    counted = _counted(mask, logprobs, "logprobs")
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand_as(logprobs)
    # Masked entries are replaced before they are used: 0 · NaN is NaN, in a gradient too.
    logprobs = torch.where(counted, _at_least_float32(logprobs), 0)
    old_logprobs = torch.where(counted, old_logprobs, 0)
    advantages = advantages.detach()

    ratios = probability_ratio(logprobs, old_logprobs, counted, ratio=ratio)
    bounds = (1 - clip_low, 1 + clip_high)
    clipped = ratios.clamp(*bounds)
    if clip == "ppo":
        objective = torch.minimum(ratios * advantages, clipped * advantages)
    elif clip == "cispo":
        objective = clipped.detach() * advantages * logprobs
    else:
        objective = ratios * advantages
    loss = -aggregate_tokens(objective, counted, aggregate=aggregate, max_tokens=max_tokens)

    with torch.no_grad():
        acts = _where_clip_acts(clip, ratios, advantages, bounds)
        kl = kl_estimate(old_logprobs, logprobs, kind="k3")
        shares = torch.stack([masked_mean(x, counted) for x in (ratios, kl, *acts)])
    names = ("ratio_mean", "approx_kl", "clip_low_fraction", "clip_high_fraction")
    stats = dict(zip(names, shares, strict=True))
    return loss, stats | {"ratio_max": torch.where(counted, ratios, 0).detach().max()}


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float = 0.2
) -> Tensor:
    """Return ½ · the mean over counted tokens of the larger of raw and clipped squared error.

    Args:
        values:     [B,T] the critic's estimates. Alone carries a gradient.
        old_values: [B,T] its estimates when the rollout was made.
        returns:    [B,T] what it should have said (`gae`).
        mask:       [B,T] not 0 where a token counts.
        clip:       how far from `old_values` a value may move and still gain, ≥ 0; math.inf for
                    the plain squared error.

    Returns:
        A scalar: weigh a micro-batch by `aggregate_share` ("token_mean").

    Raises:
        ValueError: shapes don't fit, the batch is empty, or `clip` is negative.

    Source: Huang et al. 2022, "The 37 implementation details of PPO", detail 9.
    """
    _check_batch("values", values)
    check_shape("old_values", old_values, values.shape, "one entry for each of values")
    check_shape("returns", returns, values.shape, "one entry for each of values")
    if not clip >= 0:
        raise ValueError(f"clip is {clip}, expected a number of at least 0")
    counted = _counted(mask, values, "values")
    values = torch.where(counted, _at_least_float32(values), 0)
    # The bounds too: in bfloat16 64 ± 0.2 is 64.
    old_values = torch.where(counted, _at_least_float32(old_values.detach()), 0)
    returns = torch.where(counted, _at_least_float32(returns.detach()), 0)
    clipped = values.clamp(old_values - clip, old_values + clip)
    larger = torch.maximum((values - returns).square(), (clipped - returns).square())
    return masked_mean(larger, counted) / 2


def aggregate_tokens(
    x: Tensor,
    mask: Tensor,
    *,
    aggregate: Aggregate = "sequence_mean",
    max_tokens: int | None = None,
) -> Tensor:
    """Turn one number a token into one number, as `policy_loss` does (a KL term should match it).

    Args:
        x:          [B,T]. Carries the gradient.
        mask:       [B,T] not 0 where a token counts.
        aggregate:  "sequence_mean" the mean over all B sequences of each one's mean over its
                    counted tokens (GRPO); "token_mean" the mean over all counted tokens (DAPO);
                    "constant" the sum over counted tokens / (B · max_tokens) (Dr. GRPO).
        max_tokens: the same number for every batch of a run, such as the limit on sampling.

    Returns:
        A scalar. A sequence with no counted token adds 0 and still counts among the B.

    Raises:
        ValueError: shapes don't fit, the batch is empty, an unknown aggregate, or "constant"
            without max_tokens.
    """
    check_choice("aggregate", aggregate, get_args(Aggregate))
    _check_batch("x", x)
    if aggregate == "token_mean":
        return masked_mean(x, mask)
    if aggregate == "sequence_mean":
        return masked_mean(x, mask, dim=1).mean()
    if max_tokens is None or not max_tokens > 0:
        raise ValueError(f"max_tokens is {max_tokens}, but aggregate='constant' divides by it")
    counted = _counted(mask, x, "x")
    return torch.where(counted, _at_least_float32(x), 0).sum() / (len(x) * max_tokens)


def aggregate_share(
    mask: Tensor, *, aggregate: Aggregate, total_sequences: int, total_tokens: int | Tensor
) -> Tensor:
    """Return the weight with which a part's loss enters the whole batch's: k parts equal one batch.

    Args:
        mask:            [b,T] the part's mask.
        aggregate:       how the loss averages, see `aggregate_tokens`.
        total_sequences: B of the whole batch, over all its parts and all processes.
        total_tokens:    how many tokens count in the whole batch.

    Returns:
        A scalar ≥ 0; the shares of all parts add up to 1 (to 0 if no token counts at all
        and the loss is an average over tokens).

    Raises:
        ValueError: an unknown aggregate, a part with more sequences than the whole, or (on a CPU,
            and where tokens are averaged) with more tokens.
    """
    check_choice("aggregate", aggregate, get_args(Aggregate))
    _check_batch("mask", mask)
    if len(mask) > total_sequences:
        raise ValueError(f"total_sequences is {total_sequences}, but mask alone has {len(mask)}")
    check_mask(mask, mask.shape, "as it came")
    if aggregate == "token_mean":
        counted = (mask != 0).sum()
        total = torch.as_tensor(total_tokens, device=mask.device)
        if mask.device.type == "cpu" and counted > total:
            raise ValueError(f"total_tokens is {total.item()}, but mask alone has {counted.item()}")
        return counted / total.clamp(min=1)
    return torch.tensor(len(mask) / total_sequences, device=mask.device)


class _TokenLogprobs(torch.autograd.Function):
    """log_softmax and gather in one step that keeps nothing but the logits it was given."""

    @staticmethod
    def forward(ctx, logits: Tensor, tokens: Tensor) -> Tensor:  # noqa: ANN001
        log_total = _at_least_float32(torch.empty_like(tokens, dtype=logits.dtype))
        for out, part in zip(_parts(log_total, logits), _parts(logits, logits), strict=True):
            out.copy_(_at_least_float32(part).logsumexp(-1))
        ctx.save_for_backward(logits, tokens, log_total)
        return logits.gather(-1, tokens[..., None])[..., 0] - log_total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        logits, tokens, log_total = ctx.saved_tensors
        result = torch.empty_like(logits)  # ([is the token] - p) · grad
        columns = (_parts(x, logits) for x in (result, logits, tokens, log_total, grad))
        for out, part, token, total, slope in zip(*columns, strict=True):
            change = (_at_least_float32(part) - total[..., None]).exp_()
            change.mul_(-slope[..., None]).masked_fill_((slope == 0)[..., None], 0)
            out.copy_(change.scatter_add_(-1, token[..., None], slope[..., None]))
        return result, None


def _parts(x: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    """Cut `x` along its first dimension, so that each part goes with PART_ENTRIES logits."""
    return x.split(max(1, PART_ENTRIES // max(1, logits[:1].numel())))


def _entropy(logits: Tensor) -> Tensor:
    possible = logits != -math.inf
    logits = torch.where(possible.any(-1, keepdim=True), logits, 0)  # an empty row: no NaN
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * torch.where(possible, logprobs, 0)).sum(-1)


def _bounded_exp(x: Tensor) -> Tensor:
    """exp(x), and above MAX_LOG_RATIO its tangent."""
    return x.clamp(max=MAX_LOG_RATIO).exp() * (1 + (x - MAX_LOG_RATIO).relu())


def _where_clip_acts(
    clip: Clip, ratios: Tensor, advantages: Tensor, bounds: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    below, above = ratios < bounds[0], ratios > bounds[1]
    if clip == "ppo":  # the other side of each bound keeps its gradient
        return below & (advantages < 0), above & (advantages > 0)
    return below & (clip != "none"), above & (clip != "none")


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _counted(mask: Tensor, like: Tensor, name: str) -> Tensor:
    check_tensor(name, like)
    check_mask(mask, like.shape, f"one entry for each of {name}")
    return mask != 0


def _check_logits(logits: Tensor) -> None:
    check_tensor("logits", logits)
    if logits.dim() < 2 or logits.shape[-1] == 0:
        raise ValueError(f"logits has shape {list(logits.shape)}, expected [B,T,V] with V > 0")


def _check_batch(name: str, tensor: Tensor, dims: str = "[B,T]") -> None:
    """Raise a ValueError unless `tensor` has as many dimensions as `dims` names, none of size 0."""
    check_tensor(name, tensor)
    if tensor.dim() != dims.count(",") + 1 or tensor.numel() == 0:
        shape = list(tensor.shape)
        raise ValueError(f"{name} has shape {shape}, expected {dims} with at least one entry")


def _check_pairs(**tensors: Tensor) -> None:
    first, *others = tensors
    _check_batch(first, tensors[first], "[B]")
    for name in others:
        check_shape(name, tensors[name], tensors[first].shape, f"one entry for each of {first}")


def _check_policy_inputs(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> None:
    _check_batch("logprobs", logprobs)
    check_shape("old_logprobs", old_logprobs, logprobs.shape, "one entry for each of logprobs")
    check_tensor("advantages", advantages)
    if advantages.dim() == 1:
        check_shape("advantages", advantages, logprobs.shape[:1], "one entry for each sequence")
    else:
        check_shape("advantages", advantages, logprobs.shape, "one entry for each of logprobs")
    for name, value in (("clip_low", clip_low), ("clip_high", clip_high)):
        if not value >= 0:
            raise ValueError(f"{name} is {value}, expected a distance from 1 of at least 0")
