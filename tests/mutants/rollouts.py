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
        "only the first and the last of a group are compared": (
            "spread(scores).tolist()",
            "(scores[:, 0] - scores[:, -1]).abs().tolist()",
        ),
        "mixed is a mean between 0 and 1": (
            "spread(scores).tolist()",
            "[0 < mean < 1 for mean in scores.mean(1).tolist()]",
        ),
        "mixed is a deviation above 0, which rounding is": (
            "spread(scores).tolist()",
            "[row.std().item() for row in scores]",
        ),
        "the round is forgotten": ("append((at, group))", "append((0, group))"),
        "goes on when the batch is full": (
            "        if len(mixed) == wanted:\n            break\n",
            "        wanted += len(mixed) == wanted\n",
        ),
    }
}
