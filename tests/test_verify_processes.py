"""Judging answers in processes: hostile text, threads, and that nothing is left running.

No test takes `subject`: a wrong rule is found in test_verify.py, in less time.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reasoning_from_scratch import verify_worker
from reasoning_from_scratch.verify import check_format, extract_answer, math_equal

ROOT = Path(__file__).parent.parent
PATIENCE = 60.0
LONGEST = 2.0  # seconds that any one comparison may take


ENDLESS = (r"e^{e^{e^{e^{e}}}}", r"e^{e^{e^{e^{e}}}}+1")  # to tell them apart takes too many digits
HOSTILE = [
    "9**9**9**9", "9^{9^{9^{9}}}", "10000000!", "3!!!!!!", "10^{10^{10}}", "2^{10000000}",
    "1e999999999",
    "(" * 5000 + "1" + ")" * 5000, "{" * 1900, r"\frac{1}{" * 200 + "2" + "}" * 200, r"\frac" * 390,
    r"\sqrt{" * 300 + "2" + "}" * 300, r"\sin " * 390 + "x", "x^" * 900 + "x", "-" * 1990 + "1",
    "|x" * 900,
    "().__class__.__bases__[0].__subclasses__()", "__import__('os').abort()", "lambda: x",
    "x.is_real",
    "1\x00", "\x00", "\ud800",
    "1" * 500_000, "1" * 1990, "0." + "3" * 1990, "," * 1990, ",000" * 490,
    r"0.\overline{" + "3" * 1900 + "}", r"\begin{pmatrix}" * 100, r"1\pm " * 400 + "1",
    "½" * 600, "٣",
    "+".join("x" * 900), "*".join("x" * 900), "x" * 1990, "(1+x)" * 390, "(a+b+c)^9+" * 190 + "1",
    ",".join(f"a_{{{i}}}+1" for i in range(180)), ",".join(map(str, range(450))), r"\{" * 900,
    "0^0", "1/0", r"\log 0", r"\tan\frac{\pi}{2}", r"\log_{0}0", "i^i", r"\infty^\infty",
    r"x^{9999}",
    r"(((\sqrt2)^{10000})^{10000})^{10000}", "(x+y+z)^{300}(x-1)", *ENDLESS,
]  # fmt: skip


def test_no_text_takes_long_or_raises():
    math_equal(r"\cot x", r"\frac{\cos x}{\sin x}", timeout=PATIENCE)  # starts sympy's process
    members = ",".join(f"1+a_{i}" for i in range(9))
    others = ["5", ENDLESS[0], "x(x+y+z)^{300}-(x+y+z)^{300}", members]
    for row, text in enumerate(HOSTILE):
        other = others[row % len(others)]
        begun = time.monotonic()
        assert type(math_equal(text, other)) is bool
        assert time.monotonic() - begun < LONGEST, text[:40]
        assert math_equal("5", text, timeout=0.1) is False


@pytest.mark.parametrize("unit", [
    "<answer>", "</answer>", r"\boxed{", "{", "}", "\\", r"\boxed", r"\boxed ", " ",
    "<answer>1</answer>", r"\boxed{1}", r"<answer>\boxed{",
])  # fmt: skip
def test_half_a_megabyte_is_read_in_one_pass(unit):
    text = unit * (500_000 // len(unit))
    begun = time.monotonic()
    extract_answer(text)
    check_format(text)
    check_format(f"<think>{text}</think>{text}<answer>{text}</answer>")
    math_equal(text, "5")
    math_equal(text, text)
    assert time.monotonic() - begun < 5 * LONGEST  # a quadratic pass takes minutes


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e300])
def test_math_equal_takes_any_timeout(timeout):
    assert math_equal("1/2", "0.5", timeout=timeout) is True
    assert math_equal(r"\cot x", r"\tan x", timeout=timeout) is False


def test_what_never_ends_is_given_up_and_does_no_harm():
    proved = (r"\cot x", r"\frac{\cos x}{\sin x}")
    assert math_equal(*proved, timeout=PATIENCE)
    for _ in range(2):
        begun = time.monotonic()
        assert math_equal(*ENDLESS, timeout=0.3) is False
        assert time.monotonic() - begun < LONGEST
        assert math_equal(*proved, timeout=PATIENCE)
    parts = ",".join(rf"{ENDLESS[0]}+{n}" for n in range(5))  # one limit for all parts together
    others = parts.replace("e^{e}", r"e^{e+\cos^2 1+\sin^2 1-1}")
    begun = time.monotonic()
    assert math_equal(parts, others, timeout=0.3) is False
    assert time.monotonic() - begun < LONGEST


def test_sixteen_threads_get_the_right_answers():
    cases = [
        ("1,000", "1000", True), (r"\sqrt{12}", r"2\sqrt3", True), (r"\sqrt{12}", "3.46", False),
        (r"\cot x", r"\frac{\cos x}{\sin x}", True), (r"\log_2 8", "3", True), (r"\log_2 8",
        "4", False),
        (r"\frac{1}{1+\sqrt2}", r"\sqrt2-1", True), (r"\sqrt{x^2}", "x", False), (*ENDLESS, False),
    ]  # fmt: skip
    wrong, gate = [], threading.Barrier(16)

    def judge(first):
        gate.wait()
        for left, right, expected in cases[first:] + cases[:first]:
            patience = 0.2 if left in ENDLESS else PATIENCE
            if math_equal(left, right, timeout=patience) is not expected:
                wrong.append((left, right))

    threads = [threading.Thread(target=judge, args=(n % len(cases),)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


# Processes

PROVED = r"""
import os, sys, threading, time
from reasoning_from_scratch.verify import math_equal
from reasoning_from_scratch import verify_worker
def proved(timeout=60):
    return math_equal(r"\cot x", r"\frac{\cos x}{\sin x}", timeout=timeout)
def hang(timeout):
    return math_equal(r"e^{e^{e^{e^{e}}}}", r"e^{e^{e^{e^{e}}}}+1", timeout=timeout)
def say_group():
    print(verify_worker._pool.server.process.pid, flush=True)
assert proved()
"""


def run_program(source):
    return subprocess.Popen(
        [sys.executable, "-c", PROVED + source], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def members(group):
    """The processes of a group that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(folder.name)
    return found


def wait_until_gone(group):
    deadline = time.monotonic() + PATIENCE
    while members(group):
        assert time.monotonic() < deadline, "a process was left behind"
        time.sleep(0.05)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")


@needs_proc
def test_no_process_is_left_when_the_program_ends():
    program = run_program(
        "say_group(); hang(0.1); threading.Thread(target=hang, args=(60,), daemon=True).start()"
    )
    group = int(program.stdout.readline())
    assert program.wait(PATIENCE) == 0
    wait_until_gone(group)


@needs_proc
def test_no_process_is_left_when_the_program_is_killed():
    program = run_program("say_group(); hang(1.5)")
    group = int(program.stdout.readline())
    assert members(group)
    program.kill()
    program.wait()
    wait_until_gone(group)


@needs_proc
def test_a_killed_server_and_a_fork_are_survived():
    # The server is killed while idle: the next question starts another. The fork starts its own,
    # and leaves its parent's alone.
    program = run_program(
        """
os.killpg(verify_worker._pool.server.process.pid, 9)
assert proved()
child = os.fork()
if child == 0:
    os._exit(0 if proved() else 1)
assert os.waitpid(child, 0)[1] == 0
assert proved()
print("torch" in sys.modules, "sympy" in sys.modules)
"""
    )
    assert program.communicate(timeout=PATIENCE)[0].split() == ["False", "False"]
    assert program.returncode == 0


def test_without_sympy_formulas_are_not_equal_and_a_warning_says_why(monkeypatch):
    monkeypatch.setattr(verify_worker, "PROGRAM", "raise SystemExit")
    monkeypatch.setattr(verify_worker, "_pool", verify_worker._Pool())
    with pytest.warns(RuntimeWarning, match="sympy's process did not start"):
        assert math_equal(r"\cot x", r"\frac{\cos x}{\sin x}") is False
    assert math_equal(r"\sqrt{12}", r"2\sqrt3") is True
