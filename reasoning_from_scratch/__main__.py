"""Train a language model to reason, from scratch, on a laptop.

Start with `run`: it takes a model from random weights to a reasoning model and shows what changed.
Every run has a folder of its own; `--resume FOLDER` goes on with one that was stopped.
Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped by Ctrl-C (what was done is saved).
"""

import contextlib
import functools
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import tyro

from reasoning_from_scratch import report as reports
from reasoning_from_scratch.evaluate import measure
from reasoning_from_scratch.exercises import check as check_exercises
from reasoning_from_scratch.main_job import RECIPES, MainJob, absolute, open_model
from reasoning_from_scratch.merging import merge_models
from reasoning_from_scratch.pretrained import save_pretrained
from reasoning_from_scratch.runs import Run
from reasoning_from_scratch.sampling import sample as sample_completions
from reasoning_from_scratch.seeds import record_seeds
from reasoning_from_scratch.tasks import get_task
from reasoning_from_scratch.terminal import (
    Bar,
    check_fresh,
    fresh_folder,
    read_line,
    say,
    stoppable,
)
from reasoning_from_scratch.training import keep_freed_memory, start_processes
from reasoning_from_scratch.training_commands import (
    Model,
    Options,
    Out,
    Resume,
    Seed,
    check_resumed_alone,
    dpo,
    grpo,
    imitate,
    parse,
    ppo,
    pretrain,
    reward_model,
    sft,
    show_presets,
)

RecipeName = Literal[tuple(RECIPES)]


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
    else:
        model = absolute(model)
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
    check_fresh(out)
    policy, tokenizer = open_model(str(folder), torch.device("cpu"))
    save_pretrained(policy, tokenizer, out)
    say(str(out))


def merge(
    models: tyro.conf.Positional[tuple[str, ...]], out: Path, weights: tuple[float, ...] = ()
) -> None:
    """Write the average of several models' weights: between a long thinker and a brief one.

    Args:
        models: two or more, given as --model is elsewhere, fine-tuned from one base.
        out: the folder to write.
        weights: of each, adding up to 1; by default all the same.
    """
    check_fresh(out)
    opened = [open_model(model, torch.device("cpu")) for model in models]
    policies, tokenizers = [policy for policy, _ in opened], [tokenizer for _, tokenizer in opened]
    merged = merge_models(policies, weights or None, tokenizers=tokenizers)
    save_pretrained(merged, tokenizers[0], out)
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


def check(
    chapter: tyro.conf.Positional[int], file: Path | None = None, only: str | None = None
) -> None:
    """Check the exercises of a chapter with the package's own tests; exit code 1 if one is wrong.

    Args:
        chapter: its number.
        file: yours; by default the chapter's stubs in chapters/exercises.
        only: the name of one exercise's function, or its number, such as 7.1.
    """
    if not check_exercises(chapter, file=file, only=only, say=say):
        sys.exit(1)


PROGRAM = "python -m reasoning_from_scratch"
COMMANDS = (
    run, pretrain, sft, imitate, reward_model, dpo, ppo, grpo, evaluate, sample, chat, report,
    export, merge, bench, check,
)  # fmt: skip


def parse_command(arguments: list[str]) -> Callable[[], None]:
    """Return the command that the arguments name, with its options, ready to be called.

    What settings refuse is said as every other refusal is: tyro would name a wrapper of its own.
    """
    commands = {command.__name__.replace("_", "-"): later(command) for command in COMMANDS}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                commands, args=arguments, description=__doc__, prog=PROGRAM
            )
    except SystemExit as ended:
        cause: BaseException | None = ended
        while "dummy" in said.getvalue() and (cause := cause.__context__):
            if isinstance(cause, ValueError):
                raise cause from None
        sys.stderr.write(said.getvalue())
        raise


def later(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Return a function with the command's signature that binds its arguments and runs nothing."""

    @functools.wraps(command)
    def bind(*args: object, **options: object) -> Callable[[], None]:
        return functools.partial(command, *args, **options)

    return bind


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    keep_freed_memory()
    show_presets(arguments)
    try:
        check_resumed_alone(arguments)
        parse_command(arguments)()
    except KeyboardInterrupt:
        return 130
    except (ValueError, FileExistsError, FileNotFoundError, ModuleNotFoundError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
