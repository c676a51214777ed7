"""Plausible mistakes in merging.py."""

MUTANTS = {
    "merge_models": {
        "the weights are ignored": (
            "else [float(w) for w in weights]",
            "else [1 / len(models) for w in weights]",
        ),
        "the sum, not the average": ("[1 / len(models)] * len(models)", "[1.0] * len(models)"),
        "only two are merged": (
            "zip(shares, others, strict=True)",
            "list(zip(shares, others, strict=True))[:2]",
        ),
        "the weights belong to the models in reverse": (
            "zip(shares, others, strict=True)",
            "zip(shares[::-1], others, strict=True)",
        ),
        "the first model is changed": ("copy.deepcopy(models[0])", "models[0]"),
        "summed in float32": ("torch.float64", "torch.float32"),
        "matrices alone are merged": (
            "        parameter.copy_(sum(parts))",
            "        if parameter.dim() > 1:\n            parameter.copy_(sum(parts))",
        ),
        "weights that are no average are taken": (
            "math.isclose(sum(shares), 1, abs_tol=1e-6)",
            "True",
        ),
        "negative weights are taken": ("all(w >= 0 for w in shares)", "True"),
        "configurations are not compared": ("    check_same_configuration(models)\n", ""),
        "tokenizers are not compared": ("    if tokenizers:\n", "    if False:\n"),
        "tokenizers of some models are taken": ("if len(tokenizers) != len(models):", "if False:"),
        "the embedding is left as it was": (
            "in merged.named_parameters():",
            "in list(merged.named_parameters())[1:]:",
        ),
    },
    "check_same_configuration": {
        "only the width is compared": (
            "if value != first[name]:",
            'if name == "width" and value != first[name]:',
        ),
        "only the last model is compared": (
            "in enumerate(models):",
            "in list(enumerate(models))[-1:]:",
        ),
    },
    "check_same_tokenizer": {
        "only sizes are compared": ("if ours != theirs:", "if False:"),
        "the end token may be another": ("if tokenizer.eos_id != first.eos_id:", "if False:"),
        "only the second is compared": (
            "in enumerate(tokenizers):",
            "in list(enumerate(tokenizers))[:2]:",
        ),
    },
}
