"""The supervisor of one program: a process of its own between `run_python` and what it runs.

`sandbox.py` starts this file as a script, on Linux only. Two processes of ours stand above the
program, and the program can neither signal nor inspect them where the kernel offers any way to
prevent it:

    caller ── supervisor ── init ── program ── whatever the program starts

The supervisor reads the output, watches the clock and writes the report. `init` is process 1 of a
process namespace, so that the kernel kills everything in it the moment init dies. Where no
namespace can be made, orphans fall to the supervisor (it is a "child subreaper"), which kills its
children until it has none. The numbers below are those of the kernel's headers, the same on all
processors; only light modules are imported, since every call pays for them.
"""

import ctypes
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable

NEW_MOUNTS, NEW_IPC, NEW_USERS, NEW_PIDS, NEW_NETWORK = (
    0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
SET_DEATH_SIGNAL, SET_DUMPABLE, SET_KEEP_CAPABILITIES = 1, 4, 8
DROP_CAPABILITY, SET_SUBREAPER, SET_NO_NEW_PRIVILEGES, AMBIENT_CAPABILITY = 24, 36, 38, 47
DAC_OVERRIDE, DAC_READ_SEARCH, SET_GID, SET_UID = 1, 2, 6, 7  # capabilities
NO_SUID_NO_DEV, NO_EXEC, RECURSIVE, PRIVATE = 0b110, 0b1000, 0x4000, 0x40000  # mount flags
MOUNT_SETATTR, LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 442, 444, 445, 446  # calls
FOLDER_BYTES = 64 * 2**20
KILL_SECONDS = 5.0  # what cannot be killed in this time (a broken disk) is given up

Limits = list[tuple[str, int]]
libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Run one program and write its report to standard output.

    Args:
        arguments: the root (a folder that holds `source`, `stdin` and the program's `folder`), the
                   Python text that loads the program, seconds, bytes kept of each stream, "1" to
                   use namespaces or "0", then limits such as "RLIMIT_CORE=0".

    The report is a line "returncode timed_out bytes_of_stdout", then both streams' bytes. Where
    the program could not be started at all it is "!" and the reason.
    """
    root, loader, seconds, kept_bytes, namespaces, *limits = arguments
    stop, stopping = os.pipe()  # read like the rest, so that no moment is a wrong one
    signal.signal(signal.SIGTERM, lambda *_: os.write(stopping, b"!"))
    _prctl(SET_SUBREAPER, 1)
    uid = _spare_uid()
    made = _new_namespaces() if namespaces == "1" else 0
    others = 0 if uid or _counts_processes_afresh(made) else _tasks_of(os.getuid())
    limits = [(name, int(value)) for name, value in (limit.split("=") for limit in limits)]
    limits = [(name, value + others * (name == "RLIMIT_NPROC")) for name, value in limits]
    if uid:
        os.chmod(root, 0o711)  # its name is known to the program alone
        os.chown(os.path.join(root, "folder"), uid, uid)
    _write("/proc/self/oom_score_adj", "1000")  # short of memory? Not the training run, but us
    _prctl(SET_DEATH_SIGNAL, signal.SIGTERM)  # of the thread that waits for us
    _prctl(SET_DUMPABLE, 0)  # no debugger, no /proc/…/fd or mem: the program cannot reach in

    ends = [os.pipe() for _ in range(3)]  # stdout, stderr, and how the program ended
    reads, writes = [end[0] for end in ends], [end[1] for end in ends]
    init = os.fork()
    if init == 0:
        _guarded(writes[2], _init, root, loader, writes, uid, made, limits)
    for end in writes:
        os.close(end)
    deadline = time.monotonic() + float(seconds)
    kept, timed_out = _collect(reads, stop, deadline, int(kept_bytes))
    _kill_all(init, uid, made)
    _drain(reads[:2], kept, int(kept_bytes))
    _report(*(bytes(kept[end]) for end in reads), timed_out)


def _report(stdout: bytes, stderr: bytes, ending: bytes, timed_out: bool) -> None:
    if ending.startswith(b"!"):
        report = ending.partition(b"\n")[0]
    else:
        code = int(ending or -signal.SIGKILL)  # no word of its end: it was killed, by us or others
        timed_out = timed_out and not ending  # it ended in the same moment
        report = b"%d %d %d\n%b%b" % (code, timed_out, len(stdout), stdout, stderr)
    with open(1, "wb") as caller:
        caller.write(report)


# The supervisor's side: output, clock, end.


def _collect(
    reads: list[int], stop: int, deadline: float, kept_bytes: int
) -> tuple[dict[int, bytearray], bool]:
    """Read the three pipes until the program has ended, we shall stop, or the deadline comes."""
    kept = {end: bytearray() for end in reads}
    open_ends = [*reads, stop]
    while reads[2] in open_ends:  # init closes it last, and the program does not hold it
        left = deadline - time.monotonic()
        if left <= 0:
            return kept, True
        ready = select.select(open_ends, [], [], left)[0]
        if stop in ready:
            break
        for end in ready:
            data = os.read(end, 65536)
            if not data:
                open_ends.remove(end)
            # What is beyond is thrown away, not left in the pipe: the program would stop.
            kept[end] += data[: kept_bytes - len(kept[end])]
    return kept, False


def _drain(reads: list[int], kept: dict[int, bytearray], kept_bytes: int) -> None:
    """Read what the dead have left in the pipes."""
    for end in reads:
        os.set_blocking(end, False)
        try:
            for _ in range(64):  # pipes hold 16 pieces at most by default; never wait for more
                kept[end] += os.read(end, 65536)[: kept_bytes - len(kept[end])]
        except BlockingIOError:
            pass


def _kill_all(init: int, uid: int | None, made: int) -> None:
    """Kill init, then every process that falls to us, until none is left."""
    os.kill(init, signal.SIGKILL)
    if made & NEW_PIDS:
        os.waitpid(init, 0)  # returns when the kernel has killed and reaped the whole namespace
        return
    give_up = time.monotonic() + KILL_SECONDS
    while time.monotonic() < give_up:
        if uid:
            _kill_user(uid)
        elif not _stop_descendants():
            for pid in _descendants():
                _send(os.kill, pid, signal.SIGKILL)
        else:
            continue  # to bury the dead now would make room for others to fork
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:  # no child is left, so no descendant either
            return
        os.sched_yield()


def _kill_user(uid: int) -> None:
    """Kill all processes of a user at one stroke: nothing can fork its way out of it."""
    helper = os.fork()
    if helper == 0:
        try:
            os.setresuid(uid, uid, uid)
            if os.getresuid() == (uid, uid, uid):  # as root the next line would end the machine
                os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(helper, 0)


def _stop_descendants() -> bool:
    """Stop what still runs; True if there was any.

    Were they killed one by one, those that fork without end would fill the places of the dead.
    """
    try:  # quick enough for one that forks and ends, over and over: its child falls to us
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            for pid in file.read().split():
                _send(os.kill, int(pid), signal.SIGSTOP)
    except FileNotFoundError:  # a kernel built without it: what follows finds them too
        pass
    awake = {pid: group for pid, (state, group) in _descendants().items() if state not in b"TtZX"}
    for pid, group in awake.items():
        if group == os.getpgrp():  # it has not come to its setsid yet
            _send(os.kill, pid, signal.SIGSTOP)
        else:
            _send(os.killpg, group, signal.SIGSTOP)  # a group at one stroke, those unborn as well
    return bool(awake)


def _send(kill: Callable, target: int, number: int) -> None:
    try:
        kill(target, number)
    except ProcessLookupError:
        pass


def _descendants() -> dict[int, tuple[bytes, int]]:
    """The state, such as b"R" or b"Z", and the group of each process that descends from this."""
    table = {}
    for pid in _processes():
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                state, parent, group = file.read().rpartition(b")")[2].split()[:3]
                table[pid] = int(parent), state, int(group)
        except OSError:  # it has ended meanwhile
            pass
    family = {}
    born = {os.getpid()}
    while born:
        born = {pid for pid, (parent, *_) in table.items() if parent in born}
        family.update((pid, table[pid][1:]) for pid in born)
    return family


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


# Before the fork: a user and namespaces for the program.


def _spare_uid() -> int | None:
    """Return a user number that nobody has, if we may become it: the process limit spares root."""
    if os.geteuid() != 0:
        return None
    with open("/proc/self/status") as file:
        capabilities = next(int(line[7:], 16) for line in file if line.startswith("CapEff"))
    with open("/proc/self/uid_map") as file:
        first, _, count = map(int, file.read().splitlines()[-1].split())
    if not capabilities >> SET_UID & capabilities >> SET_GID & 1:
        return None
    low, high = 0x70000000, 0x7FFFFFFF  # by systemd's table given to no one
    if not first <= low < high < first + count:  # a container: take the upper half of what it has
        low, high = first + count // 2, first + count - 1
    if high - low < 1000:
        return None
    return low + int.from_bytes(os.urandom(4), "big") % (high - low)


def _new_namespaces() -> int:
    """Enter new namespaces as far as we may: root by right, a user by way of a user namespace.

    Returns:
        The flags of those made; the process namespace begins with the next child. 0 if none.
    """
    made = 0
    if libc.unshare(NEW_PIDS) != 0:
        uid, gid = os.geteuid(), os.getegid()
        if uid == 0 or libc.unshare(NEW_USERS) != 0:  # a root that may not do it may not map itself
            return 0
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
        made |= NEW_USERS
        if libc.unshare(NEW_PIDS) != 0:  # made, but worth nothing: so AppArmor does on Ubuntu
            return made
    made |= NEW_PIDS
    for flag in (NEW_NETWORK, NEW_IPC, NEW_MOUNTS):
        if libc.unshare(flag) == 0:
            made |= flag
    return made


def _counts_processes_afresh(made: int) -> bool:
    """Whether RLIMIT_NPROC counts in our user namespace alone: since Linux 5.14."""
    release = os.uname().release.split(".")
    return bool(made & NEW_USERS) and (int(release[0]), int(release[1])) >= (5, 14)


def _tasks_of(uid: int) -> int:
    """How many processes and threads a user has already."""
    tasks = 0
    for pid in _processes():
        try:
            if os.stat(f"/proc/{pid}").st_uid == uid:
                tasks += len(os.listdir(f"/proc/{pid}/task"))
        except OSError:  # it has ended meanwhile
            pass
    return tasks


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError:
        pass  # what fails here shows in the next call, or is an extra


# After the fork: init, then the program.


def _guarded(status: int, work: Callable, *arguments: object) -> None:
    """Do one of the two below; report why it could not; never return."""
    try:
        work(*arguments)
    except BaseException as error:
        reason = f"!{type(error).__name__}: {error}".replace("\n", " ")
        os.write(status, reason.encode(errors="replace")[:1000] + b"\n")
    finally:
        os._exit(127)


def _init(
    root: str, loader: str, writes: list[int], uid: int | None, made: int, limits: Limits
) -> None:
    """Be process 1: start the program, bury orphans, tell how the program ended."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # process 1 ignores what it has no handler for
    _prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    folder = os.path.join(root, "folder")
    confined = bool(made & NEW_MOUNTS) and _mount(folder) and bool(made & NEW_NETWORK)
    program = os.fork()
    if program == 0:
        streams = [os.open(os.path.join(root, name), os.O_RDONLY) for name in ("stdin", "source")]
        streams = [streams[0], *writes[:2], streams[1]]  # become 0, 1, 2 and 3
        _guarded(writes[2], _program, folder, loader, streams, uid, confined, limits)
    os.close(writes[0])
    os.close(writes[1])
    while True:
        pid, status = os.wait()
        if pid == program:
            break
    os.write(writes[2], b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _mount(folder: str) -> bool:
    """Give the program a file system to read, and a small one in memory to write; True if done."""
    flags = NO_SUID_NO_DEV
    if libc.mount(None, b"/", None, RECURSIVE | PRIVATE, None) != 0:  # else others see it too
        return False
    libc.mount(b"proc", b"/proc", b"proc", flags | NO_EXEC, None)  # an extra: hides other processes
    writable = (os.fsencode(folder), b"/dev/shm")
    for place in writable:
        options = b"size=%d,nr_inodes=10000,mode=777" % FOLDER_BYTES
        if libc.mount(b"tmpfs", place, b"tmpfs", flags, options) != 0:
            return False
    if not _set_mount(b"/", 0x8000, set_=1, clear=0):  # all mounts below, read-only: Linux 5.12
        return False
    return all(_set_mount(place, 0, set_=0, clear=1) for place in writable)


def _set_mount(place: bytes, flags: int, set_: int, clear: int) -> bool:
    attributes = struct.pack("QQQQ", set_, clear, 0, 0)
    return _system_call(MOUNT_SETATTR, -100, place, flags, attributes, len(attributes)) == 0


def _program(
    folder: str, loader: str, streams: list[int], uid: int | None, confined: bool, limits: Limits
) -> None:
    """Become the program: give up every privilege, take on the limits, start a fresh Python."""
    os.setsid()
    os.chdir(folder)
    os.umask(0o077)
    for number, stream in enumerate(streams):
        os.dup2(stream, 20 + number)  # out of the way first: a stream may be 3 itself
    for number in range(len(streams)):
        os.dup2(20 + number, number)
        os.set_inheritable(20 + number, False)  # all others close by themselves: Python's default
    if uid:
        _become(uid)
    else:
        for capability in range(64):  # a root that must stay root loses them when Python starts
            _prctl(DROP_CAPABILITY, capability)
    _prctl(SET_NO_NEW_PRIVILEGES, 1)  # setuid programs give nothing
    _prctl(SET_DEATH_SIGNAL, signal.SIGKILL)  # after _become, which clears it
    if not confined:
        _landlock()
    for name, value in limits:
        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1] % 2**64  # "none" is -1
        hard = value + (name == "RLIMIT_CPU")  # at the lower one comes a signal that tells why
        resource.setrlimit(kind, (min(value, most), min(hard, most)))
    flags = ["-I", "-S", "-B", "-u", "-X", "utf8"]
    os.execve(sys.executable, [sys.executable, *flags, "-c", loader], {})


def _become(uid: int) -> None:
    """Turn from root into a user without rights, except that of reading where Python lies."""
    _prctl(SET_KEEP_CAPABILITIES, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kept = ()
    if not (os.access(sys.executable, os.X_OK) and os.access(os.__file__, os.R_OK)):
        kept = (DAC_READ_SEARCH, DAC_OVERRIDE)  # Python below /root; the second writes too
    for bits in [*(1 << capability for capability in kept), 0]:
        header = struct.pack("Ii", 0x20080522, 0)
        if libc.capset(header, struct.pack("6I", bits, bits, bits, 0, 0, 0)) == 0:
            break
    if bits:
        _prctl(AMBIENT_CAPABILITY, 2, bits.bit_length() - 1)  # keep it in the fresh Python


def _landlock() -> None:
    """Forbid writing outside the folder, TCP and signals to others, as far as this kernel can."""
    version = _system_call(LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return
    files = 0b1_1111_1111_0010 | (version >= 2) << 13 | (version >= 3) << 14  # all but reading
    rules = struct.pack("QQQ", files, 0b11, 0b11)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _system_call(LANDLOCK_CREATE, rules, len(rules), 0)
    write = files & (1 << 1 | 1 << 14)
    for path, rights in ((".", files), ("/dev/null", write)):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _system_call(LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", rights, place), 0)
    _system_call(LANDLOCK_RESTRICT, ruleset, 0)


def _prctl(option: int, value: int, third: int = 0) -> int:
    """Change an attribute of this process."""
    return libc.prctl(option, *map(ctypes.c_ulong, (value, third, 0, 0)))


def _system_call(number: int, *arguments: int | bytes | None) -> int:
    """Make a call that older C libraries have no name for."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return libc.syscall(ctypes.c_long(number), *wide)


if __name__ == "__main__":
    main(sys.argv[1:])
