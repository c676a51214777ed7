"""The check of the exercises: the package's own tests, run against a student's file.

`chapters/exercises/ch06.py` holds a stub for each name that `EXERCISES[6]` lists; a stub has the
package function's signature, and that function is its solution. `check` says of each whether it is
not started, right, or wrong, with input, result and expectation, and in words where the mistake is
one of tests/mutants. The tests run in another process (`tests/student.py`): an endless loop or a
crash ends that process, costs the exercise that it happened in, and the next one starts anew.

Left out: a sandbox. The student's file is the student's own program.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Where the function lives in the package, in the order of the exercise's numbers.
EXERCISES = {
    1: (
        "stats.standard_error", "stats.wilson_interval", "stats.mcnemar_p",
        "stats.bootstrap_interval", "verify.extract_answer",
    ),
    2: ("tokenizer.train_bpe", "model.rope_frequencies", "model.rotate", "model.attend"),
    3: ("sampling.choose", "stats.majority_vote", "stats.weighted_vote", "stats.pass_at_k"),
    4: ("losses.masked_mean", "losses.sft_loss", "sft.encode_examples", "sft.batch_rows"),
    5: (
        "losses.bradley_terry_loss", "reward_quality.best_of_n_kl",
        "reward_quality.calibration_curve", "reward_quality.expected_best_of_n",
    ),
    6: (
        "advantages.gae", "advantages.whiten", "losses.value_loss", "losses.kl_estimate",
        "losses.policy_loss", "ppo.adapt_kl_coef",
    ),
    7: (
        "advantages.group_advantages", "losses.aggregate_tokens", "losses.aggregate_share",
        "advantages.process_advantages", "stats.mixed_group_chance",
    ),
    8: (
        "rewards.repetition_penalty", "rewards.language_reward", "rewards.format_reward",
        "rewards.accuracy_reward", "rewards.rule_reward",
    ),
    9: (
        "rewards.combine", "compute.grpo_step_flops", "compute.at_budget",
        "imitation.select_samples",
    ),
    10: (
        "lengths.overlong_penalty", "losses.probability_ratio", "losses.token_entropy",
        "rollouts.fill_with_mixed",
    ),
    11: (
        "lengths.lcpo_exact", "lengths.lcpo_max", "lengths.kimi_length_reward",
        "lengths.cosine_reward", "losses.dpo_loss", "preferences.shortest_right_pairs",
    ),
}  # fmt: skip
SECONDS = 10.0  # that one test may compute: many times what the slowest needs

ROOT = Path(__file__).resolve().parents[1]


def check(
    chapter: int,
    *,
    file: Path | None = None,
    only: str | None = None,
    say: Callable[[str], None],
    seconds: float = SECONDS,
) -> bool:
    """Say of each exercise of a chapter how it stands.

    Args:
        chapter: its number.
        file:    the student's; by default the chapter's own file in chapters/exercises.
        only:    the name of one function, or its number, such as "7.1".
        say:     called with each line.
        seconds: that one test may compute before it counts as endless.

    Returns:
        Whether nothing that was started is wrong.

    Raises:
        ValueError: there is no such chapter or exercise.
        FileNotFoundError: the file is missing, or the clone with its tests.
        ModuleNotFoundError: pytest or hypothesis is missing.
    """
    chosen = choose_exercises(chapter, only)
    path = ROOT / "chapters" / "exercises" / f"ch{chapter:02}.py" if file is None else file
    check_that_all_is_there(path)
    path = path.resolve()
    if (said := syntax_error(path)) is not None:
        say(f"{path.name} {said}\nNothing can be checked before Python can read the file.")
        return False

    numbers = {name: f"{chapter}.{EXERCISES[chapter].index(name) + 1}" for name in chosen}
    width = max(len(short(name)) for name in chosen)
    good, untouched = True, True
    for fact in facts(path, chosen, seconds):
        if "said" in fact:  # of the file, not of an exercise
            say(f"{path.name} line {fact['line']}: {fact['said']}")
            good = untouched = False
            continue
        name, verdict = fact["exercise"], fact["verdict"]
        good &= verdict["status"] in ("right", "not started")
        untouched &= verdict["status"] == "not started"
        summary, *details = describe(short(name), verdict)
        say(f"{numbers[name]} {short(name):{width}}  {summary}")
        for line in details:
            say(f"    {line}")
    if untouched:
        say(f"Open {relative(path)}, write one of them, and check again.")
    return good


def choose_exercises(chapter: int, only: str | None) -> Sequence[str]:
    """Return the exercises that are asked for."""
    if chapter not in EXERCISES:
        known = ", ".join(map(str, EXERCISES))
        raise ValueError(f"chapter is {chapter}, expected one that has exercises: {known}")
    names = EXERCISES[chapter]
    if only is None:
        return names
    labels = {name: f"{chapter}.{place}" for place, name in enumerate(names, 1)}
    found = [name for name in names if only in (name, short(name), labels[name])]
    if not found:
        known = ", ".join(map(short, names))
        raise ValueError(f"only is {only!r}, expected an exercise of chapter {chapter}: {known}")
    return found


def check_that_all_is_there(path: Path) -> None:
    """Refuse to begin where the file, the tests or what runs them is missing."""
    if not (ROOT / "tests" / "student.py").is_file():
        raise FileNotFoundError(
            "the package's tests are not beside it. They check the exercises, and come with the "
            "repository, not with an installed package: clone it and `pip install -e .` there"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: give yours with --file")
    for needed in ("pytest", "hypothesis"):
        if importlib.util.find_spec(needed) is None:
            raise ModuleNotFoundError(
                f"{needed} is missing, which runs the tests: `make check CH=…` installs it, and so "
                "does `pip install -r requirements-dev.txt`"
            )


def syntax_error(path: Path) -> str | None:
    """Say what keeps Python from reading the file, if anything does."""
    try:
        compile(path.read_bytes(), path.name, "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"line {error.lineno or 1}: {type(error).__name__}: {error.msg}"
    except ValueError as error:  # a null byte, in some versions
        return f"line 1: {error}"
    return None


def facts(path: Path, exercises: Sequence[str], seconds: float) -> Iterator[dict]:
    """Yield what is wrong with the file and each exercise's verdict, whatever the file does."""
    told, left = set(), list(exercises)
    while left:
        waiting, running = list(left), None  # running: the exercise and test that are on
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stack:
            for fact in run_tests(path, left, seconds, stack):
                if "verdict" in fact:
                    waiting.remove(fact["exercise"])
                    running = None
                elif "test" in fact:
                    running = fact
                    continue
                elif "call" in fact:  # the test that is on is about to be given up, in this call
                    running = running | fact
                    continue
                elif (said := (fact["line"], fact["said"])) in told:
                    continue  # a process that starts anew meets it again
                else:
                    told.add(said)
                yield fact
            stack.seek(0)
            stopped = what_stopped(stack.read(), path.name, seconds)
        if not waiting:
            return
        if running is None and len(waiting) == len(left):  # before any test: the file itself
            yield {"line": stopped["line"] or 1, "said": stopped["why"]}
            return
        name = running["exercise"] if running else waiting[0]
        yield {"exercise": name, "verdict": {"status": "stopped", **(running or {}), **stopped}}
        left = [exercise for exercise in waiting if exercise != name]


def run_tests(
    path: Path, exercises: Sequence[str], seconds: float, stack: object
) -> Iterator[dict]:
    """Yield what the other process tells; its stderr, and the stack when it dies, go to `stack`."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONUTF8": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "tests.student", str(path), str(seconds), *exercises]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stack,
        stdin=subprocess.DEVNULL, encoding="utf-8",
    )  # fmt: skip
    try:
        for line in process.stdout:
            yield json.loads(line)
        process.wait()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def what_stopped(stack: str, name: str, seconds: float) -> dict:
    """Read from the last words of a process why it ended, and in which line of the file."""
    lines = re.findall(rf'File "{re.escape(name)}", line (\d+)', stack)  # the innermost is first
    if fatal := re.search(r"Fatal Python error: (.*)", stack):
        why = f"the process crashed: {fatal[1]}"
    elif clock := re.search(r"Timeout \((\d+):(\d+):([\d.]+)\)!", stack):  # it waited, for the most
        hours, minutes, rest = map(float, clock.groups())
        why = f"stopped after {3600 * hours + 60 * minutes + rest:g} s by the clock"
    elif "(most recent call first)" in stack:
        why = f"stopped after {seconds:g} s"
    else:
        last = stack.strip().splitlines()[-1:] or ["with no message"]
        why = f"the process ended: {last[0]}"
    return {"why": why, "line": int(lines[0]) if lines else None}


def describe(name: str, verdict: dict) -> list[str]:
    """Return the line of an exercise and those that stand under it."""
    status = verdict["status"]
    if status == "right":
        return [f"right        {counted(verdict['tests'], 'test')} passed"]
    if status == "not started":
        return ["not started"]
    if status == "missing":
        return [f"missing      the file defines no function {name}"]
    if status == "untested":
        return [f"not checked  its tests cannot be loaded: {verdict['why']}"]
    if status == "stopped":
        where = f" in line {verdict['line']}" if verdict["line"] else ""
        lines = [f"not yet      {verdict['why']}{where}"]
        if "test" in verdict:
            lines.append(f"during the test: {headline(verdict)}")
        return lines + (["in the call:", *table(verdict["call"])] if "call" in verdict else [])
    failed = counted(verdict["failed"], "test")
    lines = [f"not yet      {failed} failed, {verdict['tests'] - verdict['failed']} passed"]
    if verdict["mistakes"]:
        lines.append(f"The mistake: {', or: '.join(verdict['mistakes'])}")
    for said, tests in verdict["perhaps"]:
        of = f" ({tests} of the {failed})" if verdict["failed"] > 1 else ""
        lines.append(f"Looks like: {', or: '.join(said)}{of}")
    for failure in verdict["failures"]:
        some = failure["failed"] < failure["of"]
        of = f", {failure['failed']} of {failure['of']} cases" if some else ""
        lines += [headline(failure) + of, *table(failure["lines"])]
    if left := verdict["failed"] - len(verdict["failures"]):
        lines.append(f"and {counted(left, 'more test')} failed")
    return lines


def headline(test: dict) -> str:
    """Return what a test says, and where it stands."""
    return f"{test['test']}  ({test['where']})" if "where" in test else test["test"]


def table(lines: Sequence[tuple[str, str]]) -> list[str]:
    """Return labels and texts in two columns."""
    width = max((len(label) for label, _ in lines), default=0)
    return [f"    {label:{width}}  {text}" for label, text in lines]


def counted(number: int, thing: str) -> str:
    """Return a number of things in words."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def short(name: str) -> str:
    """Return an exercise's name as it stands in the file."""
    return name.rpartition(".")[2]


def relative(path: Path) -> Path:
    """Return a path from here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
