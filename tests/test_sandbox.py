"""The sandbox: what it returns, what it stops, and that nothing is left behind.

Programs run in two ways: as on a machine that makes namespaces, and as on one that makes none.
"""

import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
KEPT = 64 * 1024  # bytes of each output
MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="the supervisor needs Linux")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Make temporary folders in one of our own; whatever a test does, none may be left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("run_")] == []


@pytest.fixture
def run(subject):
    """`run_python` as it comes."""
    if sys.platform != "linux":
        pytest.skip("the supervisor needs Linux")
    return subject("run_python")


@pytest.fixture(params=["namespaces", "no namespaces"])
def run_both(request, run, monkeypatch):
    """`run_python` in both ways, and a check that no process with this call's limit is left."""
    monkeypatch.setitem(run.__globals__, "USE_NAMESPACES", request.param == "namespaces")

    def checked(source, **options):
        mark = new_mark()
        result = run(source, memory_mib=256 + mark / MIB, **options)
        assert processes_with(mark) == []
        return result

    return checked


@pytest.fixture
def run_alone(subject, monkeypatch):
    """`run_python` as on a system other than Linux."""
    run_python = subject("run_python")
    home = run_python.__globals__
    monkeypatch.setitem(home, "_run_supervised", home["_run_alone"])
    return run_python


def new_mark():
    """A number of bytes: 256 MiB and this many are a limit that tells one call from all others."""
    return random.randrange(1, MIB)


def proc_files(name):
    """One file of each process; any may be gone by now, which a glob would stumble over."""
    return [Path("/proc", number, name) for number in os.listdir("/proc") if number.isdigit()]


def processes_with(mark):
    """The processes under a memory limit that ends in `mark`; children inherit it."""
    found = []
    for limits in proc_files("limits"):
        try:
            lines = [line for line in limits.read_text().splitlines() if "address space" in line]
        except OSError:
            continue
        values = [word for line in lines for word in line.split() if word.isdigit()]
        if values and int(values[0]) % MIB == mark:
            found.append(int(limits.parent.name))
    return found


def wait_for_the_end_of(mark):
    until = time.monotonic() + 4
    while processes_with(mark) and time.monotonic() < until:
        time.sleep(0.01)
    assert processes_with(mark) == []


def supervisor_of(mark):
    """The first process that was started with this limit among its arguments: init is its fork."""
    limit = f"RLIMIT_AS={256 * MIB + mark}".encode()
    found = []
    for line in proc_files("cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if limit in line.read_bytes():
                found.append(int(line.parent.name))
    return min(found)


def makes_namespaces(run):
    """Whether the program runs below a process 1 of its own."""
    return run("import os; print(os.getppid())").stdout == "1\n"


def landlock_version():
    return ctypes.CDLL(None).syscall(444, None, 0, 1)


# The parts, by hand.


def test_limits_are_in_bytes_and_whole_seconds(subject):
    # 0.3 s round up to 1, and one more for the clock to come first; 2 MiB = 2 * 1024 * 1024.
    assert subject("sandbox._limits")(0.3, 2) == {
        "RLIMIT_CPU": 2, "RLIMIT_AS": 2_097_152, "RLIMIT_NPROC": 64, "RLIMIT_FSIZE": 16_777_216,
        "RLIMIT_NOFILE": 64, "RLIMIT_CORE": 0,
    }  # fmt: skip
    assert subject("sandbox._limits")(2.0, 256)["RLIMIT_CPU"] == 3


def test_parse_reads_a_line_then_both_streams(subject):
    result = subject("sandbox._parse")(b"3 0 4\nout\nerr\n2 1 0\n")
    assert (result.stdout, result.stderr) == ("out\n", "err\n2 1 0\n")
    assert (result.returncode, result.timed_out) == (3, False)


def test_parse_replaces_bytes_that_are_not_utf8(subject):
    result = subject("sandbox._parse")(b"-9 1 2\na\xff\xe2\x82")
    assert (result.stdout, result.stderr) == ("a\ufffd", "\ufffd")
    assert (result.returncode, result.timed_out) == (-9, True)


@linux
def test_parse_takes_used_up_seconds_of_the_processor_for_a_timeout(subject):
    assert subject("sandbox._parse")(b"%d 0 0\n" % -signal.SIGXCPU).timed_out
    assert not subject("sandbox._parse")(b"%d 0 0\n" % -signal.SIGSEGV).timed_out


def test_parse_takes_no_report_for_a_killed_supervisor(subject):
    result = subject("sandbox._parse")(b"")
    assert (result.returncode, result.timed_out) == (-9, False)


def test_remove_takes_a_folder_whatever_it_holds_and_nothing_else(subject, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    root = tmp_path / "root"
    (root / "folder" / "closed" / "closed").mkdir(parents=True)
    (root / "folder" / "closed" / "file").write_text("")
    (root / "folder" / "link").symlink_to(outside)
    (root / "folder" / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "folder" / "pipe")
    (root / "folder" / "closed" / "closed").chmod(0)
    (root / "folder" / "closed").chmod(0)
    subject("sandbox._remove")(root)
    assert not root.exists()
    assert (outside / "file").read_text() == "stays"


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
def test_run_python_refuses_a_timeout_out_of_range(subject, timeout):
    with pytest.raises(ValueError, match=f"timeout is {timeout}, expected seconds"):
        subject("run_python")("", timeout=timeout)


@pytest.mark.parametrize("memory_mib", [0, -1, float("nan"), 2**60])
def test_run_python_refuses_memory_out_of_range(subject, memory_mib):
    with pytest.raises(ValueError, match=f"memory_mib is {memory_mib}, expected MiB"):
        subject("run_python")("", memory_mib=memory_mib)


@pytest.mark.parametrize("texts", [{"source": b""}, {"source": "", "stdin": None}])
def test_run_python_refuses_what_is_not_text(subject, texts):
    with pytest.raises(ValueError, match="is a (bytes|NoneType), expected a str"):
        subject("run_python")(**texts)


# What comes back.


def test_run_python_returns_outputs_and_status_and_passes_input(run):
    source = "import sys\nprint(int(input()) + 1)\nprint('oh', file=sys.stderr)\nsys.exit(3)"
    result = run(source, stdin="41\n")
    assert (result.stdout, result.stderr) == ("42\n", "oh\n")
    assert (result.returncode, result.timed_out) == (3, False)


def test_the_program_is_a_main_module_of_its_own(run):
    source = """
import sys
from dataclasses import dataclass
@dataclass
class Point:
    x: "int"
print(__name__, sys.argv, Point(1), sorted(name for name in dir() if name[0] != "_"))
exit()
"""
    assert (
        run(source).stdout == "__main__ ['program.py'] Point(x=1) ['Point', 'dataclass', 'sys']\n"
    )


def test_an_error_of_the_program_is_its_own(run):
    result = run("1 / 0")
    assert result.returncode == 1
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert 'File "program.py", line 1' in result.stderr


def test_a_signal_is_a_negative_status(run):
    result = run("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert (result.returncode, result.timed_out) == (-signal.SIGTERM, False)


@pytest.mark.parametrize("source, returncode", [
    ("", 0),
    ("print(1)\0print(2)", 1),
    ("print('\ud800')", 1),
    ("\udcff", 1),
    ("def f(:", 1),
    ("x = '" + "é" * MIB + "'", 0),
    ("(" * 100_000, 1),
    ("#" + "\r" * 1000 + "print(1)\x1a", 1),
])  # fmt: skip
def test_no_source_makes_run_python_raise(run, source, returncode):
    result = run(source)
    assert (result.returncode, result.stdout) == (returncode, "")


@pytest.mark.parametrize("stdin", ["", "a\0b", "\ud800", "é" * MIB])
def test_no_input_makes_run_python_raise(run, stdin):
    result = run("import sys; print(len(sys.stdin.buffer.read()))", stdin=stdin)
    assert result.stdout == f"{len(stdin.encode('utf-8', 'surrogatepass'))}\n"


def test_no_output_makes_run_python_raise(run):
    source = "import os, random; data = random.Random(0).randbytes(9999); os.write(1, data)"
    result = run(source)
    assert result.stdout == random.Random(0).randbytes(9999).decode(errors="replace")


def test_run_supervised_cuts_outputs_and_the_program_does_not_notice(run):
    result = run("import sys\nfor end in sys.stdout, sys.stderr: end.write('é' * 5_000_000)")
    assert result.returncode == 0
    assert result.stdout == result.stderr == "é" * (KEPT // 2)


def test_endless_output_ends_in_time_and_is_cut(run):
    result = run("while True: print('a' * 999)", timeout=0.5)
    assert result.timed_out
    assert len(result.stdout) == KEPT


@pytest.mark.parametrize("use", [True, False])
@linux
def test_run_supervised_says_why_a_program_could_not_start(subject, monkeypatch, use):
    run_python = subject("run_python")
    monkeypatch.setitem(run_python.__globals__, "USE_NAMESPACES", use)
    monkeypatch.setitem(run_python.__globals__, "_limits", lambda *_: {"RLIMIT_LUCK": 7})
    with pytest.raises(OSError, match="could not start the program: .*RLIMIT_LUCK"):
        run_python("")


def test_run_supervised_makes_namespaces_only_where_it_should(run_both, request):
    if "no namespaces" in request.node.name:
        assert not makes_namespaces(run_both)
    elif not makes_namespaces(run_both):
        pytest.skip("no namespaces can be made here")


# Time, processes, and who may kill whom.


@pytest.mark.parametrize("source", [
    "while True: pass",
    "import time; time.sleep(60)",
    "import signal, time\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(60)",
    "import os, time; os.close(1); os.close(2); time.sleep(60)",
    "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "10 ** 10 ** 10",
])  # fmt: skip
def test_what_came_before_a_timeout_is_returned(run_both, source):
    result = run_both(f"print('before', end='')\n{source}", timeout=0.6)
    assert (result.stdout, result.returncode, result.timed_out) == ("before", -9, True)


def test_the_check_for_processes_left_sees_those_that_run(subject):
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    mark = new_mark()
    source = "import os, time; os.fork(); time.sleep(60)"
    with ThreadPoolExecutor() as threads:
        options = {"memory_mib": 256 + mark / MIB, "timeout": 1.0}
        result = threads.submit(subject("run_python"), source, **options)
        while not result.done() and len(processes_with(mark)) < 2:
            time.sleep(0.01)
        assert not result.done()
    assert result.result().timed_out and processes_with(mark) == []


DAEMON = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("daemon")
        time.sleep(60)
    os._exit(0)
os.wait()
time.sleep(0.1)
"""


def test_no_daemon_outlives_the_program(run_both):
    result = run_both(DAEMON + "print('done')", timeout=20)
    assert sorted(result.stdout.split()) == ["daemon", "done"]
    assert (result.returncode, result.timed_out) == (0, False)


def test_no_daemon_outlives_a_timeout(run_both):
    result = run_both(DAEMON + "print('done')\ntime.sleep(60)", timeout=3.0)
    assert sorted(result.stdout.split()) == ["daemon", "done"]
    assert result.timed_out


def test_processes_and_threads_are_bounded(run_both):
    source = """
import os, time
for n in range(1000):
    try:
        if os.fork() == 0:
            time.sleep(60)
    except OSError:
        break
print(n, os.getuid())
"""
    result = run_both(source, timeout=20)
    assert (result.returncode, result.timed_out) == (0, False)
    processes, uid = map(int, result.stdout.split())
    if uid == 0:
        pytest.skip("the kernel limits no root, and this one may not become another user")
    assert 20 < processes < 100  # 64, less ourselves, more or less what the user ends or starts


@pytest.mark.parametrize("source", [
    "while True:\n try: os.fork()\n except OSError: pass",
    # Each child forks and ends: there is never one to kill for long.
    "while True:\n if os.fork(): os._exit(0)\n os.setsid()",
    "if os.fork(): time.sleep(60)\nwhile True:\n if os.fork(): os._exit(0)\n os.setsid()",
])  # fmt: skip
def test_endless_forking_is_ended_in_time(run_both, source):
    start = time.monotonic()
    run_both("import os, time\n" + source, timeout=0.5)
    assert time.monotonic() - start < 10


ATTACKS = {
    "its parent": "os.kill(os.getppid(), signal.SIGKILL)",
    "its parent by stopping it": "os.kill(os.getppid(), signal.SIGSTOP)",
    "its parent by a soft signal": "os.kill(os.getppid(), signal.SIGTERM)",
    "its parent's group": "os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)",
    "its own group": "os.killpg(0, signal.SIGKILL)",
    # Only where a namespace or a user of its own protects whoever runs this test.
    "everything": "os.getppid() == 1 or os.getuid() >= 0x70000000 and os.kill(-1, signal.SIGKILL)",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_program_that_kills_harms_itself_alone(run_both, attack):
    source = (
        f"import os, signal\nprint('before')\ntry: {attack}\nexcept OSError: pass\nprint('after')"
    )
    result = run_both(source, timeout=5)
    assert result.stdout in ("before\nafter\n", "before\n")
    assert result.returncode in (0, -9) and not result.timed_out


def test_a_result_cannot_be_forged(run_both):
    source = """
import os
parent, forged = os.getppid(), 0
paths = [f"/proc/{who}/{what}" for who in (parent, 1) for what in ("mem", "fd/1", "fd/4", "fd/8")]
for path in paths:
    try:
        open(path, "wb", buffering=0).write(b"0 0 6\\nforged")
        forged += 1
    except OSError:
        pass
for end in range(3, 1024):
    try:
        os.write(end, b"0 0 6\\nforged")
        forged += 1
    except OSError:
        pass
print(forged)
os._exit(5)
"""
    result = run_both(source)
    assert (result.stdout, result.stderr, result.returncode) == ("0\n", "", 5)


def test_nothing_survives_a_killed_supervisor(run, run_both):
    mark = new_mark()
    with ThreadPoolExecutor() as threads:
        options = {"memory_mib": 256 + mark / MIB, "timeout": 20}
        result = threads.submit(run, "import time; time.sleep(60)", **options)
        while not result.done() and not processes_with(mark):
            time.sleep(0.01)
        os.kill(supervisor_of(mark), signal.SIGKILL)
    assert (result.result().returncode, result.result().timed_out) == (-9, False)
    wait_for_the_end_of(mark)  # the kernel passes the signal on, and no one waits for it


def test_an_interrupted_call_leaves_nothing(run, run_both):
    def interrupt(*_):
        raise KeyboardInterrupt

    mark = new_mark()
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(DAEMON + "time.sleep(60)", timeout=20, memory_mib=256 + mark / MIB)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert processes_with(mark) == []


@linux
@pytest.mark.parametrize("use", [True, False], ids=["namespaces", "no namespaces"])
def test_nothing_survives_a_killed_caller(tmp_path, use):
    mark = new_mark()
    programs = [(DAEMON + "time.sleep(60)", 60)]
    child = CHILD.format(namespaces=use, programs=programs, mark=mark)
    (tmp_path / "left").mkdir()  # no one is there to remove the folder
    environment = {"TMPDIR": str(tmp_path / "left")}
    caller = subprocess.Popen([sys.executable, "-c", child], env=environment)
    until = time.monotonic() + 20
    while (running := len(processes_with(mark))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    caller.kill()
    caller.wait()
    assert running >= 2
    wait_for_the_end_of(mark)


def test_several_run_at_once(run_both):
    source = "import time; n = int(input()); time.sleep(0.2); print(n * n); exit(n)"
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda n: run_both(source, stdin=str(n), timeout=10), range(8)))
    assert [(int(result.stdout), result.returncode) for result in results] == [
        (n * n, n) for n in range(8)
    ]
    assert threading.active_count() < 8


# Memory, files, and what it inherits.


def test_memory_is_bounded(run):
    source = "data = bytearray(100 * 2**20); print(len(data))"
    assert run(source, memory_mib=200).returncode == 0
    result = run(source, memory_mib=90)
    assert result.returncode == 1
    assert result.stderr.endswith("MemoryError\n")


def test_files_are_bounded_in_size_and_number_and_no_core_is_dumped(run):
    source = """
import errno, os, resource
def fails(action, error):
    try:
        action()
    except OSError as caught:
        return caught.errno == error
open("large", "wb").write(bytes(16 * 2**20))
print(fails(lambda: open("large", "ab", buffering=0).write(b"1"), errno.EFBIG))
files = []
print(fails(lambda: files.extend(open("large") for _ in range(100)), errno.EMFILE))
print(resource.getrlimit(resource.RLIMIT_CORE))
"""
    assert run(source).stdout == "True\nTrue\n(0, 0)\n"


def test_no_environment_no_descriptor_no_site(run, monkeypatch):
    monkeypatch.setenv("SECRET", "hidden")
    read, write = os.pipe()
    os.set_inheritable(read, True)
    source = """
import os, sys
print(dict(os.environ), len(open("/proc/self/environ").read()))
print(sorted(map(int, os.listdir("/proc/self/fd")))[:-1])  # the last is that of listdir
print(sys.flags.isolated, sys.flags.no_site, any("site-packages" in path for path in sys.path))
"""
    result = run(source)
    os.close(read)
    os.close(write)
    assert result.stdout == "{} 0\n[0, 1, 2]\n1 1 False\n"


def test_the_folder_is_empty_and_writable_and_removed_whatever_it_holds(run_both):
    source = """
import os, socket
print(os.listdir("."))
open("file", "w").write("1")
os.mkfifo("pipe")
os.symlink("/", "root")
socket.socket(socket.AF_UNIX).bind("socket")
top = os.getcwd()
for _ in range(30):  # a path that is longer than the system allows
    os.mkdir("deep" * 50)
    os.chdir("deep" * 50)
os.chdir("/")
try:
    os.chmod(top, 0)
except OSError:
    pass
"""
    result = run_both(source, timeout=10)
    assert (result.stdout, result.stderr, result.returncode) == ("[]\n", "", 0)


def test_the_network_is_out_of_reach(run_both, request):
    if "no namespaces" in request.node.name and landlock_version() < 4:
        pytest.skip("a kernel without Landlock's rules for TCP")
    if "no namespaces" not in request.node.name and not makes_namespaces(run_both):
        pytest.skip("no namespaces can be made here")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        socket.create_connection(address).close()  # it can be reached from here
        result = run_both(f"import socket; socket.create_connection({address}); print('connected')")
    assert (result.stdout, result.returncode) == ("", 1)
    assert "unreachable" in result.stderr or "Permission denied" in result.stderr


def test_nothing_outside_the_folder_can_be_written(run_both, request):
    if "no namespaces" in request.node.name and landlock_version() < 3:
        pytest.skip("a kernel without Landlock's rules for files")
    if "no namespaces" not in request.node.name and not makes_namespaces(run_both):
        pytest.skip("no namespaces can be made here")
    outside = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        outside.chmod(0o777)
        (outside / "file").write_text("precious")
        (outside / "file").chmod(0o666)
        source = f"""
import os
os.chdir({str(outside)!r})
print(open("file").read())
for action in (
    lambda: open("file", "a"), lambda: os.truncate("file", 0), lambda: os.remove("file"),
    lambda: open("new", "w"), lambda: os.mkdir("new"), lambda: os.rename("file", "new"),
):
    try:
        action()
    except OSError:
        print("no")
"""
        result = run_both(source)
        assert result.stdout.split() == ["precious"] + 6 * ["no"]
        assert (outside / "file").read_text() == "precious"
        assert len(list(outside.iterdir())) == 1
    finally:
        shutil.rmtree(outside)


# Other users, and other systems.

CHILD = f"""
import json, sys, time
sys.path.insert(0, {str(PROJECT)!r})
sys.dont_write_bytecode = True
from reasoning_from_scratch import sandbox
sandbox.USE_NAMESPACES = {{namespaces}}
for source, timeout in {{programs!r}}:
    memory = 256 + {{mark}} / 2**20
    result = sandbox.run_python(source, timeout=timeout, memory_mib=memory)
    print(json.dumps([result.stdout, result.stderr, result.returncode, result.timed_out]))
"""
PROGRAMS = [
    ("print(1)", 5),
    (DAEMON + "print('done')", 20),
    ("import os; os.mkdir('d'); open('d/f', 'w'); os.chmod('d', 0); os.chmod('.', 0)", 5),
    ("import os, signal\ntry:\n while os.fork(): pass\n signal.pause()\n"
     "except OSError: print('full')", 9),
    ("import os, time\nprint('x')\nif os.fork(): time.sleep(60)\n"
     "while True:\n if os.fork(): os._exit(0)\n os.setsid()", 0.5),
    ("import os\nprint('x')\nwhile True:\n try: os.fork()\n except OSError: pass", 0.5),
    ("import os\nprint('x')\nwhile True:\n"
     " try: os.fork() or os.setsid()\n except OSError: pass", 0.5),
]  # fmt: skip
CONTAINER = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap"
USERS = {
    "an ordinary user": ["--reuid", "65534", "--regid", "65534", "--clear-groups"],
    "root in a container": ["--bounding-set", CONTAINER],
}


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root can be others")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
@pytest.mark.parametrize("namespaces", [True, False], ids=["namespaces", "no namespaces"])
@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
def test_it_holds_for(user, namespaces):
    pythons = [sys.executable, "/usr/bin/python3"]  # a user may not reach one below /root
    as_user = ["setpriv", *user]
    check = (
        "import os, sys; sys.exit(sys.version_info < (3, 10) or not os.access(sys.executable, 1))"
    )
    able = [python for python in pythons if run_quietly([*as_user, python, "-c", check]) == 0]
    if not able:
        pytest.skip("this user can start no Python")
    folder = tempfile.mkdtemp(dir="/tmp")  # removed below only if it is empty
    os.chmod(folder, 0o777)
    mark = new_mark()
    child = CHILD.format(namespaces=namespaces, programs=PROGRAMS, mark=mark)
    command = [*as_user, able[0], "-c", child]
    output = subprocess.run(
        command, env={"TMPDIR": folder}, capture_output=True, text=True, timeout=60
    )
    os.rmdir(folder)
    assert output.stderr == ""
    results = [json.loads(line) for line in output.stdout.splitlines()]
    assert results[0] == ["1\n", "", 0, False]
    assert sorted(results[1][0].split()) == ["daemon", "done"]
    assert results[2] == ["", "", 0, False]
    assert results[3] == ["full\n", "", 0, False]
    assert [(result[0], result[3]) for result in results[4:]] == 3 * [("x\n", True)]
    assert processes_with(mark) == []


def run_quietly(command):
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


def test_run_alone_returns_results_too(run_alone):
    source = "import sys\nprint(input())\nprint('oh', file=sys.stderr)\nexit(3)"
    result = run_alone(source, stdin="in")
    assert (result.stdout, result.stderr) == ("in\n", "oh\n")
    assert (result.returncode, result.timed_out) == (3, False)
    assert run_alone("print('\ud800')\0").returncode == 1


def test_run_alone_cuts_output_and_limits_time(run_alone):
    result = run_alone("print('a' * 100_000, end='')\nwhile True: pass", timeout=0.5)
    assert (result.stdout, result.timed_out) == ("a" * KEPT, True)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no limits")
def test_run_alone_sets_the_limits_that_the_system_has(run_alone):
    source = """
import resource
print(resource.getrlimit(resource.RLIMIT_FSIZE), resource.getrlimit(resource.RLIMIT_NOFILE))
print([name for name in dir() if name[0] != "_"])
"""
    assert run_alone(source).stdout == "(16777216, 16777216) (64, 64)\n['resource']\n"


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="Windows has no process groups")
def test_run_alone_ends_the_group_with_the_program(run_alone):
    source = "import os, time\nchild = os.fork()\nif child == 0: time.sleep(60)\nprint(1)"
    if sys.platform != "linux":
        pytest.skip("the limit counts all processes of the user, and so allows no fork")
    mark = new_mark()
    result = run_alone(source, timeout=20, memory_mib=256 + mark / MIB)
    assert result.stdout == "1\n"
    wait_for_the_end_of(mark)


def test_importing_it_loads_no_torch():
    source = (
        "import sys; from reasoning_from_scratch import run_python; print('torch' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", source], capture_output=True, cwd=PROJECT)
    assert output.stdout == b"False\n"
