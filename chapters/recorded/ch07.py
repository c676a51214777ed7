"""The recorded runs of chapter 07: GRPO beside PPO, and one budget of completions cut in four ways.

    python chapters/recorded/ch07.py [NAME …]      NAME: the beginning of a run's name (ppo/critic)

One run after the other, on one thread. Finished runs are kept in data/recorded/ch07.json and
skipped when the command is given again: delete the file to make them anew. The runs "tune/…" chose
the learning rates, on a seed and on problems that no other run has.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import torch

from reasoning_from_scratch import (
    GPT,
    Problem,
    Rollout,
    get_task,
    load_pretrained,
    ppo_preset,
    preset,
    train_grpo,
    train_ppo,
)
from reasoning_from_scratch.evaluate import evaluate
from reasoning_from_scratch.model import ScalarHead
from reasoning_from_scratch.rollouts import score
from reasoning_from_scratch.runs import Run, write_atomically

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "data/recorded/ch07.json"
TASK = get_task("stories", steps=(2, 5))
MOST_TOKENS = 72
TUNING_SEED = 100
SEEDS = range(3)
CURVES = ("reward", "length", "thinks", "entropy", "grad_norm", "explained_variance")

# 128 completions a rollout, and one optimiser step of the policy for each. No arm has a KL term.
SHARED = dict(steps=50, prompts=16, group_size=8, max_new_tokens=MOST_TOKENS, warmup=5)
GRPO = dict(SHARED, kl_coef=0.0)
PPO = dict(SHARED, critic_updates=4, critic_lr=1e-3)
RATES = (3e-4, 6e-4)  # what each side tried
TUNED = {"grpo": 6e-4, "ppo": 6e-4}  # what it kept: more right in samples after 30 rollouts
ARMS = {
    "grpo/64x2": dict(GRPO, prompts=64, group_size=2),
    "grpo/16x8": GRPO,
    "grpo/4x32": dict(GRPO, prompts=4, group_size=32),
    "ppo/critic": PPO,
    # A critic that is never trained says 0: whitening then subtracts the mean of the batch.
    "ppo/no critic": dict(PPO, critic_lr=0.0),
}


def every_run() -> dict[str, dict]:
    """Return {name: settings}, the runs that chose the rates first."""
    runs = {}
    for side, settings in (("grpo", GRPO), ("ppo", PPO)):
        for lr in RATES:
            own = dict(settings, steps=30, lr=lr, seed=TUNING_SEED)
            runs[f"tune/{side} {lr:g}/{TUNING_SEED}"] = own
    for seed in SEEDS:
        for arm, settings in ARMS.items():
            runs[f"{arm}/{seed}"] = dict(settings, lr=TUNED[arm.partition("/")[0]], seed=seed)
    return runs


class Watch:
    """Counts what the log does not hold: dead groups, and seconds of a core without evaluations."""

    def __init__(self, group_size: int) -> None:
        self.group_size, self.aside = group_size, 0.0
        self.all_wrong, self.all_right, self.seconds = [], [], []
        self.started = time.process_time()

    def reward(self, owners: list[Problem], rollout: Rollout) -> dict[str, list[float]]:
        """Pay 1 for a right answer, as `train_grpo` does by itself, and look at the groups."""
        correct = score(TASK, owners, rollout)
        shares = torch.tensor(correct).view(-1, self.group_size).mean(1)
        self.all_wrong.append(round((shares == 0).float().mean().item(), 4))
        self.all_right.append(round((shares == 1).float().mean().item(), 4))
        return {"correct": correct}

    def end_step(self, line: dict) -> None:
        self.seconds.append(round(time.process_time() - self.started - self.aside, 3))


def accuracies(policy: GPT, tokenizer: object, *, split: str) -> dict[str, float]:
    """Measure a policy on held-out problems, greedily and by four samples of each."""
    problems = TASK.generate(192, seed=0, split=split)
    how = {"max_new_tokens": MOST_TOKENS}
    greedy = evaluate(policy, tokenizer, TASK, problems, temperature=0, **how)
    sampled = evaluate(policy, tokenizer, TASK, problems, samples=4, **how)
    return {
        "greedy": round(float(greedy.correct.mean()), 4),
        "sampled": round(float(sampled.correct.mean()), 4),
    }


def one_run(name: str, settings: dict) -> dict:
    """Train once from the main job's base; return settings, curves and evaluations."""
    torch.set_num_threads(1)
    policy, tokenizer = load_pretrained(ROOT / "data/models/base")
    split = "tune" if name.startswith("tune/") else "test"
    evaluations = [{"step": 0, **accuracies(policy, tokenizer, split=split)}]
    run, watch = Run(), Watch(settings["group_size"])
    run.on_step = watch.end_step

    def look(model: GPT) -> dict[str, float]:
        start = time.process_time()
        found = accuracies(model, tokenizer, split=split)
        watch.aside += time.process_time() - start
        return found

    shared = {**settings, "evaluate_every": 25 if split == "test" else settings["steps"]}
    if "critic_lr" in settings:
        critic = ScalarHead(copy.deepcopy(policy))
        s = ppo_preset("vanilla", **shared)
        train_ppo(policy, critic, tokenizer, TASK, s, run=run, reward=watch.reward, evaluate=look)
    else:
        s = preset("grpo", **shared)
        train_grpo(policy, tokenizer, TASK, s, run=run, reward=watch.reward, evaluate=look)
    evaluations += [
        {"step": line["step"] + 1, **line["eval"]} for line in run.history if "eval" in line
    ]
    curves = {
        curve: [round(line[curve], 4) for line in run.history]
        for curve in CURVES
        if curve in run.history[0]
    }
    curves |= {"all_wrong": watch.all_wrong, "all_right": watch.all_right}
    return {
        "settings": settings, "evaluations": evaluations, "curves": curves,
        "core_seconds": watch.seconds,  # at the end of each step
    }  # fmt: skip


def main() -> None:
    """Make the runs that the command line names and that are not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    wanted = tuple(parser.parse_args().names)
    done = json.loads(RECORDED.read_text())["runs"] if RECORDED.exists() else {}
    runs = every_run()
    for name, settings in runs.items():
        if name in done or (wanted and not name.startswith(wanted)):
            continue
        done[name] = one_run(name, settings)
        recorded = {"torch": torch.__version__}
        recorded["runs"] = {name: done[name] for name in runs if name in done}
        RECORDED.parent.mkdir(exist_ok=True)
        write_atomically(RECORDED, json.dumps(recorded) + "\n")
        last = done[name]["evaluations"][-1]
        print(f"{name}: {done[name]['core_seconds'][-1]:.0f} core-seconds, {last}", flush=True)


if __name__ == "__main__":
    main()
