"""The package's own tests run against a student's functions: the inner half of `check`.

`reasoning_from_scratch/exercises.py` starts this in a process of its own, which an endless loop or
a crash may end: `python -m tests.student FILE SECONDS advantages.gae losses.value_loss …`. What
happens is told on stdout, a JSON object a line; what the student prints is dropped.

An exercise is named as `subject` names it. It is held by the tests of its module that ask `subject`
for it; while they run, it alone is replaced, so that nothing depends on another exercise.
"""

import ast
import contextlib
import faulthandler
import functools
import importlib
import inspect
import json
import os
import signal
import sys
import traceback
import types
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from tests.behaviour import (
    behaviour,
    difference,
    named_arguments,
    same,
    same_result,
    show,
    snapshot,
)
from tests.mutants import REPLACED_MODULES, mutated_module
from tests.nested import OPTIONS, files_of, function_of, hasten

KEPT = 4  # calls of a test that are kept from its beginning, and as many from its end
EXPLAINED = 3  # failing tests that are shown with input, got and expected
PATIENCE = 6  # times the limit on computing is the limit on waiting


class Watched:
    """A function in the place of the package's; it remembers how it was called."""

    def __init__(self, function):
        self.function = function
        self.calls = []  # of the test that runs
        self.returned = 0  # calls that came to an end, in all tests
        self.unwritten = False  # whether it said itself that it is not implemented
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args, **options):
        self.calls.append(snapshot((args, options)))
        if len(self.calls) > 2 * KEPT:
            del self.calls[KEPT]
        try:
            result = self.function(*args, **options)
        except NotImplementedError as error:
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            self.unwritten |= frames[-1].f_code.co_name == self.__name__
            raise
        self.returned += 1
        return result

    def __getattr__(self, name):
        if name == "function":
            raise AttributeError(name)
        return getattr(self.function, name)

    def __repr__(self):
        return self.__name__


class Checker:
    """A pytest plugin that runs an exercise's tests against one function after another.

    Args:
        work:    pairs (exercise, function); a function of None is missing.
        tell:    called with what is about to happen and with each exercise's verdict, as dicts.
        limit:   a context manager around whatever runs the student's function.
        source:  the student's file as tracebacks name it.
        enough:  failing tests of an exercise after which its others are left out.
    """

    def __init__(
        self, work, tell, *, limit=contextlib.nullcontext, source=None, enough=sys.maxsize
    ):
        self.work, self.tell, self.limit, self.source = work, tell, limit, source
        self.enough = enough
        self.broken, self.restore = {}, []  # broken: a file of tests -> why it cannot be loaded

    def run(self):
        """Run all, in this process."""
        names = {name for name, _ in self.work}
        files = sorted({str(f) for name in names for f in files_with(name)})
        try:
            pytest.main([*OPTIONS, "--tb=no", *files], plugins=[self])
        finally:
            for restore in reversed(self.restore):
                restore()

    def pytest_collectreport(self, report):
        if report.failed and (crash := str(report.longrepr).strip()):
            said = [line[1:].strip() for line in crash.splitlines() if line.startswith("E ")]
            self.broken[str(report.fspath)] = (said or crash.splitlines())[-1]

    def pytest_exception_interact(self, call):
        self.error = call.excinfo.value

    def pytest_internalerror(self, excrepr):
        raise RuntimeError(f"the check itself failed: {excrepr}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        for item in session.items:
            if hasattr(test := function_of(item), "hypothesis"):
                self.restore.append(hasten(test))
        for exercise, function in self.work:
            items = [item for item in session.items if holds(item, exercise)]
            if function is None:
                verdict = {"status": "missing"}
            elif not items:
                verdict = {"status": "untested", "why": "; ".join(self.broken.values())}
            else:
                verdict = self.judge(exercise, function, items)
            self.tell({"exercise": exercise, "verdict": verdict})
        return True

    def judge(self, exercise, function, items):
        """Run the tests of an exercise and say what came of it."""
        home, _, name = exercise.rpartition(".")
        original = importlib.import_module(f"reasoning_from_scratch.{home}")
        stand_in = types.ModuleType(original.__name__)
        stand_in.__dict__.update(vars(original))
        watched = Watched(function)
        setattr(stand_in, name, watched)
        REPLACED_MODULES[home] = stand_in
        failed, passed = [], []  # (test, its calls, what went wrong)
        try:
            for item, following in zip(items, [*items[1:], None], strict=True):
                self.tell({"exercise": exercise, "test": sentence(item)})
                watched.calls, self.error = [], None
                with self.limit():
                    reports = runtestprotocol(item, nextitem=following, log=False)
                bad = any(report.failed for report in reports)
                (failed if bad else passed).append((item, watched.calls, self.error))
                if len(failed) >= self.enough and following is not None:
                    item.session._setupstate.teardown_exact(None)  # it kept what that one shares
                    break
        finally:
            del REPLACED_MODULES[home]
        counts = {"passed": len(passed), "tests": len(items)}
        if not failed:
            return {"status": "right", **counts}
        if watched.unwritten and not watched.returned:
            return {"status": "not started", **counts}
        self.tell({"exercise": exercise, "test": "the calls of the tests, made once more"})
        right = getattr(original, name)
        return {
            "status": "wrong",
            **counts,
            **self.diagnose(exercise, right, watched, failed, passed),
        }

    def diagnose(self, exercise, right, watched, failed, passed):
        """Show the first failing tests, and name the mistake if it is a known one."""

        def made_again(call):
            with self.limit():
                return behaviour(watched.function, call)

        tests, cases = {}, []  # the first failing item of each test; what all of them called
        for item, calls, error in failed:
            compared = [(call, made_again(call), behaviour(right, call)) for call in calls]
            tests.setdefault(item.originalname, (item, compared, error))
            cases += compared
        shown = []
        for item, compared, error in tests.values():
            *given, got, expected = self.explain(right, error, compared)
            repeats = "Error: " in got[1] and got in [other["lines"][-2] for other in shown]
            if len(shown) < EXPLAINED and not repeats:
                about = {"test": sentence(item), "where": place(item)}
                shown.append(about | {"lines": [*given, got, expected]})

        wrong = [case[:2] for case in cases if not same(*case[1:])]
        rest = [case[:2] for case in cases if same(*case[1:])]
        rest += [(call, made_again(call)) for _, calls, _ in passed for call in calls[-1:]]
        known = mistakes(exercise, wrong + rest, same) if wrong else []
        # Two mistakes at once are no single mutant. The results in the first failing test, without
        # gradients and refusals, may show one of them.
        perhaps, first = [], failed[0][0].originalname
        calls = [
            c for item, calls, _ in failed + passed if item.originalname == first for c in calls
        ]
        cases = [(call, made_again(call), behaviour(right, call)) for call in calls]
        if not known and not all(same_result(*case[1:]) for case in cases):
            perhaps = mistakes(exercise, [case[:2] for case in cases], same_result)
        return {
            "failures": shown,
            "more": len(tests) - len(shown),
            "mistakes": known,
            "perhaps": perhaps if len(perhaps) <= 2 else [],
        }

    def explain(self, right, error, cases):
        """Lines (label, text) for the first call whose behaviour is wrong."""
        for exact in (False, True):
            for (args, options), ours, theirs in cases:
                found = difference(ours, theirs, self.line_of, exact=exact)
                if found is None:
                    continue
                given = named_arguments(right, args, options).items()
                of = f"{found.what}: " if found.what else ""
                return [
                    *((name, show(value)) for name, value in given),
                    ("got", of + found.got), ("expected", of + found.expected),
                ]  # fmt: skip
        said = " ".join(str(error).split())[:200]
        got = f"{type(error).__name__}: {said}{self.line_of(error)}"
        return [("got", got), ("expected", "what the test asserts")]

    def line_of(self, error):
        """Where in the student's file an error was raised."""
        lines = [
            line for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_code.co_filename == self.source
        ]  # fmt: skip
        return f" (line {lines[-1]})" if lines else ""


def files_with(exercise):
    """The files of tests in which an exercise is named at all."""
    name = exercise.rpartition(".")[2]
    texts = {
        path: path.read_text(encoding="utf-8") for path in files_of(exercise.rpartition(".")[0])
    }
    return [path for path, text in texts.items() if f'"{name}"' in text or f'.{name}"' in text]


def holds(item, exercise):
    """Whether a test asks `subject` for the exercise, in its text or in its parameters."""
    home, _, name = exercise.rpartition(".")
    if "subject" not in getattr(item, "fixturenames", ()) or item.path not in files_of(home):
        return False
    test = function_of(item)
    test = test.hypothesis.inner_test if hasattr(test, "hypothesis") else test
    given = item.callspec.params.values() if hasattr(item, "callspec") else ()
    named = constants(test.__code__) | {value for value in given if isinstance(value, str)}
    return "cuda" not in item.keywords and bool(named & {name, exercise})


def constants(code):
    """The texts in a function and in the functions within it."""
    inner = [constants(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return {c for c in code.co_consts if isinstance(c, str)}.union(*inner)


def sentence(item):
    return item.originalname.removeprefix("test_").replace("_", " ")


def place(item):
    return f"tests/{item.path.name}:{item.location[1] + 1}"


def mistakes(exercise, cases, alike):
    """Return the sentences of the mutants that behave as the student's function in every case.

    Those of the function itself, or if there is none of what it calls in its module.

    Args:
        cases: (call, the student's behaviour), those where it is wrong first: most mutants part
            from it there.
        alike: says of two behaviours whether they are one.
    """
    for known in mutants_of(exercise):
        found = [
            said for said, mutant in known.items()
            if all(alike(behaviour(mutant, call), ours) for call, ours in cases)
        ]  # fmt: skip
        if found:
            return found
    return []


@functools.cache
def mutants_of(exercise):
    """({sentence: mutant} of the function, the same of the functions that it calls)."""
    home, _, name = exercise.rpartition(".")
    try:
        table = importlib.import_module(f"tests.mutants.{home.replace('.', '__')}").MUTANTS
    except ModuleNotFoundError:
        return {}, {}
    own, called = {}, {}
    for function, changes in table.items():
        if function.partition(".")[0] not in reached_from(home, name):
            continue
        for said, (old, new) in changes.items():
            mutant = getattr(mutated_module(home, function, old, new), name)
            (own if function == name else called)[said] = mutant
    return own, called


def reached_from(home, name):
    """The names in a module that a function of it uses, directly or through others."""
    source = inspect.getsource(importlib.import_module(f"reasoning_from_scratch.{home}"))
    nodes = {getattr(node, "name", None): node for node in ast.parse(source).body}
    found, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        if current in nodes and current not in found:
            found.add(current)
            waiting += [n.id for n in ast.walk(nodes[current]) if isinstance(n, ast.Name)]
    return found


def load(path, tell):
    """Run the student's file, one statement after the other; return its names.

    A statement that fails is told with its line and left out: the rest may do without it.
    """
    module = types.ModuleType("student")
    module.__file__ = str(path)
    sys.modules["student"] = module  # where a dataclass looks for itself
    for node in ast.parse(path.read_bytes(), filename=path.name).body:
        try:
            code = compile(ast.Module([node], []), path.name, "exec", dont_inherit=True)
            exec(code, module.__dict__)
        except (Exception, SystemExit) as error:
            said = f"{type(error).__name__}: {error}"
            tell({"line": getattr(error, "lineno", None) or node.lineno, "said": said})
    return vars(module)


def main(path, seconds, exercises):
    """Check the named exercises in a file, and tell on stdout."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    # What hangs or crashes leaves its stack on stderr, and the process ends. A busy machine makes
    # no loop endless: where the system can, it counts the seconds in which this process computes.
    faulthandler.enable()
    counted = hasattr(signal, "setitimer")
    if counted:
        faulthandler.register(signal.SIGPROF, chain=True)

    def tell(fact):
        out.write(json.dumps(fact) + "\n")
        out.flush()

    @contextlib.contextmanager
    def limit():
        faulthandler.dump_traceback_later(PATIENCE * seconds, exit=True)
        if counted:
            signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            yield
        finally:
            if counted:
                signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()

    sys.path.append(str(path.parent))
    with limit():
        names = load(path, tell)
    found = {exercise: names.get(exercise.rpartition(".")[2]) for exercise in exercises}
    work = [(exercise, f if callable(f) else None) for exercise, f in found.items()]
    Checker(work, tell, limit=limit, source=path.name).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
