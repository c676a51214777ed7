"""Which problems a step trains on: always new ones, or a fixed set, the least solved most often."""

from collections.abc import Sequence

import torch
from torch import Tensor

from reasoning_from_scratch.checks import check_tensor
from reasoning_from_scratch.tasks import Problem, Task
from reasoning_from_scratch.training import gather_over_processes, rank, world_size


class ProblemStream:
    """The task's training problems one after another; of several processes each has its own share.

    A resumed run sets `position`, which counts this process's own.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.task, self.seed = task, seed
        self.position = 0
        self.known: list[Problem] = []

    def take(self, count: int) -> list[Problem]:
        """Return the next `count` problems of this process."""
        end = (self.position + count) * world_size()
        if end > len(self.known):
            size = max(end, 2 * len(self.known))  # item i does not depend on how many are drawn
            self.known = self.task.generate(size, seed=self.seed, split="train")
        mine = self.known[rank() :: world_size()][self.position : self.position + count]
        self.position += count
        return mine

    def learn(self, problems: Sequence[Problem], correct: Tensor) -> None:
        """Hear how those that were taken went: what comes next does not depend on it."""

    def state(self) -> list:
        """Return what `restore` needs, of all processes: their positions."""
        return gather_over_processes(torch.tensor(self.position)).tolist()

    def restore(self, state: list | None) -> None:
        """Go on where `state` was taken; None: from the beginning."""
        self.position = state[rank()] if state else 0


class PrioritisedStream(ProblemStream):
    """A fixed set of problems, drawn without replacement by how seldom they are solved.

    Of several processes each has its own share of the set.

    Source: Kimi Team 2025 (Kimi k1.5), prioritised sampling.
    """

    def __init__(self, task: Task, seed: int, pool: int) -> None:
        super().__init__(task, seed)
        share, rest = divmod(pool, world_size())
        if rest or not share:
            raise ValueError(f"pool is {pool}, expected a multiple of {world_size()} processes")
        self.known = task.generate(pool, seed=seed, split="train")[rank() :: world_size()]
        self.places = {id(problem): at for at, problem in enumerate(self.known)}
        self.rates = torch.zeros(share)  # running share of right answers; 0 where untried

    def take(self, count: int) -> list[Problem]:
        """Return `count` different problems, or all there are of this process's."""
        draw = 1_000_003 * self.seed + 7919 * self.position + rank()
        generator = torch.Generator().manual_seed(draw)
        self.position += 1
        # A set that is solved but for a few would have too few to draw without replacement.
        chances = priorities(self.rates) + 1e-6
        count = min(count, len(self.known))
        rows = torch.multinomial(chances, count, generator=generator)
        return [self.known[row] for row in rows.tolist()]

    def learn(self, problems: Sequence[Problem], correct: Tensor) -> None:
        """Move each problem's rate halfway to the share of right answers `correct` [P]."""
        for problem, rate in zip(problems, correct.tolist(), strict=True):
            at = self.places[id(problem)]
            self.rates[at] = (self.rates[at] + rate) / 2

    def state(self) -> list:
        """Return what `restore` needs, of all processes: their draws and rates."""
        draws = gather_over_processes(torch.tensor(self.position)).tolist()
        rates = gather_over_processes(self.rates).tolist()
        return list(zip(draws, rates, strict=True))

    def restore(self, state: list | None) -> None:
        """Go on where `state` was taken; None: from the beginning."""
        if state:
            self.position, rates = state[rank()]
            self.rates = torch.tensor(rates)


def priorities(rates: Tensor) -> Tensor:
    """Return the chance with which each problem is drawn: the less it is solved, the higher.

    Args:
        rates: [N] share of right answers of each, 0 to 1.

    Returns:
        [N] (1 - rate) / Σ (1 - rate); all alike where every problem is solved.

    Raises:
        ValueError: rates is empty, not [N], or holds something outside 0 to 1.

    Source: Kimi Team 2025 (Kimi k1.5), prioritised sampling.
    """
    check_tensor("rates", rates)
    if rates.dim() != 1 or not len(rates):
        raise ValueError(f"rates has shape {list(rates.shape)}, expected [N] with N at least 1")
    if not ((rates >= 0) & (rates <= 1)).all():
        raise ValueError(f"rates is {rates.tolist()!s:.80}, expected numbers from 0 to 1")
    missing = 1 - rates
    if not missing.any():
        missing = torch.ones_like(missing)
    return missing / missing.sum()
