"""Countdown: reach a target with the given numbers, each used exactly once, and + - * /.

    numbers: 3 8 1. target: 25.
    <think>8+3=11 11-1=10 no. 8*3=24 24+1=25 yes.</think><answer>(8*3)+1</answer>

The answer is an expression, so there are many right ones: `countdown_value` decides, without ever
evaluating code.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import add, mul, sub, truediv
from random import Random
from typing import NamedTuple

from reasoning_from_scratch.tasks.base import Problem, Task, check_range, check_whole, tagged
from reasoning_from_scratch.verify import extract_answer

_OPERATIONS = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: truediv}
_LONGEST = 200  # characters of an expression; far more than six numbers need


class _Attempt(NamedTuple):
    numbers: list[int]
    steps: list[str]  # such as "8*3=24"
    expression: str
    value: int


@dataclass(frozen=True)
class Countdown(Task):
    """Numbers to combine into a target.

    Args:
        numbers: fewest and most of them.
        largest: the largest of them.
        limit:   the largest target.
        misses:  most failed attempts that a demonstration shows before the right one.
    """

    numbers: tuple[int, int] = (3, 4)
    largest: int = 20
    limit: int = 100
    misses: int = 2

    def __post_init__(self) -> None:
        check_range("numbers", self.numbers, 2, 6)
        check_whole("largest", self.largest, 1)
        check_whole("limit", self.limit, 1)
        check_whole("misses", self.misses, 0)

    def score(self, problem: Problem, completion: str) -> float:
        """Return 1.0 if the answer uses each number exactly once and reaches the target."""
        prediction = extract_answer(completion)
        if prediction is None:
            return 0.0
        value = countdown_value(prediction, problem.meta["numbers"])
        return float(value is not None and value == problem.meta["target"])

    def _draw(self, random: Random) -> tuple[str, _Attempt]:
        # The target is what a random attempt reaches, so there is a way to it.
        while True:
            count = random.randint(*self.numbers)
            found = _attempt([random.randint(1, self.largest) for _ in range(count)], random)
            if found.value <= self.limit:
                break
        numbers = " ".join(map(str, sorted(found.numbers)))
        return f"countdown {numbers} = {found.value}", found

    def _write(self, key: str, facts: _Attempt, random: Random) -> Problem:
        tried = [_attempt(facts.numbers, random) for _ in range(self.misses)]
        lines = [f"{' '.join(t.steps)} no." for t in tried if t.value != facts.value]
        lines.append(f"{' '.join(facts.steps)} yes.")
        numbers = " ".join(map(str, facts.numbers))
        return Problem(
            prompt=f"numbers: {numbers}. target: {facts.value}.\n",
            answer=facts.expression,
            demonstration=tagged(" ".join(lines), facts.expression),
            meta={"key": key, "numbers": facts.numbers, "target": facts.value},
        )


def countdown_value(expression: str, numbers: Sequence[int]) -> Fraction | None:
    """Return the exact value of an expression that uses each of `numbers` exactly once.

    Args:
        expression: digits, + - * / and brackets. It is parsed, never evaluated as code.
        numbers:    what must occur in it, each as often as it is listed.

    Returns:
        The value; None for anything else: other numbers, powers, `//`, signs before a number or
        a bracket, leading zeros, a division by zero.
    """
    if len(expression) > _LONGEST or not re.fullmatch(r"[0-9+*/() -]*", expression):
        return None
    written = re.findall(r"[0-9]+", expression)
    if sorted(written) != sorted(map(str, numbers)):  # as text, so that 08 is not 8
        return None
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError, ZeroDivisionError):
        return None


def _value(node: ast.expr) -> Fraction | None:
    """Walk the tree; what is neither a number nor one of the four operations has no value."""
    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    if not isinstance(node, ast.BinOp) or type(node.op) not in _OPERATIONS:
        return None
    left, right = _value(node.left), _value(node.right)
    if left is None or right is None:
        return None
    return _OPERATIONS[type(node.op)](left, right)


def _attempt(numbers: list[int], random: Random) -> _Attempt:
    """Combine the numbers in random order and manner; every value on the way is whole and > 0."""
    parts = [(number, str(number)) for number in numbers]
    steps = []
    while len(parts) > 1:
        random.shuffle(parts)
        (a, left), (b, right) = sorted([parts.pop(), parts.pop()], reverse=True)
        results = {"+": a + b, "*": a * b}
        if a > b:
            results["-"] = a - b
        if a % b == 0:
            results["/"] = a // b
        sign = random.choice([*results])
        steps.append(f"{a}{sign}{b}={results[sign]}")
        parts.append((results[sign], f"({left}{sign}{right})"))
    value, expression = parts[0]
    return _Attempt(numbers, steps, expression[1:-1], value)
