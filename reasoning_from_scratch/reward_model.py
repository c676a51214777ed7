"""The reward model: a language model with one number for a head, trained on preference pairs.

It starts as a copy of the policy, `ScalarHead(copy.deepcopy(policy))`. `train_reward_model` is the
loop, `score` is what comes out of it, and `proxy_reward` makes that a reward for reinforcement
learning. Where pairs come from, see `preferences.py`; how good it is, `reward_quality.py`; how it
is kept, `reward_model_files.py`.

A completion is judged as a finished text: its tokens after the prompt's, then the end token, where
the reward is read. This holds in training and scoring alike, also for one that was cut off.

Left out: a reward for each step of a completion, ensembles, heads for several qualities.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reasoning_from_scratch.checks import (
    check_finite,
    check_positive,
    check_type,
    check_whole_numbers,
)
from reasoning_from_scratch.losses import bradley_terry_loss
from reasoning_from_scratch.model import ScalarHead
from reasoning_from_scratch.preferences import Preference
from reasoning_from_scratch.rollouts import RewardFunction
from reasoning_from_scratch.runs import Run
from reasoning_from_scratch.sampling import Rollout
from reasoning_from_scratch.sft import batch_rows
from reasoning_from_scratch.tasks import Problem, Task
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
class RewardModelSettings:
    """Settings of `train_reward_model`."""

    steps: int = 100  # optimiser steps
    batch: int = 32  # prompts a step, each with all of its pairs, over all processes
    lr: float = 3e-4  # peak learning rate
    warmup: int = 10  # steps to the peak
    final_lr: float = 0.1  # share of the peak at the end; cosine in between
    weight_decay: float = 0.0  # of matrices, per unit of learning rate
    max_grad_norm: float = 1.0  # the gradient is shortened to this 2-norm
    centring: float = 0.01  # weight of (chosen + rejected)², which keeps the rewards around 0
    micro_tokens: int = 1024  # padded tokens in one forward pass: about what a CPU's cache holds
    checkpoint_every: int = 100  # steps; a killed run goes on from the last one
    evaluate_every: int = 0  # steps between calls of `evaluate`; 0: never
    seed: int = 0  # order of the prompts

    def __post_init__(self) -> None:
        check_whole_numbers(self)
        check_positive(
            self, "steps", "batch", "lr", "max_grad_norm", "micro_tokens", "checkpoint_every"
        )
        check_positive(self, "centring", "evaluate_every", at_least=0)
        check_finite(self)


def train_reward_model(
    model: ScalarHead,
    tokenizer: Tokenizer,
    pairs: Sequence[Preference],
    settings: RewardModelSettings,
    *,
    run: Run | None = None,
    evaluate: Callable[[ScalarHead], dict] | None = None,
) -> Run:
    """Train `model` in place to reward the chosen completion above the rejected one.

    A step takes whole prompts, with all the pairs of each: were they spread over steps, a
    completion in many pairs would be seen many times a pass, and be learned by heart. The log tells
    the loss, and over the step's pairs, before its update, "accuracy" (a tie is half right),
    "margin" (mean of chosen - rejected) and "score" (mean of both sides' rewards).

    Args:
        evaluate: called with the model each `evaluate_every` steps; what it returns is logged.

    Returns:
        The run with its history. A resumed run ends with the same weights as one never stopped.

    Raises:
        ValueError: no pairs, one longer than the model's positions, a tokenizer with more tokens
            than the model, a model of another class, or an `evaluate` that would never be called.

    Source: Ouyang et al. 2022 (InstructGPT), eq. 1, as a mean over pairs; margin: Touvron et al.
        2023 (Llama 2), eq. 2; centring: Eisenstein et al. 2023, "Helping or Herding".
    """
    s, run = settings, run or Run()
    if evaluate is not None and not s.evaluate_every:
        raise ValueError("evaluate is given, but evaluate_every is 0: it would never be called")
    compared = encode_pairs(model, tokenizer, pairs)
    optimizer = make_optimizer(model, lr=s.lr, weight_decay=s.weight_decay)
    start = run.restore(model, optimizer)["step"]

    for step in range(start, s.steps):
        clock = time.perf_counter()
        rows = batch_rows(len(compared), s.batch, step, s.seed)[rank() :: world_size()]
        batch = [compared[row] for row in rows]
        (count,) = sum_over_processes(sum(len(prompt.chosen) for prompt in batch))

        lr = learning_rate(
            step, lr=s.lr, steps=s.steps, warmup=s.warmup, final=s.final_lr, shape="cosine"
        )
        found = []  # detached, for the log
        norm = optimiser_step(
            model,
            optimizer,
            part_losses(model, batch, s, count, found),
            lr=lr,
            max_grad_norm=s.max_grad_norm,
        )

        sums = sum_over_processes(*sum(found, torch.zeros(4)).tolist())
        stats = dict(zip(("loss", "accuracy", "margin", "score"), sums, strict=True))
        stats |= {"grad_norm": float(norm), "lr": lr, "pairs": count}
        stats["seconds"] = time.perf_counter() - clock
        if evaluate is not None and (step + 1) % s.evaluate_every == 0:
            stats["eval"] = evaluate(model)
        run.end_step(step, stats, s, model, optimizer)
    return run


@dataclass
class Compared:
    """The completions of one prompt, each once, and the pairs among them."""

    rows: list[list[int]] = field(default_factory=list)  # ids of prompt, completion, end token
    chosen: list[int] = field(default_factory=list)  # of each pair, which row
    rejected: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)  # of each pair

    def size(self) -> int:
        """Return the tokens of all rows, padded to the longest."""
        return len(self.rows) * max(map(len, self.rows))


def part_losses(
    model: ScalarHead,
    batch: list[Compared],
    s: RewardModelSettings,
    count: float,
    found: list[Tensor],
) -> Iterator[Tensor]:
    """Yield the loss of each micro-batch, weighted by its share of the step's `count` pairs."""
    for part in micro_batches(torch.tensor([p.size() for p in batch]), max_tokens=s.micro_tokens):
        rows, chosen, rejected, margins = [], [], [], []
        for prompt in [batch[i] for i in part]:
            chosen += [len(rows) + i for i in prompt.chosen]
            rejected += [len(rows) + i for i in prompt.rejected]
            margins += prompt.margins
            rows += prompt.rows
        rewards = final_scores(model, rows)
        first, second = rewards[chosen], rewards[rejected]
        loss = bradley_terry_loss(first, second, margin=first.new_tensor(margins))
        loss = loss + s.centring * (first + second).square().mean()

        share = len(chosen) / count
        with torch.no_grad():
            gap, mean = first - second, (first + second) / 2
            right = (gap.sign() + 1) / 2
            stats = [loss, right.mean(), gap.mean(), mean.mean()]
            found.append(share * torch.stack(stats).float().cpu())
        yield share * loss


def final_scores(model: ScalarHead, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the reward of each row of ids, read at its last one: [B], at least float32.

    The one place that decides where a reward is read. Rows are padded on the right, so column -1
    would be padding in all but the longest.
    """
    device = model.score.weight.device
    longest = max(map(len, rows))
    # Padding stands behind what is read, and attention is causal: any id will do.
    tokens = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in rows], device=device)
    last = torch.tensor([len(ids) - 1 for ids in rows], device=device)
    with precision(device):
        hidden = model.body.hidden(tokens)[torch.arange(len(rows), device=device), last]
    # In bfloat16 two rewards near 10 would differ by 0.06 or not at all.
    return model.score(hidden.to(model.score.weight.dtype)).squeeze(-1)


def encode_pairs(
    model: ScalarHead, tokenizer: Tokenizer, pairs: Sequence[Preference]
) -> list[Compared]:
    """Return the pairs as token ids, gathered by prompt in the order of each prompt's first."""
    if not pairs:
        raise ValueError("pairs is empty, expected preference pairs")
    check_vocabulary(model, tokenizer)
    limit, prompts, places = model.body.config.max_positions, {}, {}
    for pair in pairs:
        if not isinstance(pair, Preference):
            raise ValueError(f"pairs holds {pair!r:.80}, expected Preference(prompt, …)")
        compared = prompts.setdefault(pair.prompt, Compared())
        for text, side in ((pair.chosen, compared.chosen), (pair.rejected, compared.rejected)):
            if (pair.prompt, text) not in places:
                ids = encode_finished(tokenizer, pair.prompt, text)
                if len(ids) > limit:
                    raise ValueError(
                        f"a completion with its prompt and end token has {len(ids)} tokens, "
                        f"expected at most {limit}: {text!r:.80}"
                    )
                places[pair.prompt, text] = len(compared.rows)
                compared.rows.append(ids)
            side.append(places[pair.prompt, text])
        compared.margins.append(pair.margin)
    return list(prompts.values())


def encode_finished(tokenizer: Tokenizer, prompt: str, completion: str) -> list[int]:
    """Return the ids of prompt, completion and end token.

    Prompt and completion are encoded apart, as sampling sees them, so no merge crosses the border.
    """
    return [*tokenizer.encode(prompt), *tokenizer.encode(completion), tokenizer.eos_id]


@torch.no_grad()
def score(
    model: ScalarHead,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    micro_tokens: int = 4096,
) -> Tensor:
    """Return the reward of each completion: [B], in the order given, without a gradient.

    Args:
        prompts:      [B] texts.
        completions:  [B] texts, without the end token. One that is too long for the model's
                      positions is cut to fit: a policy's bad output is no error.
        micro_tokens: padded tokens in one forward pass.

    Raises:
        ValueError: not one completion for each prompt, none at all, a prompt that leaves no room
            for the end token, a tokenizer with more tokens than the model, or another model.
    """
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"prompts is {prompts!r}, expected a list of texts, at least one")
    if len(prompts) != len(completions):
        raise ValueError(
            f"completions has {len(completions)} entries, expected {len(prompts)}: as prompts"
        )
    check_vocabulary(model, tokenizer)
    limit, rows = model.body.config.max_positions, []
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = encode_finished(tokenizer, prompt, completion)
        if len(ids) > limit:
            taken = len(tokenizer.encode(prompt))
            if taken >= limit:
                raise ValueError(
                    f"a prompt has {taken} tokens, expected at most {limit - 1} and the end token: "
                    f"{prompt[:60]!r}"
                )
            ids = [*ids[: limit - 1], tokenizer.eos_id]
        rows.append(ids)
    rewards = model.score.weight.new_empty(len(rows))
    for part in micro_batches(torch.tensor([len(ids) for ids in rows]), max_tokens=micro_tokens):
        rewards[part.to(rewards.device)] = final_scores(model, [rows[i] for i in part])
    return rewards


def score_pairs(
    model: ScalarHead, tokenizer: Tokenizer, pairs: Sequence[Preference]
) -> tuple[Tensor, Tensor]:
    """Return the rewards of the chosen and of the rejected completions: [N], [N]."""
    prompts = [pair.prompt for pair in pairs]
    chosen = score(model, tokenizer, prompts, [pair.chosen for pair in pairs])
    return chosen, score(model, tokenizer, prompts, [pair.rejected for pair in pairs])


@torch.no_grad()
def normalise_scores(
    model: ScalarHead, tokenizer: Tokenizer, prompts: Sequence[str], completions: Sequence[str]
) -> None:
    """Shift and stretch the head so that these completions have mean reward 0 and deviation 1.

    No preference changes by it, only the unit: done on samples of the policy that will be trained,
    a KL coefficient means the same for every reward model, and a critic that starts at 0 is right
    on average. It does change what `pair_confidence` tells: measure calibration before.

    Raises:
        ValueError: as `score`, or all rewards are the same but for rounding: equal texts that
            stand in different batches differ by as much.

    Source: Ziegler et al. 2019, section 2.1.
    """
    rewards = score(model, tokenizer, prompts, completions).double()
    mean, deviation = rewards.mean(), rewards.std(correction=0)
    # Hidden states are near 1, so this is the size of what was added up to a reward; what float32
    # rounds off on the way through a model is a tiny part of it.
    size = rewards.abs().max() + model.score.weight.norm() + model.score.bias.abs().sum()
    if not deviation > 1e-5 * size:
        raise ValueError(f"all {len(rewards)} completions have reward {mean:.4g}: nothing to scale")
    model.score.weight.div_(deviation)
    model.score.bias.sub_(mean).div_(deviation)


def proxy_reward(model: ScalarHead, tokenizer: Tokenizer, task: Task) -> RewardFunction:
    """Make a reward function for `train_grpo` and its like that pays what the reward model says.

    The parts of a reward are added up, and one of them must tell the truth. So there are two:
    "correct", the task's score, which the log then shows, and "beyond", what the reward model pays
    more than that. Their sum, the reward, is the reward model's alone (rounded once more).

    Args:
        model: stays as it is. Its tokenizer need not be the policy's: it reads texts.
    """

    def parts(problems: Sequence[Problem], rollout: Rollout) -> dict[str, list[float]]:
        rewards = score(model, tokenizer, [p.prompt for p in problems], rollout.texts).tolist()
        correct = [task.score(p, text) for p, text in zip(problems, rollout.texts, strict=True)]
        beyond = [reward - true for reward, true in zip(rewards, correct, strict=True)]
        return {"correct": correct, "beyond": beyond}

    return parts


def check_vocabulary(model: ScalarHead, tokenizer: Tokenizer) -> None:
    """Refuse what is no reward model, and a tokenizer whose ids go beyond its embedding."""
    check_type("model", model, ScalarHead)
    known = model.body.config.vocab_size
    if tokenizer.vocab_size > known:
        raise ValueError(
            f"tokenizer has {tokenizer.vocab_size} tokens, expected at most the model's {known}"
        )
