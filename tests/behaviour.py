"""What a function makes of one call, so that two functions can be compared: a student's, the
package's, a mutant's.

A call is kept as (args, options) before the function can change them, and made again with each
function: the result, the gradient of a weighted sum of it by each argument that carries one, what
was raised, and which arguments were changed. Numbers are the same within rounding; so are two
refusals of one kind, whatever their wording.
"""

import inspect
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tests.showing import SHOWN, as_numbers, show, show_both


class Behaviour(NamedTuple):
    result: object
    gradients: dict  # name of the argument -> Tensor, or None where the result does not depend
    changed: tuple  # names of the arguments that are no longer what they were
    error: BaseException | None


class Difference(NamedTuple):
    what: str  # "" for the result as a whole
    got: str
    expected: str
    where: tuple = ()  # in a tensor that is too large to print: the entry that is shown
    shape: tuple = ()  # of that tensor


def snapshot(value):
    """A copy that later changes do not reach. Models, functions and texts stay themselves.

    An object that changes and can be asked again says how: by a method of this name.
    """
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if isinstance(value, dict):
        return {key: snapshot(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(snapshot(inner) for inner in value)
    return value.snapshot() if hasattr(type(value), "snapshot") else value


def behaviour(function, call):
    """Make a call with a function, and say what came of it."""
    args, options = snapshot(call)
    given = named_arguments(function, args, options)
    inputs, before = dict(leaves(given)), snapshot(given)
    carrying = {name: x for name, x in inputs.items() if isinstance(x, Tensor) and x.requires_grad}
    try:
        result = function(*args, **options)
        gradients = gradients_of(result, carrying)
    except (Exception, SystemExit) as error:
        return Behaviour(None, {}, (), error)
    changed = tuple(name for name in given if not unchanged(given[name], before[name]))
    return Behaviour(result, gradients, changed, None)


def unchanged(value, before):
    """Say whether an argument still holds what its snapshot does. Of objects nothing is said."""
    now, then = list(leaves(value)), list(leaves(before))
    if [path for path, _ in now] != [path for path, _ in then]:
        return False
    return all(_unchanged(x, y) for (_, x), (_, y) in zip(now, then, strict=True))


def _unchanged(x, y):
    if x is y:
        return True
    a, b = as_numbers(x), as_numbers(y)
    if a is None or b is None:
        return type(x) is type(y) and (not isinstance(x, str) or x == y)
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def gradients_of(result, inputs):
    slopes = [x for _, x in leaves(result) if isinstance(x, Tensor) and x.requires_grad]
    if not slopes or not inputs:
        return dict.fromkeys(inputs)
    # Weights of its own for each entry, or errors of opposite sign would cancel.
    weighted = [(x.double().flatten() * torch.linspace(1, 2, x.numel())).sum() for x in slopes]
    found = torch.autograd.grad(sum(weighted), list(inputs.values()), allow_unused=True)
    return dict(zip(inputs, found, strict=True))


def named_arguments(function, args, options):
    """The arguments by the names of the function's parameters, in its order."""
    try:
        return inspect.signature(function).bind_partial(*args, **options).arguments
    except TypeError:  # they don't fit: the call will say so
        return {str(i): value for i, value in enumerate(args)} | options


def leaves(value, path=""):
    """Yield (path, value) of whatever lies in tuples, lists and dicts."""
    if isinstance(value, dict):
        inner = [(f"{path}[{key!r}]" if path else str(key), x) for key, x in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(f"{path}[{i}]", x) for i, x in enumerate(value)]
    else:
        yield path, value
        return
    for name, x in inner:
        yield from leaves(x, name)


def agree(ours, theirs, rough=None):
    """Say whether two results (not behaviours) are the same within rounding, or `rough`ly."""
    first, second = list(leaves(ours)), list(leaves(theirs))
    if [path for path, _ in first] != [path for path, _ in second]:
        return False
    return all(_agree(x, y, rough) for (_, x), (_, y) in zip(first, second, strict=True))


def _agree(x, y, rough=None):
    a, b = as_numbers(x), as_numbers(y)
    if a is None or b is None:
        return a is None and b is None and type(x) is type(y) and bool(x == y)
    if a.shape != b.shape or torch.equal(a, b):
        return a.shape == b.shape
    coarse = any(isinstance(v, Tensor) and v.dtype != torch.float64 for v in (x, y))
    tolerance = rough or (1e-5 if coarse else 1e-9)
    finite = b[b.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def same(ours, theirs, rough=None):
    """Say whether two behaviours are one, whatever the wording of a refusal."""
    same_gradients = list(ours.gradients) == list(theirs.gradients) and all(
        _agree(x, theirs.gradients[name], rough) for name, x in ours.gradients.items()
    )
    return same_result(ours, theirs, rough) and same_gradients and ours.changed == theirs.changed


def same_result(ours, theirs, rough=None):
    """Say whether two behaviours have the same result, or refuse for the same kind of reason."""
    return type(ours.error) is type(theirs.error) and agree(ours.result, theirs.result, rough)


def difference(ours, theirs, line_of, *, exact=False):
    """Return the first `Difference` between two behaviours, or None.

    Args:
        line_of: error -> where it was raised, in words.
        exact:   rounding is a difference, too, and the wording of a refusal.
    """
    if ours.error is not None or theirs.error is not None:
        if type(ours.error) is type(theirs.error):
            if not exact or str(ours.error) == str(theirs.error):
                return None
        return Difference("", _outcome(ours, line_of), _outcome(theirs, lambda error: ""))
    if not agree(ours.result, theirs.result):
        return _difference_of_results(ours.result, theirs.result)
    for name, expected in theirs.gradients.items():
        got = ours.gradients.get(name)
        if not _agree(got, expected):
            numbers = [as_numbers(x) for _, x in leaves(theirs.result)]
            one = sum(x.numel() for x in numbers if x is not None) == 1
            of = "" if one else " (entries of the result weighted from 1 to 2)"
            if got is None:
                return Difference(
                    "", f"no gradient reaches {name}", f"gradient by {name}{of}: {show(expected)}"
                )
            if expected is None:
                return Difference("", f"a gradient reaches {name}", f"no gradient reaches {name}")
            return Difference(f"gradient by {name}{of}", *show_both(got, expected))
    if ours.changed != theirs.changed:
        return Difference("", f"the argument {ours.changed[0]} is changed", "it stays as it was")
    if exact and (got := show(ours.result, 17)) != (expected := show(theirs.result, 17)):
        return Difference("", got, expected)
    kinds = [[getattr(x, "dtype", type(x)) for _, x in leaves(b.result)] for b in (ours, theirs)]
    return None if kinds[0] == kinds[1] else Difference("type", *map(_kinds, kinds))


def _difference_of_results(ours, theirs):
    first, second = dict(leaves(ours)), dict(leaves(theirs))
    short = all(x.numel() <= SHOWN for x in first.values() if isinstance(x, Tensor))
    if short and len(show(ours)) + len(show(theirs)) < 200:
        return Difference("", *show_both(ours, theirs))
    if list(first) != list(second):
        return Difference("", show(ours), show(theirs))
    path = next(path for path in first if not _agree(first[path], second[path]))
    return Difference(f"result{path}" if path else "", *show_both(first[path], second[path]))


def _outcome(found, line_of):
    if found.error is None:
        return show(found.result)
    return f"{type(found.error).__name__}: {found.error}{line_of(found.error)}"


def _kinds(kinds):
    return ", ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
