"""C6: does RL lift pass@1 far more than pass@k?

No training: C4's bases and true-reward policies on harder problems, five to seven operations, 512 x
64. (Up to eight, as first planned, the precondition failed on a tuning seed: 64 samples of the base
solved 32 and 27 % of the problems of seeds 100 and 101; up to seven, 41 and 35 %.) A sample counts
if its answer is right and it wrote every step, rightly; by the answer alone is secondary. Two
controls: a guesser that draws from all answers the base gave to *other* problems, and the base at
the temperature, of 0.1 to 2, at which its entropy a token is nearest to the policy's. Chapter 08.

The guesser writes no steps, so it is scored by its answer. What the sharpened base gains is over
the base at temperature 1, as the policy's gain is.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from c23_seed_spread import POLICIES
from ledger.command import main
from ledger.drawing import draw_band, save
from ledger.models import FINAL, bases, load_base, policy_of
from ledger.records import Seed, Statistic
from ledger.runner import Claim, Job, Outcome
from matplotlib.figure import Figure

from reasoning_from_scratch.evaluate import Evaluation, evaluate
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.report import figure_style
from reasoning_from_scratch.sampling import sample
from reasoning_from_scratch.stats import pass_at_k
from reasoning_from_scratch.tasks import Problem, get_task
from reasoning_from_scratch.tasks.stories import judge_thinking
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.verify import extract_answer

SETTINGS = {
    "policy": "base", "task": {"steps": [5, 7]}, "max_new_tokens": 128,
    "problems": FINAL["problems"], "samples": 64,
}  # fmt: skip
SHARPENED = SETTINGS | {"policy": "sharpened", "samples": 16, "choose_problems": 128, "halvings": 8}
TEMPERATURES = (0.1, 2.0)  # between which the base's entropy is matched


def run(job: Job) -> Outcome:
    """Measure pass@k of one policy."""
    s, task = job.settings, get_task("stories", **job.settings["task"])
    base, tokenizer, _ = load_base(job, "story")
    policy, temperature = base, 1.0
    if s["policy"] != "base":
        policy, _, _ = load_base(job, "story")
        policy_of(job, POLICIES, "true", policy)
    if s["policy"] == "sharpened":
        choose = task.generate(s["choose_problems"], seed=job.seed + 1000, split="tune")
        temperature, policy = matched_temperature(base, policy, tokenizer, choose, job), base
    problems = task.generate(s["problems"], seed=job.seed, split=job.split)
    found = evaluate(
        policy, tokenizer, task, problems, samples=s["samples"], seed=job.seed,
        temperature=temperature, max_new_tokens=s["max_new_tokens"],
    )  # fmt: skip
    arrays = {"sound": passes(sound(found)), "answer": passes(found.correct >= 1)}
    if s["policy"] == "base":
        arrays["guesser"] = guesser(found)
    outcome = Outcome(
        {name: array.astype(np.float32) for name, array in arrays.items()},
        {"accuracy": float(arrays["sound"][0].mean()), "temperature": temperature},
        completions_sampled=found.correct.size, tokens_sampled=int(found.lengths.sum()),
    )  # fmt: skip
    if s["policy"] == "base":
        outcome.precondition = {"base_pass_64": float(arrays["sound"][-1].mean())}
    return outcome


def sound(found: Evaluation) -> np.ndarray:
    """Return which samples are right in their answer and in every step, all written: [N,S]."""
    rows = zip(found.problems, found.texts, found.correct, strict=True)
    return np.array([
        [c >= 1 and judge_thinking(problem, text).sound for text, c in zip(texts, row, strict=True)]
        for problem, texts, row in rows
    ])  # fmt: skip


def powers(samples: int) -> list[int]:
    """Return 1, 2, 4, … up to the number of samples."""
    return [2**i for i in range(samples.bit_length())]


def passes(right: np.ndarray) -> np.ndarray:
    """Return each problem's unbiased pass@k for k = 1, 2, 4, …: [N,S] -> [K,N]."""
    samples = right.shape[1]
    return np.array([
        [pass_at_k(samples, count, k) for count in right.sum(1).tolist()] for k in powers(samples)
    ])  # fmt: skip


def guesser(found: Evaluation) -> np.ndarray:
    """Return pass@k of drawing, blindly, from the answers given to all other problems: [K,N]."""
    given = [Counter(extract_answer(text) for text in texts) for texts in found.texts]
    total, samples = sum(given, Counter()), found.correct.shape[1]
    others = max(samples * (len(given) - 1), 1)
    hits = [
        (total[problem.answer] - own[problem.answer]) / others
        for problem, own in zip(found.problems, given, strict=True)
    ]
    return np.array([1 - (1 - np.array(hits)) ** k for k in powers(samples)])


def matched_temperature(
    base: GPT, policy: GPT, tokenizer: Tokenizer, problems: Sequence[Problem], job: Job
) -> float:
    """Return the temperature at which the base's entropy a token is the policy's at 1, by halving
    the range that it must lie in; the range's end where it lies beyond."""
    goal = entropy(policy, tokenizer, problems, job, 1.0)
    low, high = TEMPERATURES
    for _ in range(job.settings["halvings"]):
        middle = (low + high) / 2
        below = entropy(base, tokenizer, problems, job, middle) < goal
        low, high = (middle, high) if below else (low, middle)
    return (low + high) / 2


def entropy(
    policy: GPT, tokenizer: Tokenizer, problems: Sequence[Problem], job: Job, temperature: float
) -> float:
    """Return the mean surprise of what is sampled at a temperature, in nats a token."""
    prompts, cap = [problem.prompt for problem in problems], job.settings["max_new_tokens"]
    rollout = sample(
        policy, tokenizer, prompts, group_size=4, max_new_tokens=cap, temperature=temperature,
        generator=torch.Generator().manual_seed(job.seed),
    )  # fmt: skip
    return float(-rollout.logprobs.sum() / rollout.mask.sum())


def gain(name: str, k: int, arm: str = "true") -> Statistic:
    """Return the points of pass@k gained over the base: k = 0 is the first, pass@1, -1 the last."""
    return lambda seed: 100 * (seed[arm][name][k] - seed["base"][name][k]).mean(-1)


def difference(seed: Seed) -> np.ndarray:
    """Return the gain of pass@1 less that of pass@64."""
    return gain("sound", 0)(seed) - gain("sound", -1)(seed)


def figure(seeds: list[Seed], path: Path) -> None:
    """Draw pass@k of base and policy, with the guesser in grey."""
    lines = {
        "base": ("base", "sound", "#7f7f7f", ":"),
        "after RL": ("true", "sound", "#0072B2", "-"),
    }
    lines["guesser"] = ("base", "guesser", "#bbbbbb", "--")
    with figure_style():
        axes = (drawn := Figure()).subplots()
        for label, (arm, name, colour, line) in lines.items():
            rows = [100 * seed[arm][name].mean(-1) for seed in seeds]
            ks = 2 ** np.arange(len(rows[0]))
            draw_band(axes, ks, rows, label=label, color=colour, linestyle=line)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="k", ylabel="pass@k (%)", ylim=(0, 100), xticks=ks, xticklabels=ks)
        axes.legend()
        save(drawn, path, "Solved within k samples, before and after RL; 95 % bands", seeds)


CLAIM = Claim(
    "C6", run,
    arms={
        "base": SETTINGS,
        "true": SETTINGS | {"policy": "true"},
        "sharpened": SHARPENED,
    },
    statistics={
        "pass_1": gain("sound", 0), "pass_64": gain("sound", -1), "difference": difference,
        "guesser_pass_64": lambda seed: 100 * seed["base"]["guesser"][-1].mean(-1),
        "sharpened_pass_1": gain("sound", 0, "sharpened"),
        "answer_only_pass_1": gain("answer", 0), "answer_only_pass_64": gain("answer", -1),
    },
    needs=(bases("story"), POLICIES), figure=figure,
    minutes={"base": 4.0, "true": 5.0, "sharpened": 2.0},
)  # fmt: skip

if __name__ == "__main__":
    main(CLAIM)
