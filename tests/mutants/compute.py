"""Plausible mistakes in compute.py."""

MUTANTS = {
    "grpo_step_flops": {
        "sampling is for free": ("FORWARD_FLOPS * sampled + ", ""),
        "sampled tokens cost as much as learned ones": (
            "FORWARD_FLOPS * sampled",
            "TRAINING_FLOPS * sampled",
        ),
        "learning costs a forward pass alone": (
            "each = TRAINING_FLOPS +",
            "each = FORWARD_FLOPS +",
        ),
        "the backward pass without the forward one": (
            "each = TRAINING_FLOPS +",
            "each = TRAINING_FLOPS - FORWARD_FLOPS +",
        ),
        "a prompt is run again for each completion": (
            "tokens = int(prompt) + sum(int(length) for length in row)",
            "tokens = int(prompt) * len(row) + sum(int(length) for length in row)",
        ),
        "prompts are not counted": (
            "tokens = int(prompt) + sum(int(length) for length in row)",
            "tokens = sum(int(length) for length in row)",
        ),
        "groups that agree are learned from": ("if reference or len", "if True or len"),
        "with a reference groups that agree are left out as well": (
            "if reference or len",
            "if len",
        ),
        "only what was rewarded is learned from": (
            "            learned += tokens",
            "            learned += int(prompt)\n"
            "            learned += sum(n for n, r in zip(row, paid) if reference or r)",
        ),
        "groups that agree are not sampled either": (
            "        sampled += tokens\n",
            "        sampled += tokens * (reference or len(set(paid)) > 1)\n",
        ),
        "each pass samples anew": (
            "FORWARD_FLOPS * sampled + each * epochs * learned",
            "(FORWARD_FLOPS * sampled + each * learned) * epochs",
        ),
        "one pass, whatever epochs says": ("each * epochs * learned", "each * learned"),
        "the reference is for free": ("(FORWARD_FLOPS if reference else 0)", "0"),
        "the reference learns as well": (
            "(FORWARD_FLOPS if reference else 0)",
            "(TRAINING_FLOPS if reference else 0)",
        ),
        "the reference reads once, not in every pass": (
            "FORWARD_FLOPS * sampled + each * epochs * learned",
            "FORWARD_FLOPS * (sampled + learned * reference) + TRAINING_FLOPS * epochs * learned",
        ),
    },
    "at_budget": {
        "the best so far: a checkpoint chosen on the test": ("within[-1]", "max(within)"),
        "the first measurement, before any work": ("within[-1]", "within[0]"),
        "the end of the run, whatever the budget": ("within[-1]", "values[-1]"),
        "the first measurement beyond the budget": (
            "within[-1]",
            "values[min(len(within), len(values) - 1)]",
        ),
        "what took exactly the budget is left out": (
            "if done <= budget]",
            "if done < budget or done == work[0]]",
        ),
        "the nearest measurement, though it took more": (
            "return within[-1]",
            "nearest = min(abs(done - budget) for done in work)\n"
            "    return [v for w, v in zip(work, values) if abs(w - budget) == nearest][-1]",
        ),
        "a line is drawn to what was measured later": (
            "return within[-1]",
            "n = len(within)\n"
            "    if n == len(work) or work[n] == work[n - 1]:\n"
            "        return within[-1]\n"
            "    share = (budget - work[n - 1]) / (work[n] - work[n - 1])\n"
            "    return values[n - 1] + share * (values[n] - values[n - 1])",
        ),
    },
}
