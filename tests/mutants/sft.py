"""Plausible mistakes in sft.py."""

MUTANTS = {
    "encode_examples": {
        "the end token does not count: the model never learns to stop": (
            "[1] * (len(second) + 1)",
            "[1] * len(second) + [0]",
        ),
        "the prompt's last token counts, too": (
            "[counts] * len(first) + [1] * (len(second) + 1)",
            "[counts] * (len(first) - 1) + [1] * (len(second) + 1 + (len(first) > 0))",
        ),
        "the completion's first token does not count": (
            "[counts] * len(first) + [1] * (len(second) + 1)",
            "([counts] * len(first) + [1] * (len(second) + 1)) if counts else"
            " [0] * (len(first) + 1) + [1] * len(second)",
        ),
        "the prompt counts always": ('1 if train_on == "all" else 0', "1"),
        "the prompt never counts": ('1 if train_on == "all" else 0', "0"),
        "the end token is missing": (
            "ids = [*first, *second, tokenizer.eos_id]",
            "ids = [*first, *second]",
        ),
        "a merge crosses the border of prompt and completion": (
            "ids = [*first, *second, tokenizer.eos_id]",
            "ids = [*tokenizer.encode(prompt + completion), tokenizer.eos_id]",
        ),
        "the end token does not count among the positions": (
            "len(ids) > limit",
            "len(ids) > limit + 1",
        ),
        "what is too long is cut off": (
            "        if len(ids) > limit:",
            "        ids = ids[:limit]\n        if False:",
        ),
    },
    "batch_rows": {
        "every pass has the same order": (
            "shuffled(examples, seed, epoch)",
            "shuffled(examples, seed, 0)",
        ),
        "the seed is not used": ("shuffled(examples, seed, epoch)", "shuffled(examples, 0, epoch)"),
        "nothing is shuffled": ("shuffled(examples, seed, epoch)", "list(range(examples))"),
        "the batch is cut short at the end of a pass": (
            "    while len(rows) < batch:",
            "    if True:",
        ),
        "every step begins a pass": ("[], step * batch", "[], step * examples"),
        "steps overlap": ("[], step * batch", "[], step"),
    },
}
