"""Refusals that name the argument, what came and what was expected."""

from torch import Tensor


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], why: str) -> None:
    """Raise a ValueError unless `tensor` has exactly `shape`; `why` says where it comes from."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {list(tensor.shape)}, expected {list(shape)}: {why}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless `value` is one of `choices`."""
    if value not in choices:
        *most, last = [repr(choice) for choice in choices]
        expected = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(f"{name} is {value!r}, expected {expected}")
