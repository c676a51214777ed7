"""Values as one short line of text, for a reader who has to find out why two of them differ.

A tensor of more than `SHOWN` numbers is not printed: of two that differ, one entry is, and of the
arguments what belongs to that entry. A function is shown by what it does.
"""

import ast
import dataclasses
import inspect
import numbers
import types

import numpy as np
import torch
from torch import Tensor

SHOWN = 12  # numbers of a tensor or list that are printed in full
WIDEST = 120  # characters of a text


def as_numbers(value):
    """A float64 tensor of a tensor, array or number; None of anything else."""
    if isinstance(value, Tensor):
        return value.detach().double()
    if isinstance(value, np.ndarray | np.generic | numbers.Real):
        try:
            return torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError):
            return None
    return None


def show_both(got, expected):
    """Both as text, told apart by more digits or, in large tensors, by the entry that differs most.

    Returns:
        (got, expected) or (got, expected, the entry's index, the tensor's shape).
    """
    a, b = as_numbers(got), as_numbers(expected)
    if a is not None and b is not None and a.shape == b.shape and a.numel() > SHOWN:
        equal = (a == b) | (a.isnan() & b.isnan())
        # Two numbers first: NaN and infinity, whose difference is NaN, only if there is no other.
        gap = torch.where(equal, -1.0, (a - b).abs().nan_to_num(nan=0.0, posinf=0.0))
        where = tuple(int(i) for i in np.unravel_index(int(gap.argmax()), tuple(a.shape)))
        place = f" at {list(where)} of {list(a.shape)}"
        return f"{_number(a[where])}{place}", f"{_number(b[where])}{place}", where, tuple(a.shape)
    for digits in (6, 12):
        texts = show(got, digits), show(expected, digits)
        if texts[0] != texts[1]:
            return texts
    kinds = kind(got), kind(expected)  # a list and a tensor of the same numbers look alike
    return texts if kinds[0] == kinds[1] else tuple(map("{} ({})".format, texts, kinds))


def kind(value):
    """What a value is, and what lies in it."""
    if isinstance(value, Tensor):
        return f"tensor of {value.dtype}".replace("torch.", "")
    inner = sorted({kind(x) for x in value}) if isinstance(value, list | tuple) else ()
    name = type(value).__name__
    return f"{name} of {', '.join(inner)}" if inner else name


def show_argument(name, value, where=(), shape=()):
    """(label, text) of an argument; of a large tensor the row that belongs to an entry.

    Args:
        where, shape: the entry's index in a result of that shape, if one is shown.
    """
    if isinstance(value, Tensor | np.ndarray) and (size := tuple(value.shape)):
        if (flat := as_numbers(value).flatten()).numel() > SHOWN and (flat != flat[0]).any():
            if size[:1] == shape[:1] and as_numbers(row := value[where[0]]).numel() <= SHOWN:
                return f"{name}[{where[0]}]", f"{show(row)} of shape {list(size)}"
    return name, show(value)


def show(value, digits=6):
    """A value as one short line."""
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(value)
    if isinstance(value, Tensor):
        return _show_tensor(value, digits)
    if isinstance(value, bool | None | str):
        text = repr(value)
        return text if len(text) < WIDEST else f"{text[:110]}… '"
    if isinstance(value, numbers.Real):
        return _number(value, digits) if isinstance(value, float) else str(value)
    if isinstance(value, list | tuple):
        few = [show(x, digits) for x in value[:SHOWN]]
        more = f", … ({len(value)} in all)" if len(value) > SHOWN else ""
        more = "," if isinstance(value, tuple) and len(value) == 1 else more
        start, end = "[]" if isinstance(value, list) else "()"
        return start + ", ".join(few) + more + end
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {show(x, digits)}" for key, x in value.items()) + "}"
    told = isinstance(type(value).__repr__, types.FunctionType)  # it says itself what it is
    if callable(value) and not told and not isinstance(value, torch.nn.Module):
        return _show_function(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        told = [f"{f.name}={show(x, digits)}" for f, x in fields if x is not f.default]
        return f"{type(value).__name__}({', '.join(told)})"
    text = repr(value)
    if len(text) < WIDEST and " at 0x" not in text and "\n" not in text:
        return text
    return f"a {type(value).__name__}"


def _number(value, digits=6):
    return f"{float(value) + 0.0:.{digits}g}"  # plus 0: minus zero is zero


def _show_tensor(value, digits):
    if not value.numel():
        return f"shape {list(value.shape)}"
    if value.numel() > SHOWN:
        flat, shape = value.flatten(), f"shape {list(value.shape)}"
        if (flat == flat[0]).all():
            return f"{shape}: {show(flat[0].item(), digits)} everywhere"
        return f"{shape}: {show(flat[:6].tolist(), digits)[:-1]}, …"
    return show(value.tolist(), digits)


def _show_function(function):
    """A function by its arguments and what it returns, or by the first line of its docstring."""
    name, node = getattr(function, "__name__", type(function).__name__), _definition(function)
    text, body = "", getattr(node, "body", None)
    if isinstance(node, ast.Lambda):
        text = ast.unparse(node)
    elif node is not None and len(body) == 1 and isinstance(body[0], ast.Return) and body[0].value:
        text = f"{name}({ast.unparse(node.args)}) returns {ast.unparse(body[0].value)}"
    if 0 < len(text) < WIDEST:
        return text
    said = (inspect.getdoc(function) or "").partition("\n")[0]
    return f"the function {name}" + (f": {said}" if said else "")


def _definition(function):
    """The syntax tree of a function that is written in Python; None if it cannot be told."""
    try:
        file, line = inspect.getsourcefile(function), function.__code__.co_firstlineno
        with open(file, encoding="utf-8") as source:
            tree = ast.parse(source.read())
    except (AttributeError, OSError, SyntaxError, TypeError):
        return None
    kinds = ast.Lambda if function.__name__ == "<lambda>" else ast.FunctionDef
    found = [n for n in ast.walk(tree) if isinstance(n, kinds) and n.lineno == line]
    return found[0] if len(found) == 1 else None
