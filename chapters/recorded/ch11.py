"""The recorded runs of chapter 11: what rewards that look at length do to length and accuracy.

    python chapters/recorded/ch11.py [NAME …]      NAME: a run's name, or its beginning (lcpo)

One run after the other, one thread. Finished runs are kept in data/recorded/ch11.json and skipped
when the command is given again: delete the file to make them anew. The bases, data/models/long and
data/models/asked, are made first where they are missing; the policies that other runs start from
stay in runs/ch11.
"""

import argparse
import copy
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import torch

from reasoning_from_scratch import (
    GPT,
    DPOSettings,
    GPTConfig,
    GRPOSettings,
    ImitationSettings,
    Problem,
    ScalarHead,
    SFTSettings,
    Tokenizer,
    get_task,
    imitate,
    load_pretrained,
    merge_models,
    ppo_preset,
    sample_preferences,
    save_pretrained,
    train_dpo,
    train_grpo,
    train_ppo,
    train_sft,
)
from reasoning_from_scratch.evaluate import evaluate
from reasoning_from_scratch.main_job import SPECIAL_TOKENS, VOCABULARY
from reasoning_from_scratch.rollouts import RewardFunction, by_length, score
from reasoning_from_scratch.runs import Run, write_atomically
from reasoning_from_scratch.sampling import Rollout
from reasoning_from_scratch.tasks import Task

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "data/recorded/ch11.json"
BASE = ROOT / "data/models/long"
ASKED = ROOT / "data/models/asked"
KEPT = ROOT / "runs/ch11"
SEEDS = range(3)
CAP = 64  # tokens of a completion
SMALL = dict(steps=(2, 4), limit=20, amount=5)
TARGETS = tuple(range(8, 57, 8))
STORIES = {
    "mixed": get_task("stories", **SMALL),
    "hard": get_task("stories", **SMALL | {"steps": (4, 4)}),
    "asked": get_task("stories", **SMALL, targets=TARGETS),
}
PROBLEMS, SAMPLES = 128, 2  # of a look at a policy
CURVES = (
    "reward_correct", "length", "thinks", "finished", "entropy", "chosen_logprob",
    "rejected_logprob",
)  # fmt: skip

# Half of the documents ask for a length that nothing in them goes by. However many checks a
# document adds to its steps, it is as often right.
PRETRAIN = dict(steps=1100, batch=32, lr=3e-3, warmup=50)
SHARES = dict(direct=0.3, slipped=0.25, right=0.45, checks=4)
# A second base is trained on, on documents of which eight in ten are as long as they were asked to.
HINTS = dict(steps=350, batch=32, lr=2e-3, warmup=5, weight_decay=0.0, train_on="completion")
HINTED = 0.8
MODEL = dict(width=64, layers=3, heads=4, max_positions=256)

# Nothing but the reward moves length: neither a length nor a deviation is divided by.
SHARED = dict(
    prompts=16, group_size=8, max_new_tokens=CAP, lr=5e-4, warmup=5, final_lr=0.3, scale="none",
    aggregate="constant", evaluate_every=10,
)  # fmt: skip
OBEY = {"in": "asked", "steps": 40, "lr": 8e-4, "length_coef": 0.06, "evaluate_every": 20}
DPO = dict(steps=40, batch=32, lr=1e-4, warmup=5, evaluate_every=20)
LONG = {"from": "length/none"}  # trained on right answers alone
TIGHT = dict(max_new_tokens=36, final_lr=1.0)

# The experiments, in the order of the chapter; an arm's settings are changes of SHARED. "from" is
# the run of the same seed whose policy it starts from, the base without one; "in" its problems.
EXPERIMENTS = {
    # Prices of length. By Kimi's the shortest right completion of a group earns 1 + coef / 2, the
    # longest right one 1 - coef / 2.
    "length": {
        "none": dict(steps=40),
        "kimi, weight 1": dict(steps=40, length_reward="kimi", length_coef=1.0),
        "kimi, weight 3": dict(steps=30, length_reward="kimi", length_coef=3.0),
        "kimi, weight 3, later": dict(
            steps=40, length_reward="kimi", length_coef=3.0, length_after=20
        ),
        "cosine": dict(steps=40, length_reward="cosine", length_coef=0.5),
        "overlong": dict(steps=40, overlong=32),
    },
    # A right answer is worth 17 tokens off the wish, or 25 tokens saved.
    "lcpo": {
        "no hint": {**OBEY, "length_reward": "lcpo_exact"},
        "exact": {**OBEY, "from": "asked", "length_reward": "lcpo_exact"},
        "shuffled": {**OBEY, "from": "asked", "paid": "other wishes"},
        "max": {
            **OBEY, "from": "lcpo/exact", "steps": 30, "length_reward": "lcpo_max",
            "length_coef": 0.02,
        },
    },
    # Each way samples at most 2,048 completions; two looks, at half and at full strength.
    "short": {
        "merge": {**LONG, "sft": dict(steps=40, batch=32, lr=1e-3, warmup=5)},
        "first": {**LONG, "keep": "first"},
        "shortest": {**LONG, "keep": "shortest"},
        "dpo": {**LONG, "pairs": 350, "dpo": DPO},
        "dpo, likely": {**LONG, "pairs": 350, "dpo": DPO | {"nll_coef": 1.0}},
        "rl": {
            **LONG, "steps": 16, "length_reward": "kimi", "length_coef": 1.0,
            "max_new_tokens": 40, "warmup": 1, "evaluate_every": 8,
        },
    },
    # PPO, whose λ below 1 shortens what is right and lengthens what is wrong (chapter 6).
    "few": {name: {**LONG, "few": name} for name in ("solvable", "unsolvable", "new ones")},
    # So tight a limit that the harder problems are cut off now and then.
    "tight": {
        "hard": {**TIGHT, "in": "hard", "steps": 80},
        "on and on": {**TIGHT, "in": "hard", "steps": 240, "seeds": 1},
        "mixed": {**TIGHT, "steps": 40},
        "cosine": {**TIGHT, "steps": 40, "length_reward": "cosine", "length_coef": 0.5},
    },
}  # fmt: skip
IMITATION = dict(
    steps=24, rounds=1, batch=32, lr=3e-4, prompts=256, group_size=8, per_prompt=1,
    max_new_tokens=CAP, evaluate_every=12,
)  # fmt: skip
PPO = dict(
    steps=12, prompts=8, group_size=16, max_new_tokens=CAP, lr=3e-4, critic_lr=1e-3, warmup=1,
    final_lr=1.0, lam=0.95, critic_updates=2, whiten=False, unfinished_reward=None,
    evaluate_every=6,
)  # fmt: skip
COMMON = {  # what the runs' own settings do not say
    "pretrain": PRETRAIN, "hints": HINTS, "hinted": HINTED, "shares": SHARES, "model": MODEL,
    "problems": PROBLEMS, "samples": SAMPLES, "shared": SHARED, "imitation": IMITATION, "ppo": PPO,
}  # fmt: skip


def every_run() -> dict[str, dict]:
    """Return {name: settings}, all of a seed before the next; "seeds" of an arm: only the first."""
    return {
        f"{experiment}/{arm}/{seed}": {k: v for k, v in changes.items() if k != "seeds"}
        | {"seed": seed}
        for seed in SEEDS
        for experiment, arms in EXPERIMENTS.items()
        for arm, changes in arms.items()
        if seed < changes.get("seeds", len(SEEDS))
    }


def make_base() -> None:
    """Pretrain the base, from random weights."""
    settings = SFTSettings(**PRETRAIN)
    half = settings.steps * settings.batch // 2
    plain = STORIES["mixed"].documents(half, seed=0, **SHARES)
    asked = STORIES["asked"].documents(half, seed=1, **SHARES)
    documents = list(itertools.chain(*zip(plain, asked, strict=True)))
    tokenizer = Tokenizer.train(
        [prompt + completion for prompt, completion in documents[:4000]],
        vocab_size=VOCABULARY, special_tokens=SPECIAL_TOKENS,
    )  # fmt: skip
    config = GPTConfig(tokenizer.vocab_size, **MODEL)
    model = GPT(config, generator=torch.Generator().manual_seed(0))
    train_sft(model, tokenizer, documents, settings)
    save_pretrained(model, tokenizer, BASE)


def make_asked() -> None:
    """Train the base on with prompts that mean what they ask for, more often than not."""
    model, tokenizer = load_pretrained(BASE)
    settings, random = SFTSettings(**HINTS), Random(0)
    documents = []
    for prompt, completion in STORIES["asked"].documents(
        settings.steps * settings.batch, seed=5, **SHARES
    ):
        if random.random() < HINTED:
            length = len(tokenizer.encode(completion)) + 1  # with the end token
            nearest = min(TARGETS, key=lambda target: abs(target - length))
            prompt = re.sub(r"in \d+ tokens", f"in {nearest} tokens", prompt)
        documents.append((prompt, completion))
    train_sft(model, tokenizer, documents, settings)
    save_pretrained(model, tokenizer, ASKED)


class Few(Task):
    """A few problems, again and again."""

    def __init__(self, task: Task, problems: Sequence[Problem]) -> None:
        self.task, self.problems = task, list(problems)

    def generate(self, n: int, *, seed: int, split: str) -> list[Problem]:
        """Return n problems, the first again after the last."""
        return list(itertools.islice(itertools.cycle(self.problems), n))

    def score(self, problem: Problem, completion_text: str) -> float:
        """Return the task's score."""
        return self.task.score(problem, completion_text)


def look(
    policy: GPT, tokenizer: Tokenizer, problems: Sequence[Problem], *, seed: int, cap: int = CAP
) -> dict[str, float]:
    """Sample a policy at T = 1 on test problems, and describe what comes."""
    task = STORIES["mixed"]
    found = evaluate(
        policy, tokenizer, task, problems, samples=SAMPLES, max_new_tokens=cap, seed=seed
    )
    pairs = [(p, text) for p, row in zip(problems, found.texts, strict=True) for text in row]
    thoughts = [(p, re.search(r"<think>(.*?)</think>", text)) for p, text in pairs]
    filler = [len(thought[1].split()) - p.meta["steps"] for p, thought in thoughts if thought]
    right = found.correct == 1
    numbers = {
        "accuracy": found.correct.mean(), "length": found.lengths.mean(),
        "thinks": found.thinks.mean(), "finished": found.finished.mean(),
        "filler": sum(filler) / max(1, len(filler)),  # equations beyond one for each step
        "length_right": found.lengths[right].mean() if right.any() else 0.0,
        "length_wrong": found.lengths[~right].mean() if not right.all() else 0.0,
    }  # fmt: skip
    return {name: round(float(value), 4) for name, value in numbers.items()}


def look_at_targets(policy: GPT, tokenizer: Tokenizer, seed: int) -> list[dict[str, float]]:
    """Ask for each length on the same problems."""
    found = []
    for target in TARGETS:
        task = get_task("stories", **SMALL, targets=(target,))
        problems = task.generate(PROBLEMS, seed=seed, split="test")
        found.append({"target": target, **look(policy, tokenizer, problems, seed=seed)})
    return found


def cut_short(policy: GPT, tokenizer: Tokenizer, problems: Sequence[Problem], seed: int) -> list:
    """Return (limit, mean length, accuracy) of completions that are cut off at each limit."""
    how = dict(samples=SAMPLES, max_new_tokens=CAP, seed=seed)
    found = evaluate(policy, tokenizer, STORIES["mixed"], problems, **how)
    lengths, correct = found.lengths, found.correct
    return [
        [limit, round(float(lengths.clip(max=limit).mean()), 4),
         round(float((correct * (lengths <= limit)).mean()), 4)]
        for limit in range(16, CAP + 1, 4)
    ]  # fmt: skip


def others_targets(settings: GRPOSettings, task: Task) -> RewardFunction:
    """Pay as LCPO does, but for the length that another prompt of the rollout asks for."""

    def reward(owners: Sequence[Problem], rollout: Rollout) -> dict[str, Sequence[float]]:
        correct = torch.tensor(score(task, owners, rollout))
        moved = [*owners[settings.group_size :], *owners[: settings.group_size]]
        return {"correct": correct, "other": by_length(correct, rollout, moved, settings)}

    return reward


def won_or_lost(task: Task) -> RewardFunction:
    """Pay 1 for a right answer and -1 for a wrong one."""

    def reward(owners: Sequence[Problem], rollout: Rollout) -> dict[str, Sequence[float]]:
        correct = score(task, owners, rollout)
        return {"correct": correct, "lost": [right - 1 for right in correct]}

    return reward


def few_problems(policy: GPT, tokenizer: Tokenizer, kind: str, seed: int) -> Task:
    """Return eight training problems: sometimes solved, or never solved; or always new ones."""
    task, harder = STORIES["mixed"], get_task("stories", **SMALL | {"steps": (6, 7)})
    if kind == "new ones":
        return task
    source = task if kind == "solvable" else harder
    candidates = source.generate(160, seed=1000 + seed, split="train")
    how = dict(samples=8, max_new_tokens=CAP, seed=seed)
    found = evaluate(policy, tokenizer, task, candidates, **how)
    solved = found.correct.mean(1)
    wanted = (0.2 <= solved) & (solved <= 0.8) if kind == "solvable" else solved == 0
    chosen = [problem for problem, fits in zip(candidates, wanted, strict=True) if fits][:8]
    if len(chosen) < 8:
        raise ValueError(f"{len(chosen)} of {len(candidates)} problems are {kind}, expected 8")
    return Few(task, chosen)


def trained(
    settings: dict, policy: GPT, tokenizer: Tokenizer, watch: Callable[[GPT], dict]
) -> tuple[Run, GPT | None]:
    """Do what an arm says to `policy`; return the run, and None or the model to merge it with."""
    own = dict(settings)
    seed, task = own.pop("seed"), STORIES[own.pop("in", "mixed")]
    own.pop("from", None)
    if "few" in own:
        problems = few_problems(policy, tokenizer, own["few"], seed)
        critic = ScalarHead(copy.deepcopy(policy))
        s = ppo_preset("vanilla", **PPO, seed=seed)
        how = dict(reward=won_or_lost(task), evaluate=watch)
        return train_ppo(policy, critic, tokenizer, problems, s, **how), None
    if "keep" in own:
        s = ImitationSettings(**IMITATION, keep=own["keep"], seed=seed)
        return imitate(policy, tokenizer, task, s, evaluate=watch), None
    if "dpo" in own:
        pairs = sample_preferences(
            policy, tokenizer, task, task.generate(256, seed=1000 + seed, split="train"),
            count=own["pairs"], prefer="shortest", per_prompt=2, max_new_tokens=CAP, seed=seed,
        )  # fmt: skip
        return train_dpo(policy, tokenizer, pairs, DPOSettings(**own["dpo"], seed=seed),
                         evaluate=watch), None  # fmt: skip
    if "sft" in own:
        # The other parent: the base, taught to think without checks, as often with a slip.
        short, _ = load_pretrained(BASE)
        s = SFTSettings(**own["sft"], train_on="completion", weight_decay=0.0, seed=seed)
        documents = task.documents(
            s.steps * s.batch, seed=2 + seed, direct=0.0, slipped=0.35, right=0.65
        )
        return train_sft(short, tokenizer, documents, s), short
    paid = own.pop("paid", None)
    s = GRPOSettings(**{**SHARED, **own, "seed": seed})
    reward = others_targets(replace(s, length_reward="lcpo_exact"), task) if paid else None
    return train_grpo(policy, tokenizer, task, s, reward=reward, evaluate=watch), None


def one_run(name: str, settings: dict) -> dict:
    """Make one run; return its settings, curves and looks."""
    torch.set_num_threads(1)
    clock, cpu = time.perf_counter(), time.process_time()
    seed, start = settings["seed"], settings.get("from")
    named = {None: BASE, "asked": ASKED}
    policy, tokenizer = load_pretrained(named.get(start, KEPT / f"{start}/{seed}"))
    prompts = "asked" if settings.get("in") == "asked" else "mixed"
    problems = STORIES[prompts].generate(PROBLEMS, seed=seed, split="test")
    # Where the limit is the experiment, it holds in the looks as well.
    cap = settings["max_new_tokens"] if name.startswith("tight") else CAP

    def watch(model: GPT) -> dict[str, float]:
        return look(model, tokenizer, problems, seed=seed, cap=cap)

    result = {"settings": settings, "looks": [{"step": 0, **watch(policy)}]}
    first = copy.deepcopy(policy)
    run, other = trained(settings, policy, tokenizer, watch)
    if other is not None:
        result["other"] = watch(other)
        result["merged"] = [
            {"share": share, **watch(merge_models([first, other], [1 - share, share]))}
            for share in (0.25, 0.5, 0.75)
        ]
    result["looks"] += [{"step": h["step"] + 1, **h["eval"]} for h in run.history if "eval" in h]
    result["curves"] = {
        name: [round(h[name], 4) for h in run.history]
        for name in CURVES if all(name in h for h in run.history)
    }  # fmt: skip
    if name.startswith("lcpo"):
        result["targets"] = look_at_targets(policy, tokenizer, seed)
        if name.startswith(("lcpo/no hint", "lcpo/exact")):
            result["targets_before"] = look_at_targets(first, tokenizer, seed)
    if name.startswith("length/none"):
        result["cut"] = cut_short(policy, tokenizer, problems, seed)
    if name.startswith(("length/none", "lcpo/exact")):
        save_pretrained(policy, tokenizer, KEPT / name)
    result["seconds"] = round(time.perf_counter() - clock, 1)
    result["cpu_seconds"] = round(time.process_time() - cpu, 1)
    return result


def main() -> None:
    """Make the runs that the command line names and that are not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    wanted = tuple(parser.parse_args().names)
    torch.set_num_threads(1)
    for path, make in ((BASE, make_base), (ASKED, make_asked)):
        if not path.exists():
            make()
    done = json.loads(RECORDED.read_text())["runs"] if RECORDED.exists() else {}
    runs = every_run()
    for name, settings in runs.items():
        if name not in done and (not wanted or name.startswith(wanted)):
            done[name] = one_run(name, settings)
            last = done[name]["looks"][-1]
            print(f"{name}: {done[name]['cpu_seconds']:.0f} s, {last}", flush=True)
        recorded = {"cores": os.cpu_count(), "torch": torch.__version__, "common": COMMON}
        recorded["runs"] = {name: done[name] for name in runs if name in done}
        write_atomically(RECORDED, json.dumps(recorded) + "\n")


if __name__ == "__main__":
    main()
