"""The calls that show best what is wrong with a function.

A call is readable where its numbers are few and ordinary and the results clearly differ. What
stands in a mask's zeros to spoil a result, NaN above all, is shown only where nothing else tells.
"""

import functools
import inspect
import traceback
from typing import NamedTuple

import torch
from torch import Tensor

from tests.behaviour import Behaviour, difference, leaves, named_arguments, same, same_result
from tests.showing import SHOWN, as_numbers, show, show_argument

CLEAR = 0.01  # numbers that are less apart, by their larger or by 0.01, look like rounding
WILD = 1e6  # what is above, or not finite, stands there to spoil what is masked
SHORT = 50  # characters of a default value
TAME = 7.0  # what is tried in its place


class Case(NamedTuple):
    """A call that was made again."""

    call: tuple
    ours: Behaviour  # of the student's function
    theirs: Behaviour  # of the package's

    def same(self, rough=None):
        return same(self.ours, self.theirs, rough)

    def same_result(self, rough=None):
        return same_result(self.ours, self.theirs, rough)


def example(right, cases, error, told, source):
    """Find the call of a failing test that shows best what is wrong.

    Args:
        right:  the package's function.
        cases:  what the test called, and `tamed` calls.
        error:  what failed the test, should no call differ.
        told:   results that were shown already: no exception is shown twice.
        source: the student's file, as tracebacks name it.

    Returns:
        (how hard it is to read, the case, its lines), or None if it was told.
    """
    line_of = functools.partial(line_in, source)
    for exact in (False, True):
        found = []
        for case in cases:
            what = difference(case.ours, case.theirs, line_of, exact=exact)
            if what is not None:
                lines = lines_of(right, case.call, what)
                hard = not clear(case), wild(case.call), large(case.call), blank(case.call)
                found.append((hard, sum(len(text) for _, text in lines), case, lines))
        if found:
            break
    else:
        said = " ".join(str(error).split())[:200]
        got = f"{type(error).__name__}: {said}{line_of(error)}"
        return (True,), None, [("got", got), ("expected", "what the test asserts")]
    new = [one for one in found if "Error: " not in (got := dict(one[3])["got"]) or got not in told]
    if not new:
        return None
    hard, _, case, lines = min(new, key=lambda one: one[:2])
    return hard, case, lines


def lines_of(right, call, what):
    """Lines (label, text): the arguments, what came and what was expected."""
    of = f"{what.what}: " if what.what else ""
    got, expected = ("got", of + what.got), ("expected", of + what.expected)
    return [*show_arguments(right, call, what.where, what.shape), got, expected]


def show_arguments(right, call, where=(), shape=()):
    """Lines (label, text) of what a call gives and, in one of them, of what it leaves out.

    Args:
        where, shape: an entry's index in a result of that shape, if one is shown.
    """
    given = named_arguments(right, *call)
    lines = [show_argument(name, value, where, shape) for name, value in given.items()]
    rest = [p for p in inspect.signature(right).parameters.values() if p.name not in given]
    told = [f"{p.name}={show(p.default)}" for p in rest if p.default is not p.empty]
    told = ", ".join(text if len(text) < SHORT else f"{text[:SHORT]}…" for text in told)
    return lines + ([("by default", told)] if told else [])


def clear(case):
    """Whether what differs does so by more than what looks like rounding."""
    if case.ours.error is not None or case.theirs.error is not None:
        return True
    pair = case.ours, case.theirs
    pair = [b.gradients if case.same_result() else b.result for b in pair]
    ours, theirs = (dict(leaves(value)) for value in pair)
    return list(ours) != list(theirs) or any(apart(ours[path], theirs[path]) for path in ours)


def apart(got, expected):
    a, b = as_numbers(got), as_numbers(expected)
    if a is None or b is None:
        return type(got) is not type(expected) or got != expected
    if a.shape != b.shape or (a.isnan() != b.isnan()).any():
        return True
    return bool(((a - b).abs() > CLEAR * b.abs().clamp(min=CLEAR)).any())


def tensors(call):
    return [value for _, value in leaves(call) if isinstance(value, Tensor)]


def is_wild(x):
    # minus infinity alone may be meant: the logit of what is impossible
    odd = ~(x.abs() < WILD) & ~x.isneginf() if x.is_floating_point() else torch.tensor(False)
    return ~(x.abs() < WILD) if odd.any() else torch.zeros_like(x, dtype=torch.bool)


def wild(call):
    """Whether a call holds numbers that no reader wants to see."""
    return any(bool(is_wild(x).any()) for x in tensors(call))


def large(call):
    """Whether a call holds more than is printed."""
    return any(x.numel() > SHOWN for x in tensors(call)) or len([*leaves(call)]) > 5 * SHOWN


def finite(found):
    """Whether a call came to an end with ordinary numbers, gradients included."""
    numbers = [as_numbers(x) for _, x in leaves([found.result, found.gradients])]
    return found.error is None and all(x.isfinite().all() for x in numbers if x is not None)


def blank(call):
    """Whether a tensor of a call is all 0, as a mask is where nothing counts."""
    return any(not x.any() for x in tensors(call))


def tamed(call):
    """The call with ordinary numbers in the place of wild ones; None if it has none."""
    if not wild(call):
        return None

    def tame(value):
        if isinstance(value, Tensor):
            calm = torch.where(is_wild(value), TAME, value.detach()).to(value.dtype)
            return calm.requires_grad_(value.requires_grad)
        if isinstance(value, dict):
            return {key: tame(inner) for key, inner in value.items()}
        if type(value) in (list, tuple):
            return type(value)(map(tame, value))
        return value

    return tame(call)


def line_in(source, error):
    """Where in a file an error was raised."""
    lines = [
        line for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == source
    ]  # fmt: skip
    return f" (line {lines[-1]})" if lines else ""
