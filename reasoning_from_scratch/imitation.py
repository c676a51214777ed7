"""Imitation: sample completions, keep those that are right, train on them as on written ones.

The samples are the student's own (rejection-sampling fine-tuning; over several rounds expert
iteration, RAFT or STaR) or another model's (distillation). What is handed over is text, so that
teacher and student may differ in size and in tokenizer.

Left out: learning from wrong samples, which this loss never sees; matching the teacher's
probabilities token by token (a KL loss, which needs one vocabulary for both); STaR's hints for
problems that no sample solved; and a choice among right samples by anything else than length.
"""

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from reasoning_from_scratch.checks import (
    check_choice,
    check_choices,
    check_positive,
    check_texts,
    check_type,
)
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.runs import Run, write_atomically
from reasoning_from_scratch.sampling import sample
from reasoning_from_scratch.sft import SFTSettings, train_sft
from reasoning_from_scratch.tasks import Problem, Task
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.training import make_optimizer, precision, rank, sum_over_processes

Example = tuple[str, str]  # prompt and completion, without the end token
_ROWS_AT_ONCE = 256  # completions sampled together; fixed, for the samples depend on it


@dataclass(frozen=True)
class ImitationSettings(SFTSettings):
    """Settings of `imitate`: what is sampled, what is kept, and how each round trains on it.

    Fields of `SFTSettings` stand here with defaults for a model that solves some problems already.
    """

    steps: int = 80  # optimiser steps of all rounds together
    batch: int = 32  # examples a step, over all processes
    lr: float = 3e-4  # peak learning rate, which every round climbs to anew
    warmup: int = 4  # steps to the peak
    weight_decay: float = 0.0  # of matrices, per unit of learning rate
    train_on: Literal["all", "completion"] = "completion"  # "all" tokens or the "completion" only
    checkpoint_every: int = 25  # steps; a killed run goes on from the last one
    evaluate_every: int = 0  # steps of a round between calls of `evaluate`; 0: never
    rounds: int = 4  # of sampling, choosing and training
    prompts: int = 256  # problems that a round samples, new ones each
    group_size: int = 8  # completions of each
    max_new_tokens: int = 64  # the longest completion
    temperature: float = 1.0  # of sampling; 0 takes the likeliest token, with group_size 1
    stop: tuple[str, ...] = ()  # strings that end a completion besides the end token
    keep: Literal["first", "shortest"] = "first"  # right samples of a prompt that go before others
    per_prompt: int = 4  # right samples of a prompt that are kept at most; 0: all
    duplicates: Literal["drop", "keep"] = "drop"  # a text that came up before for its prompt
    all_right: Literal["keep", "drop"] = "keep"  # prompts of which every sample is right
    start: Literal["last", "original"] = "last"  # weights that a round trains from (STaR: original)
    seed: int = 0  # problems, completions, order of the examples

    def __post_init__(self) -> None:
        super().__post_init__()
        check_texts("stop", self.stop)
        check_positive(self, "rounds", "prompts", "group_size", "max_new_tokens")
        check_positive(self, "per_prompt", "temperature", at_least=0)
        check_choices(self)
        if self.steps % self.rounds:
            raise ValueError(
                f"steps is {self.steps}, expected a multiple of rounds={self.rounds}: every round "
                "has as many"
            )
        if self.temperature == 0 and self.group_size > 1:
            raise ValueError(
                f"group_size is {self.group_size} at temperature 0: all would be the same, use 1"
            )


def select_samples(
    texts: Sequence[str],
    correct: Sequence[float],
    lengths: Sequence[float],
    finished: Sequence[bool],
    *,
    keep: str = "first",
    per_prompt: int = 4,
    duplicates: str = "drop",
    all_right: str = "keep",
) -> list[int]:
    """Choose which samples of *one* prompt are worth imitating; return their rows.

    A sample is right if it scores 1 and ended by itself: what was cut off would teach the student
    not to stop. Right answers by wrong reasoning pass, so read some of what is kept.

    Args:
        texts:      [G] completions.
        correct:    [G] scores, 0 to 1.
        lengths:    [G] in tokens.
        finished:   [G] whether each ended by itself.
        keep:       which right ones go before others: "first" as they stand, or "shortest", equal
                    lengths as they stand. Kimi's shortest rejection sampling is "shortest" with
                    per_prompt=1; "first" with per_prompt=1 is the control of the same size.
        per_prompt: the most to return, or else prompts that are easy, and so often solved, make up
                    most of what is learned; 0 returns all.
        duplicates: "drop" returns equal texts once: a second sample is wanted for its other
                    wording. So a rare way to the answer weighs as much as a common one. "keep"
                    leaves each its weight; with per_prompt=0 the first step on such samples goes
                    along the policy gradient of reward 1 for right and 0 for wrong.
        all_right:  "drop" returns nothing where every sample is right: nothing is left to learn.

    Returns:
        Rows in the order of their preference.

    Raises:
        ValueError: not one entry a completion, a score outside 0 to 1, a negative length or
            `per_prompt`, or no such choice.

    Source: Yuan et al. 2023 (RFT): distinct right ones; Kimi Team 2025 (k1.5), long2short.
    """
    check_samples(texts, correct, lengths, finished)
    check_choice("keep", keep, ("first", "shortest"))
    check_choice("duplicates", duplicates, ("drop", "keep"))
    check_choice("all_right", all_right, ("keep", "drop"))
    if per_prompt < 0:
        raise ValueError(f"per_prompt is {per_prompt}, expected at least 0")

    rows = [row for row in range(len(texts)) if correct[row] >= 1 and finished[row]]
    if all_right == "drop" and len(rows) == len(texts):
        return []
    if keep == "shortest":
        rows.sort(key=lambda row: lengths[row])
    if duplicates == "drop":  # after the sort: a text may have been sampled in other tokens, too
        first: dict[str, int] = {}
        for row in rows:
            first.setdefault(texts[row], row)
        rows = list(first.values())
    return rows[:per_prompt] if per_prompt else rows


def check_samples(
    texts: Sequence[str],
    correct: Sequence[float],
    lengths: Sequence[float],
    finished: Sequence[bool],
) -> None:
    """Refuse columns of different length and entries that mean nothing."""
    if isinstance(texts, str):
        raise ValueError(f"texts is {texts!r:.80}, expected a list of texts")
    for name, column in (("correct", correct), ("lengths", lengths), ("finished", finished)):
        if len(column) != len(texts):
            raise ValueError(f"{name} has {len(column)} entries, expected {len(texts)}: as texts")
    for score, length in zip(correct, lengths, strict=True):
        if not 0 <= score <= 1:
            raise ValueError(f"correct holds {score}, expected 0 to 1")
        if not length >= 0:
            raise ValueError(f"lengths holds {length}, expected 0 or above")


def sample_examples(
    teacher: GPT,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    score: Callable[[Problem, str], float],
    settings: ImitationSettings,
    *,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Example], dict[str, float]]:
    """Sample `group_size` completions of each problem and keep what `select_samples` chooses.

    Problems with the same prompt count as one.

    Args:
        tokenizer: the teacher's.
        score:     of a completion, 0 to 1; only those with 1 can be kept. Usually `task.score`; one
                   that always says 1 gives the unfiltered control.
        generator: on the teacher's device.
        progress:  called after each batch with (completions so far, completions in all).

    Returns:
        The examples, prompt by prompt, and numbers: "completions" sampled; means over them of
        "correct", "finished" and "length" (the teacher's tokens); "prompts", of which
        "solved_prompts" have a right sample and "kept_prompts" an example; "kept" examples and
        their mean "kept_length" (0 if there are none).

    Raises:
        ValueError: no problems, what `sample` refuses, or a score outside 0 to 1.
    """
    if not problems:
        raise ValueError("problems is empty, expected at least one")
    s, found = settings, {}
    width = max(1, _ROWS_AT_ONCE // s.group_size)
    for first in range(0, len(problems), width):
        batch = problems[first : first + width]
        with precision(generator.device):
            rollout = sample(
                teacher, tokenizer, [p.prompt for p in batch], group_size=s.group_size,
                max_new_tokens=s.max_new_tokens, temperature=s.temperature, stop=s.stop,
                generator=generator,
            )  # fmt: skip
        owners = [problem for problem in batch for _ in range(s.group_size)]
        columns = (rollout.texts, rollout.lengths.tolist(), rollout.finished.tolist())
        for problem, text, length, ended in zip(owners, *columns, strict=True):
            sampled = (text, score(problem, text), length, ended)
            found.setdefault(problem.prompt, []).append(sampled)
        if progress is not None:
            progress((first + len(batch)) * s.group_size, len(problems) * s.group_size)

    examples, kept, solved = [], [], 0
    for prompt, group in found.items():
        rows = select_samples(
            *zip(*group, strict=True), keep=s.keep, per_prompt=s.per_prompt,
            duplicates=s.duplicates, all_right=s.all_right,
        )  # fmt: skip
        examples += [(prompt, group[row][0]) for row in rows]
        kept += [group[row][2] for row in rows]
        solved += any(correct >= 1 and ended for _, correct, _, ended in group)
    everything = [sampled for group in found.values() for sampled in group]
    _, correct, lengths, finished = zip(*everything, strict=True)
    numbers = {"completions": len(everything)}
    for name, column in (("correct", correct), ("finished", finished), ("length", lengths)):
        numbers[name] = sum(column) / len(everything)
    numbers |= {"prompts": len(found), "solved_prompts": solved}
    numbers["kept_prompts"] = len({prompt for prompt, _ in examples})
    return examples, numbers | {"kept": len(kept), "kept_length": sum(kept) / (len(kept) or 1)}


def imitate(
    student: GPT,
    tokenizer: Tokenizer,
    task: Task,
    settings: ImitationSettings,
    *,
    teacher: tuple[GPT, Tokenizer] | None = None,
    score: Callable[[Problem, str], float] | None = None,
    run: Run | None = None,
    evaluate: Callable[[GPT], dict] | None = None,
    watch: Callable[[str, int], Callable[[dict], None]] | None = None,
) -> Run:
    """Train `student` in place, in rounds, on samples that were chosen; return the run.

    Each round samples new training problems, keeps what `select_samples` chooses and trains on it
    by `train_sft`, with an optimiser and a learning rate of its own. The examples of a round stay
    in the run's folder, as examples-1.json and so on, {"stats": …, "examples": …}, so a resumed run
    ends with the same weights as one that was never stopped; one that is stopped while it samples
    samples that round again.

    Args:
        teacher:  a model and its tokenizer, which stay as they are: distillation. None samples from
                  the student as each round finds it.
        score:    as in `sample_examples`; None: `task.score`.
        evaluate: called with the student each `evaluate_every` steps of a round; what it returns is
                  logged.
        watch:    called with ("sample", completions) before each sampling; returns what is then
                  called with {"step": …}: a progress bar.

    Returns:
        The run. Its history has a line an optimiser step: what `train_sft` logs, and "round" from
        1; the first line of a round also has the numbers of `sample_examples`, "too_long"
        (examples beyond the student's positions, left out), "passes" (over the examples) and
        "sample_seconds". Of several processes each samples everything.

    Raises:
        ValueError: nothing was kept, or `evaluate` would never be called.
        FileNotFoundError: the run was stopped within a round and its examples are gone.

    Source: Zelikman et al. 2022 (STaR, start="original"); Dong et al. 2023 (RAFT, start="last");
        with a teacher DeepSeek-AI 2025 (R1), section 2.4.
    """
    s, run = settings, run or Run()
    check_type("settings", s, ImitationSettings)
    if evaluate is not None and not s.evaluate_every:
        raise ValueError("evaluate is given, but evaluate_every is 0: it would never be called")
    sampler = (student, tokenizer) if teacher is None else teacher
    device = sampler[0].embedding.weight.device
    score, watch = score or task.score, watch or (lambda stage, total: lambda line: None)
    original = copy.deepcopy(student.state_dict()) if s.start == "original" else None
    one_round = replace(s, steps=s.steps // s.rounds, rounds=1)
    done = run.restore(student, make_optimizer(student, lr=s.lr))["step"]

    for index in range(done // one_round.steps, s.rounds):
        # Sample and choose, or read what was chosen before the run was stopped.
        part = Round(run, s, index, done)
        known = part.saved_examples()
        if known is None:
            # Item i of a task is the same however many are drawn.
            problems = task.generate((index + 1) * s.prompts, seed=s.seed, split="train")
            generator = torch.Generator(device).manual_seed(1_000_003 * s.seed + index)
            clock = time.perf_counter()
            chosen, numbers = sample_examples(
                *sampler, problems[index * s.prompts :], score, s, generator=generator,
                progress=stopping_bar(run, watch("sample", s.prompts * s.group_size)),
            )  # fmt: skip
            examples = [example for example in chosen if fits(student, tokenizer, example)]
            if not examples:
                raise ValueError(
                    f"round {index + 1} kept none of {numbers['completions']} completions (mean "
                    f"score {numbers['correct']:.2g}, {numbers['finished']:.0%} finished): give "
                    "easier problems, a larger group_size or max_new_tokens, or a teacher"
                )
            numbers["too_long"] = len(chosen) - len(examples)
            numbers["passes"] = one_round.steps * s.batch / len(examples)
            numbers["sample_seconds"] = time.perf_counter() - clock
            known = part.save_examples(examples, numbers)
        examples, part.numbers = known

        # Train on them from where the last round ended, or from where the first one began.
        if original is not None:
            student.load_state_dict(original)
        train_sft(student, tokenizer, examples, one_round, run=part, evaluate=evaluate)
    return run


class Round(Run):
    """A round's part of a run: `train_sft` counts its steps from 0, the run goes on counting."""

    def __init__(self, whole: Run, settings: ImitationSettings, index: int, done: int) -> None:
        super().__init__(whole.folder)
        self.whole, self.of_all, self.number = whole, settings, index + 1
        self.before = index * (settings.steps // settings.rounds)  # steps of the earlier rounds
        self.begun = done > self.before  # the checkpoint is of this round
        self.path = whole.folder and whole.folder / f"examples-{self.number}.json"
        self.numbers: dict[str, float] = {}  # of its sampling, for its first line

    def saved_examples(self) -> tuple[list[Example], dict[str, float]] | None:
        """Return what `save_examples` left; None if the round was not sampled yet.

        Raises:
            FileNotFoundError: it was, and the file is gone.
        """
        if self.path is None or not (self.path.exists() or self.begun):
            return None
        known = json.loads(self.path.read_text(encoding="utf-8"))
        return [(prompt, completion) for prompt, completion in known["examples"]], known["stats"]

    def save_examples(
        self, examples: list[Example], numbers: dict[str, float]
    ) -> tuple[list[Example], dict[str, float]]:
        """Leave the round's examples in the folder, if the run has one; return them."""
        if self.path is not None and rank() == 0:
            known = {"stats": numbers, "examples": examples}
            write_atomically(self.path, json.dumps(known, indent=1) + "\n")
        return examples, numbers

    def restore(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator | None = None,
    ) -> dict:
        """Load the run's checkpoint if it is of this round; return {"step": of the round}."""
        if not self.begun:  # the moments of another round are nothing to go on from
            return {"step": 0}
        return {"step": self.whole.restore(model, optimizer)["step"] - self.before}

    def end_step(
        self,
        step: int,
        stats: Mapping[str, object],
        settings: object,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator | None = None,
        **extra: object,
    ) -> None:
        """End the step of the run that this step of the round is."""
        line = {**stats, "round": self.number, **(self.numbers if step == 0 else {})}
        self.whole.end_step(self.before + step, line, self.of_all, model, optimizer)


def stopping_bar(run: Run, bar: Callable[[dict], None]) -> Callable[[int, int], None]:
    """Return what `sample_examples` reports to: it moves the bar, and stops a run as asked.

    Raises:
        KeyboardInterrupt: when called, if `run.stopping` was set and there is more to sample.
    """

    def report(done: int, total: int) -> None:
        bar({"step": done - 1})
        stopping = sum_over_processes(float(run.stopping)) != [0.0]  # one of them is enough
        if stopping and done < total:
            raise KeyboardInterrupt(f"stopped after {done} of {total} completions of a round")

    return report


def fits(student: GPT, tokenizer: Tokenizer, example: Example) -> bool:
    """Return whether an example, with the end token, is within the student's positions."""
    tokens = sum(len(tokenizer.encode(text)) for text in example) + 1
    return tokens <= student.config.max_positions
