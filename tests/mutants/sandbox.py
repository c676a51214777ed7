"""Wrong versions of the sandbox: its limits, its report, its cleaning up."""

MUTANTS = {
    "_limits": {
        "gives KiB of memory for MiB": ("memory_mib * 2**20", "memory_mib * 2**10"),
        "rounds the processor's seconds down: 0.3 s would allow none": (
            "math.ceil(timeout) + 1",
            "int(timeout)",
        ),
        "lets a crash leave a file as large as the memory": (
            '"RLIMIT_CORE": 0',
            '"RLIMIT_CORE": FILE_BYTES',
        ),
        "forgets that fork can be endless": ('"RLIMIT_NPROC": PROCESSES', '"RLIMIT_NPROC": 10**6'),
    },
    "_parse": {
        "takes stderr for stdout": ("(body[:size], body[size:])", "(body[size:], body[:size])"),
        "refuses bytes that are not UTF-8": ('errors="replace"', 'errors="strict"'),
        "takes a killed supervisor for a program that did well": (
            '"", "", -signal.SIGKILL',
            '"", "", 0',
        ),
        "does not count used-up processor time as a timeout": (
            "bool(timed_out) or spent",
            "bool(timed_out)",
        ),
    },
    "run_python": {
        "leaves the folder": ("_remove(root)", "pass"),
        "raises for a lone surrogate": ('"surrogatepass"', '"strict"'),
        "lets NaN through, which no clock ever reaches": (
            "not 0 < timeout <= LONGEST_SECONDS",
            "timeout <= 0 or timeout > LONGEST_SECONDS",
        ),
        "forgets the input": ('"stdin": stdin}', '"stdin": ""}'),
    },
    "_run_supervised": {
        "collects output without bound": ("str(OUTPUT_BYTES)", "str(2**40)"),
        "asks for namespaces that the caller did not want": ("int(USE_NAMESPACES)", "1"),
        "takes a refusal to start for a result": ('report.startswith(b"!") or', "False and"),
    },
    "_run_alone": {
        "kills the first process only": ("os.killpg(process.pid, signal.SIGKILL)", "pass"),
        "reads all of the output": ("stream.read(OUTPUT_BYTES)", "stream.read()"),
        "calls a program that was stopped a program that ended": (
            "timed_out = True",
            "timed_out = False",
        ),
        "forgets the limits that the system has": ('if os.name == "posix"', "if False"),
    },
    "_remove": {
        "follows links out of the folder": ("entry.is_dir(follow_symlinks=False)", "entry.is_dir()")
    },
}
