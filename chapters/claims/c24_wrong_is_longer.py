"""C24: are wrong answers longer than right ones, and if so, because their problems are harder?

No training: base `long`, and what C7's GRPO and Dr. GRPO made of it, 512 problems x 16. As claimed:
log mean length of wrong minus of right, over all completions that finished. Sober: the same within
a problem that has both, averaged over such problems; and that again with the labels permuted inside
each problem. The verdict is on the GRPO policies; Dr. GRPO's stand in the figure. Chapter 11.
"""

from dataclasses import replace
from pathlib import Path

import c07_length_bias
import numpy as np
from ledger.command import main
from ledger.drawing import draw_band, save
from ledger.models import FINAL, bases, load_base, per_problem, policy_of
from ledger.records import Seed, Statistic
from ledger.runner import Claim, Job, Outcome
from matplotlib.figure import Figure

from reasoning_from_scratch.evaluate import Evaluation, evaluate
from reasoning_from_scratch.report import figure_style
from reasoning_from_scratch.tasks import get_task

SETTINGS = {
    "policy": "grpo", "task": {"steps": [2, 5]}, "max_new_tokens": 128,
    "problems": FINAL["problems"], "samples": FINAL["samples"], "permutations": 8,
}  # fmt: skip
STEPS = range(2, 6)  # operations of a problem


def run(job: Job) -> Outcome:
    """Measure the lengths of one policy's right and wrong answers."""
    s, task = job.settings, get_task("stories", **job.settings["task"])
    policy, tokenizer, _ = load_base(job, "long")
    if s["policy"] != "base":
        policy_of(job, POLICIES, s["policy"], policy)
    problems = task.generate(s["problems"], seed=job.seed, split=job.split)
    found = evaluate(
        policy, tokenizer, task, problems, samples=s["samples"], seed=job.seed,
        max_new_tokens=s["max_new_tokens"],
    )  # fmt: skip
    arrays = per_problem(found)
    for kind, share in (("right", found.correct), ("wrong", 1 - found.correct)):
        arrays[f"all_{kind}"] = share.mean(1)
        arrays[f"all_{kind}_tokens"] = (share * found.lengths).mean(1)
    arrays["steps"] = np.array([problem.meta["steps"] for problem in problems])
    arrays["within"], arrays["both"] = within(found)
    draw = np.random.default_rng(job.seed)
    permuted = [within(found, draw)[0] for _ in range(s["permutations"])]
    arrays["permuted"] = np.mean(permuted, 0)
    return Outcome(
        {name: array.astype(np.float32) for name, array in arrays.items()},
        {"accuracy": float(found.correct.mean())}, completions_sampled=found.correct.size,
        tokens_sampled=int(found.lengths.sum()),
    )  # fmt: skip


def within(
    found: Evaluation, draw: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return each problem's log length of wrong over right finished answers, and whether it has
    both: [N] each, 0 without. With `draw`, the labels are permuted inside the problem first."""
    logs, both = np.zeros(len(found.problems)), np.zeros(len(found.problems))
    rows = zip(found.correct, found.lengths, found.finished, strict=True)
    for i, (correct, lengths, ended) in enumerate(rows):
        right, lengths = correct[ended] == 1, lengths[ended]
        if draw is not None:
            right = draw.permutation(right)
        if right.any() and not right.all():
            logs[i], both[i] = np.log(lengths[~right].mean() / lengths[right].mean()), 1
    return logs, both


def longer(arm: str, prefix: str = "") -> Statistic:
    """Return the log of wrong answers' mean length over right ones', whatever the problem; 0 where
    there is only one kind."""

    def log_ratio(seed: Seed) -> np.ndarray:
        wrong, right = (
            seed[arm][f"{prefix}{kind}_tokens"].mean(-1)
            / np.maximum(seed[arm][f"{prefix}{kind}"].mean(-1), 1e-9)
            for kind in ("wrong", "right")
        )
        both = (wrong > 0) & (right > 0)
        return np.log(np.where(both, wrong, 1) / np.where(both, right, 1))

    return log_ratio


def inside(arm: str, name: str = "within") -> Statistic:
    """Return the mean log ratio within problems that have right and wrong answers."""
    return lambda seed: seed[arm][name].mean(-1) / np.maximum(seed[arm]["both"].mean(-1), 1e-9)


def by_steps(seed: Seed, arm: str, kind: str) -> list[float]:
    """Return the mean length of right or wrong answers by number of operations, NaN without any."""
    found, lengths = seed[arm], []
    for count in STEPS:
        here = found["steps"] == count
        share = found[kind][here].sum()
        lengths.append(found[f"{kind}_tokens"][here].sum() / share if share else np.nan)
    return lengths


def figure(seeds: list[Seed], path: Path) -> None:
    """Draw the length of right and wrong answers by number of operations, in each policy."""
    with figure_style():
        panels = (drawn := Figure()).subplots(1, 3, sharey=True)
        for axes, (title, arm) in zip(panels, TITLES.items(), strict=True):
            for kind, colour, line in (("right", "#0072B2", "-"), ("wrong", "#D55E00", "--")):
                rows = [by_steps(seed, arm, kind) for seed in seeds]
                draw_band(axes, STEPS, rows, label=kind, color=colour, linestyle=line)
            axes.set(title=title, xlabel="operations", xticks=STEPS)
        panels[0].set(ylabel="length (tokens)")
        panels[0].legend()
        save(drawn, path, "Right and wrong answers by what the problem needs; 95 % bands", seeds)


TITLES = {"base": "base", "GRPO": "grpo", "Dr. GRPO": "dr_grpo"}
POLICIES = replace(
    c07_length_bias.CLAIM, needs=(bases("long"),), leaves="grpo/checkpoint.safetensors",
    arms={arm: c07_length_bias.CLAIM.arms[arm] for arm in ("grpo", "dr_grpo")},
)  # fmt: skip
CLAIM = Claim(
    "C24", run,
    arms={arm: SETTINGS | {"policy": arm} for arm in ("base", "grpo", "dr_grpo")},
    statistics={
        "longer": longer("grpo"), "with_truncated": longer("grpo", "all_"),
        "within": inside("grpo"), "base_within": inside("base"),
        "permuted": inside("grpo", "permuted"),
    },
    needs=(bases("long"), POLICIES), figure=figure,
    minutes=dict.fromkeys(("base", "grpo", "dr_grpo"), 1.5),
)  # fmt: skip

if __name__ == "__main__":
    main(CLAIM)
