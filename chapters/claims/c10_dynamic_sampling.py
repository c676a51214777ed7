"""C10: does dynamic sampling reach the same accuracy in fewer optimiser steps?

Problems of one to five operations, some of them trivial. Arms: plain, 16 prompts; dynamic, drawing
until 16 groups are mixed, four rounds at most; plain with 24 prompts, about as many completions as
dynamic draws; and, as a control, what dynamic draws with groups dropped at random. Counted: steps,
completions and seconds until held-out accuracy, smoothed over three evaluations, passes a level: 80
% of the plain arm's gain, settled on the tuning seeds. A run that never passes counts as all its
steps. Chapter 10.

Between two evaluations the place is read off the line. Plain and dynamic are tuned; 24 prompts take
the rate of plain, the control that of dynamic. The lowest share of mixed groups is that of 25 steps
together: one step has only 16 groups. At random: as many groups as are mixed are chosen blindly,
round by round, so that as much is drawn as by dynamic sampling from the same policy.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from random import Random

import numpy as np
from ledger.command import main
from ledger.drawing import aligned, save
from ledger.levels import at_place, own_level, passing, settled
from ledger.models import CURVE, FINAL, bases, plain, reinforce
from ledger.records import Seed, Statistic
from ledger.runner import Claim, Job, Outcome
from matplotlib.figure import Figure

from reasoning_from_scratch.grpo import GRPOSettings
from reasoning_from_scratch.report import figure_style, line_styles, read_log
from reasoning_from_scratch.rollouts import RewardFunction, score
from reasoning_from_scratch.sampling import Rollout
from reasoning_from_scratch.tasks import Problem, Task, get_task

GRPO = GRPOSettings(
    steps=150, prompts=16, group_size=8, max_new_tokens=72, aggregate="token_mean", lr=4e-4,
    evaluate_every=10,
)  # fmt: skip
SETTINGS = {
    "base": "story", "reward": "true", "task": {"steps": [1, 5]}, "grpo": plain(GRPO),
    "max_new_tokens": 72, **CURVE, **FINAL,
}  # fmt: skip
DYNAMIC = SETTINGS | {"grpo": plain(GRPO) | {"resample": 3, "lr": 4e-4}}
RATES = (1e-4, 2e-4, 3e-4, 4e-4, 6e-4, 8e-4)
WINDOW = 25  # steps over which the share of mixed groups is taken


def run(job: Job) -> Outcome:
    """Run one arm at one seed."""
    s, known = job.settings, settled(job, "level") if job.arm == "plain" else None
    task = get_task("stories", **s["task"])
    blind = blind_reward(task, s["grpo"]["group_size"], job.seed)
    outcome = reinforce(job, reward=blind if s["reward"] == "blind" else None)
    log = read_log(job.folder / "grpo")
    for line in outcome.evaluations:
        for name in ("completions", "seconds"):
            line[name] = sum(step[name] for step in log[: line["step"]])
    if job.arm == "plain":
        outcome.final["level"] = own_level(outcome.evaluations) if known is None else known
        outcome.precondition = {"mixed_groups": lowest([step["mixed_groups"] for step in log])}
    return outcome


def lowest(shares: Sequence[float]) -> float:
    """Return the lowest mean of a window of steps."""
    width = min(WINDOW, len(shares))
    return float(np.convolve(shares, np.full(width, 1 / width), "valid").min())


def blind_reward(task: Task, group_size: int, seed: int) -> RewardFunction:
    """Make the reward that has `collect` drop groups at random.

    `collect` keeps a group whose part "correct" differs within it. So that part names groups chosen
    blindly, as many as are truly mixed, and another part makes the sum the true reward again.
    """

    def parts(problems: Sequence[Problem], rollout: Rollout) -> Mapping[str, Sequence[float]]:
        true = np.array(score(task, problems, rollout)).reshape(-1, group_size)
        mixed = int((true.max(1) > true.min(1)).sum())
        # From the prompts alone: a resumed run chooses the same groups.
        prompts = "".join(problem.prompt for problem in problems)
        digest = blake2b(f"{seed} {prompts}".encode(), digest_size=8).hexdigest()
        told = np.zeros_like(true)
        told[Random(digest).sample(range(len(true)), mixed), 0] = 1.0
        return {"correct": told.ravel().tolist(), "rest": (true - told).ravel().tolist()}

    return parts


def until_level(arm: str, name: str, other: str = "plain") -> Statistic:
    """Return the log ratio of what two arms need until they pass the level."""

    def needed(seed: Seed, which: str) -> np.ndarray:
        level = seed.records["plain"]["final"]["level"]
        spent = np.array(seed.curve(which, name), float)
        if name == "step":  # a run that broke off counts as one that never passes
            spent[-1] = seed.records[which]["settings"]["grpo"]["steps"]
        place = passing(seed[which]["curve"].mean(-1), level)
        return np.maximum(at_place(spent, place), 1e-9)

    return lambda seed: np.log(needed(seed, arm) / needed(seed, other))


def accuracy(seed: Seed) -> np.ndarray:
    """Return the points of accuracy at the end by which dynamic sampling is ahead of plain."""
    return 100 * (seed["dynamic"]["accuracy"] - seed["plain"]["accuracy"]).mean(-1)


def figure(seeds: list[Seed], path: Path) -> None:
    """Draw accuracy against steps, completions and seconds: means over seeds of the same runs."""
    labels = {"plain": "plain", "dynamic": "dynamic", "plain, 24 prompts": "plain_24"}
    labels["dropped at random"] = "random_drop"
    axes_of = {"step": "steps", "completions": "completions", "seconds": "seconds"}
    with figure_style():
        panels = (drawn := Figure()).subplots(1, 3, sharey=True)
        for label, look in line_styles(labels).items():
            arm = labels[label]
            right = aligned([100 * seed[arm]["curve"].mean(-1) for seed in seeds])
            for axes, name in zip(panels, axes_of, strict=True):
                spent = aligned([seed.curve(arm, name) for seed in seeds])
                line = label if name == "step" else ""
                axes.plot(spent.T, right.T, **look, linewidth=0.4, alpha=0.4)
                axes.plot(spent.mean(0), right.mean(0), **look, label=line)
        level = np.mean([100 * seed.records["plain"]["final"]["level"] for seed in seeds])
        for axes, unit in zip(panels, axes_of.values(), strict=True):
            axes.axhline(level, color="#7f7f7f", linewidth=0.6, linestyle=":")
            axes.set(xlabel=unit)
        panels[0].set(ylabel="accuracy (%)")
        drawn.legend(loc="outside lower left", ncols=4, title="dotted: the level; thin: seeds")
        save(drawn, path, "Accuracy for what it costs", seeds)


CLAIM = Claim(
    "C10", run,
    arms={
        "plain": SETTINGS,
        "dynamic": DYNAMIC,
        "plain_24": SETTINGS | {"grpo": SETTINGS["grpo"] | {"prompts": 24}},
        "random_drop": DYNAMIC | {"reward": "blind"},
    },
    statistics={
        "steps": until_level("dynamic", "step"), "accuracy": accuracy,
        "over_random_drop": until_level("dynamic", "step", "random_drop"),
        "completions": until_level("dynamic", "completions"),
        "seconds": until_level("dynamic", "seconds"),
    },
    needs=(bases("story"),), figure=figure,
    minutes={"plain": 3.5, "dynamic": 5.0, "plain_24": 4.5, "random_drop": 5.0},
    tuning={arm: [{"grpo": {"lr": rate}} for rate in RATES] for arm in ("plain", "dynamic")},
)  # fmt: skip

if __name__ == "__main__":
    main(CLAIM)
