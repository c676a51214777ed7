"""C1: is a learned reward model over-optimised?

Arms: GRPO on a reward model, 300 steps; on the verifier, 300 steps; on a reward model of shuffled
labels, 150 steps. The true reward is the verifier, evaluated every 10 steps. The best step is
chosen on one half of the problems, and all accuracies are read on the other. Chapter 05.

All arms take C4's learning rate: the verifier's is C4's run on its base, only longer, and the other
two must differ from it in their reward alone. Pairs and steps of the reward model were chosen on
tuning seed 100 alone, for it has to order between 65 and 85 % of held-out pairs rightly: 256 pairs
in 100 steps brought 58 %, 1,024 in 100 62 %, 4,096 in 400 67 % and 8,192 in 600 69 %.
"""

import copy
from dataclasses import replace
from pathlib import Path

import c04_r1_zero
import numpy as np
from ledger.command import main
from ledger.models import CURVE, FINAL, bases, load_base, open_run, plain, reinforce
from ledger.records import Seed, Statistic
from ledger.runner import Claim, Job, Outcome
from matplotlib.figure import Figure

from reasoning_from_scratch.model import ScalarHead
from reasoning_from_scratch.preferences import flip_labels, sample_preferences
from reasoning_from_scratch.report import figure_style
from reasoning_from_scratch.reward_model import (
    RewardModelSettings,
    proxy_reward,
    score,
    score_pairs,
    train_reward_model,
)
from reasoning_from_scratch.reward_quality import fit_rl, pair_accuracy
from reasoning_from_scratch.tasks import get_task

GRPO = replace(c04_r1_zero.GRPO, steps=300, evaluate_every=10)
SETTINGS = {
    "base": "story", "reward": "model", "task": {"steps": [2, 5]}, "grpo": plain(GRPO),
    "pairs": 8192, "test_pairs": 512, "reward_model": plain(RewardModelSettings(steps=600)),
    "max_new_tokens": 72, **FINAL, **CURVE, "curve_problems": 512, "curve_samples": 4,
}  # fmt: skip
SHORTER = plain(GRPO) | {"steps": 150}


def reward_model(job: Job) -> tuple[ScalarHead, dict[str, float]]:
    """Train the seed's reward model on pairs of its base; return it with its quality."""
    s, task = job.settings, get_task("stories", **job.settings["task"])
    base, tokenizer, _ = load_base(job, s["base"])
    how = {"max_new_tokens": s["max_new_tokens"], "seed": job.seed}

    def pairs(count: int, split: str) -> list:
        problems = task.generate(4 * count + 64, seed=job.seed + 2000, split=split)
        return sample_preferences(base, tokenizer, task, problems, count=count, **how)

    learned, held_out = pairs(s["pairs"], "train"), pairs(s["test_pairs"], job.split)
    if s["reward"] == "shuffled":
        learned = flip_labels(learned, 0.5, seed=job.seed)
    settings = RewardModelSettings(**s["reward_model"], seed=job.seed)
    model, run = ScalarHead(copy.deepcopy(base)), open_run(job, "reward_model", settings.steps)
    train_reward_model(model, tokenizer, learned, settings, run=run)
    chosen, rejected = score_pairs(model, tokenizer, held_out)
    lengths = np.array([pair.meta["length"] for pair in held_out]).T.ravel()  # chosen, rejected
    correlation = np.corrcoef(np.concatenate([chosen, rejected]), lengths)[0, 1]
    quality = {"pair_accuracy": pair_accuracy(chosen.tolist(), rejected.tolist())}
    return model, quality | {"length_correlation": float(np.nan_to_num(correlation))}


def run(job: Job) -> Outcome:
    """Run one arm at one seed."""
    task, reward, watch, quality = get_task("stories", **job.settings["task"]), None, None, {}
    if job.settings["reward"] != "verifier":
        model, quality = reward_model(job)
        _, tokenizer, _ = load_base(job, job.settings["base"])
        reward = proxy_reward(model, tokenizer, task)

        def watch(problems: list, texts: list[str]) -> np.ndarray:
            return score(model, tokenizer, [p.prompt for p in problems], texts).numpy()

    outcome = reinforce(job, reward=reward, watch=watch)
    for name in [name for name in outcome.arrays if name.startswith("curve")]:
        curve = outcome.arrays.pop(name)  # [T,N], cut into halves that are drawn apart
        outcome.arrays |= {f"{name}_a": curve[:, ::2], f"{name}_b": curve[:, 1::2]}
    outcome.final |= quality
    if job.settings["reward"] == "model":
        outcome.precondition = {"pair_accuracy": quality["pair_accuracy"]}
    return outcome


def at_best(arm: str, seed: Seed, name: str) -> np.ndarray:
    """Return a curve on half B at the step at which accuracy on half A is best: [] or [draws]."""
    best = seed[arm]["curve_a"].mean(-1).argmax(0)
    return np.take_along_axis(seed[arm][name].mean(-1), np.asarray(best)[None], 0)[0]


def change(arm: str, first: float | None, last: float | None) -> Statistic:
    """Return the points of accuracy from one place of the run to another; None is the best step."""

    def points(seed: Seed) -> np.ndarray:
        curve = seed[arm]["curve_b"].mean(-1)
        places = [
            at_best(arm, seed, "curve_b") if at is None else curve[round(at * (len(curve) - 1))]
            for at in (first, last)
        ]
        return 100 * (places[1] - places[0])

    return points


def proxy_change(arm: str, *, from_best: bool) -> Statistic:
    """Return what the proxy gains to the end, in its deviations over the samples of step 0."""

    def gain(seed: Seed) -> np.ndarray:
        curve = seed[arm]["curve_proxy_b"].mean(-1)
        start = at_best(arm, seed, "curve_proxy_b") if from_best else curve[0]
        return (curve[-1] - start) / max(seed.records[arm]["evaluations"][0]["proxy_sd"], 1e-9)

    return gain


def figure(seeds: list[Seed], path: Path) -> None:
    """Draw accuracy and proxy against √KL, with the form of Gao et al. fitted to the accuracy."""
    with figure_style():
        panels = (drawn := Figure()).subplots(1, 2)
        curves = {key: np.array([s.curve("model", key) for s in seeds]) for key in CURVES}
        curves["accuracy"] *= 100
        kl = curves["kl"].clip(min=0)
        for axes, key in zip(panels, ("accuracy", "proxy"), strict=True):
            line = {"color": "#0072B2", "linestyle": "-"}
            axes.plot(np.sqrt(kl).T, curves[key].T, **line, linewidth=0.5, alpha=0.5)
            axes.plot(np.sqrt(kl.mean(0)), curves[key].mean(0), **line, label="mean")
            axes.set(xlabel="√KL to the base (√nats)", ylabel=UNITS[key])
        mean, x = curves["accuracy"].mean(0), kl.mean(0)
        moved = x > 0  # an estimate of a KL near 0 may be below
        fitted = mean[0] + fit_rl(x[moved], (mean - mean[0])[moved]).gain(x[moved])
        panels[0].plot(np.sqrt(x[moved]), fitted, "k--", label="Gao's form")
        panels[0].legend()
        drawn.suptitle(f"The reward model's score and the truth (n = {len(seeds)}, thin: seeds)")
        drawn.savefig(path, metadata={"Date": None})


CURVES, UNITS = ("accuracy", "proxy", "kl"), {"accuracy": "true accuracy (%)", "proxy": "proxy"}
CLAIM = Claim(
    "C1", run,
    arms={
        "model": SETTINGS,
        "verifier": SETTINGS | {"reward": "verifier"},
        "shuffled": SETTINGS | {"reward": "shuffled", "grpo": SHORTER},
    },
    statistics={
        "rise": change("model", 0, None), "fall": change("model", 1, None),
        "proxy_gain": proxy_change("model", from_best=True),
        "verifier_fall": change("verifier", 1, None), "late_rise": change("model", 0.5, 1),
        "shuffled_rise": change("shuffled", 0, 1),
        "shuffled_proxy_rise": proxy_change("shuffled", from_best=False),
        "length_correlation": lambda seed: seed.records["model"]["final"]["length_correlation"],
    },
    needs=(bases("story"),), figure=figure,
    minutes={"model": 8.0, "verifier": 6.0, "shuffled": 5.5},
)  # fmt: skip

if __name__ == "__main__":
    main(CLAIM)
