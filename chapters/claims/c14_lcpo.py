"""C14: does LCPO teach a model to obey a requested length, and does accuracy rise with it?

Base `asked`: as `long`, but each prompt asks for a number of tokens from {16, 24, …, 96} that means
nothing in pretraining. Reward: 1 for the right answer, less 0.015 for each token off the target;
0.015 makes the largest miss, 80 tokens, cost what the paper's largest costs. Arms: LCPO exact, 300
steps; the same with the target of another prompt in the reward, 150 steps. At the end the same
problems are asked at all targets, and of the base as well. Chapter 11.

The relative error is over the target. "Beyond need" compares 96 and 32 tokens on problems whose own
solution needs at most 32, so that both are enough. Check lines are counted in what the trained
policy thinks, over all targets. The other prompt is the next one of the rollout, and that arm takes
the rate tuned for the first.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from c07_length_bias import need
from ledger.command import main
from ledger.drawing import draw_band, save
from ledger.models import (
    BASES,
    CURVE,
    FINAL,
    TARGETS,
    bases,
    last_checkpoint,
    load_base,
    open_run,
    plain,
    reinforce,
)
from ledger.records import Seed, Statistic
from ledger.runner import Claim, Job, Outcome
from matplotlib.figure import Figure

from reasoning_from_scratch.evaluate import evaluate
from reasoning_from_scratch.grpo import GRPOSettings
from reasoning_from_scratch.lengths import length_part
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.report import figure_style
from reasoning_from_scratch.rollouts import RewardFunction, score
from reasoning_from_scratch.sampling import Rollout
from reasoning_from_scratch.tasks import Problem, Task, get_task
from reasoning_from_scratch.tasks.stories import judge_thinking
from reasoning_from_scratch.tokenizer import Tokenizer

GRPO = GRPOSettings(
    steps=300, prompts=16, group_size=8, max_new_tokens=128, aggregate="token_mean", lr=4e-4,
    evaluate_every=50,
)  # fmt: skip
SETTINGS = {
    "base": "asked", "target": "own", "alpha": 0.015, "task": BASES["asked"]["task"],
    "grpo": plain(GRPO), "max_new_tokens": 128, "samples_at_target": 8,
    "base_samples_at_target": 2, **CURVE, **FINAL,
}  # fmt: skip
RATES = (1e-4, 2e-4, 3e-4, 4e-4, 6e-4, 8e-4)
SHORT, LONG = TARGETS.index(32), TARGETS.index(96)


def run(job: Job) -> Outcome:
    """Run one arm at one seed."""
    s, task = job.settings, get_task("stories", **job.settings["task"])
    outcome = reinforce(job, reward=lcpo(task, s))
    if job.role == "tune":  # goes by accuracy alone, and keeps no arrays
        return outcome
    base, tokenizer, _ = load_base(job, s["base"])
    policy, _, _ = load_base(job, s["base"])
    if not last_checkpoint(open_run(job, "grpo", s["grpo"]["steps"]), policy):
        policy = base  # nothing was learned before the run broke
    outcome.arrays |= obedience(policy, tokenizer, job, "")
    if s["target"] == "own":
        outcome.arrays |= obedience(base, tokenizer, job, "base_")
    return outcome


def lcpo(task: Task, settings: Mapping[str, object]) -> RewardFunction:
    """Make the reward of LCPO exact, on a prompt's own target or on the next prompt's."""
    size, cap = settings["grpo"]["group_size"], settings["grpo"]["max_new_tokens"]

    def parts(problems: Sequence[Problem], rollout: Rollout) -> dict[str, list[float]]:
        correct, lengths = score(task, problems, rollout), rollout.lengths.tolist()
        targets = [problem.meta["target_tokens"] for problem in problems[::size]]
        if settings["target"] == "next":
            targets = targets[1:] + targets[:1]
        found = []
        for group, target in enumerate(targets):
            rows = slice(group * size, (group + 1) * size)
            found += length_part(
                "lcpo_exact", correct[rows], lengths[rows], coef=settings["alpha"],
                max_length=cap, target=target,
            )  # fmt: skip
        return {"correct": correct, "length": found}

    return parts


def entries(problem: Problem, text: str) -> tuple[int, int]:
    """Return the check lines of a thought, and all its entries."""
    judged = judge_thinking(problem, text)
    return judged.checks, sum(judged[:-1])


def obedience(policy: GPT, tokenizer: Tokenizer, job: Job, prefix: str) -> dict[str, np.ndarray]:
    """Ask the same problems at every target: {name: [K,N]}, and what each needs, [N]."""
    s, rows = job.settings, []
    samples = s[f"{prefix}samples_at_target"]
    for target in TARGETS:
        task = get_task("stories", **s["task"] | {"targets": [target]})
        problems = task.generate(s["problems"], seed=job.seed, split=job.split)
        found = evaluate(
            policy, tokenizer, task, problems, samples=samples, seed=job.seed,
            max_new_tokens=s["max_new_tokens"],
        )  # fmt: skip
        pairs = zip(found.problems, found.texts, strict=True)
        thoughts = np.array([np.mean([entries(p, t) for t in texts], 0) for p, texts in pairs])
        rows.append({
            "asked_accuracy": found.correct.mean(1), "asked_length": found.lengths.mean(1),
            "error": (abs(found.lengths - target) / target).mean(1),
            "checks": thoughts[:, 0], "entries": thoughts[:, 1],
        })  # fmt: skip
    arrays = {prefix + name: np.array([row[name] for row in rows], np.float32) for name in rows[0]}
    return arrays | {"need": np.array([need(tokenizer, p) for p in problems], np.float32)}


def slope(arm: str, prefix: str = "") -> Statistic:
    """Return the least-squares slope of the length on the target, over the same problems at all."""
    x = np.array(TARGETS) - np.mean(TARGETS)
    return lambda seed: np.tensordot(
        x / (x * x).sum(), seed[arm][f"{prefix}asked_length"].mean(-1), 1
    )  # fmt: skip


def accuracies(seed: Seed, enough: bool = False) -> np.ndarray:
    """Return the accuracy at each target, in percent: [K] or [K,draws]; with `enough`, on the
    problems that need no more tokens than the target, NaN where there are none."""
    right = seed["lcpo"]["asked_accuracy"]
    if not enough:
        return 100 * right.mean(-1)
    targets = np.reshape(TARGETS, (-1, *[1] * (right.ndim - 1)))
    fits = seed["lcpo"]["need"] <= targets
    counts = fits.sum(-1)
    return np.where(counts, 100 * (right * fits).sum(-1) / np.maximum(counts, 1), np.nan)


def long_over_short(seed: Seed) -> np.ndarray:
    """Return the points of accuracy between 32 and 96 tokens asked for."""
    return accuracies(seed)[LONG] - accuracies(seed)[SHORT]


def beyond_need(seed: Seed) -> np.ndarray:
    """Return the same on the problems for which both are enough; 0 without any."""
    gained = seed["lcpo"]["asked_accuracy"][LONG] - seed["lcpo"]["asked_accuracy"][SHORT]
    fits = seed["lcpo"]["need"] <= TARGETS[SHORT]
    return 100 * (gained * fits).mean(-1) / np.maximum(fits.mean(-1), 1e-9)


def neighbours(seed: Seed) -> np.ndarray:
    """Return the smallest step of accuracy from one target to the next, in points."""
    return np.diff(accuracies(seed), axis=0).min(0)


def error_under_20(seed: Seed) -> np.ndarray:
    """Return 20 % less the mean relative error of the length, in points."""
    return 20 - 100 * seed["lcpo"]["error"].mean(-1).mean(0)


def check_lines(seed: Seed) -> np.ndarray:
    """Return the share of check lines in all that is thought, in percent."""
    checks, total = (seed["lcpo"][name].mean(-1).mean(0) for name in ("checks", "entries"))
    return 100 * checks / np.maximum(total, 1e-9)


def figure(seeds: list[Seed], path: Path) -> None:
    """Draw asked against given length, and accuracy against asked length."""
    blue, orange, grey = "#0072B2", "#D55E00", "#7f7f7f"
    lines = {
        "LCPO": ("lcpo", "asked_length", blue, "-"),
        "another's target": ("shuffled", "asked_length", orange, "--"),
        "base": ("lcpo", "base_asked_length", grey, ":"),
    }
    with figure_style():
        lengths, right = (drawn := Figure()).subplots(1, 2)
        for label, (arm, name, colour, line) in lines.items():
            rows = [seed[arm][name].mean(-1) for seed in seeds]
            draw_band(lengths, TARGETS, rows, label=label, color=colour, linestyle=line)
        lengths.plot(TARGETS, TARGETS, "k", linewidth=0.5, label="as asked")
        lengths.set(xlabel="asked for (tokens)", ylabel="written (tokens)", ylim=(0, None))
        for label, enough, line in (("all problems", False, "-"), ("target ≥ need", True, "--")):
            rows = [accuracies(seed, enough) for seed in seeds]
            draw_band(right, TARGETS, rows, label=label, color=blue, linestyle=line)
        needed = np.mean([seed["lcpo"]["need"].mean() for seed in seeds])
        right.axvline(needed, color=grey, linestyle=":", label="mean need")
        right.set(xlabel="asked for (tokens)", ylabel="accuracy (%)", ylim=(0, 100))
        for axes in (lengths, right):
            axes.legend()
        save(drawn, path, "Lengths asked for and written, and what they bring; 95 % bands", seeds)


CLAIM = Claim(
    "C14", run,
    arms={
        "lcpo": SETTINGS,
        "shuffled": SETTINGS | {"target": "next", "grpo": SETTINGS["grpo"] | {"steps": 150}},
    },
    statistics={
        "slope": slope("lcpo"), "error_under_20": error_under_20,
        "long_over_short": long_over_short, "neighbours": neighbours,
        "shuffled_slope": slope("shuffled"), "base_slope": slope("lcpo", "base_"),
        "long_over_short_beyond_need": beyond_need, "check_lines": check_lines,
    },
    needs=(bases("asked"),), figure=figure, minutes={"lcpo": 16.0, "shuffled": 11.0},
    tuning={"lcpo": [{"grpo": {"lr": rate}} for rate in RATES]},
)  # fmt: skip

if __name__ == "__main__":
    main(CLAIM)
