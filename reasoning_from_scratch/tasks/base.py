"""Problems with a checkable answer, drawn so that training and test never overlap.

A task draws item `i` from a stable hash of (its options, split, seed, i), so item `i` is the same
however many are asked for, on every machine and in every process. The numbers and operations of a
problem, without names and things, are its key; a stable hash of the key decides the one split the
problem may appear in: 1 in 10 test, 1 in 10 tune, the rest train.

Left out: batching, tokens and rewards. A task knows text only, and imports no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random

from reasoning_from_scratch.verify import extract_answer, math_equal

SPLITS = ("train", "tune", "test")
INSTRUCTION = "Think step by step, then write the final answer between <answer> and </answer>."
_DRAWS = 2000  # a split of one key in ten is missed this often with probability 1e-91


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its answer.

    Args:
        prompt:        the text that a model is given.
        answer:        what is right, as text.
        demonstration: a completion that scores 1, worked step by step where the task has steps.
        meta:          "key" (what decides the split) and whatever else the task tells.
    """

    prompt: str
    answer: str
    demonstration: str
    meta: dict[str, object] = field(default_factory=dict)


class Task:
    """A family of problems: generates them and scores completions.

    A subclass is a frozen dataclass of its options (those that do not shape problems are left out
    of its `repr`) with two methods: `_draw(random)` returns a problem's key and whatever facts
    describe it, `_write(key, facts, random)` makes the `Problem` of them.
    """

    def generate(self, n: int, *, seed: int, split: str) -> list[Problem]:
        """Return problems 0 to n-1 of `seed`, all from `split`.

        Raises:
            ValueError: `n` is negative, `split` is none of "train", "tune" and "test", or the
                task's options leave no problem in that split.
        """
        return [problem for problem, _ in self._items(n, seed, split)]

    def score(self, problem: Problem, completion: str) -> float:
        """Return 1.0 if the completion's answer equals the problem's, else 0.0."""
        prediction = extract_answer(completion)
        return float(prediction is not None and math_equal(prediction, problem.answer))

    def _items(
        self, n: int, seed: int, split: str, stream: str = "problems"
    ) -> Iterator[tuple[Problem, Random]]:
        """Yield problems, each with the generator that drew it, for further draws of its own."""
        check_request(n, split)
        origin = f"{self!r} {stream} {split} {seed}"
        for i in range(n):
            random = Random(stable_hash(f"{origin} {i}"))
            for _ in range(_DRAWS):
                key, facts = self._draw(random)
                if split_of(key) == split:
                    break
            else:
                raise ValueError(
                    f"{self!r} leaves no problem in split {split!r}: widen its options"
                )
            yield self._write(key, facts, random), random

    def _draw(self, random: Random) -> tuple[str, object]:
        raise NotImplementedError(f"{type(self).__name__}._draw")

    def _write(self, key: str, facts: object, random: Random) -> Problem:
        raise NotImplementedError(f"{type(self).__name__}._write")


def stable_hash(text: str) -> int:
    """Return 64 bits that depend on `text` alone; Python's `hash` differs between processes."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def split_of(key: str) -> str:
    """Return the only split in which a problem with this key may appear."""
    return ("test", "tune", "train")[min(stable_hash(key) % 10, 2)]


def tagged(thinking: str, answer: object) -> str:
    """Return a completion that thinks, then answers."""
    return f"<think>{thinking}</think><answer>{answer}</answer>"


def check_request(n: int, split: str) -> None:
    """Refuse a negative count and an unknown split."""
    if n < 0:
        raise ValueError(f"n is {n}, expected 0 or more")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected 'train', 'tune' or 'test'")


def check_whole(name: str, value: object, low: int, high: int | None = None) -> None:
    """Refuse what is not an integer from `low` to `high`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        limits = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise ValueError(f"{name} is {value!r}, expected an integer {limits}")


def check_range(name: str, value: object, low: int, high: int | None = None) -> None:
    """Refuse what is not a pair (fewest, most) of integers from `low` to `high`."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise ValueError(f"{name} is {value!r}, expected a pair (fewest, most)")
    for end in value:
        check_whole(f"an end of {name}", end, low, high)
    if value[0] > value[1]:
        raise ValueError(f"{name} is {value!r}, expected the smaller number first")
