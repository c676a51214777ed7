"""Train a language model to reason, from scratch, on a laptop.

Start with `run`: it takes a model from random weights to a reasoning model and shows what changed.
Every run has a folder of its own; `--resume FOLDER` goes on with one that was stopped.
Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped by Ctrl-C (what was done is saved).
"""

import ast
import dataclasses
import inspect
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from reasoning_from_scratch import report as reports
from reasoning_from_scratch.evaluate import measure
from reasoning_from_scratch.grpo import PRESETS, GRPOSettings, train_grpo
from reasoning_from_scratch.grpo import preset as make_preset
from reasoning_from_scratch.main_job import RECIPES, MainJob, open_model, pretrain_tiny
from reasoning_from_scratch.pretrained import save_pretrained
from reasoning_from_scratch.runs import Run
from reasoning_from_scratch.sampling import sample as sample_completions
from reasoning_from_scratch.seeds import record_seeds
from reasoning_from_scratch.sft import SFTSettings, train_sft
from reasoning_from_scratch.tasks import get_task
from reasoning_from_scratch.terminal import Bar, fresh_folder, read_line, say, stoppable
from reasoning_from_scratch.training import keep_freed_memory, rank, start_processes

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
RecipeName = Literal[tuple(RECIPES)]
PresetName = Literal[tuple(PRESETS)]
PRETRAINING = SFTSettings()
REINFORCING = GRPOSettings()
FINE_TUNING = SFTSettings(
    steps=100, batch=16, lr=1e-4, warmup=10, weight_decay=0.0, train_on="completion"
)


def run(
    recipe: RecipeName | None = None,
    model: Model = None,
    seed: Seed = 0,
    out: Out = None,
    resume: Resume = None,
) -> None:
    """Run the main job: base model, measure, reinforce, measure again, show.

    Args:
        recipe: ten_minutes and hour pretrain a tiny model, addition and cold_start take a model;
            by default ten_minutes, or with a model addition.
    """
    if resume is not None:
        known = Run.resume(resume).settings
        recipe, model, seed, out = known["name"], known["model"], known["seed"], resume
    recipe = recipe or ("ten_minutes" if model is None else "addition")
    out = out or fresh_folder(recipe)
    job = MainJob(out, recipe, seed=seed, model=model, device=start_processes(), watch=Bar)
    say(f"{recipe}: {RECIPES[recipe].about}\nrun folder: {out}\n")
    with stoppable(lambda: job.current, f"run --resume {out}"):
        before, after = job.run()
    say(reports.before_after_table(before, after))
    say(f"\nread the completions:  {out / 'report.html'}\nlearning curves:       {out}/curves.svg")
    say(f"the model:             {out / 'model'} (opens in transformers, too)")
    say(f"talk to it:            python -m reasoning_from_scratch chat --model {out / 'model'}")


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
        train_grpo(policy, tokenizer, problems, settings, run=record)
    export_to(record.folder, policy, tokenizer)
    if rank() == 0:
        say(f"read the completions: {reports.write_page(record.folder)}")


def evaluate(
    model: Model = None,
    task: str = "stories",
    split: Literal["test", "tune", "train"] = "test",
    problems: int = 256,
    samples: int = 4,
    max_new_tokens: int = 128,
    stop: tuple[str, ...] = (),
    seed: Seed = 0,
    option: Options = (),
) -> None:
    """Measure a model on a task: accuracy with 95 % intervals, as JSON.

    Args:
        task: stories, addition, arithmetic, countdown, gsm8k, math500 or gym:NAME.
        split: of the problems; training never sees test and tune.
        problems: how many.
        samples: completions of each at temperature 1, besides the greedy one.
        max_new_tokens: the longest completion.
        stop: strings that end a completion besides the end token.
    """
    policy, tokenizer = open_model(model, start_processes())
    family = get_task(task, **parse(option))
    metrics = measure(
        policy, tokenizer, family, family.generate(problems, seed=seed, split=split),
        samples=samples, max_new_tokens=max_new_tokens, stop=stop, seed=seed,
    )  # fmt: skip
    say(json.dumps(metrics, indent=1))


def sample(
    prompt: tyro.conf.Positional[str],
    model: Model = None,
    count: int = 4,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 128,
    stop: tuple[str, ...] = (),
    seed: Seed = 0,
) -> None:
    """Print completions of a prompt.

    Args:
        prompt: the text to continue; a backslash and n stand for a new line.
        count: how many completions.
        temperature: 0 takes the likeliest token.
        top_p: sample from the smallest set of tokens with this much probability.
        max_new_tokens: the longest completion.
        stop: strings that end a completion besides the end token.
    """
    device = start_processes()
    policy, tokenizer = open_model(model, device)
    generator = torch.Generator(device).manual_seed(seed)
    rollout = sample_completions(
        policy, tokenizer, [prompt.replace("\\n", "\n")], group_size=count, stop=stop,
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, generator=generator,
    )  # fmt: skip
    for text in rollout.texts:
        say(text)


def chat(model: Model = None, temperature: float = 0.0, max_new_tokens: int = 256) -> None:
    """Talk to a model; an empty line or Ctrl-D ends it.

    Args:
        temperature: 0 takes the likeliest token.
        max_new_tokens: the longest reply.
    """
    policy, tokenizer = open_model(model, start_processes())
    templated = "<|im_start|>" in tokenizer.special_tokens
    messages: list[dict[str, str]] = []
    say("A story such as: Cleo has 3 coins. doubles. sells 1. buys 14. how many?")
    while text := read_line("> "):
        messages.append({"role": "user", "content": text})
        prompt = tokenizer.render_chat(messages) if templated else text + "\n"
        rollout = sample_completions(
            policy, tokenizer, [prompt], max_new_tokens=max_new_tokens, temperature=temperature
        )
        messages.append({"role": "assistant", "content": rollout.texts[0]})
        say(rollout.texts[0])


def report(folders: tyro.conf.Positional[tuple[Path, ...]], name: str = "seeds") -> None:
    """Redraw the page of completions of a run, or the table and figures of several seeds.

    Args:
        folders: of one run, or of main jobs that differ in their seed alone.
        name: with several runs, of data/NAME.json and figures/NAME_*.svg.
    """
    if len(folders) == 1:
        say(str(reports.write_page(folders[0])))
    else:
        say(record_seeds(folders, name))


def export(folder: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path]) -> None:
    """Write a run's last checkpoint as a Hugging Face folder.

    Args:
        folder: of the run.
        out: the folder to write.
    """
    policy, tokenizer = open_model(str(folder), torch.device("cpu"))
    save_pretrained(policy, tokenizer, out)
    say(str(out))


def bench(
    sections: tuple[str, ...] = ("machine", "trl", "memory", "growth", "accuracy"),
    base: Path | None = None,
    quick: bool = False,
) -> None:
    """Measure speed against TRL and transformers; write data/bench.* and figures/bench.svg.

    Args:
        sections: what to measure; what was measured before on this machine is kept.
        base: the folder base of a main job, for accuracy; by default it is trained first.
        quick: toy sizes, to see that everything runs.
    """
    from reasoning_from_scratch.bench import bench as run_bench  # needs trl for most sections

    run_bench(sections=sections, base=base, quick=quick, say=say)


COMMANDS = (run, pretrain, sft, grpo, evaluate, sample, chat, report, export, bench)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    keep_freed_memory()
    commands = {command.__name__: command for command in COMMANDS}
    defaults = list(inspect.signature(grpo).parameters)
    grpo.__defaults__ = tuple(
        apply_preset(arguments) if name == "settings" else value
        for name, value in zip(defaults, grpo.__defaults__, strict=True)
    )
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, args=arguments, description=__doc__, prog="python -m reasoning_from_scratch"
        )
    except KeyboardInterrupt:
        return 130
    except (ValueError, FileExistsError, FileNotFoundError, ModuleNotFoundError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def apply_preset(arguments: list[str]) -> GRPOSettings:
    """Return the settings of the preset that the arguments name: --help then shows its values."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    named = [after for flag, after in zip(words, words[1:], strict=False) if flag == "--preset"]
    return make_preset(named[-1]) if named and named[-1] in PRESETS else make_preset("grpo")


def plan(command: str, resume: Path | None, settings: object, fixed: dict) -> tuple[object, dict]:
    """Return what a new run was asked for, or what the run to resume was started with."""
    if resume is None:
        return settings, fixed
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


if __name__ == "__main__":
    sys.exit(main())
