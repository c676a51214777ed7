"""The commands that train one thing: pretrain, sft, imitate, reward-model, dpo, ppo, grpo.

Each makes a run's folder, or goes on with one that was stopped, and leaves the trained model in it.
"""

import ast
import copy
import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from reasoning_from_scratch import imitation
from reasoning_from_scratch import report as reports
from reasoning_from_scratch.dpo import DPOSettings, train_dpo
from reasoning_from_scratch.grpo import PRESETS, GRPOSettings, train_grpo
from reasoning_from_scratch.grpo import preset as make_preset
from reasoning_from_scratch.main_job import (
    absolute,
    measure_along,
    model_folder,
    open_model,
    pretrain_tiny,
)
from reasoning_from_scratch.model import ScalarHead
from reasoning_from_scratch.ppo import PPO_PRESETS, PPOSettings, ppo_preset, train_ppo
from reasoning_from_scratch.preferences import Prefer, Preference, flip_labels, sample_preferences
from reasoning_from_scratch.pretrained import save_pretrained
from reasoning_from_scratch.reward_model import (
    RewardModelSettings,
    normalise_scores,
    proxy_reward,
    score_pairs,
    train_reward_model,
)
from reasoning_from_scratch.reward_model_files import load_reward_model, save_reward_model
from reasoning_from_scratch.reward_quality import (
    expected_calibration_error,
    pair_accuracy,
    pair_confidence,
)
from reasoning_from_scratch.runs import Run
from reasoning_from_scratch.sft import SFTSettings, train_sft
from reasoning_from_scratch.tasks import get_task
from reasoning_from_scratch.tasks.base import check_whole
from reasoning_from_scratch.terminal import Bar, fresh_folder, say, stoppable
from reasoning_from_scratch.training import rank, start_processes

Flat = tyro.conf.OmitArgPrefixes
Out = Annotated[Path | None, tyro.conf.arg(help="the run's folder; by default under runs/")]
Resume = Annotated[Path | None, tyro.conf.arg(help="the folder of a run that was stopped")]
Model = Annotated[
    str | None, tyro.conf.arg(help='a Hugging Face folder, a .gguf, a run\'s folder or "smollm2"')
]
Seed = Annotated[int, tyro.conf.arg(help="of the weights, the problems and the sampling")]
Options = Annotated[
    tuple[str, ...], tyro.conf.arg(help="options of the task, such as steps=2,6 limit=200")
]
PresetName = Literal[tuple(PRESETS)]
PPOPresetName = Literal[tuple(PPO_PRESETS)]
MODELS = ("model", "teacher", "reward_model")  # options that name one
PRETRAINING = SFTSettings()
REINFORCING = GRPOSettings()
WITH_CRITIC = PPOSettings()
JUDGING = RewardModelSettings()
PREFERRING = DPOSettings()
IMITATING = imitation.ImitationSettings()
FINE_TUNING = SFTSettings(
    steps=100, batch=16, lr=1e-4, warmup=10, weight_decay=0.0, train_on="completion"
)


def pretrain(
    settings: Flat[SFTSettings] = PRETRAINING,
    width: int = 96,
    layers: int = 4,
    heads: int = 4,
    option: Options = (),
    out: Out = None,
    resume: Resume = None,
) -> None:
    """Pretrain a tiny model on story documents, from random weights.

    Args:
        width: of the residual stream.
        layers: blocks of attention and feed-forward.
        heads: of attention.
    """
    fixed = {
        "width": width,
        "layers": layers,
        "heads": heads,
        "options": parse(option),
        "shares": {},
    }
    settings, fixed = plan("pretrain", resume, settings, fixed)
    task = get_task("stories", **fixed["options"])
    record = open_run("pretrain", out, resume, settings, fixed)
    del fixed["options"]
    with stoppable(lambda: record, f"pretrain --resume {record.folder}"):
        device = start_processes()
        policy, tokenizer = pretrain_tiny(task, settings, run=record, device=device, **fixed)
    export_to(record.folder, policy, tokenizer)


def sft(
    model: Model = None,
    task: str = "stories",
    settings: Flat[SFTSettings] = FINE_TUNING,
    examples: int = 2000,
    option: Options = (),
    out: Out = None,
    resume: Resume = None,
) -> None:
    """Fine-tune a model on worked demonstrations of a task.

    Args:
        task: stories, addition, arithmetic, countdown, gsm8k, math500 or gym:NAME.
        examples: how many demonstrations there are.
    """
    fixed = {"model": model, "task": task, "examples": examples, "options": parse(option)}
    settings, fixed = plan("sft", resume, settings, fixed)
    problems = get_task(fixed["task"], **fixed["options"])
    problems = problems.generate(fixed["examples"], seed=settings.seed, split="train")
    pairs = [(p.prompt, p.demonstration) for p in problems]
    policy, tokenizer = open_model(fixed["model"], start_processes())
    record = open_run("sft", out, resume, settings, fixed)
    with stoppable(lambda: record, f"sft --resume {record.folder}"):
        train_sft(policy, tokenizer, pairs, settings, run=record)
    export_to(record.folder, policy, tokenizer)


def imitate(
    model: Model = None,
    task: str = "stories",
    teacher: str | None = None,
    settings: Flat[imitation.ImitationSettings] = IMITATING,
    option: Options = (),
    out: Out = None,
    resume: Resume = None,
) -> None:
    """Train a model on right samples: its own, or in distillation those of a teacher.

    Args:
        task: stories, addition, arithmetic, countdown, gsm8k, math500 or gym:NAME.
        teacher: the model that is sampled, given like --model; by default the one that is trained,
            as each round finds it.
    """
    fixed = {"model": model, "task": task, "teacher": teacher, "options": parse(option)}
    settings, fixed = plan("imitate", resume, settings, fixed)
    problems = get_task(fixed["task"], **fixed["options"])
    device = start_processes()
    policy, tokenizer = open_model(fixed["model"], device)
    sampled = None if fixed["teacher"] is None else open_model(fixed["teacher"], device)
    record = open_run("imitate", out, resume, settings, fixed)
    with stoppable(lambda: record, f"imitate --resume {record.folder}"):
        imitation.imitate(
            policy, tokenizer, problems, settings, teacher=sampled, run=record, watch=Bar
        )
    export_to(record.folder, policy, tokenizer)


def reward_model(
    model: Model = None,
    task: str = "stories",
    settings: Flat[RewardModelSettings] = JUDGING,
    pairs: int = 1000,
    held_out: int = 500,
    group_size: int = 8,
    max_new_tokens: int = 128,
    noise: float = 0.0,
    length_coef: float = 0.0,
    option: Options = (),
    out: Out = None,
    resume: Resume = None,
) -> None:
    """Train a reward model on pairs of a model's own samples, in which the task says who is right.

    Its scores end with mean 0 and deviation 1 over the texts it was trained on.

    Args:
        task: stories, addition, arithmetic, countdown, gsm8k, math500 or gym:NAME.
        pairs: to train on.
        held_out: pairs of problems that training never sees, to measure it on.
        group_size: completions of each problem, of which one pair is taken.
        max_new_tokens: the longest completion.
        noise: share of the training labels that are swapped; 0.5 leaves nothing to learn.
        length_coef: how much the annotator likes a token, where a right answer is worth 1.
    """
    fixed = {
        "model": model, "task": task, "pairs": pairs, "held_out": held_out,
        "group_size": group_size, "max_new_tokens": max_new_tokens, "noise": noise,
        "length_coef": length_coef, "options": parse(option),
    }  # fmt: skip
    settings, fixed = plan("reward-model", resume, settings, fixed)
    family = get_task(fixed["task"], **fixed["options"])
    policy, tokenizer = open_model(fixed["model"], start_processes())
    check_whole("pairs", fixed["pairs"], 1)
    check_whole("held_out", fixed["held_out"], 1)
    record = open_run("reward-model", out, resume, settings, fixed)

    def compared(count: int, split: str) -> list[Preference]:
        problems = family.generate(8 * count, seed=settings.seed, split=split)
        return sample_preferences(
            policy, tokenizer, family, problems, count=count, group_size=fixed["group_size"],
            max_new_tokens=fixed["max_new_tokens"], length_coef=fixed["length_coef"],
            seed=settings.seed,
        )  # fmt: skip

    with stoppable(lambda: record, f"reward-model --resume {record.folder}"):
        known, unknown = compared(fixed["pairs"], "train"), compared(fixed["held_out"], "tune")
        known = flip_labels(known, fixed["noise"], seed=settings.seed)
        judge = ScalarHead(policy).to(policy.embedding.weight.device)
        train_reward_model(judge, tokenizer, known, settings, run=record)
    rewards = score_pairs(judge, tokenizer, unknown)
    # What it pays shall have the size that PPO's other numbers are made for. As a probability it is
    # read before.
    texts = [text for pair in known for text in (pair.chosen, pair.rejected)]
    normalise_scores(judge, tokenizer, [pair.prompt for pair in known for _ in range(2)], texts)
    if rank() == 0:
        save_reward_model(judge, tokenizer, record.folder / "model")
    error = expected_calibration_error(*pair_confidence(*rewards))
    say(f"right on {pair_accuracy(*rewards):.1%} of {len(unknown)} held-out pairs")
    say(f"calibration error: {error:.3f}\nthe reward model: {record.folder / 'model'}")


def dpo(
    model: Model = None,
    task: str = "stories",
    settings: Flat[DPOSettings] = PREFERRING,
    prefer: Prefer = "right",
    pairs: int = 1000,
    group_size: int = 8,
    max_new_tokens: int = 128,
    option: Options = (),
    out: Out = None,
    resume: Resume = None,
) -> None:
    """Train a model on pairs of its own samples to prefer one of each: DPO, without a reward model.

    Args:
        task: stories, addition, arithmetic, countdown, gsm8k, math500 or gym:NAME.
        prefer: right answers to wrong ones, or the shortest right one to what is much longer or
            wrong and longer, which makes a long thinker brief.
        pairs: to train on.
        group_size: completions of each problem, of which one pair is taken.
        max_new_tokens: the longest completion.
    """
    fixed = {
        "model": model, "task": task, "prefer": prefer, "pairs": pairs, "group_size": group_size,
        "max_new_tokens": max_new_tokens, "options": parse(option),
    }  # fmt: skip
    settings, fixed = plan("dpo", resume, settings, fixed)
    family = get_task(fixed["task"], **fixed["options"])
    policy, tokenizer = open_model(fixed["model"], start_processes())
    check_whole("pairs", fixed["pairs"], 1)
    problems = family.generate(8 * fixed["pairs"], seed=settings.seed, split="train")
    record = open_run("dpo", out, resume, settings, fixed)
    with stoppable(lambda: record, f"dpo --resume {record.folder}"):
        known = sample_preferences(
            policy, tokenizer, family, problems, count=fixed["pairs"], prefer=fixed["prefer"],
            group_size=fixed["group_size"], max_new_tokens=fixed["max_new_tokens"],
            seed=settings.seed,
        )  # fmt: skip
        train_dpo(policy, tokenizer, known, settings, run=record)
    export_to(record.folder, policy, tokenizer)


def ppo(
    model: Model = None,
    task: str = "stories",
    preset: PPOPresetName = "rlhf",
    reward_model: str | None = None,
    settings: Flat[PPOSettings] = WITH_CRITIC,
    option: Options = (),
    out: Out = None,
    resume: Resume = None,
) -> None:
    """Reinforce a model with a critic, and perhaps a reward model: the last step of RLHF.

    Args:
        task: stories, addition, arithmetic, countdown, gsm8k, math500 or gym:NAME.
        preset: a published recipe; the settings below show its values, and may change them.
        reward_model: the folder of one, or of the run that made it, which then pays, and from which
            the critic starts; by default the task's score pays.
    """
    fixed = {"model": model, "task": task, "preset": preset, "reward_model": reward_model}
    settings, fixed = plan("ppo", resume, settings, fixed | {"options": parse(option)})
    problems = get_task(fixed["task"], **fixed["options"])
    device = start_processes()
    policy, tokenizer = open_model(fixed["model"], device)
    reward, critic = None, ScalarHead(copy.deepcopy(policy)).to(device)
    if fixed["reward_model"] is not None:
        judge, its_tokenizer = load_reward_model(model_folder(fixed["reward_model"]))
        reward = proxy_reward(judge.to(device), its_tokenizer, problems)
        critic = copy.deepcopy(judge)
    record = open_run("ppo", out, resume, settings, fixed)
    with stoppable(lambda: record, f"ppo --resume {record.folder}"):
        look = measure_along(problems, tokenizer, settings)
        train_ppo(
            policy, critic, tokenizer, problems, settings, run=record, reward=reward, evaluate=look
        )  # fmt: skip
    export_to(record.folder, policy, tokenizer)
    if rank() == 0:
        say(f"read the completions: {reports.write_page(record.folder)}")


def grpo(
    model: Model = None,
    task: str = "stories",
    preset: PresetName = "grpo",
    settings: Flat[GRPOSettings] = REINFORCING,
    option: Options = (),
    out: Out = None,
    resume: Resume = None,
) -> None:
    """Reinforce a model on a task: reward 1 for a right answer.

    Args:
        task: stories, addition, arithmetic, countdown, gsm8k, math500 or gym:NAME.
        preset: a published method; the settings below show its values, and may change them.
    """
    fixed = {"model": model, "task": task, "preset": preset, "options": parse(option)}
    settings, fixed = plan("grpo", resume, settings, fixed)
    problems = get_task(fixed["task"], **fixed["options"])
    policy, tokenizer = open_model(fixed["model"], start_processes())
    record = open_run("grpo", out, resume, settings, fixed)
    with stoppable(lambda: record, f"grpo --resume {record.folder}"):
        look = measure_along(problems, tokenizer, settings)
        train_grpo(policy, tokenizer, problems, settings, run=record, evaluate=look)
    export_to(record.folder, policy, tokenizer)
    if rank() == 0:
        say(f"read the completions: {reports.write_page(record.folder)}")


def check_resumed_alone(arguments: list[str]) -> None:
    """Refuse options beside --resume: a run goes on with the settings that it began with.

    Raises:
        ValueError: there are others.
    """
    flags = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    others = [flag for flag in flags if flag not in ("--resume", "--help")]
    if "--resume" in flags and others:
        raise ValueError(
            f"--resume goes on with the run's own settings: leave out {', '.join(others)}, or "
            "start a new run"
        )


def show_presets(arguments: list[str]) -> None:
    """Make the preset that the arguments name each command's default: --help shows its values."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    named = [after for flag, after in zip(words, words[1:], strict=False) if flag == "--preset"]
    for command, presets, make, default in (
        (grpo, PRESETS, make_preset, "grpo"),
        (ppo, PPO_PRESETS, ppo_preset, "rlhf"),
    ):
        chosen = make(named[-1] if named and named[-1] in presets else default)
        names = inspect.signature(command).parameters
        command.__defaults__ = tuple(
            chosen if name == "settings" else value
            for name, value in zip(names, command.__defaults__, strict=True)
        )


def plan(command: str, resume: Path | None, settings: object, fixed: dict) -> tuple[object, dict]:
    """Return what a new run was asked for, or what the run to resume was started with."""
    if resume is None:
        if settings.evaluate_every and command not in ("grpo", "ppo"):
            raise ValueError(
                f"evaluate_every is {settings.evaluate_every}, but {command} looks at nothing on "
                "the way: use 0, and `evaluate` on what it leaves"
            )
        paths = {name: absolute(fixed[name]) for name in MODELS if name in fixed}
        return settings, fixed | paths
    known = Run.resume(resume).settings
    if known.get("command") != command:
        raise ValueError(f"{resume} is a run of {known.get('command')!r}, not of {command!r}")
    settings = type(settings)(**tuples(known["settings"]))
    fixed = {name: known[name] for name in fixed}
    return settings, fixed | {"options": tuples(fixed["options"])}


def open_run(
    command: str, out: Path | None, resume: Path | None, settings: object, fixed: dict
) -> Run:
    """Make a run's folder, once everything it needs is known to be there, or open it again."""
    if resume is not None:
        record = Run.resume(resume)
    else:
        about = {"command": command, **fixed, "settings": dataclasses.asdict(settings)}
        record = Run.create(out or fresh_folder(command), about)
    say(f"run folder: {record.folder}")
    log = record.folder / "log.jsonl"
    if log.exists() and len(log.read_text().splitlines()) >= settings.steps:
        say(f"its {settings.steps} steps are done: nothing is left to train")
    record.on_step = Bar(command, settings.steps)
    return record


def tuples(options: dict[str, object]) -> dict[str, object]:
    """Return options as they were before JSON made lists of their tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def export_to(folder: Path, policy: torch.nn.Module, tokenizer: object) -> None:
    """Leave the trained model in the run's folder."""
    if rank() == 0:
        save_pretrained(policy, tokenizer, folder / "model")
        say(f"the model: {folder / 'model'} (opens in transformers, too)")


def parse(options: tuple[str, ...]) -> dict[str, object]:
    """Turn name=value texts into a task's options; 2,6 is a pair and anything else text."""
    parsed = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"option is {option!r}, expected name=value")
        try:
            parsed[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[name] = value
    return parsed
