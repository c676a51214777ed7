"""Refusals that name the argument, what came and what was expected."""

import math
from dataclasses import fields
from numbers import Integral, Real
from typing import Literal, get_args, get_origin

import torch
from torch import Tensor


def check_tensor(name: str, value: object) -> None:
    """Raise a ValueError unless `value` is a tensor: a list would fail later, with less to say."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}, expected a tensor")


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], why: str) -> None:
    """Raise a ValueError unless `tensor` has exactly `shape`; `why` says where it comes from."""
    check_tensor(name, tensor)
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {list(tensor.shape)}, expected {list(shape)}: {why}")


def check_mask(mask: Tensor, shape: tuple[int, ...], why: str) -> None:
    """Raise a ValueError unless `mask` has `shape` and no entry is negative or NaN.

    Such an entry is not 0 and would count: -100, which elsewhere marks a label to leave out, as
    well. Only masks on a CPU are looked through, for a GPU would have to be waited for.
    """
    check_shape("mask", mask, shape, why)
    if mask.dtype != torch.bool and mask.device.type == "cpu":
        fine = mask >= 0
        if not fine.all():
            raise ValueError(f"mask holds {mask[~fine][0].item()}, expected 0 or above")


def check_type(name: str, value: object, expected: type) -> None:
    """Raise a ValueError unless `value` is of the class that is expected."""
    if not isinstance(value, expected):
        came = type(value).__name__
        raise ValueError(f"{name} is a {came}, expected a {expected.__name__}")


def check_texts(name: str, value: object) -> None:
    """Raise a ValueError unless `value` is a list or tuple of texts, none of them empty."""
    texts = value if isinstance(value, list | tuple) else [None]
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"{name} is {value!r}, expected a list of non-empty strings")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless `value` is one of `choices`."""
    if value not in choices:
        *most, last = [repr(choice) for choice in choices]
        expected = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(f"{name} is {value!r}, expected {expected}")


def check_choices(settings: object) -> None:
    """Raise a ValueError unless each field of `settings` with a Literal type is one of those."""
    for field in fields(settings):
        if get_origin(field.type) is Literal:
            check_choice(field.name, getattr(settings, field.name), get_args(field.type))


def check_whole_numbers(settings: object) -> None:
    """Raise a ValueError unless each field of `settings` with the type int holds a whole number."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.type is int and not isinstance(value, Integral):
            raise ValueError(f"{field.name} is {value!r}, expected a whole number")


def check_finite(settings: object) -> None:
    """Raise a ValueError unless each rate and weight of `settings` is finite and at least 0.

    A negative rate would climb the loss, and a NaN or an infinite one leaves a model without sense.
    """
    for field in fields(settings):
        if field.name in ("lr", "critic_lr", "final_lr", "warmup", "weight_decay", "kl_coef",
                          "beta", "nll_coef", "temperature"):  # fmt: skip
            value = getattr(settings, field.name)
            if not (isinstance(value, Real) and 0 <= value < math.inf):
                raise ValueError(f"{field.name} is {value!r}, expected a finite number, at least 0")


def check_positive(settings: object, *names: str, at_least: float | None = None) -> None:
    """Raise a ValueError unless these fields of `settings` are above 0, or `at_least` so much."""
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, Real):
            raise ValueError(f"{name} is {value!r}, expected a number")
        if not (value > 0 if at_least is None else value >= at_least):
            whole = isinstance(value, int)
            least = at_least if at_least is not None else (1 if whole else "a positive number")
            expected = f"at least {least}" if whole or at_least is not None else least
            raise ValueError(f"{name} is {value}, expected {expected}")
