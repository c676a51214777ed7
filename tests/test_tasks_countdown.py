"""Countdown: what counts as an expression, and targets that can be reached."""

import re
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_from_scratch.tasks import Problem, get_task

OPTIONS = [{}, {"numbers": (2, 2), "largest": 9}, {"numbers": (6, 6), "largest": 50, "limit": 999}]


def reachable(numbers):
    """Every value that the numbers can make: all pairs, all operations."""
    if len(numbers) == 1:
        return set(numbers)
    values = set()
    for a, b, *rest in permutations(numbers):
        made = [a + b, a - b, a * b] + ([a / b] if b else [])
        for value in made:
            values |= reachable((value, *rest))
    return values


# The first four are the examples of papers on this puzzle: 1 2 3 4 and the target 11.
@pytest.mark.parametrize(
    "expression, numbers, value",
    [
        ("1 + (2 * 3) + 4", (1, 2, 3, 4), 11),
        ("1+2*3+4", (1, 2, 3, 4), 11),
        ("(1+2)*3+4", (1, 2, 3, 4), 13),
        ("11", (1, 2, 3, 4), None),  # not these numbers
        ("8-3", (3, 8), 5),  # in any order
        ("3-8", (3, 8), -5),  # a difference may be negative
        ("3-4-5", (3, 4, 5), -6),  # from the left
        ("(2/3)*6", (2, 3, 6), 4),  # exactly: 2/3 is no float
        ("1/3", (1, 3), Fraction(1, 3)),
        ("((7))", (7,), 7),
        (" 2 * 3 ", (2, 3), 6),
        ("5+5", (5, 5), 10),
        ("5+5", (5,), None),  # one used twice
        ("5", (5, 5), None),  # one left out
        ("12", (1, 2), None),  # joined digits
        ("1 2", (1, 2), None),
        ("2**3", (2, 3), None),
        ("8//3", (8, 3), None),
        ("-2+3", (2, 3), None),  # a sign of its own is no operation on two numbers
        ("3--2", (2, 3), None),
        ("+2+3", (2, 3), None),
        ("2-(-(3))", (2, 3), None),
        ("08-3", (8, 3), None),
        ("8/(3-3)", (8, 3, 3), None),
        ("2(3)", (2, 3), None),
        ("(2,3)", (2, 3), None),
        ("2+3=5", (2, 3, 5), None),
        ("2+3\n", (2, 3), None),
        ("2.0+3", (2, 0, 3), None),
        ("2_3", (23,), None),
        ("0x2+3", (0, 2, 3), None),
        ("٢+3", (2, 3), None),  # a digit that Python's int would read
        ("2+3 if 1 else 0", (2, 3, 1, 0), None),
        ("__import__('os')", (), None),
        ("", (), None),
        ("()", (), None),
        ("(2+3", (2, 3), None),
        ("(" * 90 + "2" + ")" * 90, (2,), 2),
        ("(" * 5000 + "2" + ")" * 5000, (2,), None),  # too deep to parse
        ("2" + " " * 10**6 + "+3", (2, 3), None),
        ("9" * 10**6, (9,), None),
    ],
)
def test_countdown_value_by_hand(subject, expression, numbers, value):
    found = subject("tasks.countdown.countdown_value")(expression, numbers)
    assert found == value and (found is None) == (value is None)


@st.composite
def expressions(draw):
    """An expression as text, in brackets, with its numbers."""
    if draw(st.booleans()) or draw(st.booleans()):
        number = draw(st.integers(0, 30))
        return str(number), [number]
    (left, a), (right, b) = draw(expressions()), draw(expressions())
    return f"({left}{draw(st.sampled_from('+-*/'))}{right})", a + b


@given(expressions())
def test_countdown_value_is_exact(subject, case):
    text, numbers = case
    try:
        expected = eval(re.sub(r"(\d+)", r"Fraction(\1)", text), {"Fraction": Fraction})
    except ZeroDivisionError:
        expected = None
    if len(text) <= 200:
        assert subject("tasks.countdown.countdown_value")(text, numbers) == expected
        assert subject("tasks.countdown.countdown_value")(text, [*numbers, 1]) is None


@given(st.text(alphabet="0123456789+-*/() .,_=abx\n\0é", max_size=30))
def test_countdown_value_takes_any_text(subject, text):
    numbers = [int(n) for n in re.findall("[0-9]+", text)]
    value = subject("tasks.countdown.countdown_value")(text, numbers)
    assert value is None or isinstance(value, Fraction)


@pytest.mark.parametrize("options", OPTIONS)
def test_targets_can_be_reached(options):
    task = get_task("countdown", **options)
    for problem in task.generate(100, seed=0, split="train"):
        numbers, target = problem.meta["numbers"], problem.meta["target"]
        assert problem.prompt == f"numbers: {' '.join(map(str, numbers))}. target: {target}.\n"
        assert 1 <= target <= task.limit and max(numbers) <= task.largest
        assert task.numbers[0] <= len(numbers) <= task.numbers[1]
        assert eval(re.sub(r"(\d+)", r"Fraction(\1)", problem.answer)) == target
        assert sorted(re.findall(r"\d+", problem.answer)) == sorted(map(str, numbers))


def test_an_exhaustive_search_finds_every_target():
    for problem in get_task("countdown", numbers=(2, 3)).generate(60, seed=1, split="test"):
        numbers = tuple(map(Fraction, problem.meta["numbers"]))
        assert problem.meta["target"] in reachable(numbers)


def test_demonstrations_search_step_by_step():
    missed = 0
    for problem in get_task("countdown").generate(200, seed=0, split="train"):
        thinking = re.search("<think>(.*)</think>", problem.demonstration)[1]
        *failed, right, nothing = re.split(r" (?:no|yes)\. ?", thinking)
        assert thinking.endswith(" yes.") and not nothing and len(failed) <= 2
        missed += len(failed)
        for attempt in (*failed, right):
            left = list(problem.meta["numbers"])
            for entry in attempt.split(" "):
                a, sign, b, result = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", entry).groups()
                assert eval(f"{a}{sign}{b}") == int(result)
                left.remove(int(a))  # raises where it is not there to be used
                left.remove(int(b))
                left.append(int(result))
            assert (left == [problem.meta["target"]]) == (attempt == right)
    assert missed > 200


def test_the_order_of_the_numbers_is_not_part_of_the_key():
    for problem in get_task("countdown").generate(50, seed=0, split="train"):
        numbers = [int(n) for n in re.findall(r"\d+", problem.meta["key"])]
        assert numbers == [*sorted(problem.meta["numbers"]), problem.meta["target"]]


@pytest.mark.parametrize(
    "completion, score",
    [
        ("<think>8*3=24</think><answer>8*3+1</answer>", 1),
        ("<answer>1+(3*8)</answer>", 1),  # not the way of the demonstration
        ("<answer>25</answer>", 0),
        ("<answer>8*3+1=25</answer>", 0),
        ("<answer>8*3</answer>", 0),
        ("<answer>8*3-1</answer>", 0),
        ("8*3+1", 0),
        ("<answer></answer>", 0),
    ],
)
def test_countdown_scores_the_expression_in_the_answer(completion, score):
    problem = Problem("", "(8*3)+1", "", {"numbers": [3, 8, 1], "target": 25})
    assert get_task("countdown").score(problem, completion) == score
