"""The recorded runs of chapter 10: what each change to GRPO does, and the presets side by side.

    python chapters/recorded/ch10.py [NAME …]      NAME: a run's name, or its beginning (clip)

One run after the other, one thread. Finished runs are kept in data/recorded/ch10.json and skipped
when the command is given again: delete the file to make them anew.
"""

import argparse
import copy
import functools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from reasoning_from_scratch import (
    GPT,
    PRESETS,
    GRPOSettings,
    SFTSettings,
    get_task,
    load_pretrained,
    train_grpo,
    train_sft,
)
from reasoning_from_scratch.evaluate import evaluate
from reasoning_from_scratch.rollouts import score
from reasoning_from_scratch.runs import Run, write_atomically
from reasoning_from_scratch.sampling import Rollout
from reasoning_from_scratch.tasks import Problem, Task
from reasoning_from_scratch.tasks.stories import judge_thinking
from reasoning_from_scratch.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "data/recorded/ch10.json"
SEEDS = range(3)
TEST_PROBLEMS = 256
CURVES = (
    "reward_correct", "mixed_groups", "length", "finished", "thinks", "entropy", "completions",
    "approx_kl", "clip_low_fraction", "clip_high_fraction", "grad_norm",
)  # fmt: skip
# Lengths of right and of wrong completions; how many entries of their thinking changed nothing.
APART = ("length_right", "length_wrong", "checks_right", "checks_wrong")

# GRPO without its KL. The rate stays where the warm-up ends, so that a run may stop at any step.
PLAIN = {**PRESETS["grpo"], "kl_coef": 0.0}
SHARED = dict(prompts=16, group_size=8, max_new_tokens=72, lr=3e-4, warmup=5, final_lr=1.0)
# Fine-tuned to think always, and to add up to six entries that change nothing.
WORDY = dict(steps=120, batch=32, lr=1e-3, warmup=10)
STARTS = {  # what a run starts from: the steps of its problems
    "base": (2, 5),
    "wordy": (2, 5),
    "reasoner": (2, 7),  # trained on two to five: half of the groups agree
}

# Each experiment: which model it starts from, what its arms share, what each arm changes. A run
# stops when it has sampled as many completions as its steps need without dynamic sampling.
EXPERIMENTS = {
    # Four updates a rollout, or no clip would ever act.
    "presets": ("base", dict(steps=24, updates=4, lr=2e-4), PRESETS),
    "norms": (
        "base",
        {**PLAIN, "steps": 24, "scale": "none"},
        {name: {"aggregate": name} for name in ("sequence_mean", "constant")},
    ),
    "clip": (
        "base",
        {**PLAIN, "steps": 14, "updates": 4, "epochs": 2},
        {"0.2": {}, "0.28": {"clip_high": 0.28}, "none": {"clip_high": 100.0}},
    ),
    "dynamic": (
        "reasoner",
        {**PLAIN, "steps": 24, "max_new_tokens": 96, "warmup": 2, "evaluate_every": 8},
        {"plain": {}, "dynamic": {"resample": 3}},
    ),
    "tight": (
        "wordy",
        {**PLAIN, "steps": 16, "max_new_tokens": 64, "lr": 1.5e-4},
        {
            "sequence mean": {},
            "token mean": {"aggregate": "token_mean"},
            "penalty": {"aggregate": "token_mean", "overlong": 16},
            "filter": {"aggregate": "token_mean", "mask_unfinished": True},
        },
    ),
}


def every_run() -> dict[str, tuple[str, dict]]:
    """Return {name: (the model that it starts from, settings)}."""
    return {
        f"{experiment}/{arm}/{seed}": (start, {**SHARED, **shared, **changes, "seed": seed})
        for experiment, (start, shared, arms) in EXPERIMENTS.items()
        for seed in SEEDS
        for arm, changes in arms.items()
    }


class Watch:
    """A reward for being right that keeps the lengths of right and wrong completions apart."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.seen: dict[str, list[float]] = {name: [] for name in APART}
        self.curves: dict[str, list[float | None]] = {name: [] for name in APART}

    def reward(self, owners: Sequence[Problem], rollout: Rollout) -> dict[str, list[float]]:
        """Score a rollout, and remember its lengths."""
        correct = score(self.task, owners, rollout)
        columns = (owners, rollout.texts, correct, rollout.lengths.tolist(), rollout.finished)
        for problem, text, right, length, finished in zip(*columns, strict=True):
            which = "right" if right else "wrong"
            self.seen[f"length_{which}"].append(length)
            thinking = judge_thinking(problem, text)
            if finished and thinking.complete:
                self.seen[f"checks_{which}"].append(thinking.checks)
        return {"correct": correct}

    def end_step(self, line: dict) -> None:
        """Add a point to each curve."""
        for name, values in self.seen.items():
            self.curves[name].append(round(float(np.mean(values)), 4) if values else None)
            values.clear()


@functools.cache
def start_from(name: str, seed: int) -> tuple[GPT, Tokenizer, Task]:
    """Return a model and its problems; the wordy one is made here, of the base."""
    task = get_task("stories", steps=STARTS[name])
    kept = "reasoner" if name == "reasoner" else "base"
    model, tokenizer = load_pretrained(ROOT / "data/models" / kept)
    if name == "wordy":
        settings = SFTSettings(**WORDY, train_on="completion", seed=seed)
        documents = task.documents(
            settings.steps * settings.batch, seed=seed, direct=0.0, slipped=0.3, right=0.7, checks=6
        )
        train_sft(model, tokenizer, documents, settings)
    return model, tokenizer, task


def describe(policy: GPT, tokenizer: Tokenizer, task: Task, settings: dict) -> dict[str, float]:
    """Measure a policy on test problems, two samples of each."""
    seed, cap = settings["seed"], settings["max_new_tokens"]
    problems = task.generate(TEST_PROBLEMS, seed=seed, split="test")
    greedy = evaluate(policy, tokenizer, task, problems, temperature=0, max_new_tokens=cap)
    found = evaluate(policy, tokenizer, task, problems, samples=2, max_new_tokens=cap, seed=seed)
    right = found.correct == 1
    numbers = {
        "greedy": greedy.correct.mean(), "sampled": right.mean(), "thinks": found.thinks.mean(),
        "finished": found.finished.mean(), "length": found.lengths.mean(),
        "length_right": found.lengths[right].mean(), "length_wrong": found.lengths[~right].mean(),
    }  # fmt: skip
    return {name: round(float(value), 4) for name, value in numbers.items()}


@functools.cache
def before(name: str, seed: int, cap: int) -> dict[str, float]:
    """Measure what a run starts from, once for all its arms."""
    model, tokenizer, task = start_from(name, seed)
    return describe(model, tokenizer, task, {"seed": seed, "max_new_tokens": cap})


def one_run(start: str, settings: dict) -> dict:
    """Train once; return settings, curves and evaluations."""
    clock, s = time.process_time(), GRPOSettings(**settings)
    model, tokenizer, task = start_from(start, s.seed)
    policy, watch, run = copy.deepcopy(model), Watch(task), Run()
    budget = s.steps * s.prompts * s.group_size

    def measure(policy: GPT) -> dict[str, float]:
        return describe(policy, tokenizer, task, settings)

    def end_step(line: dict) -> None:
        watch.end_step(line)
        run.stopping = sum(past["completions"] for past in run.history) >= budget

    run.on_step = end_step
    try:
        train_grpo(
            policy, tokenizer, task, s, run=run, reward=watch.reward,
            evaluate=measure if s.evaluate_every else None,
        )  # fmt: skip
    except KeyboardInterrupt:
        assert len(run.history) < s.steps
    evaluations = {0: before(start, s.seed, s.max_new_tokens)}
    evaluations |= {line["step"] + 1: line["eval"] for line in run.history if "eval" in line}
    if len(run.history) not in evaluations:
        evaluations[len(run.history)] = measure(policy)
    curves = {name: [round(line.get(name, 0), 4) for line in run.history] for name in CURVES}
    return {
        "start": start, "settings": settings,
        "evaluations": [{"step": step, **numbers} for step, numbers in evaluations.items()],
        "curves": curves | watch.curves, "seconds": round(time.process_time() - clock, 1),
    }  # fmt: skip


def main() -> None:
    """Make the runs that the command line names and that are not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    wanted = tuple(parser.parse_args().names)
    torch.set_num_threads(1)
    done = json.loads(RECORDED.read_text())["runs"] if RECORDED.exists() else {}
    runs = every_run()
    for name in runs:
        if name in done or (wanted and not name.startswith(wanted)):
            continue
        done[name] = one_run(*runs[name])
        recorded = {"cores": os.cpu_count(), "torch": torch.__version__}
        recorded["runs"] = {name: done[name] for name in runs if name in done}
        RECORDED.parent.mkdir(exist_ok=True)
        write_atomically(RECORDED, json.dumps(recorded, indent=None) + "\n")
        print(f"{name}: {done[name]['seconds']:.0f} s, {done[name]['evaluations'][-1]}", flush=True)


if __name__ == "__main__":
    main()
