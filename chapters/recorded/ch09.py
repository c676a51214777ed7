"""The recorded runs of chapter 09: a small model learns from a teacher, from itself, or by RL.

    python chapters/recorded/ch09.py [SEED …]

One seed after the other, on one thread. Finished seeds are kept in data/recorded/ch09.json and
skipped when the command is given again: delete the file to make them anew. All arms of a seed start
from one base and do the same floating-point work, the student's sampling included; what RL takes
for its steps is measured, and the others are given as much:

    rl             GRPO from the base, paid for right answers
    teacher        imitates the teacher's right samples
    unfiltered     imitates the teacher's samples, right or wrong
    own            imitates its own right samples
    teacher, rl    GRPO from where "teacher" ended
    teacher, more  goes on imitating the teacher instead, on new problems
"""

import argparse
import copy
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from reasoning_from_scratch import (
    GPT,
    GPTConfig,
    GRPOSettings,
    ImitationSettings,
    Problem,
    Rollout,
    SFTSettings,
    Tokenizer,
    get_task,
    grpo_step_flops,
    load_pretrained,
    sample_examples,
    train_grpo,
    train_sft,
)
from reasoning_from_scratch.compute import FORWARD_FLOPS, TRAINING_FLOPS
from reasoning_from_scratch.evaluate import evaluate
from reasoning_from_scratch.runs import Run, write_atomically

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "data/recorded/ch09.json"
SEEDS = range(3)
STORY = dict(limit=20, amount=5)  # small numbers, that a small model can learn to add
TASK = get_task("stories", steps=(3, 6), **STORY)  # the teacher was trained on two to five steps
LONGER = get_task("stories", steps=(7, 8), **STORY)
MOST_TOKENS = 80
WIDTH, LAYERS, HEADS = 48, 3, 4
SHARES = dict(direct=0.58, slipped=0.17, right=0.25)  # as the main job's base
PRETRAIN = SFTSettings(steps=900, batch=32, lr=4e-3, warmup=30)
# Learning rates by one pilot of one seed (100), measured on problems of the split "tune".
RL = GRPOSettings(
    steps=96, prompts=16, group_size=8, max_new_tokens=MOST_TOKENS, lr=2e-4, warmup=5,
    aggregate="token_mean", scale="none", evaluate_every=32,
)  # fmt: skip
RL_AFTER = replace(RL, steps=48, lr=1e-4, evaluate_every=16)
IMITATE = SFTSettings(batch=32, lr=1e-3, warmup=4, weight_decay=0.0, train_on="completion")
FROM_TEACHER = ImitationSettings(group_size=1, prompts=1500, max_new_tokens=MOST_TOKENS)
FROM_ITSELF = replace(FROM_TEACHER, group_size=4, prompts=800)
POINTS = 3  # evaluations in an arm that imitates
SETTINGS = {
    "story": STORY, "width": WIDTH, "layers": LAYERS, "shares": SHARES,
    "pretrain": {"steps": PRETRAIN.steps, "batch": PRETRAIN.batch, "lr": PRETRAIN.lr},
    "rl": {"prompts": RL.prompts, "group_size": RL.group_size, "lr": RL.lr, "steps": RL.steps,
           "lr_after": RL_AFTER.lr, "steps_after": RL_AFTER.steps},
    "imitate": {"batch": IMITATE.batch, "lr": IMITATE.lr, "prompts": FROM_TEACHER.prompts,
                "own": [FROM_ITSELF.prompts, FROM_ITSELF.group_size]},
}  # fmt: skip


def describe(model: GPT, tokenizer: Tokenizer, seed: int, *, far: bool = False) -> dict:
    """Measure a model on held-out problems, the same for all arms of a seed."""
    problems = TASK.generate(192, seed=seed, split="test")
    greedy = evaluate(model, tokenizer, TASK, problems, temperature=0, max_new_tokens=MOST_TOKENS)
    sampled = evaluate(model, tokenizer, TASK, problems, samples=2, max_new_tokens=MOST_TOKENS)
    numbers = {
        "greedy": greedy.correct.mean(), "sampled": sampled.correct.mean(),
        "thinks": sampled.thinks.mean(), "length": sampled.lengths.mean(),
        "finished": sampled.finished.mean(),
    }  # fmt: skip
    numbers |= {
        f"steps_{steps}": metric["mean"] for steps, metric in greedy.accuracy_by("steps").items()
    }
    if far:
        problems = LONGER.generate(96, seed=seed, split="test")
        longer = evaluate(model, tokenizer, LONGER, problems, temperature=0, max_new_tokens=128)
        numbers["longer"] = longer.correct.mean()
    return {name: round(float(value), 4) for name, value in numbers.items()}


def reinforce(student: GPT, tokenizer: Tokenizer, settings: GRPOSettings, seed: int) -> dict:
    """Train with GRPO; return the work before each evaluation, and the curves."""
    work, parameters, curves = [0], size(student), {"reward": [], "thinks": [], "length": []}

    def reward(owners: Sequence[Problem], rollout: Rollout) -> dict[str, list[float]]:
        correct = [TASK.score(p, text) for p, text in zip(owners, rollout.texts, strict=True)]
        size = settings.group_size
        groups = [
            [column[i : i + size] for i in range(0, len(owners), size)]
            for column in (rollout.lengths.tolist(), correct)
        ]
        prompts = rollout.prompt_lengths.tolist()[::size]
        work.append(work[-1] + grpo_step_flops(parameters, prompts, *groups))
        return {"correct": correct}

    run = train_grpo(
        student, tokenizer, TASK, settings, reward=reward,
        evaluate=lambda model: describe(model, tokenizer, seed),
    )  # fmt: skip
    for name, curve in curves.items():
        curve += [round(line[name], 4) for line in run.history]
    return arm_of(run, work) | {
        "curves": curves,
        "end": describe(student, tokenizer, seed, far=True),
    }


def imitate_for(
    student: GPT,
    tokenizer: Tokenizer,
    examples: list[tuple[str, str]],
    work: int,
    spent: int,
    seed: int,
) -> dict:
    """Train on examples until `work` is done, of which `spent` went into sampling them."""
    parameters = size(student)
    tokens = sum(len(tokenizer.encode(a)) + len(tokenizer.encode(b)) + 1 for a, b in examples)
    a_step = TRAINING_FLOPS * parameters * IMITATE.batch * tokens / len(examples)
    every = max(1, int((work - spent) / a_step / POINTS))  # rather less than more
    settings = replace(IMITATE, steps=POINTS * every, evaluate_every=every, seed=seed)
    run = train_sft(
        student, tokenizer, examples, settings,
        evaluate=lambda model: describe(model, tokenizer, seed),
    )  # fmt: skip
    done = [0] + [round(spent + a_step * (step + 1)) for step in range(settings.steps)]
    passes = settings.steps * settings.batch / len(examples)
    return arm_of(run, done) | {
        "passes": round(passes, 2), "end": describe(student, tokenizer, seed, far=True),
    }  # fmt: skip


def arm_of(run: Run, work: list[int]) -> dict:
    """Return what is kept of an arm: the evaluations and the work before each."""
    found = [line for line in run.history if "eval" in line]
    return {
        "steps": len(run.history),
        "work": [work[line["step"] + 1] for line in found],
        "evaluations": [line["eval"] for line in found],
    }


def size(model: GPT) -> int:
    """Return a model's parameters."""
    return sum(p.numel() for p in model.parameters())


def sampled(
    model: GPT, tokenizer: Tokenizer, settings: ImitationSettings, seed: int, *, right: bool = True
) -> tuple[list[tuple[str, str]], dict]:
    """Sample a model on problems that RL does not get; return examples and numbers, with "work"."""
    asked = TASK.generate(settings.prompts, seed=1000 + seed, split="train")
    score = TASK.score if right else lambda problem, text: 1.0
    examples, numbers = sample_examples(
        model, tokenizer, asked, score, settings, generator=torch.Generator().manual_seed(seed)
    )
    # Each prompt is run once, each completion's tokens one by one.
    tokens = sum(len(tokenizer.encode(problem.prompt)) for problem in asked)
    tokens += numbers["completions"] * numbers["length"]
    numbers = {name: round(float(value), 4) for name, value in numbers.items()}
    return examples, numbers | {"work": round(FORWARD_FLOPS * size(model) * tokens)}


def one_seed(seed: int) -> dict:
    """Pretrain a base, train every arm from it; return what was measured."""
    torch.set_num_threads(1)
    clock = time.process_time()
    teacher, tokenizer = load_pretrained(ROOT / "data/models/reasoner")
    config = GPTConfig(tokenizer.vocab_size, WIDTH, LAYERS, HEADS, max_positions=256)
    base = GPT(config, generator=torch.Generator().manual_seed(seed))
    documents = TASK.documents(PRETRAIN.steps * PRETRAIN.batch, seed=seed, **SHARES)
    train_sft(base, tokenizer, documents, replace(PRETRAIN, seed=seed))
    n, arms = size(base), {}

    # RL first: it says how much work an arm has.
    arms["rl"] = reinforce(copy.deepcopy(base), tokenizer, replace(RL, seed=seed), seed)
    budget, distilled = arms["rl"]["work"][-1], copy.deepcopy(base)
    for name, student, model, settings, right in (
        ("teacher", distilled, teacher, FROM_TEACHER, True),
        ("unfiltered", copy.deepcopy(base), teacher, FROM_TEACHER, False),
        ("own", copy.deepcopy(base), base, FROM_ITSELF, True),
    ):
        examples, kept = sampled(model, tokenizer, settings, seed, right=right)
        spent = kept["work"] if name == "own" else 0
        arms[name] = imitate_for(student, tokenizer, examples, budget, spent, seed)
        arms[name]["sampled"] = kept

    # Then twice from the distilled student.
    student = copy.deepcopy(distilled)
    settings = replace(RL_AFTER, seed=100 + seed)  # other problems than before
    arms["teacher, rl"] = reinforce(student, tokenizer, settings, seed)
    budget = arms["teacher, rl"]["work"][-1]
    examples, kept = sampled(teacher, tokenizer, FROM_TEACHER, 100 + seed)
    arms["teacher, more"] = imitate_for(distilled, tokenizer, examples, budget, 0, seed)
    arms["teacher, more"]["sampled"] = kept
    return {
        "settings": SETTINGS, "parameters": n, "teacher_parameters": size(teacher),
        "base": describe(base, tokenizer, seed, far=True),
        "teacher": describe(teacher, tokenizer, seed, far=True),
        "arms": arms, "seconds": round(time.process_time() - clock, 1),
    }  # fmt: skip


def main() -> None:
    """Make the seeds that the command line names and that are not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("seeds", nargs="*", type=int, metavar="SEED")
    wanted = parser.parse_args().seeds or SEEDS
    done = json.loads(RECORDED.read_text())["runs"] if RECORDED.exists() else {}
    RECORDED.parent.mkdir(exist_ok=True)
    for seed in wanted:
        if str(seed) in done:
            continue
        done[str(seed)] = one_seed(seed)
        runs = {str(s): done[str(s)] for s in SEEDS if str(s) in done}
        recorded = {"cores": os.cpu_count(), "torch": torch.__version__, "runs": runs}
        write_atomically(RECORDED, json.dumps(recorded, indent=None) + "\n")
        arms = done[str(seed)]["arms"]
        ends = {name: arm["end"]["greedy"] for name, arm in arms.items()}
        print(f"seed {seed}: {done[str(seed)]['seconds']:.0f} s of a core, {ends}", flush=True)


if __name__ == "__main__":
    main()
