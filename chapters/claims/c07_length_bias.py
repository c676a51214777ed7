"""C7: does GRPO's per-sequence mean make wrong answers longer, and Dr. GRPO not?

Arms: GRPO (mean of each sequence, divided by the group's deviation) and Dr. GRPO (a constant,
undivided) on base `long`; each under a coin as well, 60 steps, where nothing but truncation or
masking could move the length. A length is that of wrong answers that finished, over what the
problem's own solution needs: log of the mean ratio, end against base. Chapter 10.

The bases' records hold sums of tokens, so the ratio is averaged before its log is taken. A coin
keeps the rate of the loss that it controls. The other two cells of the 2 x 2 come after the
verdict.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ledger.command import main
from ledger.drawing import logs_of
from ledger.models import CURVE, FINAL, Also, bases, load_base, plain, reinforce
from ledger.records import Arrays, Seed, Statistic
from ledger.runner import Claim, Job, Outcome

from reasoning_from_scratch.grpo import GRPOSettings
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.report import learning_curves
from reasoning_from_scratch.rewards import random_reward
from reasoning_from_scratch.sampling import Rollout
from reasoning_from_scratch.tasks import Problem, Task, get_task
from reasoning_from_scratch.tokenizer import Tokenizer

GRPO = GRPOSettings(
    steps=200, prompts=16, group_size=8, max_new_tokens=128, aggregate="sequence_mean",
    scale="group_std", lr=4e-4, evaluate_every=25,
)  # fmt: skip
SETTINGS = {
    "base": "long", "reward": "true", "task": {"steps": [2, 5]}, "grpo": plain(GRPO),
    "max_new_tokens": 128, **CURVE, **FINAL,
}  # fmt: skip
DR_GRPO = SETTINGS | {"grpo": plain(GRPO) | {"aggregate": "constant", "scale": "none", "lr": 4e-4}}
RATES = (1e-4, 2e-4, 3e-4, 4e-4, 6e-4, 8e-4)
KINDS = ("wrong", "right")


def coin(settings: dict) -> dict:
    """Return the settings of the same loss under random reward."""
    return settings | {"reward": "random", "grpo": settings["grpo"] | {"steps": 60}}


def run(job: Job) -> Outcome:
    """Run one arm at one seed."""
    s, task = job.settings, get_task("stories", **job.settings["task"])
    _, tokenizer, base = load_base(job, s["base"])
    flips = random_reward(base["final"]["accuracy"], seed=job.seed)
    outcome = reinforce(
        job, reward=flips if s["reward"] == "random" else None, also=over_need(task, tokenizer)
    )
    for line in outcome.evaluations:
        for kind in KINDS:
            line[f"{kind}_over_need"] = line.pop(f"{kind}_ratio") / max(line[kind], 1e-9)
    if s["reward"] == "true":  # under a coin the length itself is what shows truncation
        cut_off = max(1 - line["finished"] for line in outcome.evaluations)
        outcome.precondition = {"truncated": cut_off}
    problems = task.generate(s["problems"], seed=job.seed, split=job.split)
    needs = np.array([need(tokenizer, problem) for problem in problems])
    outcome.arrays["need"] = needs.astype(np.float32)
    outcome.final["wrong_over_need_by_steps"] = by_steps(outcome.arrays, problems)
    return outcome


def need(tokenizer: Tokenizer, problem: Problem) -> int:
    """Return the tokens of the problem's own solution, the end token included."""
    return len(tokenizer.encode(problem.demonstration)) + 1


def over_need(task: Task, tokenizer: Tokenizer) -> Also:
    """Follow which completions finished wrong and right, and how long these were over need."""

    def numbers(policy: GPT, problems: Sequence[Problem], rollout: Rollout) -> dict:
        texts, finished = rollout.texts, rollout.finished.numpy()
        correct = np.array([task.score(p, text) for p, text in zip(problems, texts, strict=True)])
        ratio = rollout.lengths.numpy() / [need(tokenizer, problem) for problem in problems]
        found = {"wrong": finished * (1 - correct), "right": finished * correct}
        return found | {f"{kind}_ratio": found[kind] * ratio for kind in KINDS}

    return numbers


def by_steps(arrays: dict[str, np.ndarray], problems: list[Problem]) -> dict[str, float | None]:
    """Return wrong answers' mean length over need by number of operations; None without any."""
    steps, table = np.array([problem.meta["steps"] for problem in problems]), {}
    for count in sorted(set(steps.tolist())):
        wrong, ratio = (
            (arrays[name] / by)[steps == count].sum()
            for name, by in (("wrong", 1.0), ("wrong_tokens", arrays["need"]))
        )
        table[str(count)] = float(ratio / wrong) if wrong else None
    return table


def log_ratio(found: Arrays, needs: np.ndarray) -> np.ndarray:
    """Return the log of wrong answers' mean length over need."""
    total, share = (found["wrong_tokens"] / needs).mean(-1), found["wrong"].mean(-1)
    return np.log(np.maximum(total, 1e-9) / np.maximum(share, 1e-9))


def growth(arm: str) -> Statistic:
    """Return how the log ratio changed from the base to the end."""
    return lambda seed: (
        log_ratio(seed[arm], seed[arm]["need"]) - log_ratio(seed["long"], seed[arm]["need"])
    )


def less(arm: str, other: str) -> Statistic:
    """Return one arm's growth less another's."""
    return lambda seed: growth(arm)(seed) - growth(other)(seed)


def points(arm: str, other: str) -> Statistic:
    """Return the difference in accuracy between two arms, in points."""
    return lambda seed: 100 * (seed[arm]["accuracy"] - seed[other]["accuracy"]).mean(-1)


def figure(seeds: list[Seed], path: Path) -> None:
    """Draw both length ratios and accuracy along the runs; of an arm that collapsed, each seed."""
    learning_curves(
        logs_of(seeds, {"GRPO": "grpo", "Dr. GRPO": "dr_grpo"}), path,
        title="Length of wrong and of right answers, over what the problem needs",
        keys=("wrong_over_need", "right_over_need", "accuracy"),
    )  # fmt: skip


CLAIM = Claim(
    "C7", run,
    arms={
        "grpo": SETTINGS,
        "dr_grpo": DR_GRPO,
        "random_grpo": coin(SETTINGS),
        "random_dr_grpo": coin(DR_GRPO),
    },
    statistics={
        "wrong_length": less("grpo", "dr_grpo"), "accuracy": points("grpo", "dr_grpo"),
        "grpo_length": growth("grpo"), "dr_grpo_length": growth("dr_grpo"),
        "random_grpo_length": growth("random_grpo"),
        "random_dr_grpo_length": growth("random_dr_grpo"),
    },
    needs=(bases("long"),), figure=figure,
    minutes={"grpo": 8.5, "dr_grpo": 8.5, "random_grpo": 4.0, "random_dr_grpo": 4.0},
    tuning={arm: [{"grpo": {"lr": rate}} for rate in RATES] for arm in ("grpo", "dr_grpo")},
)  # fmt: skip

if __name__ == "__main__":
    main(CLAIM)
