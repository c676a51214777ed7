"""Policy optimisation from groups of completions: REINFORCE, RLOO, GRPO and what came after.

One loop. What differs between the published methods is a row of settings: see `PRESETS`.

Left out: a critic, an engine that samples while the policy trains, and the corrections
that such an engine needs.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from reasoning_from_scratch.advantages import Baseline, Scale, group_advantages
from reasoning_from_scratch.checks import (
    check_choices,
    check_finite,
    check_positive,
    check_texts,
    check_whole_numbers,
)
from reasoning_from_scratch.groups import Groups
from reasoning_from_scratch.lengths import TARGETED, LengthReward
from reasoning_from_scratch.losses import (
    Aggregate,
    Clip,
    KLEstimator,
    Ratio,
    aggregate_share,
    aggregate_tokens,
    kl_estimate,
    masked_mean,
    policy_loss,
)
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.problem_streams import PrioritisedStream, ProblemStream
from reasoning_from_scratch.rollouts import Batch, RewardFunction, collect, readable, score
from reasoning_from_scratch.runs import Run
from reasoning_from_scratch.tasks import Task
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.training import (
    average,
    learning_rate,
    make_optimizer,
    micro_batches,
    optimiser_step,
    rank,
    sum_over_processes,
    world_size,
)

MOST_PER_TOKEN = 0.2  # of LCPO's: above it, five tokens too many cost what a right answer earns


@dataclass(frozen=True)
class GRPOSettings:
    """Settings of `train_grpo`; `PRESETS` has the published rows."""

    steps: int = 200  # rollouts
    prompts: int = 16  # problems a rollout, over all processes
    group_size: int = 8  # completions of each
    max_new_tokens: int = 64  # the longest completion
    temperature: float = 1.0  # of sampling, and so of every log-probability in the loss
    stop: tuple[str, ...] = ()  # strings that end a completion besides the end token
    epochs: int = 1  # passes over each rollout
    updates: int = 1  # optimiser steps in a pass, each on its own share of the groups
    lr: float = 3e-4  # peak learning rate
    warmup: int = 10  # rollouts to the peak
    final_lr: float = 0.1  # share of the peak at the end; linear in between
    weight_decay: float = 0.0  # of matrices, per unit of learning rate
    max_grad_norm: float = 1.0  # the gradient is shortened to this 2-norm
    baseline: Baseline = "mean"  # what a reward is compared with: mean, leave_one_out, none
    scale: Scale = "group_std"  # what the difference is divided by: group_std, batch_std, none
    ratio: Ratio = "token"  # token, or sequence (GSPO)
    clip: Clip = "ppo"  # ppo, cispo or none
    clip_low: float = 0.2  # how far below 1 the ratio may fall
    clip_high: float = 0.2  # how far above 1; DAPO's clip-higher is 0.28
    # sequence_mean (GRPO), token_mean (DAPO), constant (Dr. GRPO)
    aggregate: Aggregate = "sequence_mean"
    kl_coef: float = 0.0  # weight of the KL to the reference in the loss; 0: none
    kl: KLEstimator = "k3"  # its estimator: k1 (no gradient on average), k2, k3
    resample: int = 0  # extra rollouts a step to fill it with mixed groups (DAPO, dynamic sampling)
    overlong: int = 0  # tokens before the limit over which DAPO's length penalty grows; 0: none
    mask_unfinished: bool = False  # what was cut off teaches nothing (DAPO, overlong filtering)
    length_reward: LengthReward = "none"  # kimi, cosine, lcpo_exact, lcpo_max: see `length_part`
    length_coef: float = 0.5  # its weight; of lcpo_*, reward lost for a token (0.2 at most)
    length_after: int = 0  # steps in which length earns nothing yet (Kimi's warm-up)
    pool: int = 0  # a fixed set of problems, the least solved drawn most often; 0: always new ones
    micro_tokens: int = 1024  # padded tokens in one forward pass: about what a CPU's cache holds
    checkpoint_every: int = 25  # steps; a killed run goes on from the last one
    record_every: int = 10  # steps between completions kept for reading
    evaluate_every: int = 0  # steps between calls of `evaluate`; 0: never
    seed: int = 0  # problems, completions, order of the rows

    def __post_init__(self) -> None:
        check_whole_numbers(self)
        check_texts("stop", self.stop)
        check_positive(
            self,
            "steps",
            "prompts",
            "group_size",
            "max_new_tokens",
            "epochs",
            "updates",
            "micro_tokens",
            "checkpoint_every",
            "record_every",
            "lr",
            "max_grad_norm",
        )
        check_positive(self, "resample", "overlong", "evaluate_every", "kl_coef", at_least=0)
        check_positive(self, "length_coef", "length_after", "pool", at_least=0)
        check_positive(self, "clip_low", "clip_high", at_least=0)
        check_finite(self)
        check_choices(self)
        if self.baseline == "none" and self.scale != "none":
            raise ValueError(
                f"scale is {self.scale!r}, but with baseline='none' a group that agrees has "
                "rewards and no deviation to divide them by: use scale='none'"
            )
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}: training samples, use above 0")
        if self.group_size < 2 and self.baseline != "none":
            raise ValueError(
                f"group_size is {self.group_size}, but baseline={self.baseline!r} compares a "
                "completion with its group: use at least 2"
            )
        if self.updates > self.prompts:
            raise ValueError(
                f"updates is {self.updates}, expected at most prompts={self.prompts}: each update "
                "takes its own groups"
            )
        if self.overlong >= self.max_new_tokens:
            raise ValueError(
                f"overlong is {self.overlong}, expected less than max_new_tokens="
                f"{self.max_new_tokens} (the presets dapo and cispo set overlong)"
            )
        if self.length_reward in TARGETED and self.length_coef > MOST_PER_TOKEN:
            raise ValueError(
                f"length_coef is {self.length_coef}, but {self.length_reward} takes so much off "
                f"for a token, and a right answer earns 1: use {MOST_PER_TOKEN} or less, 0.06 say "
                "for answers of some fifty tokens, 0.0003 (L1) for thousands"
            )
        if 0 < self.pool < self.prompts:
            raise ValueError(
                f"pool is {self.pool}, expected 0 or at least prompts={self.prompts}: a rollout's "
                "problems differ"
            )


# Each method as its paper (or, where that is silent, its authors' code) has it.
PRESETS: dict[str, dict[str, object]] = {
    # Williams 1992: every completion's own reward pushes its own tokens.
    "reinforce": dict(baseline="none", scale="none", clip="none", aggregate="constant"),
    # Ahmadian et al. 2024: against the mean of the other completions.
    "rloo": dict(baseline="leave_one_out", scale="none", clip="none", aggregate="constant"),
    # Shao et al. 2024, eq. 3 and 4.
    "grpo": dict(baseline="mean", scale="group_std", aggregate="sequence_mean", kl_coef=0.04),
    # Liu et al. 2025: no division by length or deviation, no KL.
    "dr_grpo": dict(baseline="mean", scale="none", aggregate="constant"),
    # Yu et al. 2025: clip-higher, token mean, mixed groups only, overlong penalty.
    "dapo": dict(
        baseline="mean",
        scale="group_std",
        aggregate="token_mean",
        clip_high=0.28,
        resample=3,
        overlong=16,
    ),
    # Hu et al. 2025, the variant with baseline: the group's mean, one deviation for all, k2 in the
    # loss. Theirs is the deviation of what is left after the mean, and its weight of the KL is not
    # published: the first is a factor common to all tokens, to which AdamW is blind, 0.001 is ours.
    "reinforce_pp": dict(
        baseline="mean", scale="batch_std", aggregate="token_mean", kl_coef=0.001, kl="k2"
    ),
    # Zheng et al. 2025: one ratio a sequence, hence the tiny clip.
    "gspo": dict(
        baseline="mean",
        scale="group_std",
        ratio="sequence",
        clip_low=3e-4,
        clip_high=4e-4,
        aggregate="sequence_mean",
    ),
    # MiniMax 2025: the weight is clipped, the token keeps its gradient; only the upper bound acts.
    "cispo": dict(
        baseline="mean",
        scale="group_std",
        clip="cispo",
        clip_low=1.0,
        clip_high=1.0,
        aggregate="token_mean",
        resample=3,
        overlong=16,
    ),
}


def preset(name: str, **changes: object) -> GRPOSettings:
    """Return the settings of a published method, with changes.

    Raises:
        ValueError: no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"preset is {name!r}, expected one of {', '.join(PRESETS)}")
    return GRPOSettings(**{**PRESETS[name], **changes})


def train_grpo(
    policy: GPT,
    tokenizer: Tokenizer,
    task: Task,
    settings: GRPOSettings,
    *,
    run: Run | None = None,
    reward: RewardFunction | None = None,
    evaluate: Callable[[GPT], dict] | None = None,
) -> Run:
    """Train `policy` in place on `task`; return the run with its history.

    Args:
        reward:   called with (problems, rollout), returns {name: one number a completion}; the
                  parts are added up, and one of them is called "correct". None: `task.score`.
        evaluate: called with the policy each `evaluate_every` steps; what it returns is logged.

    Raises:
        ValueError: the processes cannot share the prompts, `evaluate` would never be called, or
            `reward` returned something else, NaN included.

    Source: Shao et al. 2024 (DeepSeekMath), algorithm 1, without its outer iteration.
    """
    s, run = settings, run or Run()
    share, rest = divmod(s.prompts, world_size())
    if rest:
        raise ValueError(f"prompts is {s.prompts}, expected a multiple of {world_size()} processes")
    if s.updates > share:
        raise ValueError(
            f"updates is {s.updates}, expected at most {share}: each takes groups of its own, and "
            f"a process has {share} of the {s.prompts} prompts"
        )
    if evaluate is not None and not s.evaluate_every:
        raise ValueError("evaluate is given, but evaluate_every is 0: it would never be called")
    device = policy.embedding.weight.device
    generator = torch.Generator(device).manual_seed(s.seed * world_size() + rank())
    optimizer = make_optimizer(policy, lr=s.lr, weight_decay=s.weight_decay)
    reference = copy.deepcopy(policy).requires_grad_(False) if s.kl_coef else None
    problems = PrioritisedStream(task, s.seed, s.pool) if s.pool else ProblemStream(task, s.seed)
    state = run.restore(policy, optimizer, generator)
    problems.restore(state.get("problems"))
    reward = reward or (lambda owners, rollout: {"correct": score(task, owners, rollout)})

    for step in range(state["step"], s.steps):
        clock = time.perf_counter()
        # Sample G completions of each of P prompts from the policy as it is now, and score each.
        batch, stats = collect(policy, tokenizer, problems, reward, s, generator, step=step)
        batch.drop_unfinished = s.mask_unfinished
        sampled = time.perf_counter()

        # Compare each completion with the others of its own prompt.
        batch.advantages = group_advantages(
            batch.rewards.view(-1, s.group_size), baseline=s.baseline, scale=s.scale
        ).flatten()  # [B]

        # Passes over this rollout; it grows stale with each update, and the clip limits that.
        lr = learning_rate(step, lr=s.lr, steps=s.steps, warmup=s.warmup, final=s.final_lr)
        updates, count = [], len(batch.rewards) // s.group_size
        for _ in range(s.epochs):
            order = torch.randperm(count, generator=generator, device=device)
            for groups in order.tensor_split(s.updates):
                parts = PolicyLosses(policy, reference, batch, groups, s)
                norm = optimiser_step(
                    policy, optimizer, parts, lr=lr, max_grad_norm=s.max_grad_norm
                )
                updates.append(parts.stats() | {"grad_norm": float(norm)})

        stats |= average(updates, [1.0] * len(updates)) | {"lr": lr}
        stats["sample_seconds"] = sampled - clock
        stats["seconds"] = time.perf_counter() - clock
        if step % s.record_every == 0 or step + 1 == s.steps:
            run.record(readable(step, batch, tokenizer, s.group_size, groups=4))
        if evaluate is not None and (step + 1) % s.evaluate_every == 0:
            stats["eval"] = evaluate(policy)
        run.end_step(step, stats, s, policy, optimizer, generator, problems=problems.state())
    return run


class PolicyLosses:
    """The losses of one optimiser step, a micro-batch at a time, each weighted by its share.

    A prompt is run once for the completions that share it. A group that is all right or all wrong
    has no advantage: it counts in the averages, but costs nothing.
    """

    def __init__(
        self,
        policy: GPT,
        reference: GPT | None,
        batch: Batch,
        groups: Tensor,
        settings: GRPOSettings,
    ) -> None:
        self.policy, self.reference, self.settings = policy, reference, settings
        self.groups = Groups.cut(batch, groups, settings.group_size, settings.micro_tokens)
        self.found: list[dict[str, Tensor]] = []
        self.weights: list[float] = []
        self.loss = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        s, groups = self.settings, self.groups
        sequences, counted = sum_over_processes(groups.advantages.numel(), float(groups.mask.sum()))
        how = {"aggregate": s.aggregate, "max_tokens": s.max_new_tokens}
        live = (groups.advantages != 0).any(1) | bool(s.kl_coef)
        live &= (groups.mask != 0).any(2).any(1)  # all of it cut off, and masked
        rows = live.nonzero().squeeze(1)
        for part in micro_batches(groups.sizes()[rows], max_tokens=s.micro_tokens):
            part = groups.select(rows[part])
            mask = part.mask.flatten(0, 1)
            logprobs = part.logprobs(self.policy, s.temperature)
            loss, stats = policy_loss(
                logprobs,
                part.old_logprobs.flatten(0, 1),
                part.advantages.flatten(),
                mask,
                clip_low=s.clip_low,
                clip_high=s.clip_high,
                ratio=s.ratio,
                clip=s.clip,
                **how,
            )
            if self.reference is not None:
                with torch.no_grad():
                    ref_logprobs = part.logprobs(self.reference, s.temperature)
                kl = kl_estimate(logprobs, ref_logprobs, kind=s.kl)
                loss = loss + s.kl_coef * aggregate_tokens(kl, mask, **how)
                stats["kl"] = masked_mean(kl.detach(), mask)
            loss = loss * aggregate_share(
                mask, aggregate=s.aggregate, total_sequences=int(sequences), total_tokens=counted
            )
            self.loss += float(loss.detach())
            self.found.append(stats)
            self.weights.append(float(mask.sum()))
            yield loss

    def stats(self) -> dict[str, float]:
        """Return the step's numbers, averaged over the tokens that this process computed.

        Only the loss is of all processes: their shares add up to it.
        """
        means = average(self.found, self.weights)
        if self.found:
            means["ratio_max"] = max(float(stats["ratio_max"]) for stats in self.found)
        (loss,) = sum_over_processes(self.loss)
        return {"loss": loss, **means}
