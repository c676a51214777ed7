"""Run a program that a model wrote, under limits: code as a verifiable task.

`run_python` is a seat belt for a training run on one's own machine, not a wall against an attacker
who studies it: `run_python`'s docstring lists what is stopped and what is not. On Linux the work
is done by `sandbox_supervisor.py`, a process of its own; elsewhere by the few means at hand.
"""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass

OUTPUT_BYTES = 64 * 1024  # kept of stdout, and of stderr
FILE_BYTES = 16 * 2**20
PROCESSES = 64
OPEN_FILES = 64
LONGEST_SECONDS = 86400.0
GRACE_SECONDS = 10.0  # for the supervisor to start and to clean up on a busy machine
USE_NAMESPACES = True  # False runs on Linux as where no namespace can be made

SUPERVISOR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sandbox_supervisor.py")
LOADER = """\
import builtins, os, sys
sys.argv[:] = ["program.py"]
os.environ.clear()  # Python itself may have set LC_CTYPE
builtins.exit = builtins.quit = sys.exit  # -S leaves them out
del builtins, os, sys
exec(compile(open({source!r}, "rb").read(), "program.py", "exec"))
"""
LIMITER = """\
import resource
for name, value in {limits!r}.items():
    try:
        resource.setrlimit(getattr(resource, name), (value, value))
    except (AttributeError, OSError, ValueError):
        pass  # this system has no such limit, or a lower one
del resource, name, value
"""


@dataclass(frozen=True)
class RunResult:
    """What a program wrote and how it ended.

    Attributes:
        stdout, stderr: the first 64 KiB of each; bytes that are not UTF-8 become U+FFFD.
        returncode:     the exit status; -n if signal n ended it (-9 after a timeout).
        timed_out:      whether a time limit ended it.
    """

    stdout: str
    stderr: str
    returncode: int
    timed_out: bool


def run_python(
    source: str, *, stdin: str = "", timeout: float = 2.0, memory_mib: int = 256
) -> RunResult:
    """Run a Python program nobody has read, and return what it wrote and how it ended.

    The program has the standard library, `sys.argv == ["program.py"]`, and an empty folder as its
    working directory. It ends with its first process: what that has started is killed.

    Stopped, on Linux:
    - running on: after `timeout`, or when the program ends, all its processes are killed and gone
      before this returns, whether they ignore SIGTERM, call setsid or fork twice;
    - eating the machine: `memory_mib` of address space a process, 64 processes and threads, 16 MiB
      a file, 64 open files, 64 KiB kept of each output (the rest is thrown away), no core dump;
    - reaching the caller: no environment, descriptor or terminal is passed on; killing its parent,
      its group or all it sees ends the program alone; its result goes where it cannot write;
    - leaving files: the folder is removed, whatever it holds.

    Stopped where the kernel makes namespaces, for root or for all users:
    - the network, even this machine's own; writing outside the folder, which then takes 64 MiB at
      most; seeing other processes. Without namespaces Landlock forbids writing (Linux 6.2 and
      newer, in part 5.13), TCP (6.7), and signals to processes not its own (6.12).

    Not stopped:
    - reading: the program may read what the caller may read;
    - sockets that lie in the file system, such as Docker's; without namespaces also UDP, changing
      the modes and times of files that the caller owns, and many files on the disk;
    - 64 processes with `memory_mib` each (if the machine runs short, they are the first to go);
    - with neither namespaces nor Landlock's signals, for ordinary users: signals to whatever else
      belongs to the user; a process that kills its supervisors before the end may outlive the call;
    - any number of processes, which may then outlive the call, where root may neither make
      namespaces nor change its user;
    - holes in the kernel;
    - on macOS all of this, except that a program ends in time, its processes too unless they call
      setsid, with its output cut and its folder removed, and limits on processors' time, files and
      processes. On Windows there are no limits, and only the first process is killed.

    Args:
        source:     the program. Any text: what Python refuses ends with returncode 1.
        stdin:      what it can read from standard input.
        timeout:    seconds from its start, interpreter included (about 0.02).
        memory_mib: MiB of address space; a bare Python takes about 30.

    Returns:
        A `RunResult`. Output written before a timeout is in it: streams are not buffered.

    Raises:
        ValueError: `timeout` or `memory_mib` is out of range, or a text is none.
        OSError:    this machine could not start the program: no processes or no disk space left.
    """
    if not 0 < timeout <= LONGEST_SECONDS:
        raise ValueError(f"timeout is {timeout}, expected seconds above 0, at most a day")
    if not 0 < memory_mib < 2**40:
        raise ValueError(f"memory_mib is {memory_mib}, expected MiB above 0, below 2**40")
    texts = {"source": source, "stdin": stdin}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{name} is a {type(text).__name__}, expected a str")
    root = tempfile.mkdtemp(prefix="run_python_")
    try:
        os.mkdir(os.path.join(root, "folder"))
        for name, text in texts.items():
            with open(os.path.join(root, name), "wb") as file:
                file.write(text.encode("utf-8", "surrogatepass"))
        run = _run_supervised if sys.platform == "linux" else _run_alone
        return run(root, timeout, _limits(timeout, memory_mib))
    finally:
        _remove(root)


def _limits(timeout: float, memory_mib: float) -> dict[str, int]:
    """The limits by their names in `resource`; in bytes, seconds, and numbers of things."""
    return {
        "RLIMIT_CPU": math.ceil(timeout) + 1,  # for each process; the clock is the real limit
        "RLIMIT_NPROC": PROCESSES,  # of the user: the supervisor adds what runs already
        "RLIMIT_FSIZE": FILE_BYTES,
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_CORE": 0,
        "RLIMIT_AS": int(memory_mib * 2**20),  # last: little is left to whoever sets the next
    }


def _run_supervised(root: str, timeout: float, limits: dict[str, int]) -> RunResult:
    """Run the program in `root` under the supervisor, and read its report."""
    command = [
        *(sys.executable, "-I", "-S", "-B", SUPERVISOR, root, LOADER.format(source=3)),
        *(str(timeout), str(OUTPUT_BYTES), str(int(USE_NAMESPACES))),
        *(f"{name}={value}" for name, value in limits.items()),
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={}, start_new_session=True,
    )  # fmt: skip
    with process:
        try:
            report, trouble = process.communicate(timeout=timeout + GRACE_SECONDS)
        except subprocess.TimeoutExpired:  # the machine stands still, or the disk does
            return RunResult("", "", -signal.SIGKILL, True)
        finally:  # Ctrl-C comes here too
            _end(process)
    if report.startswith(b"!") or process.returncode > 0:
        reason = (report[1:] or trouble).decode(errors="replace").strip()
        raise OSError(f"the sandbox could not start the program: {reason}")
    return _parse(report)


def _end(process: subprocess.Popen) -> None:
    """Let the supervisor kill the program, and if it does not, kill the supervisor."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _parse(report: bytes) -> RunResult:
    """Read the report "returncode timed_out bytes_of_stdout", newline, stdout, stderr."""
    head, found, body = report.partition(b"\n")
    if not found:  # the supervisor was killed before it could speak
        return RunResult("", "", -signal.SIGKILL, False)
    returncode, timed_out, size = map(int, head.split())
    spent = returncode == -signal.SIGXCPU  # several threads use up their seconds sooner
    stdout, stderr = (part.decode(errors="replace") for part in (body[:size], body[size:]))
    return RunResult(stdout, stderr, returncode, bool(timed_out) or spent)


def _run_alone(root: str, timeout: float, limits: dict[str, int]) -> RunResult:
    """Run the program in `root` without a supervisor: for systems other than Linux."""
    paths = {name: os.path.join(root, name) for name in ("source", "stdin", "stdout", "stderr")}
    # Windows' sockets and random numbers need its folder's name.
    env = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    loader = LIMITER.format(limits=limits) if os.name == "posix" else ""
    loader += LOADER.format(source=paths["source"])
    command = [sys.executable, "-I", "-S", "-B", "-u", "-X", "utf8", "-c", loader]
    with contextlib.ExitStack() as files:
        stdin = files.enter_context(open(paths["stdin"], "rb"))
        streams = [files.enter_context(open(paths[name], "w+b")) for name in ("stdout", "stderr")]
        process = subprocess.Popen(
            command, stdin=stdin, stdout=streams[0], stderr=streams[1], env=env,
            cwd=os.path.join(root, "folder"), start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout)
            timed_out = False
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            if hasattr(os, "killpg"):
                with contextlib.suppress(OSError):  # the group has ended already
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
        for stream in streams:
            stream.seek(0)
        texts = [stream.read(OUTPUT_BYTES).decode(errors="replace") for stream in streams]
    return RunResult(*texts, process.returncode, timed_out)


def _remove(root: str) -> None:
    """Remove a folder of any depth, and folders in it that forbid it.

    Folders are moved up into the root before they are emptied: no path is ever longer than the
    system allows, and nothing recurses.
    """
    if os.name == "posix":
        with contextlib.suppress(OSError):  # a process that got away (macOS) may still be writing
            folders = [root]
            for folder in folders:  # which grows meanwhile
                with os.scandir(folder) as entries:
                    entries = list(entries)
                for entry in entries:
                    if hasattr(os, "chflags"):  # macOS: files can forbid their removal
                        os.chflags(entry.path, 0, follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        os.chmod(entry.path, 0o700)
                        folders.append(os.path.join(root, f"moved{len(folders)}"))
                        os.rename(entry.path, folders[-1])
                    else:
                        os.unlink(entry.path)
            for folder in reversed(folders):
                os.rmdir(folder)
            return
    shutil.rmtree(root, ignore_errors=True)
