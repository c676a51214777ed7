"""What every task promises, and the two smallest families: addition and arithmetic."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from reasoning_from_scratch.tasks import TASKS, Problem, Task, get_task
from reasoning_from_scratch.tasks.base import split_of, stable_hash

GENERATED = ("stories", "addition", "arithmetic", "countdown")  # these need no file
SPLITS = ("train", "tune", "test")


@dataclass(frozen=True)
class Endless(Task):
    """A task with a single problem, which can be in one split only."""

    def _draw(self, random):
        return "endless", 7

    def _write(self, key, facts, random):
        return Problem("what?", str(facts), f"<answer>{facts}</answer>", {"key": key})


def keys(problems):
    return {problem.meta["key"] for problem in problems}


def test_stable_hash_is_the_first_eight_bytes_of_blake2b():
    # From `printf abc | b2sum -l 64`: d8bb14d833d59559
    assert stable_hash("abc") == 0xD8BB14D833D59559


def test_one_key_in_ten_is_for_testing_and_one_for_tuning():
    splits = [split_of(f"key {i}") for i in range(20_000)]
    for split, share in (("test", 0.1), ("tune", 0.1), ("train", 0.8)):
        # Five standard deviations of a binomial: sqrt(0.1 * 0.9 / 20,000) = 0.0021.
        assert abs(splits.count(split) / 20_000 - share) < 5 * 0.003


@pytest.mark.parametrize("name", GENERATED)
def test_splits_never_share_a_key_whatever_the_seed(name):
    task = get_task(name)
    seen = {split: set() for split in SPLITS}
    for split in SPLITS:
        for seed in range(4):
            seen[split] |= keys(task.generate(300, seed=seed, split=split))
        assert len(seen[split]) > 200  # and there is something to intersect
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["tune"]
    assert not seen["tune"] & seen["test"]


@pytest.mark.parametrize("name", GENERATED)
@pytest.mark.parametrize("split", SPLITS)
def test_item_i_does_not_depend_on_how_many_are_drawn(name, split):
    task = get_task(name)
    assert task.generate(40, seed=3, split=split)[:7] == task.generate(7, seed=3, split=split)
    assert task.generate(0, seed=3, split=split) == []


@pytest.mark.parametrize("name", GENERATED)
def test_seeds_and_splits_give_other_problems(name):
    task = get_task(name, **({"digits": 6} if name == "addition" else {}))
    first = task.generate(200, seed=0, split="train")
    for seed in (1, 2, -1):  # neighbours, too: reasoning-gym's overlap in all but one item
        other = task.generate(200, seed=seed, split="train")
        assert sum(a == b for a, b in zip(first, other, strict=True)) <= 2
        assert len(keys(first) & keys(other)) < 60


@pytest.mark.parametrize("name", GENERATED)
def test_a_demonstration_scores_one_and_another_problems_does_not(name):
    task = get_task(name)
    problems = task.generate(60, seed=5, split="tune")
    assert [task.score(p, p.demonstration) for p in problems] == [1.0] * 60
    for a, b in zip(problems, problems[1:], strict=False):
        if a.answer != b.answer:
            assert task.score(a, b.demonstration) == 0.0


@pytest.mark.parametrize("completion", ["", "<answer>", "<think>1+1=2</think>", "</answer>", "\0"])
@pytest.mark.parametrize("name", GENERATED)
def test_a_completion_without_an_answer_scores_zero(name, completion):
    task = get_task(name)
    (problem,) = task.generate(1, seed=0, split="test")
    assert task.score(problem, completion) == 0.0


def test_the_default_score_compares_values_and_not_texts():
    problem = Problem("what?", "19", "")
    assert Endless().score(problem, "<think>no</think><answer> 19.0 </answer>") == 1.0
    assert Endless().score(problem, "<answer>19</answer> or <answer>20</answer>") == 0.0
    assert Endless().score(problem, "19") == 0.0


def test_problems_are_the_same_in_every_process_and_need_no_torch():
    program = (
        "import sys, hashlib\n"
        "from reasoning_from_scratch.tasks import get_task\n"
        f"problems = [get_task(name).generate(30, seed=1, split='test') for name in {GENERATED}]\n"
        "documents = get_task('stories').documents(30, seed=1, checks=2)\n"
        "assert 'torch' not in sys.modules\n"
        "print(hashlib.sha256(repr((problems, documents)).encode()).hexdigest())"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert outputs[0] == outputs[1] != ""


def test_options_from_json_make_the_same_task():
    assert get_task("stories", steps=[2, 3]) == get_task("stories", steps=(2, 3))


# Addition


@pytest.mark.parametrize("digits, shots", [(1, 5), (2, 2), (5, 0)])
def test_addition_prompts_are_worked_lines_and_a_question(digits, shots):
    task = get_task("addition", digits=digits, shots=shots)
    for problem in task.generate(50, seed=0, split="test"):
        *lines, question = problem.prompt.split("\n")
        a, b = map(int, re.fullmatch(r"(\d+) \+ (\d+) =", question).groups())
        assert int(problem.answer) == a + b and len(str(a)) == len(str(b)) == digits
        assert len(lines) == shots
        pairs = {tuple(sorted((a, b)))}
        for line in lines:
            c, d, total = map(int, re.fullmatch(r"(\d+) \+ (\d+) = (\d+)", line).groups())
            assert c + d == total
            assert split_of(f"addition {min(c, d)}+{max(c, d)}") == "train"
            pairs.add(tuple(sorted((c, d))))
        assert len(pairs) == shots + 1  # all different, the question among them


def test_shots_of_training_problems_are_never_the_question():
    # With one digit there are 45 pairs, so ten shots would often hold the question by chance.
    task = get_task("addition", digits=1, shots=10)
    for problem in task.generate(200, seed=0, split="train"):
        *lines, question = problem.prompt.split("\n")
        a, b = question.removesuffix(" =").split(" + ")
        asked = {f"{a} + {b}", f"{b} + {a}"}
        assert not asked & {line.partition(" =")[0] for line in lines}


@pytest.mark.parametrize(
    "completion, score",
    [("53\n", 1), ("53", 1), (" 53\n40+1=41", 1), ("\n53", 0), ("53.", 0), ("053", 0), ("5 3", 0)],
)
def test_addition_reads_the_first_line_alone(completion, score):
    problem = Problem("40 + 13 =", "53", " 53\n")
    assert get_task("addition").score(problem, completion) == score


# Arithmetic


@pytest.mark.parametrize("operators", [(1, 1), (2, 4), (9, 9)])
def test_arithmetic_answers_are_what_python_makes_of_the_prompt(operators):
    task = get_task("arithmetic", operators=operators, largest=12, limit=500)
    for problem in task.generate(200, seed=0, split="train"):
        expression = problem.prompt.removesuffix(" = ?\n")
        assert re.fullmatch(r"[-0-9+*()]+", expression)
        assert str(eval(expression)) == problem.answer
        assert operators[0] <= len(re.findall(r"[-+*]", expression)) <= operators[1]
        assert max(map(int, re.findall(r"\d+", expression))) <= 12


def test_arithmetic_demonstrations_do_one_operation_at_a_time():
    for problem in get_task("arithmetic", operators=(4, 8), limit=200).generate(
        200, seed=0, split="train"
    ):
        lines = re.search("<think>(.*)</think>", problem.demonstration)[1].split("=")
        assert lines[0] + " = ?\n" == problem.prompt and lines[-1] == problem.answer
        signs = [len(re.findall(r"[-+*]", line)) for line in lines]
        assert signs == list(range(signs[0], -1, -1))
        assert {str(eval(line)) for line in lines} == {problem.answer}
        assert all(0 <= int(n) <= 200 for line in lines for n in re.findall(r"\d+", line))


def test_reduce_does_the_innermost_brackets_first_and_products_before_sums(subject):
    reduce = subject("tasks.arithmetic.reduce")
    assert reduce("(3+4)*2-(8-5)") == "7*2-(8-5)"
    assert reduce("2*(9-(4+1))") == "2*(9-5)"  # the inner ones, and the outer ones stay
    assert reduce("8-2*3") == "8-6"
    assert reduce("9-3-2") == "6-2"  # from the left
    assert reduce("2*(9-3-2)") == "2*(6-2)"
    assert reduce("2*(6-2)") == "2*4"


def test_arithmetic_twins_share_a_key():
    # a+b and b+a are one problem, so that one cannot train and the other test; a-b and b-a are two.
    problems = get_task("arithmetic", operators=(1, 1)).generate(600, seed=0, split="train")
    texts = {p.prompt.removesuffix(" = ?\n"): p.meta["key"] for p in problems}
    twins = 0
    for text, key in texts.items():
        a, sign, b = re.fullmatch(r"(\d+)([-+*])(\d+)", text).groups()
        if a != b and f"{b}{sign}{a}" in texts:
            twins += 1
            assert texts[f"{b}{sign}{a}"] == key
    assert twins > 10


# Refusals


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("story", {}, "task is 'story', expected 'gym:NAME' or one of stories, addition"),
        ("stories", {"step": (1, 2)}, "stories has no option 'step', expected one of steps, limit"),
        ("stories", {"steps": 3}, "steps is 3, expected a pair"),
        ("stories", {"steps": (5, 2)}, r"steps is \(5, 2\), expected the smaller number first"),
        ("stories", {"steps": (0, 2)}, "an end of steps is 0, expected an integer of at least 1"),
        ("stories", {"steps": (1.0, 2)}, "an end of steps is 1.0, expected an integer"),
        ("stories", {"limit": 2}, "limit is 2, expected an integer of at least 3"),
        ("stories", {"amount": 151}, "amount is 151, expected an integer from 2 to 150"),
        ("addition", {"digits": 0}, "digits is 0, expected an integer from 1 to 15"),
        ("addition", {"shots": True}, "shots is True, expected an integer from 0 to 20"),
        ("arithmetic", {"limit": 5}, "limit is 5, expected an integer of at least 9"),
        ("countdown", {"numbers": (1, 3)}, "an end of numbers is 1, expected an integer from 2"),
    ],
)
def test_a_wrong_option_is_refused_by_name(name, options, message):
    with pytest.raises(ValueError, match=message):
        get_task(name, **options)


def test_a_wrong_request_is_refused_by_name():
    task = get_task("stories")
    with pytest.raises(ValueError, match="split is 'validation', expected 'train', 'tune' or"):
        task.generate(1, seed=0, split="validation")
    with pytest.raises(ValueError, match="n is -1, expected 0 or more"):
        task.generate(-1, seed=0, split="train")


def test_a_split_without_problems_is_refused_and_not_searched_for_ever():
    home = split_of("endless")
    assert len(Endless().generate(3, seed=0, split=home)) == 3
    for split in set(SPLITS) - {home}:
        with pytest.raises(ValueError, match=f"leaves no problem in split '{split}'"):
            Endless().generate(1, seed=0, split=split)


def test_every_listed_task_can_be_made():
    for name in TASKS:
        assert isinstance(get_task(name), Task)
