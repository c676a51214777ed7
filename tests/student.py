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

from tests.behaviour import behaviour, snapshot, unchanged
from tests.diagnosis import Ran, diagnose
from tests.examples import show_arguments
from tests.mutants import REPLACED_MODULES
from tests.nested import OPTIONS, files_of, function_of, hasten

KEPT = 16  # calls of a test that are kept from its beginning, and as many from its end
PATIENCE = 6  # times the limit on computing is the limit on waiting


class Watched:
    """A function in the place of the package's; it remembers how it was called.

    A call that changes an argument fails the test, whatever it returns: the caller may need it.
    """

    def __init__(self, function):
        self.function = function
        self.calls = []  # of the test that runs
        self.pending = None  # the call that has not come to an end
        self.returned = 0  # calls that came to an end, in all tests
        self.unwritten = False  # whether it said itself that it is not implemented
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args, **options):
        self.pending = kept = snapshot((args, options))
        self.calls.append(self.pending)
        if len(self.calls) > 2 * KEPT:
            del self.calls[KEPT]
        try:
            result = self.function(*args, **options)
        except NotImplementedError as error:
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            self.unwritten |= frames[-1].f_code.co_name == self.__name__
            raise
        finally:
            self.pending = None
        self.returned += 1
        if not unchanged((args, options), kept):
            raise AssertionError("an argument is changed")
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
        enough:  failures of an exercise's tests after which the others are left out.
    """

    def __init__(
        self, work, tell, *, limit=contextlib.nullcontext, source=None, enough=sys.maxsize
    ):
        self.work, self.tell, self.limit, self.source = work, tell, limit, source
        self.enough = enough
        self.watched = None  # the function that is judged
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
        right = getattr(original, name)
        watched = Watched(lenient(function, right))
        setattr(stand_in, name, watched)
        REPLACED_MODULES[home] = stand_in
        self.exercise, self.right, self.watched = exercise, right, watched
        ran = []
        try:
            for item, following in zip(items, [*items[1:], None], strict=True):
                self.tell({"exercise": exercise, "test": sentence(item), "where": place(item)})
                watched.calls, self.error = [], None
                with self.limit():
                    reports = runtestprotocol(item, nextitem=following, log=False)
                failed, error = any(report.failed for report in reports), self.error
                calls = watched.calls
                if failed and watched.returned:
                    # It ended at the first surprise. With what is right it makes all its calls.
                    setattr(stand_in, name, whole := Watched(self.right))
                    item._initrequest()
                    runtestprotocol(item, nextitem=following, log=False)
                    setattr(stand_in, name, watched)
                    calls = calls + whole.calls
                about = test_of(item), sentence(item), place(item)
                ran.append(Ran(*about, failed, calls, error))
                if sum(run.failed for run in ran) >= self.enough and following is not None:
                    item.session._setupstate.teardown_exact(None)  # it kept what that one shares
                    break
        finally:
            del REPLACED_MODULES[home]
        failed = {run.test for run in ran if run.failed}
        counts = {"tests": len({test_of(item) for item in items}), "failed": len(failed)}
        if not failed:
            return {"status": "right", **counts}
        if watched.unwritten and not watched.returned:
            return {"status": "not started", **counts}
        self.tell({"exercise": exercise, "test": "the calls of the tests, made once more"})
        found = diagnose(exercise, self.right, self.made_again, ran, self.source)
        return {"status": "wrong", **counts, **found}

    def made_again(self, call):
        with self.limit():
            self.watched.pending = call
            found = behaviour(self.watched.function, call)
            self.watched.pending = None
            return found

    def tell_pending(self):
        """Tell the arguments of the call that runs, if one does."""
        if self.watched is not None and self.watched.pending is not None:
            lines = show_arguments(self.right, self.watched.pending)
            self.tell({"exercise": self.exercise, "call": lines})


def lenient(function, right):
    """The function, but where the package declares a float a whole number does: `return 0`."""
    if inspect.signature(right).return_annotation is not float:
        return function

    @functools.wraps(function, updated=())
    def in_floats(*args, **options):
        result = function(*args, **options)
        return float(result) if type(result) is int else result

    return in_floats


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


def test_of(item):
    """What names a test, whatever its parameters."""
    return item.nodeid.partition("[")[0]


def sentence(item):
    return item.originalname.removeprefix("test_").replace("_", " ")


def place(item):
    return f"tests/{item.path.name}:{item.location[1] + 1}"


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
    # Between two lines of Python it can still say what it was called with; what hangs in the midst
    # of one gets a second more.
    faulthandler.enable()
    timers = ()
    if hasattr(signal, "setitimer"):
        timers = (signal.ITIMER_PROF, seconds), (signal.ITIMER_VIRTUAL, seconds + 1)
        faulthandler.register(signal.SIGVTALRM, chain=True)

    def tell(fact):
        out.write(json.dumps(fact) + "\n")
        out.flush()

    def give_up(*_):
        faulthandler.dump_traceback()
        checker.tell_pending()
        os._exit(1)

    @contextlib.contextmanager
    def limit():
        faulthandler.dump_traceback_later(PATIENCE * seconds, exit=True)
        for timer, after in timers:
            signal.setitimer(timer, after)
        try:
            yield
        finally:
            for timer, _ in timers:
                signal.setitimer(timer, 0)
            faulthandler.cancel_dump_traceback_later()

    checker = Checker([], tell, limit=limit, source=path.name)
    if timers:
        signal.signal(signal.SIGPROF, give_up)
    sys.path.append(str(path.parent))
    with limit():
        names = load(path, tell)
    found = {exercise: names.get(exercise.rpartition(".")[2]) for exercise in exercises}
    checker.work = [(exercise, f if callable(f) else None) for exercise, f in found.items()]
    checker.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
