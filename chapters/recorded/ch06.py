"""The recorded runs of chapter 06: PPO many times over, to see what is chance and what is not.

    python chapters/recorded/ch06.py [NAME …]      NAME: the beginning of a run's name (clip/larger)

Two runs at once, one thread each. Finished runs are kept in data/recorded/ch06.json and skipped
when the command is given again: delete the file to make them anew. The wrong rule of the runs
"clip/larger" lives here and nowhere else.
"""

import argparse
import copy
import json
import math
import multiprocessing
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from reasoning_from_scratch import (
    GPT,
    PPOSettings,
    get_task,
    load_pretrained,
    masked_mean,
    policy_loss,
    ppo,
    ppo_preset,
    sample,
    token_logprobs,
    train_ppo,
)
from reasoning_from_scratch.evaluate import evaluate
from reasoning_from_scratch.model import ScalarHead
from reasoning_from_scratch.rollouts import RewardFunction
from reasoning_from_scratch.runs import Run, write_atomically

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "data/recorded/ch06.json"
TASK = get_task("stories", steps=(2, 5))
MOST_TOKENS = 72
WELL_FORMED = re.compile(r"(<think>[-+*/=\d ]+</think>)?<answer>\d+</answer>")
CURVES = (
    "reward", "length", "finished", "thinks", "entropy", "value", "explained_variance",
    "approx_kl", "clip_low_fraction", "clip_high_fraction", "ratio_max", "grad_norm",
    "critic_loss",
)  # fmt: skip

# What all runs share, what each experiment does, and what each of its arms changes. An arm's
# "reward" pays every completion the same, whatever it says; without one, 1 for a right answer.
SHARED = dict(
    prompts=16, group_size=4, max_new_tokens=MOST_TOKENS, epochs=1, updates=1, critic_updates=4,
    gamma=1.0, lam=1.0, lr=3e-4, critic_lr=1e-3,
)  # fmt: skip
EXPERIMENTS = {
    # A critic that is never trained says 0: whitening then subtracts the mean of the batch.
    "vanilla": (
        range(3),
        dict(steps=50, evaluate_every=25),
        {"lambda 1": {}, "lambda 0.95": {"lam": 0.95}, "no critic": {"critic_lr": 0.0}},
    ),
    # Eight updates a rollout, so that ratios leave 1 and a clip has something to do.
    "clip": (
        range(3),
        dict(steps=30, evaluate_every=10, epochs=4, updates=2, critic_updates=1, lr=2e-4),
        {"smaller": {}, "larger": {"rule": "larger"}},
    ),
    # The same reward for all: there is nothing to learn, and whatever moves is a bias.
    "length": (
        range(3),
        dict(
            steps=25, evaluate_every=25, prompts=32, critic_updates=1, lr=2e-4, critic_lr=0.0,
            warmup=1, whiten=False, unfinished_reward=None,
        ),
        {
            f"{'wrong' if reward < 0 else 'right'}, {name}": {"reward": reward, **changes}
            for reward in (-1.0, 1.0)
            for name, changes in {
                "lambda 0.95": {"lam": 0.95},
                "lambda 1": {},
                "lambda 0.95, critic learns": {"lam": 0.95, "critic_lr": 1e-3},
            }.items()
        },
    ),
}  # fmt: skip


def every_run() -> dict[str, tuple[dict, float | None, str]]:
    """Return {name: (settings, reward that all completions get, rule of the clip)}."""
    runs = {}
    for experiment, (seeds, settings, arms) in EXPERIMENTS.items():
        for seed in seeds:
            for arm, changes in arms.items():
                own = {**SHARED, **settings, **changes, "seed": seed}
                reward, rule = own.pop("reward", None), own.pop("rule", "smaller")
                runs[f"{experiment}/{arm}/{seed}"] = (own, reward, rule)
    return runs


def larger_of_the_two(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    **options: object,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's loss with the mistake: for a bad token the larger of raw and clipped score counts."""
    _, stats = policy_loss(
        logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high, **options
    )
    ratio = (logprobs - old_logprobs).exp()
    raw, clipped = ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    smaller, larger = torch.minimum(raw, clipped), torch.maximum(raw, clipped)
    return -masked_mean(torch.where(advantages >= 0, smaller, larger), mask), stats


def constant(reward: float) -> RewardFunction:
    """Pay every completion the same; nothing is said to be right."""
    return lambda owners, rollout: {"correct": [0.0] * len(owners), "paid": [reward] * len(owners)}


def describe(policy: GPT, reference: GPT, tokenizer: object) -> dict[str, float]:
    """Measure a policy on test problems: accuracy, and what its samples look like."""
    problems = TASK.generate(192, seed=0, split="test")
    greedy = evaluate(
        policy, tokenizer, TASK, problems, temperature=0, max_new_tokens=MOST_TOKENS
    ).correct.mean()
    found = sample(
        policy, tokenizer, [p.prompt for p in problems], max_new_tokens=MOST_TOKENS,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    with torch.no_grad():
        known = token_logprobs(reference(found.tokens[:, :-1]), found.tokens[:, 1:])
    # The first column is always prompt: nothing is lost by the shift.
    kl = ((found.logprobs[:, 1:] - known) * found.mask[:, 1:]).sum(1).mean()
    formed = torch.tensor([WELL_FORMED.fullmatch(text) is not None for text in found.texts])
    kept = found.lengths[formed & found.finished].double()
    right = [TASK.score(p, text) for p, text in zip(problems, found.texts, strict=True)]
    numbers = {
        "greedy": greedy, "sampled": sum(right) / len(right), "kl": kl,
        "well_formed": (formed & found.finished).double().mean(),
        "length": found.lengths.double().mean(),
        "log_length": kept.log().mean() if len(kept) else math.nan,
    }  # fmt: skip
    return {
        name: round(float(value), 4) if math.isfinite(value) else None
        for name, value in numbers.items()
    }


def one_run(settings: dict, reward: float | None, rule: str) -> dict:
    """Train once from the main job's base; return settings, curves and evaluations."""
    torch.set_num_threads(1)
    base, tokenizer = load_pretrained(ROOT / "data/models/base")
    policy, critic = copy.deepcopy(base), ScalarHead(copy.deepcopy(base))
    s: PPOSettings = ppo_preset("vanilla", **settings)
    run, clock = Run(), time.perf_counter()
    evaluations = [{"step": 0, **describe(base, base, tokenizer)}]
    loss = policy_loss if rule == "smaller" else larger_of_the_two
    with mock.patch.object(ppo, "policy_loss", loss):
        train_ppo(
            policy, critic, tokenizer, TASK, s, run=run,
            reward=None if reward is None else constant(reward),
            evaluate=lambda model: describe(model, base, tokenizer),
        )  # fmt: skip
    evaluations += [
        {"step": line["step"] + 1, **line["eval"]} for line in run.history if "eval" in line
    ]
    curves = {
        name: [round(line[name], 4) if name in line else None for line in run.history]
        for name in CURVES
    }
    return {
        "settings": settings, "reward": reward, "rule": rule, "evaluations": evaluations,
        "curves": curves, "seconds": round(time.perf_counter() - clock, 1),
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
    left = [name for name in runs if name not in done and (not wanted or name.startswith(wanted))]
    RECORDED.parent.mkdir(exist_ok=True)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(one_run, *runs[name]): name for name in left}
        for future in as_completed(futures):
            name = futures[future]
            done[name] = future.result()
            recorded = {"cores": os.cpu_count(), "torch": torch.__version__}
            recorded["runs"] = {name: done[name] for name in runs if name in done}
            write_atomically(RECORDED, json.dumps(recorded, indent=None) + "\n")
            last = done[name]["evaluations"][-1]
            print(f"{name}: {done[name]['seconds']:.0f} s, {last}", flush=True)


if __name__ == "__main__":
    main()
