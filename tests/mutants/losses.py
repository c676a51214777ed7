"""Plausible mistakes in losses.py."""

MUTANTS = {
    "token_logprobs": {
        "returns the negative log-probability": (
            "return _TokenLogprobs.apply",
            "return -_TokenLogprobs.apply",
        ),
        "the tokens are shifted once more": (
            "tokens.long())",
            "tokens.long().roll(1, -1))",
        ),
        "a token outside the vocabulary counts from the end": (
            "if low < 0 or high",
            "if high",
        ),
    },
    "_TokenLogprobs": {
        "returns the logit, not the log-probability": ("[..., 0] - log_total", "[..., 0]"),
        "half precision stays half precision": (
            "out.copy_(_at_least_float32(part).logsumexp(-1))",
            "out.copy_(part.logsumexp(-1))",
        ),
        "the gradient leaves out the probabilities": (
            "change.mul_(-slope[..., None])",
            "change.mul_(0 * slope[..., None])",
        ),
        "the gradient leaves out the token itself": (
            "scatter_add_(-1, token[..., None], slope[..., None])",
            "add_(0)",
        ),
        "the gradient ignores the slope from above": (
            "change.mul_(-slope[..., None])",
            "change.mul_(-1)",
        ),
        "a row that nobody looks at spoils the gradient": (
            ".masked_fill_((slope == 0)[..., None], 0)",
            "",
        ),
    },
    "token_entropy": {
        "in bits, not in nats": (
            "_entropy(_at_least_float32(part))",
            "_entropy(_at_least_float32(part)) / math.log(2)",
        ),
        "divided by the log of the vocabulary": (
            "_entropy(_at_least_float32(part))",
            "_entropy(_at_least_float32(part)) / math.log(part.shape[-1])",
        ),
        "an impossible token adds 0 · inf": (
            "_entropy(_at_least_float32(part))",
            "(lambda x, any: -(torch.where(any, x, 0).log_softmax(-1).exp() * torch.where("
            "any, torch.where(any, x, 0).log_softmax(-1), 0)).sum(-1))"
            "(_at_least_float32(part), (part > -math.inf).any(-1, True))",
        ),
        "logits below -100 are held there": (
            "_entropy(_at_least_float32(part))",
            "_entropy(_at_least_float32(part).clamp(min=-100))",
        ),
    },
    "_parts": {
        "only the first part of the batch": (
            "numel()))",
            "numel()))[:1]",
        ),
    },
    "_entropy": {
        "of the wrong sign": ("return -(", "return ("),
        "averages over the vocabulary": (".sum(-1)", ".mean(-1)"),
        "0 · -inf": ("torch.where(possible, logprobs, 0)", "logprobs"),
        "the mean surprise of a uniform draw": ("logprobs.exp() * ", "1 / logits.shape[-1] * "),
        "a row of -inf is NaN": ("logits = torch.where(possible.any(-1, keepdim=True), logits, 0)",
                                 "logits = logits + 0"),
    },
    "masked_mean": {
        "divides by all entries": (
            "counted.sum(dim).clamp(min=1)",
            "torch.ones_like(x).sum(dim).clamp(min=1)",
        ),
        "multiplies by the mask: 0 · NaN": (
            "torch.where(counted, _at_least_float32(x), 0).sum(dim)",
            "(counted * _at_least_float32(x)).sum(dim)",
        ),
        "0 / 0 where nothing counts": (".clamp(min=1)", ""),
        "averages the means of the rows": (
            "return total / counted.sum(dim).clamp(min=1)",
            "return (total / counted.sum(dim).clamp(min=1) if dim is not None else"
            " masked_mean(x, mask, 1).mean() if x.dim() == 2 else total)",
        ),
        "dim is ignored": (
            "total = torch.where(counted, _at_least_float32(x), 0).sum(dim)",
            "dim = None; total = torch.where(counted, _at_least_float32(x), 0).sum()",
        ),
    },
    "sft_loss": {
        "the prompt is trained on too": (
            "return masked_mean(-logprobs, counted)",
            "return -logprobs.mean()",
        ),
        "averages over sequences, not over tokens": (
            "return masked_mean(-logprobs, counted)",
            "return masked_mean(-logprobs, counted, 1).mean()",
        ),
        "sums over tokens": (
            "return masked_mean(-logprobs, counted)",
            "return masked_mean(-logprobs, counted) * counted.sum()",
        ),
        "makes the answer less likely": (
            "return masked_mean(-logprobs, counted)",
            "return masked_mean(logprobs, counted)",
        ),
        "the mask belongs to the token before": (
            'counted = _counted(mask, targets, "targets")',
            'counted = _counted(mask, targets, "targets").roll(-1, -1)',
        ),
        "a masked target must be a token": (
            "torch.where(counted, targets, 0)",
            "targets",
        ),
    },
    "bradley_terry_loss": {
        "prefers the rejected one": (
            "_at_least_float32(chosen) - _at_least_float32(rejected)",
            "_at_least_float32(rejected) - _at_least_float32(chosen)",
        ),
        "the margin makes it easier": ("difference - margin", "difference + margin"),
        "the margin is ignored": ("difference - margin", "difference"),
        "the sum over pairs": (".mean()", ".sum()"),
        "log(sigmoid) overflows": (
            "-F.logsigmoid(difference - margin)",
            "-torch.log(torch.sigmoid(difference - margin))",
        ),
        "the probability, not its log": (
            "-F.logsigmoid(difference - margin)",
            "1 - torch.sigmoid(difference - margin)",
        ),
    },
    "dpo_loss": {
        "the rejected one has no reference": (
            "_at_least_float32(rejected) - ref_rejected.detach()",
            "rejected",
        ),
        "beta divides": ("beta * (chosen_gain", "1 / beta * (chosen_gain"),
        "beta is ignored": ("beta * (chosen_gain", "1.0 * (chosen_gain"),
        "prefers the rejected one": (
            "chosen_gain - rejected_gain",
            "rejected_gain - chosen_gain",
        ),
        "the reference is trained too": ("- ref_chosen.detach()", "- ref_chosen"),
        "the mean is taken before the log": (
            "-F.logsigmoid(beta * (chosen_gain - rejected_gain)).mean()",
            "-F.logsigmoid((beta * (chosen_gain - rejected_gain)).mean())",
        ),
        "there is no reference": (
            "beta * (chosen_gain - rejected_gain)",
            "beta * (_at_least_float32(chosen) - _at_least_float32(rejected))",
        ),
        "the sum over pairs": (".mean()", ".sum()"),
        "the wrong sign: less than 0": ("return -F", "return F"),
        "log(sigmoid) overflows": (
            "-F.logsigmoid(beta * (chosen_gain - rejected_gain))",
            "-torch.log(torch.sigmoid(beta * (chosen_gain - rejected_gain)))",
        ),
    },
    "_counted": {"labels are a mask": ("check_mask(mask,", 'check_shape("mask", mask,')},
    "kl_estimate": {
        "the KL runs the wrong way: log(policy/reference)": (
            "given = _at_least_float32(ref_logprobs) - _at_least_float32(logprobs)",
            "given = _at_least_float32(logprobs) - _at_least_float32(ref_logprobs)",
        ),
        "k1 has the wrong sign": ("return -given", "return given"),
        "k2 without the half": ("log_ratio.square() / 2", "log_ratio.square()"),
        "k2 is the absolute value": ("log_ratio.square() / 2", "log_ratio.abs()"),
        "k3 without the log-ratio": (" + beyond - log_ratio", " + beyond"),
        "k3 with the log-ratio added": (" + beyond - log_ratio", " + beyond + log_ratio"),
        "k3 flattens and then pulls away from the reference": ("+ beyond - log", "- log"),
        "k3 turns the ratio round: policy/reference": (
            "log_ratio = torch.where(finite, given, 0)",
            "log_ratio = torch.where(finite, -given, 0)",
        ),
        "k3 overflows": (".clamp(max=MAX_LOG_RATIO)", ""),
        "k3 loses the digits of a small difference": (
            "torch.expm1(log_ratio.clamp(max=MAX_LOG_RATIO))",
            "torch.exp(log_ratio.clamp(max=MAX_LOG_RATIO)) - 1",
        ),
        "k2 by default": ('kind: KLEstimator = "k3"', 'kind: KLEstimator = "k2"'),
        "a masked NaN reaches the gradient": (
            "log_ratio = torch.where(finite, given, 0)",
            "log_ratio = given",
        ),
        "what is not finite is hidden": (
            "return torch.where(finite, estimate, given.detach().square())",
            "return estimate",
        ),
    },
    "probability_ratio": {
        "the ratio is old over new": ("_bounded_exp(log_ratio)", "_bounded_exp(-log_ratio)"),
        "returns the log-ratio": ("_bounded_exp(log_ratio)", "log_ratio"),
        "the ratio of a sequence is the product, not the mean": (
            "masked_mean(log_ratio, counted, dim=1)[:, None]",
            "log_ratio.sum(1, keepdim=True)",
        ),
        "the ratio of a sequence counts padding": (
            "masked_mean(log_ratio, counted, dim=1)[:, None]",
            "log_ratio.mean(1, keepdim=True)",
        ),
        "the ratio of a sequence is averaged over the whole batch": (
            "masked_mean(log_ratio, counted, dim=1)[:, None]",
            "masked_mean(log_ratio, counted)[None, None]",
        ),
        "the ratio of a sequence is the mean of its tokens' ratios": (
            "masked_mean(log_ratio, counted, dim=1)[:, None]",
            "masked_mean(_bounded_exp(log_ratio), counted, dim=1).log()[:, None]",
        ),
        "the policy is not trained: its gradient is cut": (
            "_at_least_float32(logprobs), 0)",
            "_at_least_float32(logprobs).detach(), 0)",
        ),
        "only a mask of exactly 1 counts": (
            'counted = _counted(mask, logprobs, "logprobs")',
            'counted = _counted(mask, logprobs, "logprobs") & (mask == 1)',
        ),
        "the mask is a weight": (
            "masked_mean(log_ratio, counted, dim=1)[:, None]",
            "((log_ratio * mask).sum(1) / mask.sum(1).clamp(min=1e-9))[:, None]",
        ),
        "the ratio of a sequence is that of a token": (
            'if ratio == "sequence":',
            'if ratio == "nothing":',
        ),
        "the old policy is trained too": ("old_logprobs.detach()", "old_logprobs"),
        "what does not count is not set to 1": (
            "torch.where(counted, _bounded_exp(log_ratio), 1)",
            "_bounded_exp(log_ratio)",
        ),
        "masked log-probabilities reach the gradient": (
            "new = torch.where(counted, _at_least_float32(logprobs), 0)",
            "new = _at_least_float32(logprobs)",
        ),
        "overflows": ("_bounded_exp(log_ratio)", "log_ratio.exp()"),
    },
    "policy_loss": {
        "takes the larger of raw and clipped when the advantage is negative": (
            "torch.minimum(ratios * advantages, clipped * advantages)",
            "torch.where(advantages < 0, torch.maximum(ratios * advantages, clipped * advantages),"
            " torch.minimum(ratios * advantages, clipped * advantages))",
        ),
        "takes the larger of raw and clipped": ("torch.minimum(ratios", "torch.maximum(ratios"),
        "takes the clipped one always": (
            "torch.minimum(ratios * advantages, clipped * advantages)",
            "clipped * advantages",
        ),
        "does not clip": (
            "torch.minimum(ratios * advantages, clipped * advantages)",
            "ratios * advantages",
        ),
        "minimises the objective: the sign is wrong": (
            "loss = -aggregate_tokens",
            "loss = aggregate_tokens",
        ),
        "clip_low and clip_high are swapped": (
            "bounds = (1 - clip_low, 1 + clip_high)",
            "bounds = (1 - clip_high, 1 + clip_low)",
        ),
        "cispo's weight carries a gradient": ("clipped.detach()", "clipped"),
        "cispo multiplies by the ratio, not by the log-probability": (
            "clipped.detach() * advantages * logprobs",
            "clipped.detach() * advantages * ratios",
        ),
        "cispo does not clip its weight": ("clipped.detach()", "ratios.detach()"),
        "clip='none' still clips": (
            "    else:\n        objective = ratios * advantages",
            "    else:\n        objective = clipped * advantages",
        ),
        "clip='none' has no gradient": (
            "    else:\n        objective = ratios * advantages",
            "    else:\n        objective = ratios.detach() * advantages",
        ),
        "the advantage is trained too": ("advantages.detach()", "advantages"),
        "one advantage a sequence is spread along the batch": (
            "advantages[:, None].expand_as(logprobs)",
            "advantages[None, :].expand_as(logprobs)",
        ),
        "the aggregate is always sequence_mean": (
            "aggregate=aggregate, max_tokens=max_tokens",
            'aggregate="sequence_mean", max_tokens=max_tokens',
        ),
        "masked log-probabilities reach the gradient": (
            "logprobs = torch.where(counted, _at_least_float32(logprobs), 0)",
            "logprobs = _at_least_float32(logprobs)",
        ),
        "the KL it reports runs the wrong way": (
            "kl_estimate(old_logprobs, logprobs",
            "kl_estimate(logprobs, old_logprobs",
        ),
        "the largest ratio it reports may be a masked one": (
            "torch.where(counted, ratios, 0).detach().max()",
            "(ratios + 1 - counted.float()).detach().max()",
        ),
    },
    "_where_clip_acts": {
        "counts every ratio outside the bounds": ('if clip == "ppo":', 'if clip == "never":'),
        "counts where the gradient stays": (
            "below & (advantages < 0), above & (advantages > 0)",
            "below & (advantages > 0), above & (advantages < 0)",
        ),
        "reports a clip where there is none": ('below & (clip != "none")', "below"),
        "low and high are swapped": (
            "return below & (advantages < 0), above & (advantages > 0)",
            "return above & (advantages > 0), below & (advantages < 0)",
        ),
    },
    "_bounded_exp": {
        "overflows": ("x.clamp(max=MAX_LOG_RATIO).exp() * (1 + (x - MAX_LOG_RATIO).relu())",
                      "x.exp()"),
        "loses the gradient beyond the bound": (" * (1 + (x - MAX_LOG_RATIO).relu())", ""),
    },
    "value_loss": {
        "takes the smaller of the two squares": ("torch.maximum", "torch.minimum"),
        "without the half": ("masked_mean(larger, counted) / 2", "masked_mean(larger, counted)"),
        "only the clipped square": (
            "torch.maximum((values - returns).square(), (clipped - returns).square())",
            "(clipped - returns).square()",
        ),
        "clips around the returns": (
            "values.clamp(old_values - clip, old_values + clip)",
            "values.clamp(returns - clip, returns + clip)",
        ),
        "does not clip": (
            "values.clamp(old_values - clip, old_values + clip)",
            "values",
        ),
        "averages over sequences, not over tokens": (
            "masked_mean(larger, counted) / 2",
            "masked_mean(larger, counted, 1).mean() / 2",
        ),
        "padding counts": ("masked_mean(larger, counted) / 2", "larger.mean() / 2"),
        "the target is trained too": ("returns.detach()", "returns"),
        "the old values are trained too": ("old_values.detach()", "old_values"),
        "absolute error, not squared": ("(values - returns).square()", "(values - returns).abs()"),
    },
    "aggregate_tokens": {
        "averages over the sequences with a counted token only": (
            "masked_mean(x, mask, dim=1).mean()",
            "masked_mean(x, mask, dim=1).sum() / (mask != 0).any(1).sum().clamp(min=1)",
        ),
        "sequence_mean sums over the tokens of a sequence": (
            "masked_mean(x, mask, dim=1).mean()",
            "(masked_mean(x, mask, dim=1) * (mask != 0).sum(1)).mean()",
        ),
        "sequence_mean and token_mean are swapped": (
            'if aggregate == "token_mean":',
            'if aggregate == "sequence_mean":',
        ),
        "constant divides by the padded length": ("(len(x) * max_tokens)", "x.numel()"),
        "constant forgets the number of sequences": ("(len(x) * max_tokens)", "max_tokens"),
        "constant counts what is masked": (
            "torch.where(counted, _at_least_float32(x), 0).sum()",
            "x.sum()",
        ),
        "no gradient: x is detached": (
            '_check_batch("x", x)',
            '_check_batch("x", x)\n    x = x.detach()',
        ),
        "multiplies by the mask: 0 · NaN": (
            '_check_batch("x", x)',
            '_check_batch("x", x)\n    total, counts = x * (mask != 0), (mask != 0).sum(1)\n'
            '    if aggregate == "token_mean":\n'
            "        return total.sum() / counts.sum().clamp(min=1)\n"
            '    if aggregate == "sequence_mean":\n'
            "        return (total.sum(1) / counts.clamp(min=1)).mean()\n"
            "    if max_tokens:\n        return total.sum() / (len(x) * max_tokens)",
        ),
        "0 / 0 where nothing counts": (
            "return masked_mean(x, mask)\n",
            "return masked_mean(x, mask) / (mask != 0).any()\n",
        ),
        "what is not a number counts as 0": (
            '_check_batch("x", x)',
            '_check_batch("x", x)\n    x = x.nan_to_num()',
        ),
        "only a mask of exactly 1 counts": (
            '_check_batch("x", x)',
            '_check_batch("x", x)\n    mask = _counted(mask, x, "x") & (mask == 1)',
        ),
        "the mask is a weight": (
            '_check_batch("x", x)',
            '_check_batch("x", x)\n    total = torch.where(_counted(mask, x, "x"), x * mask, 0)\n'
            '    if aggregate == "token_mean":\n'
            "        return total.sum() / mask.sum().clamp(min=1e-9)\n"
            '    if aggregate == "sequence_mean":\n'
            "        return (total.sum(1) / mask.sum(1).clamp(min=1e-9)).mean()\n"
            "    if max_tokens:\n        return total.sum() / (len(x) * max_tokens)",
        ),
    },
    "aggregate_share": {
        "every part weighs the same as its sequences": (
            'if aggregate == "token_mean":',
            'if aggregate == "never":',
        ),
        "every part weighs the same as its tokens": (
            'if aggregate == "token_mean":',
            'if aggregate != "never":',
        ),
        "padding counts": (
            "counted = (mask != 0).sum()",
            "counted = torch.tensor(mask.numel())",
        ),
        "the mask is a weight": ("counted = (mask != 0).sum()", "counted = mask.sum()"),
        "more tokens than the whole has": ("counted > total:", "counted < 0:"),
        "as many tokens as the whole are too many": ("counted > total:", "counted >= total:"),
        "is not divided by the whole": ("len(mask) / total_sequences", "float(len(mask))"),
    },
}  # fmt: skip
