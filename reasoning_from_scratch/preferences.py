"""Preference pairs: two completions of one prompt, and which of them somebody likes better.

Nobody is asked here. The completions are a model's own samples, and the annotator is played: the
task's score says which is better. So the truth is known, and each human weakness can be added alone
and in a known amount: labels that are wrong now and then (`flip_labels`), and a liking for length.
`shortest_right_pairs` prefers on purpose what is short: pairs that make a long thinker brief.

Left out: what is learned from the pairs (`reward_model.py`, `dpo.py`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal, get_args

import torch

from reasoning_from_scratch.checks import check_choice
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.sampling import sample
from reasoning_from_scratch.tasks import Problem, Task
from reasoning_from_scratch.tasks.base import stable_hash
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.training import precision

Prefer = Literal["right", "shortest"]

_PROMPTS_AT_ONCE = 32  # fixed, so that the first pairs do not depend on how many are wanted
_TWOFOLD = ("correct", "length", "finished")  # entries of meta that say something of each text


@dataclass(frozen=True, slots=True)
class Preference:
    """A pair of completions of one prompt, without the end token.

    Args:
        chosen:   the one that is liked better.
        rejected: the other one.
        margin:   by how much a reward model should tell them apart, at least 0.
        meta:     what else is known. Of pairs that are made here: "key" of the problem, "correct"
                  (the task's scores), "length" (tokens sampled) and "finished" (False: cut off),
                  each (of chosen, of rejected), and "flipped", whether the label was swapped on
                  purpose.

    Raises:
        ValueError: something else than texts, the same text twice, or a negative margin.
    """

    prompt: str
    chosen: str
    rejected: str
    margin: float = 0.0
    meta: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("prompt", "chosen", "rejected"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r:.80}, expected a text")
        if self.chosen == self.rejected:
            raise ValueError(f"chosen and rejected are both {self.chosen!r:.80}: no preference")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin is {self.margin}, expected a finite number of at least 0")


def sample_preferences(
    model: GPT,
    tokenizer: Tokenizer,
    task: Task,
    problems: Sequence[Problem],
    *,
    count: int,
    group_size: int = 8,
    max_new_tokens: int,
    temperature: float = 1.0,
    stop: Sequence[str] = (),
    prefer: Prefer = "right",
    per_prompt: int = 1,
    length_coef: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Preference]:
    """Make preference pairs of a model's own samples: `group_size` of each problem, then compared.

    Args:
        problems:    to take from, one after another, until there are enough pairs. Pairs to train
                     on and pairs to test on need problems of different splits.
        count:       pairs to return. With more of them, the first ones stay the same.
        prefer:      "right" or "shortest", see `preference_pairs`.
        per_prompt:  the most pairs of one problem, see there.
        length_coef: how much the annotator likes a token, where a right answer is worth 1.
        seed:        of the samples and of which pairs are taken.
        progress:    called after each batch of problems with (pairs so far, pairs in all).

    Raises:
        ValueError: an option out of range, what `sample` refuses, or the problems are too few: the
            completions of most problems are all right or all wrong, or of one length.
    """
    for name, value, least in (("count", count, 1), ("group_size", group_size, 2)):
        if value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
    device = model.embedding.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    pairs: list[Preference] = []
    for start in range(0, len(problems), _PROMPTS_AT_ONCE):
        batch = problems[start : start + _PROMPTS_AT_ONCE]
        with precision(device):
            rollout = sample(
                model, tokenizer, [p.prompt for p in batch], group_size=group_size,
                max_new_tokens=max_new_tokens, temperature=temperature, stop=stop,
                generator=generator,
            )  # fmt: skip
        lengths, finished = rollout.lengths.tolist(), rollout.finished.tolist()
        for i, problem in enumerate(batch):
            rows = slice(i * group_size, (i + 1) * group_size)
            pairs += preference_pairs(
                task, problem, rollout.texts[rows], lengths[rows], finished=finished[rows],
                prefer=prefer, per_prompt=per_prompt, length_coef=length_coef,
                seed=stable_hash(f"{seed} {start + i}"),
            )  # fmt: skip
        if progress is not None:
            progress(min(len(pairs), count), count)
        if len(pairs) >= count:
            return pairs[:count]
    differ = "being right or in length" if prefer == "shortest" or length_coef else "being right"
    raise ValueError(
        f"problems has {len(problems)} entries that gave {len(pairs)} pairs, expected {count}: the "
        f"completions of a problem must differ in {differ}; give more problems or a larger "
        "group_size"
    )


def preference_pairs(
    task: Task,
    problem: Problem,
    completions: Sequence[str],
    lengths: Sequence[int],
    *,
    finished: Sequence[bool] | None = None,
    prefer: Prefer = "right",
    per_prompt: int = 1,
    length_coef: float = 0.0,
    seed: int = 0,
) -> list[Preference]:
    """Compare completions of one problem as an annotator does who knows the answer.

    What a completion is worth is its score, plus `length_coef` for each token. Of two that are
    worth the same there is no preference, and a text that occurs twice is taken once.

    Args:
        completions: [G] texts, without the end token.
        lengths:     [G] tokens of each.
        finished:    [G] whether each ended by itself; left out, all did.
        prefer:      "right": what is worth more; "shortest": only the shortest right one, to much
                     longer ones and to wrong longer ones, see `shortest_right_pairs`.
        per_prompt:  the most pairs to return; which of them is drawn from the seed.
        length_coef: worth of a token, where a right answer is worth 1; at 0 only a right and a
                     wrong completion make a pair. At 0.05 twenty more tokens outweigh being right.

    Raises:
        ValueError: not one entry for each completion, `per_prompt` below 1, no such choice, or a
            `length_coef` where the shortest is preferred.
    """
    check_choice("prefer", prefer, get_args(Prefer))
    if prefer == "shortest" and length_coef:
        raise ValueError(f"length_coef is {length_coef}, expected 0 with prefer='shortest'")
    if per_prompt < 1:
        raise ValueError(f"per_prompt is {per_prompt}, expected at least 1")
    finished = [True] * len(completions) if finished is None else finished
    for name, column in (("lengths", lengths), ("finished", finished)):
        if len(column) != len(completions):
            raise ValueError(
                f"{name} has {len(column)} entries, expected {len(completions)}: as completions"
            )
    first = {text: i for i, text in reversed(list(enumerate(completions)))}
    rows = sorted(first.values())
    correct = {i: task.score(problem, completions[i]) for i in rows}
    if prefer == "shortest":
        columns = [[column[i] for i in rows] for column in (correct, lengths, finished)]
        better = [(rows[i], rows[j]) for i, j in shortest_right_pairs(*columns)]
    else:
        worth = {i: correct[i] + length_coef * lengths[i] for i in rows}
        better = [(i, j) for i in rows for j in rows if worth[i] > worth[j]]
    taken = Random(seed).sample(better, min(per_prompt, len(better)))
    return [
        Preference(
            problem.prompt, completions[i], completions[j],
            meta={
                "key": problem.meta.get("key"), "correct": (correct[i], correct[j]),
                "length": (lengths[i], lengths[j]), "finished": (finished[i], finished[j]),
                "flipped": False,
            },
        )
        for i, j in taken
    ]  # fmt: skip


def shortest_right_pairs(
    correct: Sequence[float],
    lengths: Sequence[int],
    finished: Sequence[bool],
    *,
    longer: float = 1.5,
) -> list[tuple[int, int]]:
    """Pair the shortest right sample of *one* problem with those that took too long: long2short.

    Rejected are wrong samples that are longer than it, and right ones that are more than `longer`
    times as long. A wrong one that is not longer is in no pair: against it, the model would learn
    to be long. What was cut off cannot be chosen, but rejected.

    Args:
        correct:  [G] scores, 0 to 1; right is 1.
        lengths:  [G] in tokens.
        finished: [G] whether each ended by itself.
        longer:   at least 1.

    Returns:
        Pairs of rows (chosen, rejected), by the rejected one's row. The chosen one is the same in
        all: of several that are as short, the first. None if no sample is right.

    Raises:
        ValueError: not one entry a sample, a score outside 0 to 1, a negative length, or `longer`
            below 1.

    Source: Kimi Team 2025 (k1.5), section 2.4, "DPO".
    """
    for name, column in (("lengths", lengths), ("finished", finished)):
        if len(column) != len(correct):
            raise ValueError(f"{name} has {len(column)} entries, expected {len(correct)}")
    if not longer >= 1:
        raise ValueError(f"longer is {longer}, expected at least 1")
    for name, column, most in (("correct", correct, 1), ("lengths", lengths, math.inf)):
        if bad := [value for value in column if not 0 <= value <= most]:
            expected = "0 to 1" if most == 1 else "at least 0"
            raise ValueError(f"{name} holds {bad[0]}, expected {expected}")
    rows = range(len(correct))
    right = [i for i in rows if correct[i] >= 1 and finished[i]]
    if not right:
        return []
    chosen = min(right, key=lambda i: lengths[i])
    limits = [lengths[chosen] * (longer if score >= 1 else 1) for score in correct]
    return [(chosen, i) for i in rows if lengths[i] > limits[i]]


def flip_labels(pairs: Sequence[Preference], probability: float, *, seed: int) -> list[Preference]:
    """Swap chosen and rejected of each pair with a probability: an annotator's mistakes.

    At 0.5 the labels say nothing: the control of a reward model that cannot have learned anything.
    The coin of a pair depends on the seed, its prompt and its place alone, so more pairs leave the
    coins of the first as they were.

    Args:
        probability: 0 to 1.

    Raises:
        ValueError: probability outside 0 to 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}, expected 0 to 1")
    coins = (stable_hash(f"{seed} {i} {pair.prompt}") / 2**64 for i, pair in enumerate(pairs))
    return [
        _swapped(pair) if coin < probability else pair
        for pair, coin in zip(pairs, coins, strict=True)
    ]


def _swapped(pair: Preference) -> Preference:
    twofold = {name: pair.meta[name][::-1] for name in _TWOFOLD if name in pair.meta}
    meta = {**pair.meta, **twofold, "flipped": not pair.meta.get("flipped", False)}
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen, meta=meta)
