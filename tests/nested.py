"""Running tests of this suite from within Python: what the mutants and the exercises share."""

from pathlib import Path

from hypothesis import Phase, settings

FOLDER = Path(__file__).parent
QUIET = ("-q", "-s", "--no-header", "--disable-warnings", "-o", "addopts=--strict-markers")
# Without these a session starts faster; nor may it touch what an outer session has set up.
WITHOUT = ("cacheprovider", "faulthandler", "unraisableexception", "threadexception", "stepwise")
OPTIONS = (*QUIET, *(word for name in WITHOUT for word in ("-p", f"no:{name}")))


def files_of(module):
    """The files that test a module of the package, such as "losses" or "tasks.countdown"."""
    stem = module.replace(".", "_")
    return [*FOLDER.glob(f"test_{stem}.py"), *sorted(FOLDER.glob(f"test_{stem}_*.py"))]


def function_of(item):
    """The function of a collected test, below its fixtures and its class."""
    return getattr(item.function, "__func__", item.function)


def hasten(test):
    """Let Hypothesis try few examples, always the same ones, with no search for a simpler one.

    Returns a function that undoes it.
    """
    name = "_hypothesis_internal_use_settings"  # the one place where a test keeps them
    before = getattr(test, name)
    options = {"max_examples": 25, "phases": (Phase.explicit, Phase.generate)}
    options |= {"derandomize": True, "database": None, "deadline": None}
    setattr(test, name, settings(before, **options))
    return lambda: setattr(test, name, before)
