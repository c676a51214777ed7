"""Mistakes in reading a countdown expression."""

MUTANTS = {
    "countdown_value": {
        "the numbers are not checked": (
            "if sorted(written) != sorted(map(str, numbers)):", "if len(written) > 99:",
        ),
        "a number may be used more often than it is listed": (
            "sorted(written) != sorted(map(str, numbers))",
            "set(written) != set(map(str, numbers))",
        ),
        "the order of the numbers counts": (
            "sorted(written) != sorted(map(str, numbers))", "written != [*map(str, numbers)]",
        ),
        "no bound on the length": ("len(expression) > _LONGEST or", ""),
        "a division by zero is not caught": (", ZeroDivisionError", ""),
        "digits of any script": ("[0-9+*/() -]*", r"[\\d+*/() -]*"),
    },
    "_value": {
        "values are floats": ("Fraction(node.value)", "float(node.value)"),
        "a sign before a number is taken": (
            "if not isinstance(node, ast.BinOp)",
            "if isinstance(node, ast.UnaryOp):\n        return -_value(node.operand)\n"
            "    if not isinstance(node, ast.BinOp)",
        ),
    },
}  # fmt: skip
