"""A step's worth of completions: sampled, scored, filtered, described, kept for reading.

Not here: what is learned from them (`grpo.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from reasoning_from_scratch.checks import check_shape
from reasoning_from_scratch.lengths import TARGETED, LengthReward, length_part, overlong_penalty
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.problem_streams import ProblemStream
from reasoning_from_scratch.sampling import Rollout, sample
from reasoning_from_scratch.tasks import Problem, Task
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.training import precision, sum_over_processes, world_size

# A reward function sees each completion's problem and the whole rollout, so that it can compare
# lengths within a group; it returns named parts, one number a completion, that are added up.
RewardFunction = Callable[[Sequence[Problem], Rollout], Mapping[str, Sequence[float]]]


class SamplingSettings(Protocol):
    """What `collect` reads of an algorithm's settings."""

    prompts: int
    group_size: int
    max_new_tokens: int
    temperature: float
    stop: tuple[str, ...]
    resample: int
    overlong: int
    length_reward: LengthReward
    length_coef: float
    length_after: int


@dataclass
class Batch:
    """A rollout with what was thought of it. Rows as in `Rollout`."""

    rollout: Rollout
    problems: list[Problem]  # of each row
    parts: dict[str, Tensor]  # named parts of the reward, each [B]
    rewards: Tensor  # their sum [B]
    advantages: Tensor = field(default_factory=lambda: torch.empty(0))  # [B]
    drop_unfinished: bool = False  # whether what was cut off is left out of the loss

    @property
    def mask(self) -> Tensor:
        """1 on the tokens to learn from [B,T]."""
        r = self.rollout
        return r.mask * r.finished[:, None] if self.drop_unfinished else r.mask


def collect(
    policy: GPT,
    tokenizer: Tokenizer,
    problems: ProblemStream,
    reward: RewardFunction,
    s: SamplingSettings,
    generator: torch.Generator,
    *,
    step: int = 0,
) -> tuple[Batch, dict[str, float]]:
    """Sample and score `s.prompts` groups; return them and the numbers of *all* that was sampled.

    With `s.resample`, groups that are all right or all wrong give their place to mixed ones from
    further rollouts, as far as those are found: a batch that teaches in every row (DAPO, section
    3.2). Mixed is told by "correct", not by the reward, which a length penalty spreads as well.
    """
    sampled = []

    def draw(count: int) -> Tensor:
        taken = problems.take(count)
        batch = rollout_and_score(policy, tokenizer, taken, reward, s, generator, step=step)
        sampled.append(batch)
        correct = batch.parts["correct"].view(-1, s.group_size)
        problems.learn(taken, correct.mean(1))
        return correct

    chosen = fill_with_mixed(draw, s.prompts // world_size(), rounds=1 + s.resample)
    batch = sampled[0] if len(sampled) == 1 else join(sampled, chosen, s.group_size, tokenizer)
    return batch, describe(sampled, s.group_size)


def fill_with_mixed(
    draw: Callable[[int], Tensor], wanted: int, *, rounds: int
) -> list[tuple[int, int]]:
    """Draw groups until enough of them are mixed: neither all right nor all wrong.

    Args:
        draw:   called with a number of groups p, samples so many and returns what each completion
                is worth, [p,G]. Each round asks for as many as are still missing.
        wanted: how many groups the batch has.
        rounds: ≥ 1, how often `draw` is called at most.

    Returns:
        `wanted` pairs (round, group of that round): the mixed ones as they came, then, if those are
        too few, the first of the others.

    Raises:
        ValueError: wanted or rounds below 1, or `draw` returned another number of groups.

    Source: Yu et al. 2025 (DAPO), section 3.2, eq. 11; rounds are limited, as in its code.
    """
    for name, count in (("wanted", wanted), ("rounds", rounds)):
        if count < 1:
            raise ValueError(f"{name} is {count}, expected at least 1")
    mixed, others = [], []
    for at in range(rounds):
        missing = wanted - len(mixed)
        scores = draw(missing)
        if scores.dim() != 2 or len(scores) != missing:
            raise ValueError(
                f"draw returned shape {list(scores.shape)}, expected [{missing},G]: one row for "
                "each group it was asked for"
            )
        for group, width in enumerate(spread(scores).tolist()):
            (mixed if width > 0 else others).append((at, group))
        if len(mixed) == wanted:
            break
    return (mixed + others)[:wanted]


def rollout_and_score(
    policy: GPT,
    tokenizer: Tokenizer,
    problems: list[Problem],
    reward: RewardFunction,
    s: SamplingSettings,
    generator: torch.Generator,
    *,
    step: int = 0,
) -> Batch:
    """Sample a group for each problem and score every completion."""
    with precision(generator.device):
        rollout = sample(
            policy,
            tokenizer,
            [p.prompt for p in problems],
            group_size=s.group_size,
            max_new_tokens=s.max_new_tokens,
            temperature=s.temperature,
            stop=s.stop,
            generator=generator,
        )
    owners = [p for p in problems for _ in range(s.group_size)]
    parts = reward(owners, rollout)
    if not isinstance(parts, Mapping):
        raise ValueError(
            f"reward returned {parts!r:.80}, expected a dict of lists: a part's name and a number "
            "for each completion"
        )
    parts = dict(parts)
    if "correct" not in parts:
        raise ValueError(f"reward returned {sorted(parts)}, expected a part called 'correct'")
    if s.overlong:
        parts["overlong"] = [
            overlong_penalty(n, max_length=s.max_new_tokens, cache_length=s.overlong)
            for n in rollout.lengths.tolist()
        ]
    device = rollout.tokens.device
    scored = {}
    for name, values in parts.items():
        part = f"reward's part {name!r}"
        try:
            scored[name] = torch.as_tensor(values, dtype=torch.float32, device=device)
        except (TypeError, ValueError, RuntimeError):
            came = f"{part} is {values!r:.80}"
            raise ValueError(f"{came}, expected one number for each completion") from None
        check_shape(part, scored[name], (len(owners),), "one for each completion")
        if not (finite := scored[name].isfinite()).all():
            raise ValueError(f"{part} holds {scored[name][~finite][0].item()}, expected finite")
    if s.length_reward in TARGETED and "target_tokens" not in problems[0].meta:
        raise ValueError(
            f"length_reward is {s.length_reward!r}, but the problems ask for no length: use a task "
            "that does, such as stories with the option targets=24,48"
        )
    if s.length_reward != "none" and step >= s.length_after:
        scored["length"] = by_length(scored["correct"], rollout, owners, s)
    return Batch(rollout, owners, scored, sum(scored.values()))


def by_length(
    correct: Tensor, rollout: Rollout, owners: Sequence[Problem], s: SamplingSettings
) -> Tensor:
    """Return what each completion's length adds to its reward: [B]."""
    targets = [problem.meta.get("target_tokens") for problem in owners]
    parts, lengths, G = [], rollout.lengths.tolist(), s.group_size
    for at in range(0, len(owners), G):
        group = slice(at, at + G)
        parts += length_part(
            s.length_reward, correct[group].tolist(), lengths[group], coef=s.length_coef,
            max_length=s.max_new_tokens, target=targets[at],
        )  # fmt: skip
    return correct.new_tensor(parts)


def score(task: Task, owners: Sequence[Problem], rollout: Rollout) -> list[float]:
    """Return the task's score of each completion."""
    return [task.score(p, text) for p, text in zip(owners, rollout.texts, strict=True)]


def spread(x: Tensor) -> Tensor:
    """Return the largest minus the smallest of each group: [P,G] -> [P]."""
    return x.amax(1) - x.amin(1)


def join(
    batches: list[Batch], chosen: list[tuple[int, int]], group_size: int, tokenizer: Tokenizer
) -> Batch:
    """Put the chosen (batch, group) pairs into one batch, padded to the longest."""
    width = max(b.rollout.tokens.shape[1] for b in batches)

    def wide(x: Tensor, value: float) -> Tensor:
        return torch.nn.functional.pad(x, (0, width - x.shape[1]), value=value)

    offsets = [0]
    for b in batches:
        offsets.append(offsets[-1] + len(b.rewards))
    rows = [offsets[b] + g * group_size + i for b, g in chosen for i in range(group_size)]
    texts = [text for b in batches for text in b.rollout.texts]
    owners = [problem for b in batches for problem in b.problems]
    rollouts = [b.rollout for b in batches]
    pad = tokenizer.pad_id
    rollout = Rollout(
        torch.cat([wide(r.tokens, pad) for r in rollouts])[rows],
        torch.cat([wide(r.logprobs, 0.0) for r in rollouts])[rows],
        torch.cat([wide(r.mask, 0.0) for r in rollouts])[rows],
        torch.cat([r.prompt_lengths for r in rollouts])[rows],
        [texts[row] for row in rows],
        torch.cat([r.finished for r in rollouts])[rows],
    )
    parts = {name: torch.cat([b.parts[name] for b in batches])[rows] for name in batches[0].parts}
    return Batch(rollout, [owners[row] for row in rows], parts, sum(parts.values()))


def describe(batches: list[Batch], group_size: int) -> dict[str, float]:
    """Return the means of what a step sampled on all processes, before any group was left out."""
    rewards = torch.cat([b.rewards for b in batches])
    mixed = spread(rewards.view(-1, group_size)) > 0
    rollouts = [b.rollout for b in batches]
    sums = {
        "reward": rewards.sum(),
        "mixed_groups": mixed.sum() * group_size,
        "length": sum(r.mask.sum() for r in rollouts),
        "finished": sum(r.finished.sum() for r in rollouts),
        "thinks": sum("<think>" in text for r in rollouts for text in r.texts),
    }
    for name in batches[0].parts:
        sums[f"reward_{name}"] = sum(b.parts[name].sum() for b in batches)
    surprise = -sum(r.logprobs.sum() for r in rollouts)
    numbers = [float(x) for x in (*sums.values(), surprise, len(rewards))]
    *totals, surprise, completions = sum_over_processes(*numbers)
    means = {name: total / completions for name, total in zip(sums, totals, strict=True)}
    # The mean surprise of what was sampled is the entropy's unbiased estimate.
    entropy = surprise / (means["length"] * completions)
    return {**means, "entropy": entropy, "completions": completions}


def readable(
    step: int, batch: Batch, tokenizer: Tokenizer, group_size: int, *, groups: int
) -> list[dict]:
    """Return the first few groups of a batch as plain values, for rollouts.jsonl."""
    r, lines = batch.rollout, []
    for first in range(0, min(groups * group_size, len(batch.rewards)), group_size):
        completions = []
        for row in range(first, first + group_size):
            at = r.mask[row].bool()
            completions.append(
                {
                    "text": r.texts[row],
                    "tokens": [tokenizer.token_text(id) for id in r.tokens[row][at].tolist()],
                    "logprobs": [round(x, 4) for x in r.logprobs[row][at].tolist()],
                    "reward": float(batch.rewards[row]),
                    "parts": {name: float(values[row]) for name, values in batch.parts.items()},
                    "advantage": round(float(batch.advantages[row]), 4),
                    "length": int(at.sum()),
                    "finished": bool(r.finished[row]),
                }
            )
        problem = batch.problems[first]
        line = {"step": step, "prompt": problem.prompt, "answer": problem.answer}
        lines.append(line | {"completions": completions})
    return lines
