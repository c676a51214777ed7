"""Direct preference optimisation: learn from preference pairs without a reward model or sampling.

The policy that would earn most by some reward model, minus beta times its KL to a reference, says
itself what that reward was: beta · log(policy / reference) and a constant of the prompt. So the
loss of a reward model is asked of these *implicit rewards*, and the policy is trained by it.

Where pairs come from, see `preferences.py`; the loss is `losses.dpo_loss`.

Left out: other losses of pairs (IPO, KTO, …), and an estimate of the KL: pairs are chosen samples,
often of another model, and no estimate can be made of them. Sample the policy in `evaluate`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reasoning_from_scratch.checks import (
    check_finite,
    check_positive,
    check_type,
    check_whole_numbers,
)
from reasoning_from_scratch.losses import dpo_loss, token_logprobs
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.preferences import Preference
from reasoning_from_scratch.runs import Run
from reasoning_from_scratch.sft import batch_rows
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

TIE = 1e-3  # nats: log-ratios of whole completions this close differ by no more than rounding

LOGGED = (
    "loss", "accuracy", "margin", "chosen_reward", "rejected_reward", "chosen_logprob",
    "rejected_logprob",
)  # fmt: skip

Row = tuple[list[int], int]  # the ids of prompt and completion, and where the completion begins


@dataclass(frozen=True)
class DPOSettings:
    """Settings of `train_dpo`."""

    steps: int = 100  # optimiser steps
    batch: int = 32  # pairs a step, over all processes
    lr: float = 1e-4  # peak learning rate
    warmup: int = 10  # steps to the peak
    final_lr: float = 0.1  # share of the peak at the end; cosine in between
    beta: float = 0.1  # how dearly the policy pays for leaving the reference
    nll_coef: float = 0.0  # weight of -log π(chosen) per token, which keeps it from falling
    max_grad_norm: float = 1.0  # the gradient is shortened to this 2-norm
    micro_tokens: int = 1024  # padded tokens in one forward pass: about what a CPU's cache holds
    checkpoint_every: int = 100  # steps; a killed run goes on from the last one
    evaluate_every: int = 0  # steps between calls of `evaluate`; 0: never
    seed: int = 0  # order of the pairs

    def __post_init__(self) -> None:
        check_whole_numbers(self)
        check_positive(
            self, "steps", "batch", "lr", "beta", "max_grad_norm", "micro_tokens",
            "checkpoint_every",
        )  # fmt: skip
        check_positive(self, "nll_coef", "evaluate_every", at_least=0)
        check_finite(self)


@dataclass(frozen=True)
class Pair:
    """A preference as the loop needs it."""

    chosen: Row
    rejected: Row
    ref_chosen: float = 0.0  # the reference's log-probability of the chosen completion
    ref_rejected: float = 0.0

    def size(self) -> int:
        """Return the tokens of both rows, padded to the longer."""
        return 2 * max(len(ids) for ids, _ in (self.chosen, self.rejected))


def train_dpo(
    policy: GPT,
    tokenizer: Tokenizer,
    pairs: Sequence[Preference],
    settings: DPOSettings,
    *,
    run: Run | None = None,
    evaluate: Callable[[GPT], dict] | None = None,
) -> Run:
    """Train `policy` in place to prefer the chosen completions more than it does now.

    The reference is the policy as it comes, of which only log-probabilities are kept, computed
    before the first step. The log tells the loss, and over the step's pairs, before its update:
    "chosen_reward" and "rejected_reward", the means of beta · log(policy / reference), "margin",
    their difference, "accuracy" (how often the chosen one's is larger; a tie is half right), and
    "chosen_logprob" and "rejected_logprob" in nats. Where "chosen_reward" falls below 0 while the
    margin grows, the chosen ones get rarer, too: likelihood displacement.

    Args:
        policy:   to resume a run, the same that it began with.
        pairs:    a completion ends with the end token, unless its pair's meta says in "finished"
                  that it was cut off: where nothing ended, there is no end to prefer or reject.
        evaluate: called with the policy each `evaluate_every` steps; what it returns is logged.

    Returns:
        The run with its history. A resumed run ends with the same weights as one never stopped.

    Raises:
        ValueError: no pairs, an empty prompt, a completion longer than the model's positions, a
            tokenizer with more tokens than the model, or an `evaluate` that would never be called.

    Source: Rafailov et al. 2023, eq. 7, as a mean over pairs; the term of `nll_coef`: Pang et al.
        2024, "Iterative Reasoning Preference Optimization", eq. 1.
    """
    s, run = settings, run or Run()
    if evaluate is not None and not s.evaluate_every:
        raise ValueError("evaluate is given, but evaluate_every is 0: it would never be called")
    known = with_reference(policy, encode_pairs(policy, tokenizer, pairs), s.micro_tokens)
    optimizer = make_optimizer(policy, lr=s.lr)
    start = run.restore(policy, optimizer)["step"]

    for step in range(start, s.steps):
        clock = time.perf_counter()
        rows = batch_rows(len(known), s.batch, step, s.seed)[rank() :: world_size()]
        batch = [known[row] for row in rows]
        lr = learning_rate(
            step, lr=s.lr, steps=s.steps, warmup=s.warmup, final=s.final_lr, shape="cosine"
        )
        found = []  # detached, for the log
        norm = optimiser_step(
            policy,
            optimizer,
            part_losses(policy, batch, s, s.batch, found),
            lr=lr,
            max_grad_norm=s.max_grad_norm,
        )

        sums = sum_over_processes(*sum(found, torch.zeros(len(LOGGED))).tolist())
        stats = dict(zip(LOGGED, sums, strict=True))
        stats |= {"grad_norm": float(norm), "lr": lr, "pairs": s.batch}
        stats["seconds"] = time.perf_counter() - clock
        if evaluate is not None and (step + 1) % s.evaluate_every == 0:
            stats["eval"] = evaluate(policy)
        run.end_step(step, stats, s, policy, optimizer)
    return run


def part_losses(
    policy: GPT, batch: list[Pair], s: DPOSettings, count: int, found: list[Tensor]
) -> Iterator[Tensor]:
    """Yield the loss of each micro-batch, weighted by its share of the step's `count` pairs."""
    for part in micro_batches(torch.tensor([p.size() for p in batch]), max_tokens=s.micro_tokens):
        pairs = [batch[i] for i in part]
        rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        chosen, rejected = completion_logprobs(policy, rows).chunk(2)
        ref_chosen = chosen.new_tensor([pair.ref_chosen for pair in pairs])
        ref_rejected = chosen.new_tensor([pair.ref_rejected for pair in pairs])
        loss = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=s.beta)
        if s.nll_coef:
            tokens = chosen.new_tensor([len(ids) - start for ids, start in rows[: len(pairs)]])
            loss = loss - s.nll_coef * (chosen / tokens).mean()

        share = len(pairs) / count
        with torch.no_grad():
            gains = chosen - ref_chosen, rejected - ref_rejected
            gap = gains[0] - gains[1]
            right = torch.where(gap.abs() < TIE, 0.5, (gap > 0).to(gap.dtype))
            rewards = [s.beta * gap, s.beta * gains[0], s.beta * gains[1]]
            means = [x.mean() for x in (right, *rewards, chosen, rejected)]
            found.append(share * torch.stack([loss, *means]).float().cpu())
        yield share * loss


def completion_logprobs(model: GPT, rows: Sequence[Row]) -> Tensor:
    """Return log π(completion | prompt) of each row: [B], in nats, at least float32.

    The *sum* over the completion's tokens: it is the whole text's probability that the derivation
    speaks of. The mean would be another loss, in which a long text's tokens weigh less.

    Args:
        model: carries the gradient.
        rows:  B pairs (ids of prompt and completion, where the completion begins: 1 or more).
    """
    device = model.embedding.weight.device
    longest = max(len(ids) for ids, _ in rows)
    # Padding is known by its place, never by its id: any id will do.
    tokens = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids, _ in rows], device=device)
    starts = torch.tensor([[start] for _, start in rows], device=device)  # [B,1]
    ends = torch.tensor([[len(ids)] for ids, _ in rows], device=device)
    places = torch.arange(1, longest, device=device)  # of the targets
    counted = (starts <= places) & (places < ends)  # [B,T-1]
    with precision(device):
        # Logits at t speak of token t+1. This is the one place that shifts.
        logits = model(tokens[:, :-1])
    return torch.where(counted, token_logprobs(logits, tokens[:, 1:]), 0).sum(1)


@torch.no_grad()
def with_reference(reference: GPT, pairs: list[Pair], micro_tokens: int) -> list[Pair]:
    """Return the pairs with the reference's log-probability of each completion."""
    rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    logprobs = torch.zeros(len(rows), dtype=torch.float64)
    for part in micro_batches(torch.tensor([len(r[0]) for r in rows]), max_tokens=micro_tokens):
        logprobs[part] = completion_logprobs(reference, [rows[i] for i in part]).double().cpu()
    sides = zip(pairs, logprobs[0::2].tolist(), logprobs[1::2].tolist(), strict=True)
    return [Pair(pair.chosen, pair.rejected, *both) for pair, *both in sides]


def encode_pairs(model: GPT, tokenizer: Tokenizer, pairs: Sequence[Preference]) -> list[Pair]:
    """Return the pairs as token ids, without the reference's log-probabilities.

    Prompt and completion are encoded apart, as sampling sees them, so no merge crosses the border:
    both completions of a pair follow the same tokens.
    """
    check_type("policy", model, GPT)
    if not pairs:
        raise ValueError("pairs is empty, expected preference pairs")
    size = model.config.vocab_size
    if tokenizer.vocab_size > size:
        raise ValueError(
            f"tokenizer has {tokenizer.vocab_size} tokens, expected at most the model's {size}"
        )
    encoded = []
    for pair in pairs:
        if not isinstance(pair, Preference):
            raise ValueError(f"pairs holds {pair!r:.80}, expected Preference(prompt, …)")
        prompt, rows = tokenizer.encode(pair.prompt), []
        if not prompt:
            raise ValueError("pairs holds an empty prompt: a completion's first token needs one")
        finished = pair.meta.get("finished", (True, True))
        if not (isinstance(finished, tuple | list) and len(finished) == 2):
            raise ValueError(
                f"a pair's meta has finished {finished!r}, expected (chosen, rejected)"
            )
        for text, ended in zip((pair.chosen, pair.rejected), finished, strict=True):
            ids = [*prompt, *tokenizer.encode(text), *([tokenizer.eos_id] if ended else [])]
            if len(ids) > model.config.max_positions:
                raise ValueError(
                    f"a completion with its prompt has {len(ids)} tokens, expected at most "
                    f"{model.config.max_positions}: {text!r:.80}"
                )
            rows.append((ids, len(prompt)))
        encoded.append(Pair(*rows))
    return encoded
