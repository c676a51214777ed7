"""Expressions with +, -, * and brackets, worked one operation at a time.

(3+4)*2-(8-5) = ?
<think>(3+4)*2-(8-5)=7*2-(8-5)=7*2-3=14-3=11</think><answer>11</answer>
"""

import re
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from reasoning_from_scratch.tasks.base import Problem, Task, check_range, check_whole, tagged

_SUM = ("+", "-")


class _Expression(NamedTuple):
    text: str
    sign: str  # of the operation that is done last; empty for a number
    value: int
    key: str  # the same for a+b and b+a, and for a*b and b*a


@dataclass(frozen=True)
class Arithmetic(Task):
    """Expressions to evaluate.

    Args:
        operators: fewest and most operations in an expression.
        largest:   the largest number written in one.
        limit:     the largest value on the way; none is below 0.
    """

    operators: tuple[int, int] = (2, 4)
    largest: int = 9
    limit: int = 999

    def __post_init__(self) -> None:
        check_range("operators", self.operators, 1, 30)
        check_whole("largest", self.largest, 1)
        check_whole("limit", self.limit, self.largest)

    def _draw(self, random: Random) -> tuple[str, _Expression]:
        expression = self._grow(random.randint(*self.operators), random)
        return f"arithmetic {expression.key}", expression

    def _grow(self, operators: int, random: Random) -> _Expression:
        """Draw an expression with so many operations."""
        if not operators:
            number = random.randint(1, self.largest)
            return _Expression(str(number), "", number, str(number))
        below = random.randrange(operators)
        a, b = self._grow(below, random), self._grow(operators - 1 - below, random)
        values = {"+": a.value + b.value, "-": abs(a.value - b.value), "*": a.value * b.value}
        # A difference is never above the limit, so there is always a sign to take.
        sign = random.choice([sign for sign in values if values[sign] <= self.limit])
        if sign == "-" and b.value > a.value:
            a, b = b, a
        # Only these brackets: without them the text would be read as another expression.
        before = f"({a.text})" if sign == "*" and a.sign in _SUM else a.text
        after = f"({b.text})" if b.sign and (sign == "*" or b.sign in _SUM) else b.text
        first, second = (a.key, b.key) if sign == "-" else sorted((a.key, b.key))
        return _Expression(before + sign + after, sign, values[sign], f"({first}{sign}{second})")

    def _write(self, key: str, facts: _Expression, random: Random) -> Problem:
        lines = [facts.text]
        while not lines[-1].isdigit():
            lines.append(reduce(lines[-1]))
        return Problem(
            prompt=f"{facts.text} = ?\n",
            answer=str(facts.value),
            demonstration=tagged("=".join(lines), lines[-1]),
            meta={"key": key, "operators": len(lines) - 1, "brackets": facts.text.count("(")},
        )


def reduce(text: str) -> str:
    """Do one operation: in the first brackets that hold no others, products before sums."""
    brackets = re.search(r"\(([^()]*)\)", text)
    inside = brackets[1] if brackets else text
    step = re.search(r"(\d+)(\*)(\d+)", inside) or re.match(r"(\d+)([+-])(\d+)", inside)
    a, sign, b = int(step[1]), step[2], int(step[3])
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    inside = f"{inside[: step.start()]}{result}{inside[step.end() :]}"
    if not brackets:
        return inside
    if not inside.isdigit():
        inside = f"({inside})"
    return text[: brackets.start()] + inside + text[brackets.end() :]
