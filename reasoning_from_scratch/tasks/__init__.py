"""Families of problems, by name: `get_task("stories", steps=(2, 8))`."""

from dataclasses import fields
from importlib import import_module

from reasoning_from_scratch.tasks.base import Problem, Task

# Where each task lives; its module is loaded when it is first asked for.
TASKS = {
    "stories": ("stories", "Stories"),
    "addition": ("addition", "Addition"),
    "arithmetic": ("arithmetic", "Arithmetic"),
    "countdown": ("countdown", "Countdown"),
    "gsm8k": ("published", "GSM8K"),
    "math500": ("published", "MATH500"),
}

__all__ = ["TASKS", "Problem", "Task", "get_task"]


def get_task(name: str, **options: object) -> Task:
    """Return the task called `name` with its options set.

    Args:
        name:    a key of `TASKS`, or "gym:" and the name of a data set of reasoning-gym.
        options: fields of the task's class; a list is taken as a tuple, as JSON has no tuples.

    Raises:
        ValueError: there is no such task, or it has no such option or value.
    """
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    if name.startswith("gym:"):
        from reasoning_from_scratch.tasks.gym import Gym

        return Gym(name.removeprefix("gym:"), tuple(sorted(options.items())))
    if name not in TASKS:
        raise ValueError(f"task is {name!r}, expected 'gym:NAME' or one of {', '.join(TASKS)}")
    module, title = TASKS[name]
    task = getattr(import_module(f"{__name__}.{module}"), title)
    known = [option.name for option in fields(task)]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}, expected one of {', '.join(known)}")
    return task(**options)
