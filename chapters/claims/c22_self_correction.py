"""C22: does self-correction exist before any RL, and grow with pretraining compute?

Two corpora: 5 % of the thinking documents slip, say "wait" and do the step again; or none does.
Checkpoints after 100, 200, 400 and 800 steps at a constant rate, each annealed over 10 % more.
Probe: right steps, one slip, then "wait". Chapter 02.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from ledger.command import main
from ledger.models import FINAL, MAIN_JOB, open_run, plain
from ledger.records import Seed, Statistic
from ledger.runner import Claim, Job, Outcome
from matplotlib.figure import Figure

from reasoning_from_scratch.evaluate import evaluate
from reasoning_from_scratch.main_job import SPECIAL_TOKENS, VOCABULARY
from reasoning_from_scratch.model import GPT, GPTConfig
from reasoning_from_scratch.report import figure_style, line_styles
from reasoning_from_scratch.sft import SFTSettings, train_sft
from reasoning_from_scratch.stats import t_interval
from reasoning_from_scratch.tasks import Problem, Task, get_task
from reasoning_from_scratch.tasks.stories import judge_thinking, think
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.training import make_optimizer

KNOWN, NEW = range(1, 10), (10,)  # sizes of slips: those of the documents, and one held out
# What the model is given after the problem: nothing; right steps and then …
PROBES = ("nothing", "slip, wait", "new slip, wait", "step, wait", "slip")
# One rate for both corpora, so it is no arm's advantage. On seed 100 alone 2e-3 and 4e-3 were
# tried: 17.3 and 16.8 % right after 800 steps.
SFT = SFTSettings(steps=800, batch=128, lr=2e-3, warmup=20, final_lr=1.0)
DOUBLINGS = 3
# Of each of five probes at four checkpoints: at 16, measuring would take longer than training, and
# the problems, not the samples, make most of the spread.
SAMPLES = 4


def corpus(corrected: float) -> dict[str, object]:
    """Return the settings of one corpus, by the share of thinking documents that correct."""
    shares = dict(MAIN_JOB.shares)
    moved = corrected * (shares["slipped"] + shares["right"])
    shares |= {"right": shares["right"] - moved, "corrected": moved, "largest_slip": max(KNOWN)}
    model = {name: getattr(MAIN_JOB, name) for name in ("width", "layers", "heads")}
    sizes = {"problems": FINAL["problems"], "samples": SAMPLES}
    task = {"task": {"steps": [2, 5]}, "max_new_tokens": 72}
    return {"shares": shares, **task, **model, "sft": plain(SFT), "anneal": 0.1, **sizes}


def run(job: Job) -> Outcome:
    """Pretrain on one corpus; probe an annealed copy at each doubling of the steps."""
    s, found = job.settings, []
    task, sft = get_task("stories", **s["task"]), SFTSettings(**s["sft"], seed=job.seed)
    points = [sft.steps >> k for k in range(DOUBLINGS, -1, -1)]
    extra = [max(1, round(s["anneal"] * point)) for point in points]
    count = (sft.steps + sum(extra)) * sft.batch  # no document is seen twice
    documents = task.documents(max(count, 4000), seed=job.seed, **s["shares"])
    tokenizer = Tokenizer.train(
        [prompt + completion for prompt, completion in documents[:4000]],
        vocab_size=VOCABULARY, special_tokens=SPECIAL_TOKENS,
    )  # fmt: skip
    used = sft.steps * sft.batch
    for point, more in zip(points, extra, strict=True):
        path = job.folder / f"probes-{point}.npz"
        if not path.exists():
            parts = documents[: sft.steps * sft.batch], documents[used : used + more * sft.batch]
            policy, tokens = annealed(job, tokenizer, parts, replace(sft, steps=point), more)
            flops = 6 * tokens * sum(p.numel() for p in policy.parameters())
            np.savez(path, tokens=tokens, flops=flops, **probe(policy, tokenizer, task, job))
        used += more * sft.batch
        with np.load(path) as file:
            found.append({name: file[name] for name in file.files})
    arrays = {name: np.stack([f[name] for f in found]) for name in (*PROBES, "explicit")}  # [4,N]
    accuracy, flops = float(arrays["nothing"][-1].mean()), [int(f["flops"]) for f in found]
    return Outcome(
        arrays, {"accuracy": accuracy, "flops": flops}, tokens_trained=int(found[-1]["tokens"]),
        optimiser_steps=sft.steps + extra[-1],
    )  # fmt: skip


def annealed(
    job: Job, tokenizer: Tokenizer, parts: Sequence[list], sft: SFTSettings, more: int
) -> tuple[GPT, int]:
    """Train on to `sft.steps` at the constant rate, then `more` steps down to a tenth of it."""
    sizes = [job.settings[name] for name in ("width", "layers", "heads")]
    config = GPTConfig(tokenizer.vocab_size, *sizes, max_positions=512)
    policy = GPT(config, generator=torch.Generator().manual_seed(job.seed))
    whole = train_sft(policy, tokenizer, parts[0], sft, run=open_run(job, "whole", SFT.steps))
    optimizer = make_optimizer(policy, lr=sft.lr, weight_decay=sft.weight_decay)
    whole.restore(policy, optimizer)
    short = open_run(job, f"anneal-{sft.steps}", more)
    if not (short.folder / "log.jsonl").exists():
        short.save(0, policy, optimizer)  # the optimiser's moments go on, only the rate falls
    settings = replace(sft, steps=more, warmup=0, final_lr=0.1)
    train_sft(policy, tokenizer, parts[1], settings, run=short)
    return policy, int(sum(line["tokens"] for line in (*whole.history, *short.history)))


def probe(policy: GPT, tokenizer: Tokenizer, task: Task, job: Job) -> dict[str, np.ndarray]:
    """Return the share of right answers to each problem, by what the model was given: [N] each."""
    s, arrays = job.settings, {}
    problems = task.generate(3 * s["problems"], seed=job.seed, split=job.split)
    given = [starts(problem, Random(f"{job.seed} {i}")) for i, problem in enumerate(problems)]
    rows = [(p, g) for p, g in zip(problems, given, strict=True) if g][: s["problems"]]
    for name in PROBES:
        asked = [replace(problem, prompt=problem.prompt + g[name]) for problem, g in rows]
        found = evaluate(
            policy, tokenizer, task, asked, samples=s["samples"], seed=job.seed,
            max_new_tokens=s["max_new_tokens"],
        )  # fmt: skip
        arrays[name] = found.correct.mean(1).astype(np.float32)
        if name == "slip, wait":
            again = [
                np.mean([judge_thinking(p, g[name] + text).corrections > 0 for text in texts])
                for (p, g), texts in zip(rows, found.texts, strict=True)
            ]
            arrays["explicit"] = np.array(again, np.float32)
    return arrays


def starts(problem: Problem, random: Random) -> dict[str, str] | None:
    """Return the text of each probe; None where the story leaves no room for one of the slips."""
    start, operations = problem.meta["start"], problem.meta["operations"]
    right, _ = think(start, operations)
    slips = {}
    for name, sizes in (("known", KNOWN), ("new", NEW)):
        places = [
            (at, sign * k) for at in range(len(operations)) for k in sizes for sign in (1, -1)
        ]
        tried = [(at, think(start, operations, slip_at=at, slip=slip)) for at, slip in places]
        fits = [(at, found[0]) for at, found in tried if found and within(found[0], problem)]
        if not fits:
            return None
        slips[name] = random.choice(fits)
    (at, off), (new_at, new_off) = slips["known"], slips["new"]
    texts = {
        "slip, wait": [*off[: at + 1], "wait"], "new slip, wait": [*new_off[: new_at + 1], "wait"],
        "step, wait": [*right[: at + 1], "wait"], "slip": off[: at + 1],
    }  # fmt: skip
    return {"nothing": ""} | {name: "<think>" + " ".join(t) for name, t in texts.items()}


def within(entries: Sequence[str], problem: Problem) -> bool:
    """Whether all results stay below the task's limit, as those of the documents do."""
    return all(int(entry.rpartition("=")[2]) <= problem.meta["limit"] for entry in entries)


def beyond(arm: str, name: str) -> Statistic:
    """Return the points by which a probe is recovered from, beyond plain accuracy: [4] or [4,·]."""
    return lambda seed: 100 * (seed[arm][name].mean(-1) - seed[arm]["nothing"].mean(-1))


def slope(arm: str) -> Statistic:
    """Return the least-squares slope of the recovery per doubling of the steps."""
    x = np.arange(DOUBLINGS + 1) - DOUBLINGS / 2
    return lambda seed: np.tensordot(x / (x * x).sum(), beyond(arm, "slip, wait")(seed), 1)


def last(arm: str, name: str) -> Statistic:
    """Return the same after the longest pretraining."""
    return lambda seed: beyond(arm, name)(seed)[-1]


def figure(seeds: list[Seed], path: Path) -> None:
    """Draw recovery against compute."""
    with figure_style():
        axes = (drawn := Figure()).subplots()
        lines = {"corrections": ("corrected", "slip, wait"), "none": ("none", "slip, wait")}
        lines["control"] = ("corrected", "slip")
        looks: Mapping[str, dict] = line_styles(lines)
        for label, (arm, name) in lines.items():
            x = np.mean([s.records[arm]["final"]["flops"] for s in seeds], 0)
            rows = np.array([beyond(arm, name)(s) for s in seeds])
            low, high = np.transpose([t_interval(column) for column in rows.T])
            axes.plot(x, rows.mean(0), marker="o", label=label, **looks[label])
            axes.fill_between(x, low, high, color=looks[label]["color"], alpha=0.2, linewidth=0)
        axes.set(xscale="log", xlabel="pretraining FLOPs (6 N D)", ylabel="recovery (points)")
        axes.set_title(
            f"Right answers after a slip, beyond plain accuracy (n = {len(seeds)}, 95 %)"
        )
        axes.legend(title="corpus with corrections, without; control: no “wait”")
        drawn.savefig(path, metadata={"Date": None})


CLAIM = Claim(
    "C22", run, arms={"corrected": corpus(0.05), "none": corpus(0.0)},
    statistics={
        "slope": slope("corrected"), "plain_slope": slope("none"),
        "excess": last("corrected", "slip, wait"), "plain_excess": last("none", "slip, wait"),
        "explicit": last("corrected", "explicit"),
        "new_slips": last("corrected", "new slip, wait"),
        "wait_without_slip": last("corrected", "step, wait"),
        "slip_without_wait": last("corrected", "slip"),
        "accuracy": lambda seed: 100 * seed["corrected"]["nothing"][-1].mean(-1),
    },
    figure=figure, minutes=dict.fromkeys(("corrected", "none"), 9.0),
)  # fmt: skip

if __name__ == "__main__":
    main(CLAIM)
