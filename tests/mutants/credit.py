"""Plausible mistakes in credit.py."""

MUTANTS = {
    "token_values": {
        "the value has read the token that it is to judge": ("groups.inputs)", "groups.targets)"),
        "the prompt is longer than it is": ("groups.lengths,", "groups.lengths + 1,"),
        "the language model's head says it": (
            "critic.score(hidden).squeeze(-1)",
            "critic.body.head(hidden).amax(-1)",
        ),
        "carries no gradient": ("critic.score(hidden)", "critic.score(hidden.detach())"),
    },
    "in_parts": {
        "the parts come back in the order in which they were asked": (
            "    for units in micro_batches(groups.sizes(), max_tokens=s.micro_tokens):\n"
            "        part = groups.select(units)\n",
            "    end = 0\n"
            "    for units in micro_batches(groups.sizes(), max_tokens=s.micro_tokens):\n"
            "        part = groups.select(units)\n"
            "        units = torch.arange(end, end := end + len(units))\n",
        )
    },
    "cut": {
        "the groups are in another order": (
            "every = torch.arange(count,",
            "every = -torch.arange(1 - count, 1,",
        ),
        "the size of a group is lost": ("every, s.group_size,", "every, 1,"),
    },
    "CreditLosses": {
        "each micro-batch counts as a batch of its own": ("int(sequences)", "len(part.mask)"),
        "each micro-batch counts fully where tokens are averaged": (
            "total_tokens=counted",
            "total_tokens=part.mask.sum()",
        ),
        "all groups take part in every update": (
            "share[:, None] * each + torch.arange(each, device=share.device)",
            "torch.arange(len(credit.groups.mask))",
        ),
        "a group is taken for a unit": (
            "(share[:, None] * each + torch.arange(each, device=share.device)).flatten()",
            "share",
        ),
        "the last micro-batch's loss is logged": ("self.loss += float", "self.loss = float"),
        "the log's largest ratio is a mean": (
            'means["ratio_max"] = max(float(stats["ratio_max"]) for stats in self.found)',
            "pass",
        ),
    },
    "Credit": {
        "columns of other units": ("x[units, :,", "x[: len(units), :,"),
        "the last columns instead of the first": (
            "x[units, :, : groups.mask.shape[2]]",
            "x[units][:, :, -groups.mask.shape[2] :]",
        ),
        "advantages and returns are exchanged": (
            "columns = (self.values, self.advantages, self.returns)",
            "columns = (self.values, self.returns, self.advantages)",
        ),
    },
    "learn": {
        "only the first share is learned from": (
            "for share in shares if lr else ():",
            "for share in shares[:1] if lr else ():",
        ),
        "a rate of 0 is a step all the same": ("shares if lr else ():", "shares:"),
        "the gradient is not shortened as the settings say": (
            "max_grad_norm=s.max_grad_norm",
            "max_grad_norm=1e9",
        ),
    },
    "whiten_together": {
        "padding counts": (
            "whiten(everywhere(x, width), everywhere(mask, width))",
            "whiten(everywhere(x, width), torch.ones(len(x), width))",
        ),
        "padding comes back": ("[:, : x.shape[1]]", ""),
    },
    "everywhere": {"padded on the left": ("(0, width - x.shape[1])", "(width - x.shape[1], 0)")},
}
