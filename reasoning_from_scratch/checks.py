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


def check_positive(settings: object, *names: str, at_least: float | None = None) -> None:
    """Raise a ValueError unless these fields of `settings` are above 0, or `at_least` so much."""
    for name in names:
        value = getattr(settings, name)
        if not (value > 0 if at_least is None else value >= at_least):
            whole = isinstance(value, int)
            least = at_least if at_least is not None else (1 if whole else "a positive number")
            expected = f"at least {least}" if whole or at_least is not None else least
            raise ValueError(f"{name} is {value}, expected {expected}")
