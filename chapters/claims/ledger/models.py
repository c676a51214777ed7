"""What the claims train and measure: bases, one arm of GRPO, accuracy as the protocol has it."""

import copy
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch

from ledger.records import find, read_records
from ledger.runner import Claim, Job, Outcome, make_job
from reasoning_from_scratch.evaluate import Evaluation, evaluate
from reasoning_from_scratch.grpo import GRPOSettings, train_grpo
from reasoning_from_scratch.losses import token_logprobs
from reasoning_from_scratch.main_job import RECIPES, pretrain_tiny
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.pretrained import load_pretrained, save_pretrained
from reasoning_from_scratch.rollouts import RewardFunction
from reasoning_from_scratch.runs import Run, check_model, load_model, read_checkpoint
from reasoning_from_scratch.sampling import Rollout, sample
from reasoning_from_scratch.sft import SFTSettings
from reasoning_from_scratch.tasks import Problem, Task, get_task
from reasoning_from_scratch.tokenizer import Tokenizer

MAIN_JOB = RECIPES["ten_minutes"]
FINAL = {  # the measurement that decides: 512 problems x 16 at T = 1; T chosen on tuning problems
    "problems": 512, "samples": 16, "choose_problems": 128, "choose_samples": 4,
    "temperatures": [0.0, 0.3, 0.6, 1.0],
}  # fmt: skip
CURVE = {"curve_problems": 256, "curve_samples": 2}  # along a run
# One number for each completion, given its problem and its text.
Watch = Callable[[Sequence[Problem], Sequence[str]], np.ndarray]
# Named numbers of each completion [B], given the policy, each one's problem and the rollout.
Also = Callable[[GPT, Sequence[Problem], Rollout], Mapping[str, np.ndarray]]
CPU = torch.device("cpu")


def plain(settings: SFTSettings | GRPOSettings) -> dict[str, object]:
    """Return a stage's settings without the seed, which is the run's."""
    return {name: value for name, value in asdict(settings).items() if name != "seed"}


TARGETS = list(range(16, 97, 8))  # tokens that a prompt may ask for


def base_settings(max_new_tokens: int, **shares: float) -> dict[str, object]:
    """Return a base's settings: the main job's pretraining, on documents of these shares."""
    model = {name: getattr(MAIN_JOB, name) for name in ("width", "layers", "heads")}
    return {
        "task": {"steps": [2, 5]}, "shares": shares, **model, "sft": plain(MAIN_JOB.pretrain),
        "max_new_tokens": max_new_tokens, **FINAL,
    }  # fmt: skip


BASES = {
    # The main job's: mostly direct answers, some thinking with a slip, a little more without.
    "story": base_settings(72, **MAIN_JOB.shares),
    # Every document thinks, and goes on with up to three checks, whatever its problem and whether
    # it is right. A direct answer is short and mostly wrong: with some of those, a wrong answer
    # would be shorter than a right one already in the base.
    "long": base_settings(128, direct=0.0, slipped=0.5, right=0.5, checks=3),
    # As long, but its prompts ask for a length, which nothing in the documents goes by.
    "asked": base_settings(128, direct=0.0, slipped=0.5, right=0.5, checks=3)
    | {"task": {"steps": [2, 5], "targets": TARGETS}},
    # As story, but all thinking slips: thinking never helps.
    "mirror": base_settings(
        72, direct=MAIN_JOB.shares["direct"],
        slipped=MAIN_JOB.shares["slipped"] + MAIN_JOB.shares["right"], right=0.0,
    ),
}  # fmt: skip


def bases(*families: str) -> Claim:
    """Return the bases of some families as runs that a claim needs."""
    return Claim(
        "bases", run=make_base, arms={f: BASES[f] for f in families}, leaves="model",
        minutes=dict.fromkeys(families, 6.0),
    )  # fmt: skip


def make_base(job: Job) -> Outcome:
    """Pretrain one base, and measure it as every policy is measured."""
    s = job.settings
    task = get_task("stories", **s["task"])
    settings = SFTSettings(**s["sft"], seed=job.seed)
    run = open_run(job, "pretrain", settings.steps)
    model = {name: s[name] for name in ("width", "layers", "heads")}
    policy, tokenizer = pretrain_tiny(
        task, settings, run=run, device=CPU, shares=s["shares"], **model
    )
    save_pretrained(policy, tokenizer, job.folder / "model")
    arrays, final = measured(policy, tokenizer, job)
    weights = (job.folder / "model" / "model.safetensors").read_bytes()
    final["sha256"] = hashlib.sha256(weights).hexdigest()
    return Outcome(
        arrays, final, optimiser_steps=settings.steps,
        tokens_trained=int(sum(line["tokens"] for line in run.history)),
    )  # fmt: skip


def load_base(job: Job, family: str) -> tuple[GPT, Tokenizer, dict]:
    """Return the base of a run's seed, its tokenizer and its record."""
    made = make_job("bases", family, BASES[family], job.seed, job.places, role_of_needs(job))
    record = find(read_records(job.places.records("bases")), made.wanted)
    if record is None:
        raise ValueError(f"base {made.name} is not recorded: the claim must name it in `needs`")
    policy, tokenizer = load_pretrained(made.folder / "model")
    return policy, tokenizer, record


def policy_of(job: Job, claim: Claim, arm: str, policy: GPT) -> None:
    """Load into `policy` what an arm of an earlier claim has become at a run's seed."""
    places, role = job.places, role_of_needs(job)
    made = make_job(claim.key, arm, claim.arms[arm], job.seed, places, role)
    path = made.folder / claim.leaves
    tensors, _ = read_checkpoint(path)
    check_model(policy, tensors, path)
    load_model(policy, tensors)


def reinforce(
    job: Job, *, reward: RewardFunction | None = None, watch: Watch | None = None,
    also: Also | None = None,
) -> Outcome:  # fmt: skip
    """Run one arm of GRPO from the seed's base, and measure it.

    A run whose numbers stop being finite counts with its last checkpoint, and without one as
    accuracy 0.

    Args:
        reward: None for the task's own.
        watch:  a second number of each completion, such as a proxy of its reward, to be followed
                along the run.
        also:   further numbers of each completion along the run: {name: [B]} comes as its mean, and
                as "curve_name", each problem's mean over its samples.
    """
    s = job.settings
    settings = GRPOSettings(**s["grpo"], seed=job.seed)
    task = get_task("stories", **s["task"])
    base, tokenizer, record = load_base(job, s["base"])
    policy = copy.deepcopy(base)
    held_out = task.generate(s["curve_problems"], seed=job.seed, split=job.split)

    def look(model: GPT) -> dict[str, object]:
        return probe(model, base, tokenizer, task, held_out, job, watch, also)

    run, failed = open_run(job, "grpo", settings.steps), None
    start = look(base)
    try:
        train_grpo(policy, tokenizer, task, settings, run=run, reward=reward, evaluate=look)
    except (ValueError, ArithmeticError) as error:  # a full disk is no result: that is run again
        failed = f"{type(error).__name__}: {error}"
    lost = failed is not None and not last_checkpoint(run, policy)
    arrays, final = measured(base if lost else policy, tokenizer, job)
    if lost:
        arrays = {
            name: array * (not name.startswith(("accuracy", "greedy")))
            for name, array in arrays.items()
        }
        final |= {name: 0.0 for name in final if name.startswith(("accuracy", "greedy"))}
    evaluations = [{"step": 0, **start}]
    evaluations += [{"step": h["step"] + 1, **h["eval"]} for h in run.history if "eval" in h]
    for line in evaluations:
        if run.history:
            before = run.history[max(line["step"] - 1, 0)]
            line["mixed_groups"] = before["mixed_groups"]
    for name in [name for name in start if name.startswith("curve")]:
        arrays[name] = np.array([line.pop(name) for line in evaluations], np.float32)  # [T,N]
    sampled = [h["completions"] for h in run.history]
    return Outcome(
        arrays, final, evaluations, base={"family": s["base"], "sha256": record["final"]["sha256"]},
        completions_sampled=int(sum(sampled)),
        tokens_sampled=int(sum(h["completions"] * h["length"] for h in run.history)),
        tokens_trained=int(
            sum(settings.prompts * settings.group_size * h["length"] for h in run.history)
        ),
        optimiser_steps=len(run.history) * settings.epochs * settings.updates, failed=failed,
        collapsed=collapsed(evaluations),
    )  # fmt: skip


def measured(
    policy: GPT, tokenizer: Tokenizer, job: Job
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Measure a policy on the seed's held-out problems.

    Returns:
        ([N] arrays, see `per_problem`; numbers: accuracy at T = 1, greedy, and at the best T, which
        is chosen on tuning problems that no seed is tested on).
    """
    s = job.settings
    task = get_task("stories", **s["task"])
    how = {"max_new_tokens": s["max_new_tokens"], "seed": job.seed}
    problems = task.generate(s["problems"], seed=job.seed, split=job.split)
    choose = task.generate(s["choose_problems"], seed=job.seed + 1000, split="tune")

    def at(temperature: float, on: Sequence[Problem], samples: int) -> Evaluation:
        return evaluate(
            policy, tokenizer, task, on, temperature=temperature,
            samples=samples if temperature else 1, **how,
        )  # fmt: skip

    tried = {t: at(t, choose, s["choose_samples"]).correct.mean() for t in s["temperatures"]}
    best = max(tried, key=tried.get)
    sampled, greedy = at(1.0, problems, s["samples"]), at(0.0, problems, 1)
    at_best = {0.0: greedy, 1.0: sampled}.get(best) or at(best, problems, s["samples"])
    arrays = per_problem(sampled)
    arrays |= {"accuracy_best_t": at_best.correct.mean(1), "greedy": greedy.correct.mean(1)}
    final = {name: float(array.mean()) for name, array in arrays.items()}
    return {n: a.astype(np.float32) for n, a in arrays.items()}, final | {"best_t": best}


def per_problem(found: Evaluation) -> dict[str, np.ndarray]:
    """Return means over each problem's samples: [N] arrays whose ratios are the usual rates.

    Tokens of completions that think, and of right and wrong ones that finished, come as sums over
    the samples divided by their number, next to the share of such completions.
    """
    right, lengths = found.correct * found.finished, found.lengths
    wrong = (1 - found.correct) * found.finished
    arrays = {
        "accuracy": found.correct, "thinking": found.thinks, "length": lengths,
        "finished": found.finished, "thinking_tokens": found.thinks * lengths, "right": right,
        "right_tokens": right * lengths, "wrong": wrong, "wrong_tokens": wrong * lengths,
    }  # fmt: skip
    return {name: array.astype(float).mean(1) for name, array in arrays.items()}


@torch.no_grad()
def probe(
    policy: GPT, base: GPT, tokenizer: Tokenizer, task: Task, problems: Sequence[Problem],
    job: Job, watch: Watch | None = None, also: Also | None = None,
) -> dict[str, object]:  # fmt: skip
    """Look at a policy along its run: a few samples of each problem.

    Returns:
        accuracy, greedy, thinks, finished, length of all, of right and of wrong ones (0 without
        any), entropy in nats a token, kl(policy‖base) in nats a completion, and "curve", each
        problem's accuracy [N]; with `watch` proxy, proxy_sd over the samples, and "curve_proxy";
        with `also` its means, and "curve_name" of each.
    """
    samples, tokens = job.settings["curve_samples"], job.settings["max_new_tokens"]
    how = {"max_new_tokens": tokens, "generator": torch.Generator().manual_seed(job.seed)}
    right, lengths, thinks, finished, surprise, kl, greedy, proxy = ([] for _ in range(8))
    others: dict[str, list[float]] = {}
    for start in range(0, len(problems), 128):
        part = problems[start : start + 128]
        prompts = [problem.prompt for problem in part]
        rollout = sample(policy, tokenizer, prompts, group_size=samples, **how)
        owners = [problem for problem in part for _ in range(samples)]
        pairs = zip(owners, rollout.texts, strict=True)
        right += [task.score(problem, text) for problem, text in pairs]
        lengths += rollout.lengths.tolist()
        thinks += ["<think>" in text for text in rollout.texts]
        finished += rollout.finished.tolist()
        mask = rollout.mask[:, 1:]
        reference = token_logprobs(base(rollout.tokens[:, :-1]), rollout.tokens[:, 1:])
        surprise += (-rollout.logprobs.sum(1)).tolist()
        kl += ((rollout.logprobs[:, 1:] - reference) * mask).sum(1).tolist()
        if watch is not None:
            proxy += watch(owners, rollout.texts).tolist()
        for name, values in also(policy, owners, rollout).items() if also else ():
            others.setdefault(name, []).extend(values.tolist())
        texts = sample(policy, tokenizer, prompts, temperature=0.0, **how).texts
        greedy += [task.score(problem, text) for problem, text in zip(part, texts, strict=True)]
    scores, sizes = np.array(right), np.array(lengths)

    def mean_length(rows: np.ndarray) -> float:
        return float(sizes[rows].mean()) if rows.any() else 0.0

    found = {"accuracy": scores, "greedy": greedy, "thinks": thinks, "finished": finished, "kl": kl}
    more = {}
    if watch is not None:
        found["proxy"], more["proxy_sd"] = proxy, float(np.std(proxy))
        more["curve_proxy"] = np.reshape(proxy, (len(problems), samples)).mean(1).tolist()
    for name, values in others.items():
        more[name] = float(np.mean(values))
        more[f"curve_{name}"] = np.reshape(values, (len(problems), samples)).mean(1).tolist()
    return (
        {name: float(np.mean(values)) for name, values in found.items()}
        | {
            "length": mean_length(sizes > 0),
            "length_right": mean_length(scores == 1),
            "length_wrong": mean_length(scores < 1),
            "entropy": float(np.sum(surprise) / sizes.sum()),
            "curve": scores.reshape(len(problems), samples).mean(1).tolist(),
        }
        | more
    )


def collapsed(evaluations: Sequence[Mapping[str, float]]) -> bool:
    """Whether a run ended badly: in its last two evaluations accuracy below half of the start's,
    or fewer than half of the completions finished."""
    start, last = evaluations[0]["accuracy"], evaluations[1:][-2:]
    low = all(line["accuracy"] < start / 2 for line in last)
    return bool(last) and (low or all(line["finished"] < 0.5 for line in last))


def last_checkpoint(run: Run, policy: GPT) -> bool:
    """Load a run's last checkpoint into `policy`; whether there was one, with finite weights."""
    optimizer = torch.optim.AdamW(policy.parameters())
    found = run.restore(policy, optimizer)["step"] > 0
    return found and all(math.isfinite(float(p.detach().sum())) for p in policy.parameters())


def open_run(job: Job, stage: str, steps: int) -> Run:
    """Open a stage of a run to start it, or to go on where it was stopped."""
    folder = job.folder / stage
    started = (folder / "settings.json").exists()
    run = Run.resume(folder) if started else Run.create(folder, job.wanted)
    run.on_step = lambda line: job.report(line["step"] + 1, steps)
    return run


def role_of_needs(job: Job) -> str | None:
    """Return the role of what a run starts from: a smoke's own, else that of the seed."""
    return "smoke" if job.role == "smoke" else None
