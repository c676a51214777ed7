"""What must hold of the bases before a claim is worth trying, on the tuning seeds alone.

A precondition that fails here is repaired here (difficulty, cap, number of pairs). Those that need
a trained arm are measured by their claim's own script with --tune, and stand in the same table.
"""

import numpy as np
from c01_reward_model import SETTINGS as C1
from c01_reward_model import reward_model
from ledger.command import main
from ledger.models import bases, load_base
from ledger.records import TUNING
from ledger.runner import Claim, Job, Outcome

from reasoning_from_scratch.evaluate import Evaluation, evaluate
from reasoning_from_scratch.stats import pass_at_k
from reasoning_from_scratch.tasks import get_task
from reasoning_from_scratch.tasks.stories import judge_thinking

SETTINGS = {
    "task": {"steps": [2, 5]}, "harder": {"task": {"steps": [5, 7]}}, "problems": 256,
    "samples": 16, "harder_samples": 64,
    "caps": {"story": 72, "harder": 128, "long": 128, "tight": 96},
}  # fmt: skip


def run(job: Job) -> Outcome:
    """Measure one seed's bases, or the reward model that C1 would train on one."""
    if "reward_model" in job.settings:
        return Outcome(precondition={"C1 pair_accuracy": reward_model(job)[1]["pair_accuracy"]})
    s, caps = job.settings, job.settings["caps"]

    def look(family: str, options: dict, cap: int, samples: int) -> Evaluation:
        policy, tokenizer, _ = load_base(job, family)
        task = get_task("stories", **options)
        problems = task.generate(s["problems"], seed=job.seed, split="tune")
        return evaluate(
            policy, tokenizer, task, problems, samples=samples, max_new_tokens=cap, seed=job.seed
        )

    story = look("story", s["task"], caps["story"], s["samples"])
    harder = look("story", s["harder"]["task"], caps["harder"], s["harder_samples"])
    long, tight = (look("long", s["task"], caps[cap], s["samples"]) for cap in ("long", "tight"))
    return Outcome(precondition={
        "C4 thinking_rate": float(story.thinks.mean()),
        "C6 base_pass_64": sound_pass(harder),
        "C7 truncated": float(1 - long.finished.mean()),
        "C11 truncated_at_start": float(1 - tight.finished.mean()),
        "C12 well_formed": well_formed(long),
        "C24 within": within_problem(long),
    })  # fmt: skip


def sound_pass(found: Evaluation) -> float:
    """Return the chance that one of all samples is right in its answer and in every step."""
    rates = []
    for problem, texts, correct in zip(found.problems, found.texts, found.correct, strict=True):
        pairs = zip(texts, correct, strict=True)
        sound = sum(c == 1 and judge_thinking(problem, text).sound for text, c in pairs)
        rates.append(pass_at_k(len(texts), sound, len(texts)))
    return float(np.mean(rates))


def well_formed(found: Evaluation) -> float:
    """Return the share of completions that finished, think through every step and no more."""
    rows = zip(found.problems, found.texts, found.finished, strict=True)
    complete = [
        end and judge_thinking(problem, text).complete
        for problem, texts, ended in rows
        for text, end in zip(texts, ended, strict=True)
    ]
    return float(np.mean(complete))


def within_problem(found: Evaluation) -> float:
    """Return the log length of wrong over right finished answers, over problems with both kinds."""
    logs = []
    for correct, lengths, ended in zip(found.correct, found.lengths, found.finished, strict=True):
        right, wrong = lengths[(correct == 1) & ended], lengths[(correct < 1) & ended]
        if len(right) and len(wrong):
            logs.append(np.log(wrong.mean() / right.mean()))
    return float(np.mean(logs)) if logs else 0.0


CLAIM = Claim(
    "preconditions", run, {"bases": SETTINGS, "pairs": C1}, needs=(bases("story", "long"),),
    minutes={"bases": 5.0, "pairs": 1.0},
)  # fmt: skip

if __name__ == "__main__":
    main(CLAIM, seeds=TUNING)
