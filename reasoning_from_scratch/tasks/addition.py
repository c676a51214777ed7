"""Addition after worked lines: a prompt that a pretrained model half knows how to go on from.

12 + 34 = 46
57 + 21 = 78
40 + 13 =

The spaces matter: SmolLM2-135M has read lines like these, and hardly knows them without.
"""

from dataclasses import dataclass
from random import Random

from reasoning_from_scratch.tasks.base import Problem, Task, check_whole, split_of


@dataclass(frozen=True)
class Addition(Task):
    """Sums of two numbers.

    Args:
        digits: of each number; the first is not 0.
        shots:  worked lines before the question. They come from the train split, whatever the
                question's, are all different, and none is the question, either way round.
    """

    digits: int = 2
    shots: int = 2

    def __post_init__(self) -> None:
        check_whole("digits", self.digits, 1, 15)
        check_whole("shots", self.shots, 0, 20)

    def score(self, problem: Problem, completion: str) -> float:
        """Return 1.0 if the completion's first line is the sum and nothing else."""
        return float(completion.partition("\n")[0].strip() == problem.answer)

    def _draw(self, random: Random) -> tuple[str, tuple[int, int]]:
        low, high = 10 ** (self.digits - 1), 10**self.digits - 1
        pair = random.randint(low, high), random.randint(low, high)
        return f"addition {min(pair)}+{max(pair)}", pair  # 3+5 and 5+3 stay in one split

    def _write(self, key: str, facts: tuple[int, int], random: Random) -> Problem:
        lines, used = [], {key}
        while len(lines) < self.shots:
            other, (a, b) = self._draw(random)
            if other not in used and split_of(other) == "train":
                used.add(other)
                lines.append(f"{a} + {b} = {a + b}\n")
        a, b = facts
        return Problem(
            prompt=f"{''.join(lines)}{a} + {b} =",
            answer=str(a + b),
            demonstration=f" {a + b}\n",
            meta={"key": key, "operands": [a, b]},
        )
