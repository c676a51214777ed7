"""C9: does a higher upper clip keep entropy from collapsing?

Eight updates a rollout, in two passes over its four quarters, or the clip would never act. Arms: an
upper clip of 0.2, 0.28, 0.5 or none, with a lower one of 0.2; and, as a control, a lower one of
0.28. Entropy is the exact one of each token's distribution, over the policy's own samples of 256
fixed held-out prompts; the arms are compared at the end. Chapter 10.

One learning rate for all arms, tuned on the 0.2 arm: with a rate of its own, an arm would be slower
and so look healthier. "None" is a bound of 1e9, and runs on every seed. The share that the upper
clip acts on is of the tokens in groups that disagree, for nothing is computed of the others. The
level at which entropy is compared once more is 80 % of the 0.2 arm's gain on the tuning seeds.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ledger.command import main
from ledger.drawing import aligned, draw_band, save, steps_of
from ledger.levels import at_place, own_level, passing, settled
from ledger.models import CURVE, FINAL, bases, plain, reinforce
from ledger.records import Seed, Statistic
from ledger.runner import Claim, Job, Outcome, merged
from matplotlib.figure import Figure

from reasoning_from_scratch.grpo import GRPOSettings
from reasoning_from_scratch.losses import token_entropy
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.report import figure_style, line_styles, read_log
from reasoning_from_scratch.sampling import Rollout
from reasoning_from_scratch.tasks import Problem

GRPO = GRPOSettings(
    steps=150, prompts=16, group_size=8, max_new_tokens=72, epochs=2, updates=4,
    aggregate="token_mean", clip_low=0.2, clip_high=0.2, lr=2e-4, evaluate_every=10,
)  # fmt: skip
SETTINGS = {
    "base": "story", "task": {"steps": [2, 5]}, "grpo": plain(GRPO), "max_new_tokens": 72,
    **CURVE, **FINAL,
}  # fmt: skip
RATES = (5e-5, 1e-4, 1.5e-4, 2e-4, 3e-4, 4e-4)
CLIPS = {
    "clip_20": {}, "clip_28": {"clip_high": 0.28}, "clip_50": {"clip_high": 0.5},
    "clip_none": {"clip_high": 1e9}, "low_28": {"clip_low": 0.28},
}  # fmt: skip


def run(job: Job) -> Outcome:
    """Run one arm at one seed."""
    known = settled(job, "level") if job.arm == "clip_20" else None
    outcome = reinforce(job, also=entropies)
    for line in outcome.evaluations:
        line["token_entropy"] = line.pop("surprise") / line.pop("tokens")
    if job.arm == "clip_20":
        outcome.final["level"] = own_level(outcome.evaluations) if known is None else known
        acts = [line.get("clip_high_fraction", 0.0) for line in read_log(job.folder / "grpo")]
        ends = [outcome.evaluations[at]["token_entropy"] for at in (0, -1)]
        outcome.precondition = {
            "clipped": float(np.mean(acts)), "entropy_left": ends[1] / max(ends[0], 1e-9),
        }  # fmt: skip
    return outcome


def entropies(policy: GPT, problems: Sequence[Problem], rollout: Rollout) -> dict[str, np.ndarray]:
    """Return each completion's expected surprise, token by token, and its tokens."""
    mask = rollout.mask[:, 1:]
    exact = (token_entropy(policy(rollout.tokens[:, :-1])) * mask).sum(1)
    return {"surprise": exact.numpy(), "tokens": mask.sum(1).numpy()}


def entropy(seed: Seed, arm: str) -> np.ndarray:
    """Return the mean token entropy at each evaluation, in nats: [T] or [T,draws]."""
    surprise, tokens = (seed[arm][f"curve_{name}"].mean(-1) for name in ("surprise", "tokens"))
    return surprise / tokens


def log_ratio(arm: str, other: str) -> Statistic:
    """Return the log ratio of two arms' entropies at the end."""

    def compared(seed: Seed) -> np.ndarray:
        ends = [np.maximum(entropy(seed, name)[-1], 1e-9) for name in (arm, other)]
        return np.log(ends[0] / ends[1])

    return compared


def at_level(seed: Seed) -> np.ndarray:
    """Return the log ratio, 0.28 over 0.2, of the entropies where each arm passes the level; where
    one never does, its entropy at the end counts."""
    level, found = seed.records["clip_20"]["final"]["level"], []
    for arm in ("clip_28", "clip_20"):
        place = passing(seed[arm]["curve"].mean(-1), level)
        found.append(np.maximum(at_place(entropy(seed, arm), place), 1e-9))
    return np.log(found[0] / found[1])


def figure(seeds: list[Seed], path: Path) -> None:
    """Draw entropy over steps, and entropy against accuracy."""
    labels = {"0.2": "clip_20", "0.28": "clip_28", "0.5": "clip_50", "none": "clip_none"}
    labels["0.2, lower 0.28"] = "low_28"
    with figure_style():
        panels = (drawn := Figure()).subplots(1, 2, sharey=True)
        for label, look in line_styles(labels).items():
            arm = labels[label]
            rows = aligned([entropy(seed, arm) for seed in seeds])
            draw_band(panels[0], steps_of(seeds, arm), rows, label=label, **look)
            right = aligned([100 * seed[arm]["curve"].mean(-1) for seed in seeds])
            panels[1].plot(right.mean(0), rows.mean(0), marker="o", markersize=2.5, **look)
        panels[0].set(xlabel="step", ylabel="entropy (nats a token)", ylim=(0, None))
        panels[1].set(xlabel="accuracy (%)")
        drawn.legend(loc="outside lower left", ncols=5, title="upper clip", title_fontsize=7)
        save(drawn, path, "Entropy over steps (95 % bands) and against accuracy", seeds)


CLAIM = Claim(
    "C9", run, arms={arm: merged(SETTINGS, {"grpo": clip}) for arm, clip in CLIPS.items()},
    statistics={
        "entropy": log_ratio("clip_28", "clip_20"),
        "over_low_clip": log_ratio("clip_28", "low_28"), "entropy_at_level": at_level,
    },
    needs=(bases("story"),), figure=figure, minutes=dict.fromkeys(CLIPS, 6.0),
    tuning={"clip_20": [{"grpo": {"lr": rate}} for rate in RATES]},
)  # fmt: skip

if __name__ == "__main__":
    main(CLAIM)
