"""Preference pairs: two completions of one prompt, and which of them somebody likes better.

Nobody is asked here. The completions are a model's own samples, and the annotator is played: the
task's score says which is better. So the truth is known, and each human weakness can be added alone
and in a known amount: labels that are wrong now and then (`flip_labels`), and a liking for length.

Left out: what is learned from the pairs (`reward_model.py`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import torch

from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.sampling import sample
from reasoning_from_scratch.tasks import Problem, Task
from reasoning_from_scratch.tasks.base import stable_hash
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.training import precision

_PROMPTS_AT_ONCE = 32  # fixed, so that the first pairs do not depend on how many are wanted
_TWOFOLD = ("correct", "length")  # entries of meta that say something of each completion


@dataclass(frozen=True, slots=True)
class Preference:
    """A pair of completions of one prompt, without the end token.

    Args:
        chosen:   the one that is liked better.
        rejected: the other one.
        margin:   by how much a reward model should tell them apart, at least 0.
        meta:     what else is known. Of pairs that are made here: "key" of the problem, "correct"
                  (the task's scores) and "length" (tokens sampled), each (of chosen, of rejected),
                  and "flipped", whether the label was swapped on purpose.

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
        per_prompt:  the most pairs of one problem, see `preference_pairs`.
        length_coef: how much the annotator likes a token, where a right answer is worth 1.
        seed:        of the samples and of which pairs are taken.
        progress:    called after each batch of problems with (pairs so far, pairs in all).

    Raises:
        ValueError: an option out of range, what `sample` refuses, or the problems are too few: the
            completions of most problems are all right or all wrong.
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
        lengths = rollout.lengths.tolist()
        for i, problem in enumerate(batch):
            rows = slice(i * group_size, (i + 1) * group_size)
            pairs += preference_pairs(
                task, problem, rollout.texts[rows], lengths[rows], per_prompt=per_prompt,
                length_coef=length_coef, seed=stable_hash(f"{seed} {start + i}"),
            )  # fmt: skip
        if progress is not None:
            progress(min(len(pairs), count), count)
        if len(pairs) >= count:
            return pairs[:count]
    raise ValueError(
        f"problems has {len(problems)} entries that gave {len(pairs)} pairs, expected {count}: the "
        "completions of a problem must differ in being right; give more problems or a larger "
        "group_size"
    )


def preference_pairs(
    task: Task,
    problem: Problem,
    completions: Sequence[str],
    lengths: Sequence[int],
    *,
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
        per_prompt:  the most pairs to return; which of them is drawn from the seed.
        length_coef: worth of a token, where a right answer is worth 1; at 0 only a right and a
                     wrong completion make a pair. At 0.05 twenty more tokens outweigh being right.

    Raises:
        ValueError: not one length for each completion, or `per_prompt` below 1.
    """
    if len(lengths) != len(completions):
        raise ValueError(
            f"lengths has {len(lengths)} entries, expected {len(completions)}: as completions"
        )
    if per_prompt < 1:
        raise ValueError(f"per_prompt is {per_prompt}, expected at least 1")
    first = {text: i for i, text in reversed(list(enumerate(completions)))}
    rows = sorted(first.values())
    correct = {i: task.score(problem, completions[i]) for i in rows}
    worth = {i: correct[i] + length_coef * lengths[i] for i in rows}
    better = [(i, j) for i in rows for j in rows if worth[i] > worth[j]]
    taken = Random(seed).sample(better, min(per_prompt, len(better)))
    return [
        Preference(
            problem.prompt, completions[i], completions[j],
            meta={
                "key": problem.meta.get("key"), "correct": (correct[i], correct[j]),
                "length": (lengths[i], lengths[j]), "flipped": False,
            },
        )
        for i, j in taken
    ]  # fmt: skip


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
