"""Plausible mistakes in problem_streams.py."""

MUTANTS = {
    "priorities": {
        "the most solved are drawn most often": ("missing = 1 - rates", "missing = rates"),
        "not divided by their sum": ("missing / missing.sum()", "missing"),
        "nothing can be drawn where all is solved": (
            "    if not missing.any():\n        missing = torch.ones_like(missing)\n",
            "",
        ),
        "softmax of what is missing": ("missing / missing.sum()", "missing.softmax(0)"),
    }
}
