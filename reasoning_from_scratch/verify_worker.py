"""Ask sympy whether two values are equal, in processes that can be killed.

A computer algebra system may take for ever, take all memory, or crash; a thread can't be stopped,
and a signal reaches the main thread alone. So sympy runs elsewhere:

    caller, any thread ── starts once ──> server: imports sympy, then only forks
          └────────── one question at a time ──> child: a fork of the server

A child limits its own memory and has the kernel end it when its time is over; a new one costs some
milliseconds. Questions asked at once go to children of their own. Server and children end with the
caller's process, however it ends. mpmath's precision, which is global to a process, is never
touched in the caller's, and a child answers one question at a time.

Not covered: systems without fork (Windows), where `prove_equal` returns False.
"""

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

START_SECONDS = 60.0  # to import sympy on a very busy machine
CHILDREN = max(2, min(8, os.cpu_count() or 1))
# A question that has waited for a child for a quarter of its time limit gets one more: the others
# may be busy with what never ends. It is given up after 1.7 times the limit, all in all.
PATIENCE, SLACK = 0.25, 0.7
MOST_CHILDREN = 32
MEMORY_BYTES = 2**30  # of a child
READY, YES, NO = b"r", b"1", b"0"
PROGRAM = """\
import sys
sys.path[:] = sys.argv[1:]
from reasoning_from_scratch import verify_worker
verify_worker.serve()
"""


def prove_equal(left: tuple, right: tuple, *, timeout: float) -> tuple[bool, float]:
    """Say whether sympy can prove that two values are equal.

    Args:
        left, right: trees of values (see `verify_trees`) without ±.
        timeout:     seconds for the comparison. Starting the server is not counted; waiting for
                     a child, where all are busy, may take 0.7 times as long on top.

    Returns:
        Whether they are equal, False where that is not known, and the seconds spent comparing.
    """
    question = [_portable(left), _portable(right)]
    return _pool.ask(question, timeout)


def _portable(tree: tuple | str) -> list | str:
    if isinstance(tree, str):
        return tree
    if tree[0] == "num":  # hexadecimal: Python refuses to print long decimal numbers
        return ["num", hex(tree[1].numerator), hex(tree[1].denominator)]
    return [tree[0], *map(_portable, tree[1:])]


class _Server:
    """The process that imports sympy and forks a child for each socket that it is sent."""

    def __init__(self) -> None:
        # The modules of this process, wherever it found them, and nothing from its environment.
        paths = [*filter(None, sys.path), os.path.dirname(os.path.dirname(__file__))]
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", PROGRAM, *paths],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the caller's, and its group can be killed
            )
        self.started, self.failed = threading.Event(), False
        # A thread waits for it: the caller may be interrupted, and others wait too.
        threading.Thread(target=self.wait_until_ready, daemon=True).start()

    def wait_until_ready(self) -> None:
        self.socket.settimeout(START_SECONDS)
        try:
            self.failed = self.socket.recv(1) != READY
        except OSError:
            self.failed = True
        self.started.set()

    def child(self) -> socket.socket:
        """The socket to a new child."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.socket, [READY], [theirs.fileno()])
        return ours

    def end(self) -> None:
        """Kill it and its children."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.socket.close()
        self.process.wait()


class _Pool:
    """The server, started by the first question, and its children."""

    def __init__(self) -> None:
        self.server, self.idle, self.busy = None, [], set()  # the latter hold sockets to children
        self.changed = threading.Condition()
        self.closed = not hasattr(os, "fork")

    def ask(self, question: list, timeout: float) -> tuple[bool, float]:
        for _ in range(3):  # children and server may have been killed while they were idle
            server = self.running()
            end = time.monotonic() + (1 + SLACK) * timeout
            child = self.borrow(server, timeout) if server else None
            if child is None:
                continue
            begun, answer = time.monotonic(), b""
            try:
                child.settimeout(end - begun)
                child.sendall(json.dumps([*question, min(timeout, end - begun)]).encode() + b"\n")
                answer = child.recv(1)
            except OSError:
                pass
            finally:  # one that has not answered, though it still may, is not used again
                self.give_back(child, usable=bool(answer))
            seconds = time.monotonic() - begun
            if answer:
                return answer == YES, seconds
            if seconds > timeout / 10:
                break
            self.bury(server)
        return False, timeout

    def running(self) -> _Server | None:
        """The server, when it is ready."""
        with self.changed:
            if self.closed:
                return None
            server = self.server = self.server or _Server()
        server.started.wait()
        if not server.failed:
            return server
        self.drop(server)
        message = "sympy's process did not start: formulas are compared as text only"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return None

    def borrow(self, server: _Server, timeout: float) -> socket.socket | None:
        """A child for one question, or None if none is free in time."""
        begun = time.monotonic()
        with self.changed:
            while not self.idle:
                waited = time.monotonic() - begun
                most = CHILDREN if waited < PATIENCE * timeout else MOST_CHILDREN
                if len(self.busy) < most:
                    break
                if waited > SLACK * timeout:
                    return None
                self.changed.wait(timeout / 20)
            try:
                child = self.idle.pop() if self.idle else server.child()
            except OSError:  # someone else has killed it: the next question starts another
                self.drop(server)
                return None
            self.busy.add(child)
        return child

    def give_back(self, child: socket.socket, *, usable: bool) -> None:
        with self.changed:
            self.busy.discard(child)
            if usable and len(self.idle) < CHILDREN and not self.closed:
                self.idle.append(child)
            else:
                child.close()  # an idle child ends by this, a busy one by its own clock
            self.changed.notify()

    def bury(self, server: _Server) -> None:
        """A child was dead before it was asked: so may be the others, and the server."""
        self.empty()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(0.1)
            self.drop(server)

    def empty(self) -> None:
        with self.changed:
            while self.idle:
                self.idle.pop().close()

    def drop(self, server: _Server) -> None:
        with self.changed:
            if self.server is server:
                self.server = None
                server.end()

    def close(self) -> None:
        """End all processes for good."""
        with self.changed:
            self.closed = True
            if self.server:
                self.server.end()
        self.empty()

    def forget(self) -> None:
        """Leave the processes to the one that this one was forked from."""
        for child in [*self.idle, *self.busy]:
            child.close()
        if self.server:
            self.server.socket.close()
            self.server.process.returncode = 0  # it is no child of this process
        self.__init__()


_pool = _Pool()
atexit.register(lambda: _pool.close())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _pool.forget())


# The other side.


def serve() -> None:
    """Be the server: fork a child for each socket that comes, until the caller is gone."""
    caller = socket.socket(fileno=os.dup(0))
    for left, right in WARM_UP:
        _compare(left, right)  # loads what the children will need
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes note of their ends
    caller.sendall(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(caller, 1, 1)
        if not message:
            return
        with socket.socket(fileno=descriptors[0]) as connection:
            with contextlib.suppress(OSError):  # no room for a process: closing says so
                if os.fork() == 0:
                    try:
                        caller.close()
                        os.close(0)
                        _answer_all(connection)
                    finally:
                        os._exit(0)


def _answer_all(connection: socket.socket) -> None:
    """Be a child: answer what comes until the caller closes."""
    import resource

    sys.setrecursionlimit(10_000)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for request in connection.makefile("rb"):
        left, right, timeout = json.loads(request)
        signal.setitimer(signal.ITIMER_REAL, timeout)  # ends this process, whatever it does
        answer, last = NO, False
        try:
            answer = YES if _compare(left, right) else NO
        except MemoryError:
            last = True  # the next child starts with little
        except Exception:  # sympy raises what it likes
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.sendall(answer)
        if last:
            return


def _compare(left: list, right: list) -> bool:
    """Say whether two values are equal wherever they are defined, with proof."""
    import sympy

    a, b = _build(left), _build(right)
    if any(side.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan) for side in (a, b)):
        return a == b and not a.has(sympy.zoo, sympy.nan)
    difference = a - b
    if difference == 0:
        return True
    for sign in (1, -1):  # most that differ do so at the first point that is tried
        symbols = sorted(difference.free_symbols | a.free_symbols, key=str)
        point = {s: sympy.Rational(sign * (97 + 36 * i), 71) for i, s in enumerate(symbols)}
        gap, size = (abs(value.evalf(20, subs=point)) for value in (difference, a))
        if gap.is_Float and size.is_Float and gap > 1e-10 * size:
            return False
    rewrites = (sympy.expand, _as_exponentials, _over_one_line, sympy.radsimp, sympy.simplify)
    for rewrite in rewrites:  # the quick ones first
        if rewrite(difference) == 0:
            return True
    return difference.equals(0) is True


def _as_exponentials(value: object) -> object:
    """With sin, cos, … as powers of e, whose products sympy multiplies out by itself."""
    import sympy

    if not value.has(sympy.sin, sympy.cos, sympy.tan, sympy.cot, sympy.sec, sympy.csc):
        return value
    return sympy.expand(sympy.numer(sympy.together(value.rewrite(sympy.exp))))


def _over_one_line(value: object) -> object:
    import sympy

    return sympy.cancel(sympy.together(value))


def _build(tree: list) -> object:
    """The sympy object of a tree. Names come from the list below or are variables."""
    import sympy

    kind, *parts = tree
    if kind == "num":
        return sympy.Rational(int(parts[0], 16), int(parts[1], 16))
    if kind == "sym":
        constants = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "infinity": sympy.oo}
        return constants.get(parts[0]) or sympy.Symbol(parts[0])
    if kind != "call":
        build = {"add": sympy.Add, "mul": sympy.Mul, "pow": sympy.Pow}[kind]
        return build(*map(_build, parts))
    name, *values = parts[0], *map(_build, parts[1:])
    if name == "log":  # of no base: the base is not known, but the same everywhere
        base = values[1] if len(values) > 1 else sympy.Symbol("base of log", positive=True)
        return sympy.log(values[0]) / sympy.log(base)
    functions = {
        "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec,
        "csc": sympy.csc, "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan,
        "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh, "ln": sympy.log,
        "abs": sympy.Abs,
    }  # fmt: skip
    return functions[name](values[0])


_X, _ONE, _TWO, _HALF = ["sym", "x"], ["num", "1", "1"], ["num", "2", "1"], ["num", "1", "2"]
_ROOT = ["pow", ["add", ["num", "3", "1"], ["mul", _TWO, ["pow", _TWO, _HALF]]], _HALF]
_SINE, _COSINE = (["pow", ["call", name, _X], _TWO] for name in ("sin", "cos"))
WARM_UP = [
    (_ROOT, ["add", _ONE, ["pow", _TWO, _HALF]]),
    (["add", _SINE, _COSINE], _ONE),
    (["pow", ["add", _X, _ONE], ["num", "-1", "1"]], _X),
]
