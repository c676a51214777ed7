"""Next-token training on written examples: pretraining and supervised fine-tuning.

The two are one loop. Pretraining counts every token of a document; fine-tuning counts only what
the model must produce, the end token included, or it would never learn to stop.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from reasoning_from_scratch.checks import (
    check_choices,
    check_finite,
    check_positive,
    check_whole_numbers,
)
from reasoning_from_scratch.losses import sft_loss
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.runs import Run
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.training import (
    learning_rate,
    make_optimizer,
    micro_batches,
    optimiser_step,
    precision,
    rank,
    sum_over_processes,
    world_size,
)


@dataclass(frozen=True)
class SFTSettings:
    """Settings of `train_sft`."""

    steps: int = 800  # optimiser steps
    batch: int = 128  # examples a step, over all processes
    lr: float = 4e-3  # peak learning rate
    warmup: int = 20  # steps to the peak
    final_lr: float = 0.1  # share of the peak at the end; cosine in between
    weight_decay: float = 0.1  # of matrices, per unit of learning rate
    max_grad_norm: float = 1.0  # the gradient is shortened to this 2-norm
    train_on: Literal["all", "completion"] = "all"  # "all" tokens or the "completion" only
    micro_tokens: int = 1024  # padded tokens in one forward pass: about what a CPU's cache holds
    # torch.compile the model, which takes long to start and needs a C++ compiler
    compile: bool = False
    checkpoint_every: int = 100  # steps; a killed run goes on from the last one
    evaluate_every: int = 0  # steps between calls of `evaluate`; 0: never
    seed: int = 0  # order of the examples

    def __post_init__(self) -> None:
        check_whole_numbers(self)
        check_choices(self)
        check_positive(
            self, "steps", "batch", "lr", "max_grad_norm", "micro_tokens", "checkpoint_every"
        )
        check_finite(self)


def train_sft(
    model: GPT,
    tokenizer: Tokenizer,
    examples: Sequence[tuple[str, str]],
    settings: SFTSettings,
    *,
    run: Run | None = None,
    evaluate: Callable[[GPT], dict] | None = None,
) -> Run:
    """Train `model` in place on (prompt, completion) pairs; return the run with its history.

    Each pass over the examples has an order of its own, drawn from the seed. A resumed run ends
    with the same weights as one that was never stopped.

    Args:
        evaluate: called with the model each `evaluate_every` steps; what it returns is logged.

    Raises:
        ValueError: no examples, or one longer than the model's positions.

    Source: the loss of Ouyang et al. 2022 (InstructGPT), step 1.
    """
    s, run = settings, run or Run()
    encoded = encode_examples(model, tokenizer, examples, s.train_on)
    optimizer = make_optimizer(model, lr=s.lr, weight_decay=s.weight_decay)
    start = run.restore(model, optimizer)["step"]
    forward = torch.compile(model, dynamic=True) if s.compile else model

    for step in range(start, s.steps):
        clock = time.perf_counter()
        rows = batch_rows(len(encoded), s.batch, step, s.seed)[rank() :: world_size()]
        batch = [encoded[row] for row in rows]
        (counted,) = sum_over_processes(sum(sum(mask[1:]) for _, mask in batch))

        lr = learning_rate(
            step, lr=s.lr, steps=s.steps, warmup=s.warmup, final=s.final_lr, shape="cosine"
        )
        losses = []  # detached, for the log
        norm = optimiser_step(
            model,
            optimizer,
            part_losses(forward, batch, s.micro_tokens, counted, losses),
            lr=lr,
            max_grad_norm=s.max_grad_norm,
        )

        (loss,) = sum_over_processes(float(sum(losses)))
        stats = {"loss": loss, "grad_norm": float(norm), "lr": lr, "tokens": counted}
        stats["seconds"] = time.perf_counter() - clock
        if evaluate is not None and s.evaluate_every and (step + 1) % s.evaluate_every == 0:
            stats["eval"] = evaluate(model)
        run.end_step(step, stats, s, model, optimizer)
    return run


def part_losses(
    model: GPT,
    batch: list[tuple[list[int], list[int]]],
    micro_tokens: int,
    counted: float,
    losses: list[Tensor],
) -> Iterator[Tensor]:
    """Yield the loss of each micro-batch, weighted by its share of the counted tokens."""
    device = model.embedding.weight.device
    lengths = torch.tensor([len(ids) for ids, _ in batch])
    for part in micro_batches(lengths, max_tokens=micro_tokens):
        longest = int(lengths[part].max())
        # Padding is known by the mask, never by its id: any id will do.
        ids = [batch[row][0] + [0] * (longest - len(batch[row][0])) for row in part]
        mask = [batch[row][1] + [0] * (longest - len(batch[row][1])) for row in part]
        tokens, mask = torch.tensor(ids, device=device), torch.tensor(mask, device=device)
        with precision(device):
            # Logits at t speak of token t+1. This is the one place that shifts.
            loss = sft_loss(model(tokens[:, :-1]), tokens[:, 1:], mask[:, 1:])
        loss = loss * (mask[:, 1:].sum() / counted)
        losses.append(loss.detach())
        yield loss


def encode_examples(
    model: GPT, tokenizer: Tokenizer, examples: Sequence[tuple[str, str]], train_on: str
) -> list[tuple[list[int], list[int]]]:
    """Return (ids, mask) of each example: prompt, completion, end token; mask 1 where it counts.

    Prompt and completion are encoded apart, as sampling sees them, so no merge crosses the border.
    """
    if not examples:
        raise ValueError("examples is empty, expected (prompt, completion) pairs")
    encoded, limit = [], model.config.max_positions
    for example in examples:
        if not (isinstance(example, tuple | list) and [type(x) for x in example] == [str, str]):
            raise ValueError(f"examples holds {example!r:.80}, expected (prompt, completion) texts")
        prompt, completion = example
        first, second = tokenizer.encode(prompt), tokenizer.encode(completion)
        ids = [*first, *second, tokenizer.eos_id]
        if len(ids) > limit:
            raise ValueError(f"an example has {len(ids)} tokens, expected at most {limit}")
        counts = 1 if train_on == "all" else 0
        encoded.append((ids, [counts] * len(first) + [1] * (len(second) + 1)))
    return encoded


def batch_rows(examples: int, batch: int, step: int, seed: int) -> list[int]:
    """Return the rows of one step: consecutive pieces of shuffled passes over the examples."""
    rows, position = [], step * batch
    while len(rows) < batch:
        epoch, offset = divmod(position, examples)
        order = shuffled(examples, seed, epoch)
        taken = order[offset : offset + batch - len(rows)]
        rows += taken
        position += len(taken)
    return rows


@functools.lru_cache(maxsize=2)  # a step needs at most the orders of two neighbouring passes
def shuffled(examples: int, seed: int, epoch: int) -> list[int]:
    """Return the order of one pass."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return torch.randperm(examples, generator=generator).tolist()
