"""Every mutant of tests/mutants is refused by the tests of its module.

Those of functions that are exercises are refused, and named, in test_exercises.py.

A module's test files are collected once, in this process, and then run for each mutant, with the
mutant's functions in the place of the package's: only the tests that take `subject`, those that
name the function first, of these such as have refused another mutant, the quick before the slow,
and no further than the first failure. So a mutant costs a fraction of a second.
"""

import importlib
import inspect
import pkgutil
import time

import pytest
from _pytest.runner import runtestprotocol

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
OTHERS = {  # of functions that are no exercises
    module: {f: changes for f, changes in functions.items() if f"{module}.{f}" not in NAMED}
    for module, functions in MUTANTS.items()
}


class Trials:
    """A pytest plugin that runs a module's tests against one replacement of it after another.

    Args:
        module:       below the package, such as "losses".
        replacements: {(function, the mistake in a sentence): the module that makes it}.
    """

    def __init__(self, module, replacements):
        self.module, self.replacements = module, replacements
        self.unnoticed = []  # the mistakes that no test refuses
        self.refused_the_copy = []  # tests that refuse a mutant, and also a copy without a mistake
        self.took = {}  # test -> seconds, when it last ran
        self.restore = []

    def run(self):
        """Run all, in this process; return pytest's exit code."""
        files = [str(path) for path in files_of(self.module) if "subject" in path.read_text()]
        try:
            return pytest.main([*OPTIONS, "--tb=no", *files], plugins=[self])
        finally:
            REPLACED_MODULES.pop(self.module, None)
            for restore in reversed(self.restore):
                restore()

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if "subject" in getattr(item, "fixturenames", ())]
        for item in items:
            if hasattr(test := function_of(item), "hypothesis"):
                self.restore.append(hasten(test))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        if session.testsfailed:
            raise session.Interrupted("a file of tests cannot be collected")
        refusing = []  # each test that was the first to refuse a mutant
        for (function, said), replacement in self.replacements.items():
            name = function.split(".")[-1]

            def order(item, name=name):
                return name not in item.name, item not in refusing, self.took.get(item, 0)

            items = sorted(session.items, key=order)
            if (item := self.first_failure(items, replacement)) is None:
                self.unnoticed.append(f"{function}: {said}")
            elif item not in refusing:
                refusing.append(item)
        # Otherwise a mutant might be refused for being a copy, or for what an earlier one left.
        original = importlib.import_module(f"reasoning_from_scratch.{self.module}")
        line = inspect.getsource(original).splitlines()[0]
        copy = mutated_module(self.module, None, line, line)
        while refusing and (item := self.first_failure(refusing, copy)) is not None:
            self.refused_the_copy.append(item.nodeid)
            refusing = refusing[refusing.index(item) + 1 :]
        return True

    def first_failure(self, items, replacement):
        """Return the first test that fails with the replacement; None if all pass."""
        REPLACED_MODULES[self.module] = replacement
        for item, following in zip(items, [*items[1:], None], strict=True):
            start = time.perf_counter()
            reports = runtestprotocol(item, nextitem=following, log=False)
            self.took[item] = time.perf_counter() - start
            if any(report.failed for report in reports):
                item.session._setupstate.teardown_exact(None)  # what the next would have shared
                return item
        return None


@pytest.fixture(autouse=True)
def no_plugins_from_elsewhere(monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def tried(module, mutants):
    """Return the `Trials` of a module's mutants, after they were run."""
    replacements = {
        (function, said): mutated_module(module, function, *change)
        for function, changes in mutants.items()
        for said, change in changes.items()
    }
    trials = Trials(module, replacements)
    assert trials.run() == pytest.ExitCode.OK, "the tests could not be run at all"
    return trials


@pytest.mark.parametrize("module", [module for module, mutants in OTHERS.items() if mutants])
def test_every_mutant_is_refused(module):
    trials = tried(module, OTHERS[module])
    assert not trials.unnoticed, "no test of the module notices these mistakes"
    assert not trials.refused_the_copy, "these tests refuse a copy without any mistake"


def test_what_no_test_notices_is_told_and_what_is_noticed_is_not():
    changes = {
        "whiten": {
            "nothing": ("return torch.where(counted,", "return torch.where( counted,"),
            "zeros": ("return torch.where(counted,", "return 0 * torch.where(counted,"),
        }
    }
    assert tried("advantages", changes).unnoticed == ["whiten: nothing"]


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
