"""A rollout seen token by token: what a critic says, what each token is given credit for.

`ppo.py` decides what the credit is and what is learned from it; here are the columns that it fills,
the models that are asked in micro-batches, and the losses that are taken from them again.

Shapes: B completions; T columns, of which column t is about a completion's token t; U units of g
completions with one prompt, U·g = B (`grpo.Groups`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reasoning_from_scratch.advantages import whiten
from reasoning_from_scratch.groups import Groups
from reasoning_from_scratch.losses import aggregate_share
from reasoning_from_scratch.model import ScalarHead
from reasoning_from_scratch.rollouts import Batch
from reasoning_from_scratch.training import (
    average,
    gather_over_processes,
    micro_batches,
    optimiser_step,
    precision,
    rank,
    sum_over_processes,
    world_size,
)


class UpdateSettings(Protocol):
    """What is read here of an algorithm's settings."""

    group_size: int
    micro_tokens: int
    max_grad_norm: float


@dataclass
class Credit:
    """The completions of a rollout, with what each of their tokens is given credit for."""

    groups: Groups
    values: Tensor  # [U,g,T] the critic's at the rollout, *before* the token was chosen
    advantages: Tensor  # [U,g,T]
    returns: Tensor  # [U,g,T] what the critic should have said

    @classmethod
    def of(cls, groups: Groups, *columns: Tensor) -> "Credit":
        """Take columns [B,T] in the order of the fields."""
        return cls(groups, *(x.view(groups.mask.shape) for x in columns))

    @property
    def mask(self) -> Tensor:
        """[B,T] 1 on the tokens that the policy chose."""
        return self.groups.mask.flatten(0, 1)

    def select(self, units: Tensor) -> "Credit":
        """Return the given units, without the columns that none of them needs."""
        groups = self.groups.select(units)
        columns = (self.values, self.advantages, self.returns)
        return Credit(groups, *(x[units, :, : groups.mask.shape[2]] for x in columns))


# Called with (model, micro-batch, settings): its loss, its numbers, over what the loss averages.
PartLoss = Callable[[nn.Module, Credit, UpdateSettings], tuple[Tensor, dict[str, Tensor], str]]


class CreditLosses:
    """The losses of one optimiser step, a micro-batch at a time, each weighted by its share.

    Args:
        part_loss: as `PartLoss`.
        share:     the groups of this step, by their number in the rollout: [N].
    """

    def __init__(
        self,
        model: nn.Module,
        part_loss: PartLoss,
        credit: Credit,
        share: Tensor,
        s: UpdateSettings,
    ) -> None:
        each = s.group_size // credit.groups.mask.shape[1]  # units that hold one group
        self.units = (share[:, None] * each + torch.arange(each, device=share.device)).flatten()
        self.model, self.part_loss, self.credit, self.settings = model, part_loss, credit, s
        self.found: list[dict[str, Tensor]] = []
        self.weights: list[float] = []
        self.loss = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        s, groups = self.settings, self.credit.groups
        mask = groups.mask[self.units].flatten(0, 1)
        sequences, counted = sum_over_processes(len(mask), float(mask.sum()))
        for rows in micro_batches(groups.sizes()[self.units], max_tokens=s.micro_tokens):
            part = self.credit.select(self.units[rows])
            loss, stats, aggregate = self.part_loss(self.model, part, s)
            loss = loss * aggregate_share(
                part.mask, aggregate=aggregate, total_sequences=int(sequences), total_tokens=counted
            )
            self.loss += float(loss.detach())
            self.found.append(stats)
            self.weights.append(float(part.mask.sum()))
            yield loss

    def stats(self) -> dict[str, float]:
        """Return the loss of all processes; the rest is averaged over this one's tokens."""
        means = average(self.found, self.weights)
        if "ratio_max" in means:
            means["ratio_max"] = max(float(stats["ratio_max"]) for stats in self.found)
        (loss,) = sum_over_processes(self.loss)
        return {"loss": loss, **means}


def learn(
    model: nn.Module,
    part_loss: PartLoss,
    optimizer: torch.optim.Optimizer,
    credit: Credit,
    shares: Sequence[Tensor],
    lr: float,
    s: UpdateSettings,
) -> list[dict[str, float]]:
    """Make an optimiser step of a model on each share of the groups; return each step's numbers.

    At a rate of 0 there is nothing to compute, and none is made.
    """
    found = []
    for share in shares if lr else ():
        losses = CreditLosses(model, part_loss, credit, share, s)
        norm = optimiser_step(model, optimizer, losses, lr=lr, max_grad_norm=s.max_grad_norm)
        found.append(losses.stats() | {"grad_norm": float(norm)})
    return found


def cut(batch: Batch, s: UpdateSettings) -> tuple[Groups, Tensor]:
    """Cut all completions out of a batch, in its order; return them and their mask [B,T].

    Columns are shifted in `Groups.cut`, and nowhere else.
    """
    batch.advantages = torch.zeros_like(batch.rewards)  # it cuts a completion's; ours are a token's
    count = len(batch.rewards) // s.group_size
    every = torch.arange(count, device=batch.rewards.device)
    groups = Groups.cut(batch, every, s.group_size, s.micro_tokens)
    return groups, groups.mask.flatten(0, 1)


def token_values(critic: ScalarHead, groups: Groups) -> Tensor:
    """Return the critic's value of the state in which each token was chosen: [B,T].

    That state ends with the token before, which `Groups.inputs` holds. Carries the gradient.
    """
    with precision(groups.inputs.device):
        hidden = critic.body.hidden_after(groups.prompts, groups.lengths, groups.inputs)
        return critic.score(hidden).squeeze(-1).flatten(0, 1)


@torch.no_grad()
def in_parts(groups: Groups, ask: Callable[[Groups], Tensor], s: UpdateSettings) -> Tensor:
    """Return what a model says of each token, [B,T] float32, asked in micro-batches."""
    found = torch.zeros_like(groups.mask)
    for units in micro_batches(groups.sizes(), max_tokens=s.micro_tokens):
        part = groups.select(units)
        found[units, :, : part.mask.shape[2]] = ask(part).view(part.mask.shape).to(found)
    return found.flatten(0, 1)


def everywhere(x: Tensor, width: int) -> Tensor:
    """Return the rows of all processes, [B,T] each, padded with 0: [processes · B, width]."""
    return gather_over_processes(F.pad(x, (0, width - x.shape[1]))).flatten(0, 1)


def whiten_together(x: Tensor, mask: Tensor, width: int) -> Tensor:
    """Return this process's rows [B,T] of `x`, whitened with the mean and deviation of all.

    Args:
        width: the same for all processes, at least T.
    """
    white = whiten(everywhere(x, width), everywhere(mask, width))
    return white.unflatten(0, (world_size(), -1))[rank()][:, : x.shape[1]]
