"""Mistakes in working out a story and in reading what a completion thinks of it."""

MUTANTS = {
    "Stories": {
        "a target makes other stories": ("field(default=(), repr=False)", "()"),
        "the prompt does not say the target": ("many?{asked}", "many?"),
        "the target goes by the number of steps": (
            "random.choice(self.targets)", "self.targets[len(operations) % len(self.targets)]",
        ),
        "the problem does not tell its target": ("self.limit, **meta", "self.limit"),
    },
    "apply": {
        "halves an odd number": (" and value % number == 0", ""),
        "goes below 0": (" if number <= value else None", ""),
    },
    "judge_thinking": {
        "steps may come from anywhere": ("int(left or -1) == value and ", ""),
        "the story's operations do not matter": (
            "operations[done : done + 1] == [sign + number]", "done < len(operations)",
        ),
        "goes on from the true value after a slip": (
            "done, value, last, last_holds = done + 1, int(result), left",
            "done, value, last, last_holds = done + 1, apply(value, sign + number), left",
        ),
        "a step done again after 'wait' counts as the next": ("expected and not again", "expected"),
        "writing a right step again counts as a correction": (" and not last_holds", ""),
        "writing a wrong step again counts as a correction": (" and holds and not", " and not"),
        "strays are forgotten": ("strays += 1", "strays += 0"),
        "half a story is complete": ("done == len(operations) and not", "not"),
    },
    "thinks": {"an empty thought counts": (r"\s*[^\s<]", "")},
}  # fmt: skip
