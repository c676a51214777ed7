"""Any data set of reasoning-gym as a task: `get_task("gym:chain_sum", min_terms=3)`.

reasoning-gym draws item i of seed s from `Random(s + i)`, so neighbouring seeds share all but one
item, and a train and a test seed may overlap. Here the seed is hashed, and the stable hash of a
question's text decides its split. One question in ten is for testing, so ten are made for each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice

from reasoning_from_scratch.tasks.base import (
    INSTRUCTION,
    Problem,
    Task,
    check_request,
    split_of,
    stable_hash,
)
from reasoning_from_scratch.verify import extract_answer

_BLOCK = 500  # items made from one seed


@dataclass(frozen=True)
class Gym(Task):
    """A data set of reasoning-gym.

    Args:
        dataset: its name there.
        options: (name, value) pairs of its settings.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError:  there is no such data set, or it refuses the options.
    """

    dataset: str
    options: tuple[tuple[str, object], ...] = ()

    def __post_init__(self) -> None:
        try:
            _ = self._scorer
        except (ValueError, TypeError, AssertionError) as error:  # its checks are assertions
            raise ValueError(f"gym:{self.dataset} refuses {dict(self.options)}: {error}") from error

    def generate(self, n: int, *, seed: int, split: str) -> list[Problem]:
        """Return problems 0 to n-1 of `seed`, all from `split`; see `Task.generate`."""
        check_request(n, split)
        return list(islice(self._stream(seed, split), n))

    def score(self, problem: Problem, completion: str) -> float:
        """Return the data set's own score of the completion's answer, in [0, 1]."""
        prediction = extract_answer(completion)
        if prediction is None:
            return 0.0
        try:
            score = float(self._scorer.score_answer(prediction, problem.meta["entry"]))
        except Exception:  # a hundred scorers by many hands, and any text may come
            return 0.0
        return min(max(score, 0.0), 1.0)

    def _stream(self, seed: int, split: str) -> Iterator[Problem]:
        for block in count():
            # 31 bits, because some data sets hand the seed to numpy.
            data = self._dataset(_BLOCK, stable_hash(f"{self!r} {split} {seed} {block}") >> 33)
            found = False
            for problem in map(self._problem, data):
                if split_of(problem.meta["key"]) == split:
                    found = True
                    yield problem
            if not found:
                raise ValueError(
                    f"{self!r} leaves no problem in split {split!r}: widen its options"
                )

    @cached_property
    def _scorer(self) -> object:
        return self._dataset(1, 0)  # some take long to make, and scoring needs no particular one

    def _dataset(self, size: int, seed: int) -> object:
        try:
            import reasoning_gym
        except ImportError as error:
            raise ImportError(
                f"gym:{self.dataset} needs reasoning-gym: pip install reasoning-gym"
            ) from error
        return reasoning_gym.create_dataset(
            self.dataset, size=size, seed=seed, **dict(self.options)
        )

    def _problem(self, entry: dict[str, object]) -> Problem:
        answer = "" if entry["answer"] is None else str(entry["answer"])
        return Problem(
            prompt=f"{entry['question']}\n{INSTRUCTION}\n",
            answer=answer,
            demonstration=f"<answer>{answer}</answer>",
            meta={"key": f"gym {self.dataset} {entry['question']}", "entry": entry},
        )
