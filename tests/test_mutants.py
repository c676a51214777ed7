"""Every mutant of tests/mutants is refused by the tests of its module.

Those of functions that are exercises are refused, and named, in test_exercises.py.

A module's test files run in this process, once for each mutant, with the mutant's functions in the
place of the package's: only the tests that take `subject`, those that name the function first, and
no further than the first failure. So a mutant costs a fraction of a second.
"""

import importlib
import inspect
import pkgutil

import pytest

import reasoning_from_scratch
import tests.mutants
from reasoning_from_scratch.exercises import EXERCISES
from tests.mutants import REPLACED_MODULES, mutated_module
from tests.nested import OPTIONS, files_of, function_of, hasten

# Of these each public function has three mutants or more; other modules list what they like.
COVERED = (
    "advantages", "losses", "rewards", "lengths", "verify", "preferences", "reward_model",
    "reward_quality", "reward_model_files", "ppo", "dpo", "merging", "imitation",
)  # fmt: skip
MUTANTS = {
    name.replace("__", "."): importlib.import_module(f"tests.mutants.{name}").MUTANTS
    for _, name, _ in pkgutil.iter_modules(tests.mutants.__path__)
}
NAMED = {name for names in EXERCISES.values() for name in names}
CASES = [
    pytest.param(module, function, *change, id=f"{module}.{function}: {sentence}")
    for module, functions in MUTANTS.items()
    for function, changes in functions.items()
    for sentence, change in changes.items()
    if f"{module}.{function}" not in NAMED
]


class SubjectTestsOnly:
    """A pytest plugin: keep the tests that take `subject`, quickest verdict first."""

    def __init__(self, function):
        self.function, self.restore = function, []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if "subject" in getattr(item, "fixturenames", ())]
        items.sort(key=lambda item: self.function not in item.name)
        for item in items:
            if hasattr(test := function_of(item), "hypothesis"):
                self.restore.append(hasten(test))


def run_tests(module, function, replacement, *options):
    """Run the module's tests against the replacement; return pytest's exit code."""
    plugin = SubjectTestsOnly(function.split(".")[-1])
    files = [str(path) for path in files_of(module) if "subject" in path.read_text()]
    REPLACED_MODULES[module] = replacement
    try:
        return pytest.main([*OPTIONS, *options, *files], plugins=[plugin])
    finally:
        del REPLACED_MODULES[module]
        for restore in reversed(plugin.restore):
            restore()


@pytest.fixture(autouse=True)
def no_plugins_from_elsewhere(monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.mark.parametrize("module, function, old, new", CASES)
def test_mutant_is_refused(module, function, old, new):
    replacement = mutated_module(module, function, old, new)
    code = run_tests(module, function, replacement, "-x", "--tb=no")
    assert code != pytest.ExitCode.OK, "no test of the module notices this mistake"
    assert code == pytest.ExitCode.TESTS_FAILED, "the tests could not be run at all"


@pytest.mark.parametrize("module", MUTANTS)
def test_a_copy_without_a_mistake_passes(module):
    # Otherwise a mutant might be refused for being a copy.
    original = importlib.import_module(f"reasoning_from_scratch.{module}")
    line = inspect.getsource(original).splitlines()[0]
    copy = mutated_module(module, None, line, line)
    assert run_tests(module, "", copy, "--tb=short") == pytest.ExitCode.OK


@pytest.mark.parametrize("module", [name for name in COVERED if name in MUTANTS])
def test_every_public_function_has_three_mutants(module):
    original = importlib.import_module(f"reasoning_from_scratch.{module}")
    for name in reasoning_from_scratch._MODULES[module]:
        if inspect.isfunction(getattr(original, name)):
            assert len(MUTANTS[module].get(name, ())) >= 3, f"{name} has fewer than 3 mutants"


def test_a_mutant_must_change_exactly_one_text_of_its_function():
    with pytest.raises(ValueError, match="occurs 0 times in whiten of advantages"):
        mutated_module("advantages", "whiten", "group_size", "1")
    with pytest.raises(ValueError, match="occurs [2-9] times in whiten"):
        mutated_module("advantages", "whiten", "counted", "mask")
    with pytest.raises(ValueError, match="blacken is defined 0 times in advantages"):
        mutated_module("advantages", "blacken", "mask", "x")


def test_a_mutant_is_a_module_of_its_own():
    mutant = mutated_module("advantages", "whiten", "return torch.where(counted,", "return (0,")
    assert mutant.whiten is not reasoning_from_scratch.whiten
    assert inspect.isfunction(reasoning_from_scratch.group_advantages)
