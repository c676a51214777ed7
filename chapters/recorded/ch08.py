"""The recorded runs of chapter 08: what a policy makes of a rule, good or bad, over three seeds.

    python chapters/recorded/ch08.py [NAME …]      NAME: how a run's name begins (control/coin)

One run after the other, on one thread. Finished runs are kept in data/recorded/ch08.json and
skipped when the command is given again: delete the file to make them anew. Experiments:

    rule        short stories; paid for the answer anywhere in the text, or in its place alone
    control     the main job's stories; paid for the right answer, by a coin, for form, for mistakes
    correction  a base that was shown self-corrections, paid for the right answer
"""

import argparse
import copy
import functools
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from reasoning_from_scratch import (
    GPT,
    GRPOSettings,
    Problem,
    Rollout,
    SFTSettings,
    Task,
    Tokenizer,
    accuracy_reward,
    format_reward,
    get_task,
    inverted_reward,
    load_pretrained,
    random_reward,
    reward_parts,
    train_grpo,
    train_sft,
)
from reasoning_from_scratch.evaluate import evaluate, summarise
from reasoning_from_scratch.rewards import RewardParts
from reasoning_from_scratch.runs import Run, write_atomically
from reasoning_from_scratch.tasks.stories import judge_thinking, thinks

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "data/recorded/ch08.json"
SEEDS = range(3)
PROBLEMS, SAMPLES = 96, 8  # held out, at each evaluation
SHARED = dict(
    steps=50, prompts=16, group_size=8, lr=3e-4, warmup=5, aggregate="token_mean", scale="none",
    evaluate_every=50,
)  # fmt: skip
STORIES = dict(steps=[2, 5])
SHORT = dict(steps=[4, 6], limit=20, amount=5)
# What the base of "correction" is shown before: every thought has a slip, half are done again.
SHOWN = dict(direct=0.4, slipped=0.3, right=0.0, corrected=0.3)
SHOWING = dict(steps=300, batch=32, lr=1e-3, warmup=10)
COIN = 0.31  # about what the base is paid for right answers

# name: (task, settings, {arm: what it pays for})
EXPERIMENTS = {
    "rule": (
        SHORT, dict(max_new_tokens=96, evaluate_every=25),
        {"anywhere": "anywhere", "in its place": "answer"},
    ),
    "control": (
        STORIES, dict(max_new_tokens=72),
        {"answer": "answer", "coin": "coin", "form": "form", "mistakes": "mistakes"},
    ),
    "correction": (STORIES, dict(max_new_tokens=72), {"answer": "answer"}),
}  # fmt: skip
CURVES = (
    "reward", "right", "anywhere", "form", "thinks", "length", "thought_length", "entropy",
    "finished", "mixed_groups", "wrong", "corrections", "waits",
)  # fmt: skip


def every_run() -> dict[str, tuple[dict, dict, str]]:
    """Return {name: (task's options, settings, what is paid for)}."""
    return {
        f"{experiment}/{arm}/{seed}": (options, {**SHARED, **settings, "seed": seed}, paid)
        for experiment, (options, settings, arms) in EXPERIMENTS.items()
        for arm, paid in arms.items()
        for seed in SEEDS
    }


def answer_anywhere(problem: Problem, completion: str) -> float:
    """The sloppy rule: any of the numbers in the text may be the answer."""
    return float(problem.answer in re.findall(r"\d+", completion))


def payment(paid: str, task: Task, seed: int) -> RewardParts:
    """Return the reward of an arm."""
    if paid == "coin":
        return random_reward(COIN, seed=seed)
    if paid == "mistakes":
        return inverted_reward(task.score)
    functions = {
        "answer": lambda problem, text: accuracy_reward(text, problem.answer),
        "anywhere": answer_anywhere,
        "form": lambda problem, text: format_reward(text),
    }
    return reward_parts({"correct": functions[paid]})


class Watched:
    """A reward that remembers of each step what the log does not hold."""

    def __init__(self, reward: RewardParts, task: Task) -> None:
        self.reward, self.task = reward, task
        self.seen: list[dict[str, float]] = []

    def __call__(self, owners: Sequence[Problem], rollout: Rollout) -> dict[str, list[float]]:
        pairs = list(zip(owners, rollout.texts, strict=True))
        lengths = zip(rollout.lengths.tolist(), rollout.texts, strict=True)
        thought = [length for length, text in lengths if thinks(text)]
        seen = {"right": np.mean([self.task.score(*pair) for pair in pairs]), **look(pairs)}
        self.seen.append(seen | {"thought_length": np.mean(thought) if thought else None})
        return self.reward(owners, rollout)


def look(pairs: Sequence[tuple[Problem, str]]) -> dict[str, float]:
    """Return means over completions: form, the answer anywhere, slips, corrections, "wait"."""
    judged = [judge_thinking(*pair) for pair in pairs]
    return {
        "form": np.mean([format_reward(text) for _, text in pairs]),
        "anywhere": np.mean([answer_anywhere(*pair) for pair in pairs]),
        "wrong": np.mean([j.wrong for j in judged]),
        "corrections": np.mean([j.corrections for j in judged]),
        "waits": np.mean(["wait" in text for _, text in pairs]),
    }


def describe(
    policy: GPT, tokenizer: Tokenizer, task: Task, settings: GRPOSettings
) -> dict[str, object]:
    """Measure a policy on held-out problems: accuracy, form, corrections, and texts to read."""
    problems = task.generate(PROBLEMS, seed=settings.seed, split="test")
    how = dict(max_new_tokens=settings.max_new_tokens, seed=settings.seed)
    greedy = evaluate(policy, tokenizer, task, problems, temperature=0, **how)
    sampled = evaluate(policy, tokenizer, task, problems, samples=SAMPLES, **how)
    found = {k: v["mean"] for k, v in summarise(greedy, sampled).items() if "mean" in v}
    pairs = [(p, t) for p, texts in zip(problems, sampled.texts, strict=True) for t in texts]
    found = {name: round(float(value), 4) for name, value in (found | look(pairs)).items()}
    return found | {"texts": [texts[0] for texts in sampled.texts[:3]]}


@functools.cache
def starting_point(experiment: str) -> tuple[GPT, Tokenizer, float]:
    """Return what a run starts from, and the seconds that it took to make."""
    base, tokenizer = load_pretrained(ROOT / "data/models/base")
    clock = time.perf_counter()
    if experiment == "correction":
        shown = SFTSettings(**SHOWING)
        stories = get_task("stories", **STORIES)
        documents = stories.documents(shown.steps * shown.batch, seed=800, **SHOWN)
        train_sft(base, tokenizer, documents, shown)
    return base, tokenizer, time.perf_counter() - clock


@functools.cache
def before(experiment: str, seed: int) -> dict[str, object]:
    """Return what `describe` says of a starting point, which all arms of a seed share."""
    start, tokenizer, _ = starting_point(experiment)
    options, changes, _ = EXPERIMENTS[experiment]
    settings = GRPOSettings(**SHARED | changes, seed=seed)
    return describe(start, tokenizer, get_task("stories", **options), settings)


def one_run(name: str, options: dict, settings: dict, paid: str) -> dict:
    """Train once; return settings, curves and evaluations."""
    experiment = name.partition("/")[0]
    start, tokenizer, shown_seconds = starting_point(experiment)
    task, s, clock = get_task("stories", **options), GRPOSettings(**settings), time.perf_counter()
    policy, run = copy.deepcopy(start), Run()
    reward = Watched(payment(paid, task, s.seed), task)
    train_grpo(
        policy, tokenizer, task, s, run=run, reward=reward,
        evaluate=lambda model: describe(model, tokenizer, task, s),
    )  # fmt: skip
    evaluations = [{"step": 0, **before(experiment, s.seed)}]
    evaluations += [
        {"step": line["step"] + 1, **line["eval"]} for line in run.history if "eval" in line
    ]
    lines = [line | seen for line, seen in zip(run.history, reward.seen, strict=True)]
    rounded = {
        name: [None if line[name] is None else round(float(line[name]), 4) for line in lines]
        for name in CURVES
    }
    return {
        "task": options, "settings": settings, "paid": paid, "curves": rounded,
        "evaluations": evaluations, "seconds": round(time.perf_counter() - clock, 1),
        "shown_seconds": round(shown_seconds, 1),
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
    RECORDED.parent.mkdir(exist_ok=True)
    for name in runs:
        if name in done or (wanted and not name.startswith(wanted)):
            continue
        done[name] = one_run(name, *runs[name])
        recorded = {"cores": os.cpu_count(), "torch": torch.__version__}
        recorded["shown"] = {"shares": SHOWN, "settings": SHOWING}
        recorded["runs"] = {name: done[name] for name in runs if name in done}
        write_atomically(RECORDED, json.dumps(recorded) + "\n")
        last = {k: v for k, v in done[name]["evaluations"][-1].items() if k != "texts"}
        print(f"{name}: {done[name]['seconds']:.0f} s, {last}", flush=True)


if __name__ == "__main__":
    main()
