"""Proximal policy optimisation for language models: the loop of RLHF, with a critic.

Three models: the policy, a frozen copy of it as reference (only where there is a KL term), and a
critic with weights of its own that says before each token what the completion will be worth. What
lies between RLHF and "vanilla" PPO is a row of settings: see `PPO_PRESETS`.

A completion that was cut off ends there: nothing is expected after it, for a critic that guessed
the rest would pay for text that nobody wrote. Its score can be replaced by `unfinished_reward`.

Left out: a critic that shares the policy's body (and with it the weight of its loss), an entropy
bonus, whitened rewards, and the pretraining loss that InstructGPT mixes in.

Shapes: B completions; T columns, of which column t is about a completion's token t.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from reasoning_from_scratch.advantages import gae
from reasoning_from_scratch.checks import (
    check_choices,
    check_finite,
    check_mask,
    check_positive,
    check_shape,
    check_tensor,
    check_texts,
    check_type,
    check_whole_numbers,
)
from reasoning_from_scratch.credit import (
    Credit,
    cut,
    everywhere,
    in_parts,
    learn,
    token_values,
    whiten_together,
)
from reasoning_from_scratch.losses import (
    Aggregate,
    kl_estimate,
    masked_mean,
    policy_loss,
    value_loss,
)
from reasoning_from_scratch.model import GPT, ScalarHead
from reasoning_from_scratch.problem_streams import ProblemStream
from reasoning_from_scratch.rollouts import RewardFunction, collect, readable, score
from reasoning_from_scratch.runs import Run
from reasoning_from_scratch.tasks import Task
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.training import average, learning_rate, make_optimizer, rank, world_size


@dataclass(frozen=True)
class PPOSettings:
    """Settings of `train_ppo`; `PPO_PRESETS` has the published rows."""

    steps: int = 200  # rollouts
    prompts: int = 16  # problems a rollout, over all processes
    group_size: int = 8  # completions of each; 1 will do, for nothing is compared with its group
    max_new_tokens: int = 64  # the longest completion
    temperature: float = 1.0  # of sampling, and so of every log-probability
    stop: tuple[str, ...] = ()  # strings that end a completion besides the end token
    epochs: int = 4  # passes over each rollout
    updates: int = 1  # optimiser steps of the policy in a pass, each on its own share of the groups
    critic_updates: int = 1  # the same of the critic
    critic_warmup: int = 0  # rollouts at the start from which the critic alone learns
    lr: float = 3e-4  # peak learning rate of the policy
    critic_lr: float = 1e-3  # peak learning rate of the critic; 0 leaves it as it is
    warmup: int = 10  # rollouts to the peak
    final_lr: float = 0.1  # share of the peak at the end; linear in between
    weight_decay: float = 0.0  # of matrices, per unit of learning rate
    max_grad_norm: float = 1.0  # the gradient of either model is shortened to this 2-norm
    gamma: float = 1.0  # worth of a reward one token later
    lam: float = 0.95  # λ of GAE: 0 trusts the critic most, 1 not at all
    whiten: bool = True  # advantages to mean 0 and deviation 1 over all tokens of a rollout
    clip_low: float = 0.2  # how far below 1 the ratio may fall
    clip_high: float = 0.2  # how far above 1
    value_clip: float = 0.2  # how far a value may move on one rollout and still gain; inf: any way
    aggregate: Aggregate = "token_mean"  # of the policy's loss: sequence_mean, token_mean, constant
    kl_coef: float = 0.0  # reward lost for a nat of KL to the reference, token by token; 0: none
    kl_target: float = 0.0  # nats a completion that kl_coef is steered towards; 0: it is fixed
    kl_horizon: int = 10_000  # completions in which kl_coef moves by a fifth of itself at most
    unfinished_reward: float | None = None  # the reward of what was cut off; None: what it earned
    micro_tokens: int = 1024  # padded tokens in one forward pass: about what a CPU's cache holds
    checkpoint_every: int = 25  # steps; a killed run goes on from the last one
    record_every: int = 10  # steps between completions kept for reading
    evaluate_every: int = 0  # steps between calls of `evaluate`; 0: never
    seed: int = 0  # problems, completions, order of the rows

    # `collect` reads them; PPO neither replaces groups nor pays for length.
    resample: ClassVar[int] = 0
    overlong: ClassVar[int] = 0
    length_reward: ClassVar[str] = "none"
    length_coef: ClassVar[float] = 0.0
    length_after: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_whole_numbers(self)
        check_texts("stop", self.stop)
        check_positive(self, "steps", "prompts", "group_size", "max_new_tokens", "temperature")
        check_positive(self, "epochs", "updates", "critic_updates", "lr", "max_grad_norm")
        check_positive(self, "kl_horizon", "micro_tokens", "checkpoint_every", "record_every")
        check_positive(self, "critic_lr", "critic_warmup", "value_clip", at_least=0)
        check_positive(self, "kl_coef", "kl_target", "evaluate_every", at_least=0)
        check_positive(self, "clip_low", "clip_high", at_least=0)
        check_finite(self)
        if self.unfinished_reward is not None and not math.isfinite(self.unfinished_reward):
            raise ValueError(
                f"unfinished_reward is {self.unfinished_reward}, expected None or a finite number"
            )
        check_choices(self)
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        for name in ("updates", "critic_updates"):
            if getattr(self, name) > self.prompts:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected at most prompts={self.prompts}: "
                    "each update takes its own groups"
                )
        if self.critic_warmup >= self.steps:
            raise ValueError(
                f"critic_warmup is {self.critic_warmup}, expected less than steps={self.steps}"
            )
        if self.kl_target and not self.kl_coef:
            raise ValueError(
                f"kl_target is {self.kl_target}, but kl_coef is 0: no factor changes it"
            )
        if self.kl_target and self.prompts * self.group_size >= 5 * self.kl_horizon:
            raise ValueError(
                f"kl_horizon is {self.kl_horizon}, expected more than a fifth of the "
                f"{self.prompts * self.group_size} completions of a rollout"
            )


PPO_PRESETS: dict[str, dict[str, object]] = {
    # Ziegler et al. 2019, code, on which InstructGPT builds: KL in the reward, its weight steered
    # towards 6 nats, -1 for a text without end. The horizon is a hundredth of the run, as theirs.
    "rlhf": dict(
        epochs=4, updates=1, critic_updates=1, lam=0.95, value_clip=0.2,
        kl_coef=0.15, kl_target=6.0, kl_horizon=256, unfinished_reward=-1.0,
    ),
    # Hu et al. 2025 (Open-Reasoner-Zero): γ = λ = 1, no KL, a policy that learns from none but its
    # own samples, and a critic that learns more often.
    "vanilla": dict(
        epochs=1, updates=1, critic_updates=12, lam=1.0, value_clip=math.inf, unfinished_reward=0.0
    ),
}  # fmt: skip


def ppo_preset(name: str, **changes: object) -> PPOSettings:
    """Return the settings of a published recipe, with changes; a ValueError if there is none."""
    if name not in PPO_PRESETS:
        raise ValueError(f"preset is {name!r}, expected one of {', '.join(PPO_PRESETS)}")
    return PPOSettings(**{**PPO_PRESETS[name], **changes})


def train_ppo(
    policy: GPT,
    critic: ScalarHead,
    tokenizer: Tokenizer,
    task: Task,
    settings: PPOSettings,
    *,
    run: Run | None = None,
    reward: RewardFunction | None = None,
    evaluate: Callable[[GPT], dict] | None = None,
) -> Run:
    """Train `policy` and `critic` in place on `task`; return the run with its history.

    Args:
        critic:   reads the same tokens; `ScalarHead(copy.deepcopy(policy))`, or a copy of the
                  reward model. It shares no weight with the policy.
        reward:   called with (problems, rollout), returns {name: one number a completion}; the
                  parts are added up, and one of them is called "correct". None: `task.score`.
        evaluate: called with the policy each `evaluate_every` steps; what it returns is logged.

    Raises:
        ValueError: critic is no `ScalarHead` or shares weights with the policy, the processes
            cannot share the prompts, `evaluate` would never be called, or `reward` returned
            something else, NaN included.

    Source: Ziegler et al. 2019, section 2; Ouyang et al. 2022, section 3.5.
    """
    s, run = settings, run or Run()
    check_arguments(policy, critic, s, evaluate)
    device = policy.embedding.weight.device
    generator = torch.Generator(device).manual_seed(s.seed * world_size() + rank())
    # AdamW has moments for each weight and steps those that have a gradient: one for both models
    # does what one for each would, and a run saves one.
    both = nn.ModuleDict({"policy": policy, "critic": critic})
    optimizer = make_optimizer(both, lr=s.lr, weight_decay=s.weight_decay)
    reference = copy.deepcopy(policy).requires_grad_(False) if s.kl_coef else None
    problems = ProblemStream(task, s.seed)
    state = run.restore(both, optimizer, generator)
    problems.restore(state.get("problems"))
    kl_coef = state.get("kl_coef", s.kl_coef)
    reward = reward or (lambda owners, rollout: {"correct": score(task, owners, rollout)})

    for step in range(state["step"], s.steps):
        clock = time.perf_counter()
        # Sample completions from the policy as it is now, and score each.
        batch, stats = collect(policy, tokenizer, problems, reward, s, generator)
        scores = batch.rewards  # [B]
        if s.unfinished_reward is not None:
            scores = torch.where(batch.rollout.finished, scores, s.unfinished_reward)
        sampled = time.perf_counter()

        # Ask critic and reference about each token, before anything is learned from it.
        groups, mask = cut(batch, s)
        values = in_parts(groups, lambda part: token_values(critic, part), s)  # [B,T]
        kl = torch.zeros_like(values)
        if reference is not None:
            ref_logprobs = in_parts(groups, lambda part: part.logprobs(reference, s.temperature), s)
            kl = kl_estimate(groups.old_logprobs.flatten(0, 1), ref_logprobs, kind="k1")

        # Each token pays for leaving the reference; the last one gets the score.
        rewards = token_rewards(scores, kl, mask, kl_coef=kl_coef)
        stats |= describe_tokens(rewards, values, kl, mask, s) | {"kl_coef": kl_coef}
        del stats["mixed_groups"]  # a group that agrees teaches as well: it is not the baseline

        # How much better each was than the critic expected, and what it should have expected.
        advantages, returns = gae(rewards, values, mask, gamma=s.gamma, lam=s.lam)
        if s.whiten:
            advantages = whiten_together(advantages, mask, s.max_new_tokens)
        batch.advantages = masked_mean(advantages, mask, dim=1)  # of each completion, for reading
        credit = Credit.of(groups, values, advantages, returns)

        # Passes over this rollout; it grows stale with each, and the clips limit that.
        lr, critic_lr = rates(step, s)
        policy_steps, critic_steps = [], []
        for _ in range(s.epochs):
            order = torch.randperm(len(scores) // s.group_size, generator=generator, device=device)
            shares = order.tensor_split(s.critic_updates)
            critic_steps += learn(critic, critic_part, optimizer, credit, shares, critic_lr, s)
            shares = order.tensor_split(s.updates)
            policy_steps += learn(policy, policy_part, optimizer, credit, shares, lr, s)
        if s.kl_target:
            how = {"target": s.kl_target, "horizon": s.kl_horizon, "n": s.prompts * s.group_size}
            kl_coef = adapt_kl_coef(kl_coef, stats["kl_completion"], **how)

        stats |= average(policy_steps, [1.0] * len(policy_steps)) | {"lr": lr}
        means = average(critic_steps, [1.0] * len(critic_steps)) | {"lr": critic_lr}
        stats |= {f"critic_{name}": mean for name, mean in means.items()}
        stats["sample_seconds"] = sampled - clock
        stats["seconds"] = time.perf_counter() - clock
        if step % s.record_every == 0 or step + 1 == s.steps:
            run.record(readable(step, batch, tokenizer, s.group_size, groups=4))
        if evaluate is not None and (step + 1) % s.evaluate_every == 0:
            stats["eval"] = evaluate(policy)
        kept = {"problems": problems.state(), "kl_coef": kl_coef}
        run.end_step(step, stats, s, both, optimizer, generator, **kept)
    return run


def policy_part(policy: GPT, part: Credit, s: PPOSettings) -> tuple[Tensor, dict[str, Tensor], str]:
    """Return the policy's loss on a micro-batch, its numbers, and over what it averages."""
    loss, stats = policy_loss(
        part.groups.logprobs(policy, s.temperature),
        part.groups.old_logprobs.flatten(0, 1),
        part.advantages.flatten(0, 1),
        part.mask,
        clip_low=s.clip_low,
        clip_high=s.clip_high,
        aggregate=s.aggregate,
        max_tokens=s.max_new_tokens,
    )
    return loss, stats, s.aggregate


def critic_part(
    critic: ScalarHead, part: Credit, s: PPOSettings
) -> tuple[Tensor, dict[str, Tensor], str]:
    """Return the critic's loss on a micro-batch, no numbers, and over what it averages."""
    values = token_values(critic, part.groups)
    old_values, returns = part.values.flatten(0, 1), part.returns.flatten(0, 1)
    return value_loss(values, old_values, returns, part.mask, clip=s.value_clip), {}, "token_mean"


@torch.no_grad()
def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
    """Return each token's reward: what it costs in KL, and at a completion's end its score.

    Args:
        scores:  [B] of whole completions.
        kl:      [B,T] in nats, of the policy that sampled. Use `kl_estimate` with kind="k1": in a
                 reward it has the gradient of KL(policy‖reference), and k3 has not.
        mask:    [B,T] not 0 on the tokens that the policy chose.
        kl_coef: ≥ 0, reward lost for a nat.

    Returns:
        [B,T] without gradient, 0 where nothing counts: -kl_coef · kl, plus the score on the last
        token that counts. A completion without one gets nothing.

    Raises:
        ValueError: shapes don't fit, or kl_coef is negative.

    Source: Ziegler et al. 2019, eq. 2; per token as in its code and in Ouyang et al. 2022.
    """
    check_tensor("kl", kl)
    if kl.dim() != 2:
        raise ValueError(f"kl has shape {list(kl.shape)}, expected [B,T]")
    check_shape("scores", scores, kl.shape[:1], "one entry for each completion")
    check_mask(mask, kl.shape, "one entry for each of kl")
    if not kl_coef >= 0:
        raise ValueError(f"kl_coef is {kl_coef}, expected a number of at least 0")
    counted = mask != 0
    left = counted.flip(1).cumsum(1).flip(1)  # [B,T] tokens that count from here on
    penalty = torch.where(counted, -kl_coef * kl, 0)
    return penalty + torch.where(counted & (left == 1), scores[:, None], 0)


def adapt_kl_coef(coef: float, kl: float, *, target: float, horizon: float, n: int) -> float:
    """Return the KL weight for the next step: larger after too much KL, smaller after too little.

    Args:
        coef:    the weight so far.
        kl:      what was measured, in nats a completion: the mean of the sum over its tokens.
        target:  > 0, what it should be.
        horizon: completions in which the weight moves by at most a fifth of itself.
        n:       completions of this step, below 5 · horizon, or the weight could turn negative.

    Raises:
        ValueError: target or horizon not above 0, or n too large.

    Source: Ziegler et al. 2019, section 2.2.
    """
    for name, value in (("target", target), ("horizon", horizon)):
        if not value > 0:
            raise ValueError(f"{name} is {value}, expected a number above 0")
    if not 0 <= n < 5 * horizon:
        raise ValueError(f"n is {n}, expected 0 to less than 5 · horizon = {5 * horizon}")
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * n / horizon)


@torch.no_grad()
def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Return the share of the returns' variance that the critic foresaw: 1 - Var(R - V) / Var(R).

    Args:
        values:  [B,T] the critic's.
        returns: [B,T] what really followed: those of λ < 1 hold the values themselves, and flatter.
        mask:    [B,T] not 0 where a token counts.

    Returns:
        A scalar ≤ 1, without gradient: 1 if the critic is right up to a constant, 0 if it might as
        well be one, negative if it is worse. 0 too where the returns do not vary.

    Raises:
        ValueError: shapes differ.
    """
    check_tensor("values", values)
    check_shape("returns", returns, values.shape, "one entry for each of values")
    check_mask(mask, values.shape, "one entry for each of values")
    counted = mask != 0
    missed, spread = (
        masked_mean((x - masked_mean(x, counted)).square(), counted)
        for x in (returns - values, returns)
    )
    # Equal numbers that were rounded differ by a millionth part at most: that is no variance.
    varies = spread > 1e-12 * masked_mean(returns.square(), counted)
    return torch.where(varies, 1 - missed / torch.where(varies, spread, 1), 0)


def rates(step: int, s: PPOSettings) -> tuple[float, float]:
    """Return the learning rates of policy and critic: the policy's is 0 while the critic warms up.

    Its own warm-up begins when it does.
    """
    how = {"warmup": s.warmup, "final": s.final_lr}
    critic_lr = learning_rate(step, lr=s.critic_lr, steps=s.steps, **how)
    own, left = step - s.critic_warmup, s.steps - s.critic_warmup
    return (learning_rate(own, lr=s.lr, steps=left, **how) if own >= 0 else 0.0), critic_lr


def describe_tokens(
    rewards: Tensor, values: Tensor, kl: Tensor, mask: Tensor, s: PPOSettings
) -> dict[str, float]:
    """Return what a step's tokens say of reward, critic and reference, over all processes."""
    wide = [everywhere(x, s.max_new_tokens) for x in (rewards, values, kl, mask)]
    rewards, values, kl, mask = wide
    # What really followed each token: GAE with λ = 1 and a critic that expects nothing.
    followed, _ = gae(rewards, torch.zeros_like(rewards), mask, gamma=s.gamma, lam=1.0)
    stats = {
        "return": rewards.sum(1).mean(),
        "value": masked_mean(values, mask),
        "explained_variance": explained_variance(values, followed, mask),
    }
    if s.kl_coef:
        stats["kl"] = masked_mean(kl, mask)
        stats["kl_completion"] = torch.where(mask != 0, kl, 0).sum(1).mean()
    return {name: float(value) for name, value in stats.items()}


def check_arguments(
    policy: GPT, critic: ScalarHead, s: PPOSettings, evaluate: Callable[[GPT], dict] | None
) -> None:
    """Refuse what the loop cannot work with."""
    check_type("critic", critic, ScalarHead)
    if {id(p) for p in policy.parameters()} & {id(p) for p in critic.parameters()}:
        raise ValueError("critic shares weights with policy: give it copy.deepcopy(policy) as body")
    share, rest = divmod(s.prompts, world_size())
    if rest:
        raise ValueError(f"prompts is {s.prompts}, expected a multiple of {world_size()} processes")
    for name in ("updates", "critic_updates"):
        if getattr(s, name) > share:
            raise ValueError(
                f"{name} is {getattr(s, name)}, expected at most {share}: a process has {share} "
                f"of the {s.prompts} prompts, and each update takes its own groups"
            )
    if evaluate is not None and not s.evaluate_every:
        raise ValueError("evaluate is given, but evaluate_every is 0: it would never be called")
