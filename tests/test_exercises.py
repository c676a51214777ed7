"""The exercises and their check: stubs, solutions, known mistakes, files that misbehave."""

import doctest
import importlib
import inspect
import io
import re
import subprocess
import sys
import textwrap

import pytest

from reasoning_from_scratch import exercises
from reasoning_from_scratch.__main__ import main
from reasoning_from_scratch.exercises import EXERCISES, ROOT, check, choose_exercises
from tests.behaviour import agree, behaviour
from tests.diagnosis import mutants_of
from tests.solutions import SOLUTIONS
from tests.student import Checker, Watched, files_with, load

ALL = [(chapter, name) for chapter, names in EXERCISES.items() for name in names]
each = pytest.mark.parametrize("chapter, name", ALL, ids=[name for _, name in ALL])

# Mistakes that no test can tell apart: a value held around the *returns* is never further from them
# than the raw one, so the larger square is the raw one's, as without a clip.
TWINS = [{"value_loss", "clips around the returns", "does not clip"}]

# What stands in the stubs in which a bug is to be found: (the bug, its repair, the known mistake).
BUGS = {
    "stats.bootstrap_interval": (
        "tail = 1 - level", "tail = (1 - level) / 2", "both tails on each side",
    ),
    "model.rope_frequencies": (
        "torch.arange(config.head_width // 2, dtype", "torch.arange(0, config.head_width, 2, dtype",
        "the exponent counts pairs, not channels",
    ),
    "sampling.choose": (
        "ordered.cumsum(-1) > top_p", "ordered.cumsum(-1) - ordered >= top_p",
        "top-p leaves out the token that reaches it",
    ),
    "sft.encode_examples": (
        "*tokenizer.encode(prompt + completion)", "*first, *second",
        "a merge crosses the border of prompt and completion",
    ),
    "reward_quality.calibration_curve": (
        ".round().astype(int)", ".astype(int)", "rounds to the nearest edge",
    ),
    "losses.policy_loss": (
        "torch.where(good, torch.minimum(raw, held), torch.maximum(raw, held))",
        "torch.minimum(raw, held)",
        "takes the larger of raw and clipped when the advantage is negative",
    ),
    "advantages.process_advantages": (
        ".view(group_size, -1).T", ".view(-1, group_size)",
        "the completions of a group are taken to lie P rows apart: repeat, not repeat_interleave",
    ),
    "rewards.accuracy_reward": (
        r'return float(answer in re.findall(r"\d+", completion))', "return 0.0",
        "without an answer in its place, the text is searched for it",
    ),
    "losses.token_entropy": (
        "surprise = torch.where(somewhere, -logprobs, 0)",
        "surprise = torch.where(possible, -logprobs, 0)", "an impossible token adds 0 · inf",
    ),
    "compute.at_budget": (
        "return max(within)", "return within[-1]",
        "the best so far: a checkpoint chosen on the test",
    ),
    "lengths.cosine_reward": (
        "float(length) / max_length", "min(float(length) / max_length, 1.0)",
        "the wave turns past the limit",
    ),
}  # fmt: skip


def short(name):
    return name.rpartition(".")[2]


def package_function(name):
    home, _, function = name.rpartition(".")
    return getattr(importlib.import_module(f"reasoning_from_scratch.{home}"), function)


def stub_file(chapter):
    return ROOT / "chapters" / "exercises" / f"ch{chapter:02}.py"


def stubs(chapter):
    return load(stub_file(chapter), lambda fact: pytest.fail(str(fact)))


def judged(work, **options):
    """The verdict on each (exercise, function), in this process."""
    facts = []
    Checker(work, facts.append, **options).run()
    verdicts = [fact["verdict"] for fact in facts if "verdict" in fact]
    assert len(verdicts) == len(work)
    return verdicts


def examples(chapter, name, function):
    """Run the docstring's examples with a function; return how many there are, how many fail."""
    names = stubs(chapter)
    text = inspect.getdoc(names[short(name)])
    test = doctest.DocTestParser().get_doctest(text, names | {short(name): function}, name, None, 0)
    results = doctest.DocTestRunner(verbose=False).run(test, out=io.StringIO().write)
    return results.attempted, results.failed


@pytest.fixture(autouse=True)
def no_plugins_from_elsewhere(monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


# The stubs.


@pytest.mark.parametrize("chapter", EXERCISES)
def test_a_file_of_stubs_holds_the_chapters_exercises_in_their_order(chapter):
    found = [
        short_name
        for short_name, value in stubs(chapter).items()
        if inspect.isfunction(value) and (value.__doc__ or "").startswith("Exercise")
    ]
    assert found == [short(name) for name in EXERCISES[chapter]]
    assert 3 <= len(found) <= 6


@each
def test_a_stub_says_what_it_is_and_where_it_is_held(chapter, name):
    stub, number = stubs(chapter)[short(name)], f"{chapter}.{EXERCISES[chapter].index(name) + 1}"
    kind = "find the bug" if name in BUGS else "(write the formula|design)"
    first = rf"Exercise {re.escape(number)} ★{{1,3}} \(\d+ minutes, {kind}\)\. \S.*[.?]"
    assert re.fullmatch(first, stub.__doc__.splitlines()[0])
    files = [f"tests/{file.name}" for file in files_with(name)]
    text = " ".join(stub.__doc__.split())
    assert text.endswith(f"Mirrors `{name}`; held by {' and '.join(files)}.")
    source = stub_file(chapter).read_text()
    assert f'raise NotImplementedError("exercise {number}, {short(name)}' in source
    hints = source.partition("# region Hints")[2]
    assert f"\n# {number}  " in hints and hints.rstrip().endswith("# endregion")


@each
def test_a_stub_takes_what_the_function_takes(chapter, name):
    ours = inspect.signature(stubs(chapter)[short(name)]).parameters.values()
    theirs = inspect.signature(package_function(name)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in ours] == [
        (p.name, p.kind, p.default) for p in theirs
    ]


@each
def test_the_worked_example_of_a_stub_is_true(chapter, name):
    attempted, failed = examples(chapter, name, package_function(name))
    assert attempted and not failed


@pytest.mark.parametrize("chapter", EXERCISES)
def test_an_untouched_stub_is_not_started_and_fails_as_a_test(chapter):
    names = stubs(chapter)
    work = [(name, names[short(name)]) for name in EXERCISES[chapter]]
    for verdict in judged(work):
        assert verdict["status"] == "not started" and 0 < verdict["failed"] <= verdict["tests"]


# Solutions and known mistakes.


@each
def test_the_package_is_right_and_every_mutant_is_refused_and_named(chapter, name):
    known, _ = mutants_of(name)
    assert len(known) >= 3
    work = [(name, package_function(name)), *((name, mutant) for mutant in known.values())]
    right, *wrong = judged(work, enough=1)  # each further failure can only rule out mistakes
    assert right["status"] == "right" and right["tests"] > right["failed"] == 0
    for (said, mutant), verdict in zip(known.items(), wrong, strict=True):
        twins = [twin for twin in TWINS if {short(name), said} <= twin] or [{said}]
        assert verdict["status"] == "wrong" and verdict["failures"], said
        if len(verdict["mistakes"]) > len(twins[0] - {short(name)}):
            (verdict,) = judged([(name, mutant)])
        assert set(verdict["mistakes"]) == twins[0] - {short(name)}, said


def filled_in(chapter, name, lines, path):
    """The function of a stub file in which `lines` stand in the place of the stub's `raise`."""
    source = stub_file(chapter).read_text()
    line = rf' +raise NotImplementedError\("exercise [\d.]+, {short(name)}.*\n'
    assert len(re.findall(line, source)) == 1
    path.write_text(re.sub(line, lambda match: textwrap.indent(lines, "    "), source))
    return load(path, lambda fact: pytest.fail(str(fact)))[short(name)]


@each
def test_a_stub_can_be_solved_by_the_lines_that_are_missing(chapter, name, tmp_path):
    path = tmp_path / "mine.py"
    if name not in BUGS:
        solved = filled_in(chapter, name, textwrap.dedent(SOLUTIONS[name]), path)
        (verdict,) = judged([(name, solved)])
        assert verdict["status"] == "right", verdict
        return
    bug, repair, said = BUGS[name]
    planted = filled_in(chapter, name, "", path)
    assert path.read_text().count(bug) == 1
    path.write_text(path.read_text().replace(bug, repair))
    mended = load(path, lambda fact: pytest.fail(str(fact)))[short(name)]
    before, after = judged([(name, planted), (name, mended)], enough=3)
    assert before["status"] == "wrong" and before["mistakes"] == [said]
    assert after["status"] == "right", after


@each
def test_knowing_the_worked_example_alone_is_not_enough(chapter, name):
    function = Watched(package_function(name))
    assert not examples(chapter, name, function)[1] and function.calls
    known = [(call, behaviour(function.function, call)) for call in function.calls]

    def special(*args, **options):
        for call, found in known:
            if agree(call, (args, options)):
                return found.result
        return known[-1][1].result

    assert not examples(chapter, name, special)[1]  # the example is right
    (verdict,) = judged([(name, special)], enough=1)
    assert verdict["status"] == "wrong"


# Files that misbehave, each in a process of its own.

MISBEHAVING = '''
import torch
import no_such_module

print("this is not what the check says")


def gae(rewards, values, mask, *, gamma=1.0, lam=0.95):
    raise NotImplementedError("exercise 6.1, gae")


def whiten(x, mask, *, shift_mean=True):
    while True:
        x = x + 0


def value_loss(values, old_values, returns, mask, *, clip=0.2):
    return values[0, 1, 2]


def kl_estimate(logprobs, ref_logprobs, *, kind="k3"):
    print("nor is this")
    return (ref_logprobs - logprobs).sum(1)


def policy_loss(*args, **options):
    import os
    os._exit(3)
'''  # fmt: skip


def test_a_file_that_misbehaves_costs_only_the_exercise_that_does(tmp_path):
    file, lines = tmp_path / "mine.py", []
    file.write_text(MISBEHAVING)
    assert check(6, file=file, say=lines.append, seconds=2) is False
    heads = {line.split()[1]: line for line in lines if line.startswith("6.")}
    assert lines[0] == "mine.py line 3: ModuleNotFoundError: No module named 'no_such_module'"
    assert lines.count(lines[0]) == 1
    assert heads["gae"] == "6.1 gae            not started"
    assert re.fullmatch(r"6\.2 whiten +not yet +stopped after 2 s in line 1[34]", heads["whiten"])
    at = lines.index(heads["whiten"]) + 1
    assert re.fullmatch(
        r" +during the test: whiten by hand  \(tests/test_advantages.py:\d+\)", lines[at]
    )
    assert lines[at + 1 : at + 5] == [
        "    in the call:",
        "        x           [[1, 2, 50], [3, 4, 60]]",
        "        mask        [[1, 1, 0], [1, 1, 0]]",
        "        shift_mean  True",
    ]
    assert heads["value_loss"] == "6.3 value_loss     not yet      4 tests failed, 0 passed"
    raised = [line for line in lines if "IndexError: too many indices" in line]
    assert len(raised) == 1 and raised[0].endswith("(line 18)")  # once, though every test meets it
    assert "not yet" in heads["kl_estimate"]
    after = lines[lines.index(heads["kl_estimate"]) :]
    assert after[1].startswith("    kl estimate by hand  (tests/test_losses.py:")
    assert "        got           [-0.2]" in after
    assert "        expected      [[0.0187308]]" in after
    assert heads["policy_loss"].startswith("6.5 policy_loss    not yet      the process ended: ")
    assert heads["adapt_kl_coef"].endswith("the file defines no function adapt_kl_coef")
    assert not any("this" in line or "Traceback" in line for line in lines)


def test_what_hangs_within_one_line_is_stopped_too(tmp_path):
    file, lines = tmp_path / "mine.py", []
    hangs = "def adapt_kl_coef(*args, **options):\n    return sum(itertools.repeat(1))\n"
    file.write_text("import itertools\n" + hangs)
    assert check(6, file=file, only="adapt_kl_coef", say=lines.append, seconds=1) is False
    assert lines[0] == "6.6 adapt_kl_coef  not yet      stopped after 1 s in line 3"
    assert lines[1].startswith("    during the test: adapt kl coef by hand") and len(lines) == 2


def test_what_waits_is_stopped_once_and_by_the_clock(tmp_path):
    file, lines = tmp_path / "mine.py", []
    file.write_text("import time\n\n\ndef adapt_kl_coef(*args, **options):\n    time.sleep(99)\n")
    assert check(6, file=file, only="6.6", say=lines.append, seconds=0.25) is False
    assert lines[0] == "6.6 adapt_kl_coef  not yet      stopped after 1.5 s by the clock in line 5"
    assert lines[1].startswith("    during the test: adapt kl coef by hand") and len(lines) == 2


def test_a_file_that_python_cannot_read_is_told_with_its_line(tmp_path):
    lines, file = [], tmp_path / "mine.py"
    for text in ("x = 1\ndef gae(:\n", "x = 1\nreturn x\n", "x = 1\n\0\n"):
        file.write_text(text)
        assert check(6, file=file, say=lines.append) is False
    assert re.match(r"mine.py line 2: SyntaxError: .+\nNothing can be checked", lines[0])
    assert re.match(r"mine.py line 2: SyntaxError: 'return' outside function", lines[1])
    assert re.match(r"mine.py line \d: .*null", lines[2]) and len(lines) == 3


def test_a_file_that_never_ends_loading_is_told_with_its_line(tmp_path):
    lines, file = [], tmp_path / "mine.py"
    file.write_text("import torch\n\nwhile True:\n    torch.zeros(1)\n")
    assert check(6, file=file, say=lines.append, seconds=1) is False
    assert re.fullmatch(r"mine.py line [34]: stopped after 1 s", lines[0]) and len(lines) == 1


def test_the_command_tells_by_its_exit_code_whether_anything_is_wrong(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from reasoning_from_scratch import pass_at_k\n\n\n"
        "def majority_vote(answers, *, equal=None):\n"
        "    return answers[-1] if answers else None\n"
    )
    assert main(["check", "3", "--file", str(file), "--only", "3.4"]) == 0
    assert capsys.readouterr().out == "3.4 pass_at_k  right        5 tests passed\n"
    line = [sys.executable, "-m", "reasoning_from_scratch", "check", "3", "--file", str(file)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == ""
    heads = [line for line in done.stdout.splitlines() if line.startswith("3.")]
    assert heads[0] == "3.1 choose         missing      the file defines no function choose"
    assert heads[1].startswith("3.2 majority_vote  not yet ") and len(heads) == 4
    assert "    The mistake: the last answer wins\n" in done.stdout


@pytest.mark.parametrize("only", ["pass_at_k", "stats.pass_at_k", "3.4"])
def test_an_exercise_is_asked_for_by_its_name_or_number(only):
    assert choose_exercises(3, only) == ["stats.pass_at_k"]


def test_wrong_use_is_refused_in_a_sentence(capsys, tmp_path, monkeypatch):
    for arguments, message in (
        (
            ["99"],
            f"chapter is 99, expected one that has exercises: {', '.join(map(str, EXERCISES))}",
        ),
        (["6", "--only", "nothing"], "only is 'nothing', expected an exercise of chapter 6: gae, "),
        (["6", "--file", str(tmp_path / "none.py")], "no file "),
    ):
        assert main(["check", *arguments]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(exercises.importlib.util, "find_spec", lambda name: None)
    assert main(["check", "6"]) == 2
    assert "pytest is missing, which runs the tests" in capsys.readouterr().err
    monkeypatch.setattr(exercises, "ROOT", tmp_path)  # as if installed without the clone
    assert main(["check", "6"]) == 2
    assert "the package's tests are not beside it" in capsys.readouterr().err
