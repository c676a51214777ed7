"""C23: does the spread between seeds on a small test set exceed many reported gains?

No training: ten policies of C4, each scored once a problem with twenty sampling seeds, on test sets
of 30, 100, 500 and 4,096 problems. At 30 the answer is arithmetic; what is left at 4,096 is the
training seed's own. Chapter 01.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import c04_r1_zero
import mpmath
import numpy as np
from ledger.command import main
from ledger.models import bases, load_base, policy_of
from ledger.records import Seed, Statistic
from ledger.runner import Claim, Job, Outcome
from ledger.verdict import LEVEL, Estimate
from matplotlib.figure import Figure

from reasoning_from_scratch.evaluate import evaluate
from reasoning_from_scratch.report import figure_style
from reasoning_from_scratch.stats import standard_error
from reasoning_from_scratch.tasks import get_task

PUBLISHED = (6, 2, 3, 1, 8, 3.3, 1.0, 0.8, 1.0, 1.4, 2.0)  # points: DAPO, Open-RS, OREAL
SIZES = (30, 100, 500, 4096)
SETTINGS = {
    "task": {"steps": [2, 5]}, "base": "story", "problems": max(SIZES), "samples": 20,
    "max_new_tokens": 72,
}  # fmt: skip


def run(job: Job) -> Outcome:
    """Score one policy on the largest test set; the smaller ones are drawn from it."""
    s, task = job.settings, get_task("stories", **job.settings["task"])
    policy, tokenizer, _ = load_base(job, s["base"])
    policy_of(job, POLICIES, "true", policy)
    problems = task.generate(s["problems"], seed=job.seed, split=job.split)
    correct = evaluate(
        policy,
        tokenizer,
        task,
        problems,
        samples=s["samples"],
        seed=job.seed,
        max_new_tokens=s["max_new_tokens"],
    ).correct.T  # [draws,N]
    draw, final = np.random.default_rng(job.seed), {"accuracy": float(correct.mean())}
    for size in SIZES:
        size_here = min(size, len(problems))
        subsets = [draw.choice(len(problems), size_here, replace=False) for _ in correct]
        scores = [row[subset].mean() for row, subset in zip(correct, subsets, strict=True)]
        final[f"sd_{size}"] = 100 * float(np.std(scores, ddof=1))
    # p(1-p) is the mean of p_i(1-p_i), which is sampling, and the variance of p_i over problems.
    final["binomial_30"] = 100 * standard_error(final["accuracy"], SIZES[0])
    within = float(correct.var(0, ddof=1).mean())
    final["sd_30_sampling"] = 100 * (within / SIZES[0]) ** 0.5
    between = max(0.0, final["accuracy"] * (1 - final["accuracy"]) - within)
    final["sd_30_problems"] = 100 * (between / SIZES[0]) ** 0.5
    return Outcome(final=final, completions_sampled=correct.size)


def number(name: str) -> Statistic:
    """Return a number of the run's record."""
    return lambda seed: seed.records["true"]["final"][name]


def deviation(values: list[float]) -> Estimate:
    """Return the standard deviation of normal values with its χ² interval."""
    n, sd = len(values), float(np.std(values, ddof=1))

    def quantile(p: float) -> float:
        low, high = 0.0, 20.0 * n  # of χ² with n - 1 degrees: halve the range it must lie in
        while low < (middle := (low + high) / 2) < high and high - low > 1e-9:
            below = mpmath.gammainc((n - 1) / 2, 0, middle / 2, regularized=True) < p
            low, high = (middle, high) if below else (low, middle)
        return low

    ends = [sd * ((n - 1) / quantile(p)) ** 0.5 for p in ((1 + LEVEL) / 2, (1 - LEVEL) / 2)]
    return Estimate(sd, *ends, 0.0, n)


def over_training_seeds(seeds: list[Seed]) -> Estimate:
    """Return the deviation between training seeds, in points on the largest test set."""
    return deviation([100 * seed.records["true"]["final"]["accuracy"] for seed in seeds])


def figure(seeds: list[Seed], path: Path) -> None:
    """Draw the deviation against the size of the test set, with the published gains as a rug."""
    with figure_style():
        axes = (drawn := Figure()).subplots()
        for seed in seeds:
            found = [seed.records["true"]["final"][f"sd_{size}"] for size in SIZES]
            axes.plot(SIZES, found, ".", color="#0072B2", label="" if seed.number else "one policy")
        p = float(np.mean([seed.records["true"]["final"]["accuracy"] for seed in seeds]))
        axes.plot(SIZES, [100 * standard_error(p, n) for n in SIZES], "k:", label="binomial")
        axes.axhline(over_training_seeds(seeds).mean, color="#D55E00", label="training seeds")
        axes.plot([min(SIZES) * 0.8] * len(PUBLISHED), PUBLISHED, "k_", label="published gains")
        axes.set(xscale="log", yscale="log", xlabel="problems in the test set")
        axes.set(ylabel="deviation of accuracy (points)")
        axes.set_title(f"On 30 problems, chance alone moves accuracy by more (n = {len(seeds)})")
        axes.legend()
        drawn.savefig(path, metadata={"Date": None})


POLICIES = replace(
    c04_r1_zero.CLAIM, arms={"true": c04_r1_zero.CLAIM.arms["true"]},
    needs=(bases("story"),), leaves="grpo/checkpoint.safetensors",
)  # fmt: skip
NUMBERS = ("sd_30", "sd_100", "sd_500", "sd_4096", "binomial_30", "sd_30_sampling")
STATISTICS: dict[str, Callable] = {name: number(name) for name in (*NUMBERS, "sd_30_problems")}
STATISTICS["accuracy"] = lambda seed: 100 * number("accuracy")(seed)
STATISTICS["spread_30"] = lambda seed: float(
    np.log(max(number("sd_30")(seed), 1e-9) / np.median(PUBLISHED))
)

CLAIM = Claim(
    "C23", run, {"true": SETTINGS}, STATISTICS, needs=(bases("story"), POLICIES), figure=figure,
    pooled={"sd_training_seed": over_training_seeds}, minutes={"true": 4.0},
)  # fmt: skip

if __name__ == "__main__":
    main(CLAIM)
