"""Wrong versions of the package's functions: the tests must refuse every one.

One file a module, `MUTANTS = {function: {the mistake in a sentence: (old text, new text)}}`; the
old text stands once in that function's source, decorators included. A name with a dot is a method.

`mutated_module` makes the wrong version. While it lies in `REPLACED_MODULES`, the `subject` fixture
hands out its functions instead of the package's. The check of the exercises uses both: where a
student's results equal a mutant's, it prints the mutant's sentence.
"""

import ast
import importlib.util
import types

REPLACED_MODULES = {}  # "losses" -> the module that stands in for reasoning_from_scratch.losses


def mutated_module(module_name, function, old, new):
    """Return a copy of a module of the package in which one text of one function is another.

    Args:
        module_name: below the package, such as "losses" or "tasks.arithmetic".
        function:    a function, a class, or "Class.method" of that module; None for its whole text.
        old, new:    the text to replace, found exactly once in the function, and its replacement.

    Returns:
        A module of its own, registered nowhere: the package keeps its own copy. What other modules
        of the package import from this one stays right.

    Raises:
        ValueError: the function or the text is not there, or the text is there more than once.
    """
    name = f"reasoning_from_scratch.{module_name}"
    spec = importlib.util.find_spec(name)
    source = spec.loader.get_source(name)
    start, end = _span(source, function, module_name) if function else (0, len(source))
    body = source[start:end]
    if body.count(old) != 1:
        raise ValueError(
            f"{old!r} occurs {body.count(old)} times in {function} of {module_name}, expected once"
        )
    source = source[:start] + body.replace(old, new) + source[end:]
    module = types.ModuleType(name)
    module.__spec__, module.__file__, module.__package__ = spec, spec.origin, spec.parent
    exec(compile(source, spec.origin, "exec"), module.__dict__)
    return module


def _span(source, function, module_name):
    """Where the function's text begins and ends, in characters."""
    node = ast.parse(source)
    for part in function.split("."):
        found = [child for child in node.body if getattr(child, "name", None) == part]
        if len(found) != 1:
            raise ValueError(f"{function} is defined {len(found)} times in {module_name}")
        node = found[0]
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = source.splitlines(keepends=True)
    return sum(map(len, lines[: first - 1])), sum(map(len, lines[: node.end_lineno]))
