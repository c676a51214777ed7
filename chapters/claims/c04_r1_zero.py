"""C4: does reward for the answer alone raise thinking, length and accuracy together?

Arms: the true reward; a coin at the base's own accuracy; the true reward on a base in which all
thinking slips. Chapter 08.
"""

from pathlib import Path

import numpy as np
from ledger.command import main
from ledger.models import CURVE, FINAL, bases, load_base, plain, reinforce
from ledger.records import Seed, Statistic
from ledger.runner import Claim, Job, Outcome

from reasoning_from_scratch.grpo import GRPOSettings
from reasoning_from_scratch.report import learning_curves
from reasoning_from_scratch.rewards import random_reward

GRPO = GRPOSettings(
    steps=150, prompts=16, group_size=8, max_new_tokens=72, aggregate="token_mean",
    lr=4e-4, evaluate_every=25,
)  # fmt: skip
SETTINGS = {
    "base": "story", "reward": "true", "task": {"steps": [2, 5]}, "grpo": plain(GRPO),
    "max_new_tokens": 72, **CURVE, **FINAL,
}  # fmt: skip
RATES = (1e-4, 2e-4, 3e-4, 4e-4, 6e-4, 8e-4)


def run(job: Job) -> Outcome:
    """Run one arm at one seed."""
    _, _, base = load_base(job, job.settings["base"])
    coin = random_reward(base["final"]["accuracy"], seed=job.seed)
    outcome = reinforce(job, reward=coin if job.settings["reward"] == "random" else None)
    if job.settings["base"] == "story":
        outcome.precondition = {"thinking_rate": base["final"]["thinking"]}
    return outcome


def change(arm: str, name: str, base: str = "story") -> Statistic:
    """Return the change of a rate from base to the end, in points."""
    return lambda seed: 100 * (seed[arm][name].mean(-1) - seed[base][name].mean(-1))


def log_change(arm: str, name: str, over: str | None = None) -> Statistic:
    """Return the log ratio of a mean, end over base; `over` divides by the share it is given on."""

    def mean(found: dict) -> float | np.ndarray:
        share = found[over].mean(-1) if over else 1.0
        return np.log(np.maximum(found[name].mean(-1), 1e-9) / np.maximum(share, 1e-9))

    return lambda seed: mean(seed[arm]) - mean(seed["story"])


def less(first: Statistic, second: Statistic) -> Statistic:
    """Return the difference of two statistics."""
    return lambda seed: first(seed) - second(seed)


def rank_correlation(one: str, other: str) -> Statistic:
    """Return Spearman's correlation of two curves over the evaluations of a run."""

    def ranks(values: list[float]) -> np.ndarray:
        v = np.array(values)
        return (v[:, None] > v).sum(1) + (v[:, None] == v).sum(1) / 2  # ties share their rank

    def correlation(seed: Seed) -> float:
        a, b = (ranks(seed.curve("true", key)) for key in (one, other))
        return float(np.corrcoef(a, b)[0, 1]) if a.std() * b.std() else 0.0

    return correlation


RATES_OF = {"accuracy": "accuracy", "thinking": "thinking"}
STATISTICS = {name: change("true", name) for name in RATES_OF}
STATISTICS |= {f"random_{name}": change("random", name) for name in RATES_OF}
STATISTICS |= {
    "length": log_change("true", "length"),
    "random_length": log_change("random", "length"),
    "length_given_thinking": log_change("true", "thinking_tokens", "thinking"),
    "mirror_thinking": change("true_on_mirror", "thinking", "mirror"),
    "accuracy_best_t": change("true", "accuracy_best_t"),
    "greedy": change("true", "greedy"),
    "rank_accuracy_thinking": rank_correlation("accuracy", "thinks"),
    "rank_accuracy_length": rank_correlation("accuracy", "length"),
    "rank_thinking_length": rank_correlation("thinks", "length"),
}
for name in ("accuracy", "thinking", "length"):
    STATISTICS[f"{name}_over_random"] = less(STATISTICS[name], STATISTICS[f"random_{name}"])


def figure(seeds: list[Seed], path: Path) -> None:
    """Draw accuracy, thinking and length along the runs; of an arm that collapsed, each seed."""
    labels = {"true reward": "true", "control": "random", "mirror base": "true_on_mirror"}
    runs = {}
    for label, arm in labels.items():
        logs = {f"{label}, seed {s.number}": [s.records[arm]["evaluations"]] for s in seeds}
        bad = any(s.records[arm]["collapsed"] for s in seeds)
        runs |= logs if bad else {label: [log for (log,) in logs.values()]}
    learning_curves(
        runs, path, title="Reward for the answer alone (control: a coin; mirror: thinking slips)",
        keys=("accuracy", "thinks", "length"),
    )  # fmt: skip


CLAIM = Claim(
    "C4", run,
    arms={
        "true": SETTINGS,
        "random": SETTINGS | {"reward": "random"},
        "true_on_mirror": SETTINGS | {"base": "mirror"},
    },
    statistics=STATISTICS, needs=(bases("story", "mirror"),), figure=figure,
    tuning={"true": [{"grpo": {"lr": rate}} for rate in RATES]},
    minutes=dict.fromkeys(("true", "random", "true_on_mirror"), 3.0),
)  # fmt: skip

if __name__ == "__main__":
    main(CLAIM)
