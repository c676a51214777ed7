"""N2: k1, k2, k3: what does each do as a loss?

Arms: no KL; k1, k2 and k3 in the loss; k1, summed over the completion, taken off its reward. One
coefficient, 0.04 (GRPO's), one update a rollout. On policy the mean gradient of k1 in the loss is
zero, that of k2 is KL(policy‖reference)'s and so is that of k1 in the reward, and that of k3 is
KL(reference‖policy)'s. So at the end k1 should have drifted as far as no KL at all, k2 as far as k1
in the reward, and k3 should leave more of what the reward makes rare. Chapter 07.

The KL is exact: at each token of the policy's own samples a sum over the vocabulary, added up over
the completion. An update whose advantages are divided by a deviation would divide the KL in the
reward too, and a group's mean would shrink it by 7/8: all arms leave one out and divide by nothing,
so that one coefficient means one thing. All take C4's learning rate. What the page calls the base's
rarer mode is answering at once: in `story` the two modes are about as frequent, and this is the one
that the reward makes rare. Equal KL: the smaller of the two arms' last, read off the line between
evaluations. Off policy, where the identities end, nothing is asked, and nothing is run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import c04_r1_zero
import numpy as np
import torch
from ledger.command import main
from ledger.drawing import aligned, draw_band, save, steps_of
from ledger.models import CURVE, FINAL, Also, bases, load_base, plain, reinforce
from ledger.records import Seed, Statistic
from ledger.runner import Claim, Job, Outcome, merged
from matplotlib.figure import Figure

from reasoning_from_scratch.losses import kl_estimate, token_logprobs
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.report import figure_style, line_styles
from reasoning_from_scratch.rollouts import RewardFunction, score
from reasoning_from_scratch.sampling import Rollout
from reasoning_from_scratch.tasks import Problem, Task, get_task

COEFFICIENT = 0.04  # of every arm but the first; Shao et al. 2024
GRPO = replace(c04_r1_zero.GRPO, baseline="leave_one_out", scale="none")
SETTINGS = {
    "base": "story", "reward_coef": 0.0, "task": {"steps": [2, 5]}, "grpo": plain(GRPO),
    "max_new_tokens": 72, **CURVE, **FINAL,
}  # fmt: skip
ARMS = {"none": {}, "k1_reward": {"reward_coef": COEFFICIENT}}
ARMS |= {kind: {"grpo": {"kl": kind, "kl_coef": COEFFICIENT}} for kind in ("k1", "k2", "k3")}


def run(job: Job) -> Outcome:
    """Run one arm at one seed."""
    base, _, _ = load_base(job, job.settings["base"])
    coef, reward = job.settings["reward_coef"], None
    if coef:
        reward = less_kl(get_task("stories", **job.settings["task"]), base, coef)
    return reinforce(job, reward=reward, also=exact_kl(base))


@torch.no_grad()
def summed_kl(base: GPT, rollout: Rollout) -> torch.Tensor:
    """Return k1 of each completion: the log-ratio of its tokens, added up, in nats: [B]."""
    mask, targets = rollout.mask[:, 1:], rollout.tokens[:, 1:]
    reference = token_logprobs(base(rollout.tokens[:, :-1]), targets)
    return (kl_estimate(rollout.logprobs[:, 1:], reference, kind="k1") * mask).sum(1)


def less_kl(task: Task, base: GPT, coef: float) -> RewardFunction:
    """Make the reward for being right less `coef` for each nat of k1."""

    def parts(problems: Sequence[Problem], rollout: Rollout) -> Mapping[str, Sequence[float]]:
        lost = (-coef * summed_kl(base, rollout)).tolist()
        return {"correct": score(task, problems, rollout), "kl": lost}

    return parts


def exact_kl(base: GPT) -> Also:
    """Follow KL(policy‖base), summed over the vocabulary at each token, and answers at once."""

    def numbers(policy: GPT, problems: Sequence[Problem], rollout: Rollout) -> dict:
        inputs, mask = rollout.tokens[:, :-1], rollout.mask[:, 1:]
        ours, theirs = (model(inputs).log_softmax(-1) for model in (policy, base))
        found = ((ours.exp() * (ours - theirs)).sum(-1) * mask).sum(1)
        at_once = np.array([text.startswith("<answer>") for text in rollout.texts], float)
        return {"exact_kl": found.numpy(), "at_once": at_once}

    return numbers


def log_ratio(arm: str, other: str) -> Statistic:
    """Return the log ratio of two arms' KL at the end."""

    def compared(seed: Seed) -> np.ndarray:
        ends = [seed[name]["curve_exact_kl"][-1].mean(-1) for name in (arm, other)]
        return np.log(np.maximum(ends[0], 1e-9) / np.maximum(ends[1], 1e-9))

    return compared


def rare_mode(seed: Seed) -> np.ndarray:
    """Return the points by which k3 answers at once more often than k2, at equal KL."""
    paths = [
        [seed[arm][f"curve_{name}"].mean(-1) for name in ("exact_kl", "at_once")]
        for arm in ("k3", "k2")
    ]
    level = np.minimum(*(kl[-1] for kl, _ in paths))
    first, second = (share_at(kl, share, level) for kl, share in paths)
    return 100 * (first - second)


def share_at(kl: np.ndarray, share: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return the share where a run's KL first reaches a level, on the line between two points.

    Args:
        kl, share: [T] or [T,draws] along the run, from a KL of 0.
        level:     [] or [draws], reached at some point of each.
    """
    found = []
    for curve, values, goal in zip(
        np.reshape(kl, (len(kl), -1)).T, np.reshape(share, (len(kl), -1)).T, np.ravel(level),
        strict=True,
    ):  # fmt: skip
        at = int((curve >= goal).argmax())
        before = max(at - 1, 0)
        found.append(np.interp(goal, curve[[before, at]], values[[before, at]]))
    return np.reshape(found, np.shape(level))


def figure(seeds: list[Seed], path: Path) -> None:
    """Draw the exact KL over steps, and answers at once against it."""
    labels = {"none": "none", "k1 in the loss": "k1", "k2 in the loss": "k2"}
    labels |= {"k3 in the loss": "k3", "k1 in the reward": "k1_reward"}
    with figure_style():
        steps, modes = (drawn := Figure()).subplots(1, 2)
        for label, look in line_styles(labels).items():
            arm = labels[label]
            kl = aligned([seed[arm]["curve_exact_kl"].mean(-1) for seed in seeds])
            share = aligned([100 * seed[arm]["curve_at_once"].mean(-1) for seed in seeds])
            draw_band(steps, steps_of(seeds, arm), kl, label=label, **look)
            modes.plot(kl.mean(0), share.mean(0), marker="o", markersize=2.5, **look)
        steps.set(xlabel="step", ylabel="KL(policy‖base) (nats a completion)", ylim=(0, None))
        modes.set(xlabel="KL(policy‖base) (nats)", ylabel="answers at once (%)", ylim=(0, None))
        drawn.legend(loc="outside lower left", ncols=5)
        save(
            drawn, path, "How far each KL lets the policy drift (95 % bands), and what stays", seeds
        )


CLAIM = Claim(
    "N2", run, arms={arm: merged(SETTINGS, changes) for arm, changes in ARMS.items()},
    statistics={
        "k1_none": log_ratio("k1", "none"), "k2_k1_reward": log_ratio("k2", "k1_reward"),
        "rare_mode": rare_mode,
    },
    needs=(bases("story"),), figure=figure, minutes=dict.fromkeys(ARMS, 4.0),
)  # fmt: skip

if __name__ == "__main__":
    main(CLAIM)
