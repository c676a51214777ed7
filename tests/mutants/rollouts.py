"""Plausible mistakes in rollouts.py."""

MUTANTS = {
    "fill_with_mixed": {
        "every round draws a whole batch": ("missing = wanted - len(mixed)", "missing = wanted"),
        "groups that are all right count as mixed": (
            "(mixed if width > 0 else others)",
            "(mixed if width > 0 or scores[group].amax() > 0 else others)",
        ),
        "only the dead groups are kept": ("if width > 0", "if width == 0"),
        "what is missing stays missing": ("(mixed + others)[:wanted]", "mixed[:wanted]"),
        "the others come first": ("(mixed + others)[:wanted]", "(others + mixed)[:wanted]"),
        "the round is forgotten": ("append((at, group))", "append((0, group))"),
        "goes on when the batch is full": (
            "        if len(mixed) == wanted:\n            break\n",
            "        wanted += len(mixed) == wanted\n",
        ),
    }
}
