"""Story problems: a number, and two to five things that happen to it.

    Cleo has 3 coins. doubles. sells 1. buys 14. how many?

Thinking aloud is one equation a step, `<think>3*2=6 6-1=5 5+14=19</think><answer>19</answer>`; a
direct completion is the answer alone. The documents to pretrain on mix direct answers, thinking
with one slip, and right thinking, so that a base model can reason but mostly does not.

Every value on the way is a whole number from 1 to `limit`; one that slipped may be 0.

With `targets` a prompt also asks for a length, "how many? in 48 tokens". Nothing in the documents
goes by it: what it means is left to RL (LCPO).
"""

import re
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from reasoning_from_scratch.tasks.base import Problem, Task, check_range, check_whole, tagged

NAMES = ("Ada", "Ben", "Cleo", "Finn", "Ivy", "Mia", "Noah", "Omar")
THINGS = ("apples", "books", "cards", "coins", "cups", "pens", "shells", "stones")
VERBS = {
    "+": ("buys", "finds", "gets"), "-": ("sells", "loses", "gives"),
    "*2": ("doubles",), "*3": ("triples",), "/2": ("halves",),
}  # fmt: skip
KINDS = ("direct", "slipped", "right", "corrected")
_MOVES = ("+", "+", "-", "-", "*2", "*3", "/2")  # sums are twice as frequent as each of the others
_STEP = re.compile(r"(\d{1,9})([-+*/])(\d{1,9})=(\d{1,9})")


@dataclass(frozen=True)
class Stories(Task):
    """Story problems.

    Args:
        steps:  fewest and most things that happen.
        limit:  the largest value on the way.
        amount: the largest number in the text.
        targets: lengths in tokens, one of which each prompt asks for, whatever its story: it is
                `meta["target_tokens"]`. The stories are the same at all targets, and without.
    """

    steps: tuple[int, int] = (2, 5)
    limit: int = 150
    amount: int = 20
    targets: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1)
        check_whole("limit", self.limit, 3)
        check_whole("amount", self.amount, 2, self.limit)
        if not isinstance(self.targets, tuple):
            raise ValueError(f"targets is {self.targets!r}, expected a tuple of integers")
        for target in self.targets:
            check_whole("an entry of targets", target, 1)

    def documents(
        self, n: int, *, seed: int, direct: float = 0.65, slipped: float = 0.20,
        right: float = 0.15, corrected: float = 0.0, checks: int = 0, largest_slip: int = 10,
    ) -> list[tuple[str, str]]:  # fmt: skip
        """Return (prompt, completion) pairs to pretrain on, from the train split alone.

        Problems are other draws than `generate` gives, and do not depend on shares or checks.

        Args:
            direct, slipped, right, corrected: share of each kind, see `story_document`; the kind
                    of a document is drawn without regard to its problem.
            checks: most check entries after a document's thinking.
            largest_slip: by how much a step may be off.

        Raises:
            ValueError: a share is negative, or they do not add up to 1; `checks` is negative.
        """
        shares = (direct, slipped, right, corrected)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"shares of {KINDS} are {shares}, expected none below 0 and sum 1")
        check_whole("checks", checks, 0)
        check_whole("largest_slip", largest_slip, 1)
        pairs = []
        for problem, random in self._items(n, seed, "train", stream="documents"):
            point, kind = random.random(), 0
            while kind < 3 and point >= sum(shares[: kind + 1]):
                kind += 1
            completion = story_document(
                problem, kind=KINDS[kind], random=random, checks=checks, largest_slip=largest_slip
            )
            pairs.append((problem.prompt, completion))
        return pairs

    def _draw(self, random: Random) -> tuple[str, list[str]]:
        start = value = random.randint(2, self.amount)
        facts = [str(start)]
        for _ in range(random.randint(*self.steps)):
            operation, value = self._next(value, random)
            facts.append(operation)
        return "stories " + " ".join(facts), facts

    def _next(self, value: int, random: Random) -> tuple[str, int]:
        """Draw an operation that keeps the value whole and from 1 to `limit`."""
        while True:
            move = random.choice(_MOVES)
            if move in "+-":
                most = min(self.amount, self.limit - value if move == "+" else value - 1)
                if most < 1:
                    continue
                move += str(random.randint(1, most))
            result = apply(value, move)
            if result is not None and result <= self.limit:
                return move, result

    def _write(self, key: str, facts: list[str], random: Random) -> Problem:
        start, *operations = facts
        events = []
        for operation in operations:
            verbs = VERBS.get(operation)
            if verbs:
                events.append(f"{verbs[0]}.")
            else:
                events.append(f"{random.choice(VERBS[operation[0]])} {operation[1:]}.")
        name, things = random.choice(NAMES), random.choice(THINGS)
        entries, value = think(int(start), operations)
        asked, meta = "", {}
        if self.targets:  # drawn last: names and things stay what they are
            meta = {"target_tokens": random.choice(self.targets)}
            asked = f" in {meta['target_tokens']} tokens"
        return Problem(
            prompt=f"{name} has {start} {things}. {' '.join(events)} how many?{asked}\n",
            answer=str(value),
            demonstration=tagged(" ".join(entries), value),
            meta={
                "key": key, "steps": len(operations), "start": int(start),
                "operations": operations, "limit": self.limit, **meta,
            },
        )  # fmt: skip


def apply(value: int, operation: str) -> int | None:
    """Return `value` after an operation such as "+14"; None if it is below 0 or not whole."""
    sign, number = operation[0], int(operation[1:])
    if sign == "+":
        return value + number
    if sign == "-":
        return value - number if number <= value else None
    if sign == "*":
        return value * number
    return value // number if number and value % number == 0 else None


def think(
    start: int, operations: list[str], *, slip_at: int | None = None, slip: int = 0
) -> tuple[list[str], int] | None:
    """Work a story out, one equation an operation.

    Args:
        slip_at, slip: the step that goes wrong and by how much; later steps go on from there.

    Returns:
        The equations and the last value; None where a value is below 0 or not whole.
    """
    value, entries = start, []
    for i, operation in enumerate(operations):
        result = apply(value, operation)
        if result is not None and i == slip_at:
            result += slip
        if result is None or result < 0:
            return None
        entries.append(f"{value}{operation}={result}")
        value = result
    return entries, value


def story_document(
    problem: Problem, *, kind: str, random: Random, checks: int = 0, largest_slip: int = 10
) -> str:
    """Return a completion of one kind.

    Args:
        kind:   "direct" the right answer at once; "right" thinking without a mistake; "slipped"
                one step is off by 1 to `largest_slip` and the rest goes on from there, so the
                answer is wrong; "corrected" that step is followed by "wait" and done again.
        random: draws the slip and the checks.
        checks: up to this many entries after the steps that do not change the value: the last
                step again, or + 0. How many depends neither on the problem nor on its kind.

    Raises:
        ValueError: `kind` is none of the four, or the problem is no story.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {KINDS}")
    if "operations" not in problem.meta:
        raise ValueError(f"problem {problem.prompt!r} is no story: its meta has no 'operations'")
    if kind == "direct":
        return f"<answer>{problem.answer}</answer>"
    start, operations = problem.meta["start"], problem.meta["operations"]
    entries, value = think(start, operations)
    if kind != "right":
        at, off_entries, off_value = _slip(problem, random, largest_slip)
        if kind == "slipped":
            entries, value = off_entries, off_value
        else:
            entries[at:at] = [off_entries[at], "wait"]
    last = entries[-1]
    for _ in range(random.randint(0, checks)):
        entries.append(random.choice((last, f"{value}+0={value}")))
    return tagged(" ".join(entries), value)


def _slip(problem: Problem, random: Random, largest: int) -> tuple[int, list[str], int]:
    """Return where a slip is, and the equations and last value with it.

    No operation sends two values to one, so a value that is off stays off to the end.
    """
    start, operations = problem.meta["start"], problem.meta["operations"]
    while True:  # ends: the last step can always be 1 too high or too low
        at = random.randrange(len(operations))
        slip = random.choice((-1, 1)) * random.randint(1, largest)
        worked = think(start, operations, slip_at=at, slip=slip)
        if worked and all(int(e.rpartition("=")[2]) <= problem.meta["limit"] for e in worked[0]):
            return at, *worked


def thinks(completion: str) -> bool:
    """Return whether a completion thinks before it answers."""
    return re.match(r"\s*<think>\s*[^\s<]", completion) is not None


class Thinking(NamedTuple):
    """What `judge_thinking` counts in one completion."""

    right: int  # steps of the story whose equation, as first written, holds
    wrong: int  # those whose equation does not
    checks: int  # entries that leave the value as it is: a step again, or + 0
    corrections: int  # wrong steps that were done again, rightly
    strays: int  # all other entries, "wait" aside
    complete: bool  # every step of the story is there, in order, and nothing stray

    @property
    def sound(self) -> bool:
        """Complete, and whatever went wrong was corrected."""
        return self.complete and self.wrong == self.corrections


def judge_thinking(problem: Problem, completion: str) -> Thinking:
    """Compare what a completion thinks, entry by entry, with what its story says."""
    found = re.search(r"<think>(.*?)</think>", completion, re.DOTALL)
    value, operations = problem.meta["start"], problem.meta["operations"]
    right = wrong = checks = corrections = strays = done = 0
    last, last_holds, again = None, True, False
    for entry in found[1].split() if found else ():
        equation = _STEP.fullmatch(entry)
        left, sign, number, result = equation.groups() if equation else ("", "", "", "")
        holds = bool(equation) and apply(int(left), sign + number) == int(result)
        expected = int(left or -1) == value and operations[done : done + 1] == [sign + number]
        if expected and not again:
            done, value, last, last_holds = done + 1, int(result), left + sign + number, holds
            right, wrong = right + holds, wrong + (not holds)
        elif left + sign + number == last and holds and not last_holds:
            corrections, value, last_holds = corrections + 1, int(result), True
        elif left + sign + number in (last, f"{value}+0") and int(result) == value:
            checks += 1
        elif entry != "wait":
            strays += 1
        again = entry == "wait"  # what follows is the last step again, also if it is the next one
    complete = done == len(operations) and not strays
    return Thinking(right, wrong, checks, corrections, strays, complete)
