"""Models merged by averaging their weights: no training, and one model as fast as each of them.

It works where the models share a long start, such as two fine-tunings of one base: they then lie in
one valley of the loss, and between them the loss is low, too. Averages of models that were trained
apart are noise.

Left out: methods that treat single weights differently (TIES, DARE), and averages of outputs.
"""

import copy
import dataclasses
import math
from collections.abc import Sequence

import torch

from reasoning_from_scratch.checks import check_type
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.tokenizer import Tokenizer


@torch.no_grad()
def merge_models(
    models: Sequence[GPT],
    weights: Sequence[float] | None = None,
    *,
    tokenizers: Sequence[Tokenizer] = (),
) -> GPT:
    """Return a new model, each of whose parameters is the average of the models' own.

    Args:
        models:     two or more of one configuration; they stay as they are.
        weights:    of each model, at least 0, adding up to 1; left out: the same for all.
        tokenizers: theirs, if they shall be compared: the average of models that mean different
                    words by a token means none.

    Returns:
        A model with the first one's device, dtype and tied head. Sums are taken in float64, so
        that equal float32 models merge into the same model, bit for bit.

    Raises:
        ValueError: fewer than two models, not one weight for each, weights that are no average, or
            configurations or tokenizers that differ; it names in what.

    Source: Wortsman et al. 2022 (model soups), eq. 1; Kimi Team 2025 (k1.5), long2short.
    """
    if len(models) < 2:
        raise ValueError(f"models has {len(models)} entries, expected at least 2")
    for model in models:
        check_type("models", model, GPT)
    shares = [1 / len(models)] * len(models) if weights is None else [float(w) for w in weights]
    if len(shares) != len(models):
        raise ValueError(f"weights has {len(shares)} entries, expected {len(models)}: as models")
    if not (all(w >= 0 for w in shares) and math.isclose(sum(shares), 1, abs_tol=1e-6)):
        raise ValueError(f"weights is {shares}, expected numbers of at least 0 that add up to 1")
    check_same_configuration(models)
    if tokenizers:
        if len(tokenizers) != len(models):
            raise ValueError(
                f"tokenizers has {len(tokenizers)} entries, expected {len(models)}: as models"
            )
        check_same_tokenizer(tokenizers)

    merged = copy.deepcopy(models[0])  # a head that is tied to the embedding stays so
    others = [dict(model.named_parameters()) for model in models]
    for name, parameter in merged.named_parameters():
        parts = [share * own[name].to(parameter.device, torch.float64)
                 for share, own in zip(shares, others, strict=True)]  # fmt: skip
        parameter.copy_(sum(parts))
    return merged


def check_same_configuration(models: Sequence[GPT]) -> None:
    """Refuse models of which a field of the configuration differs from the first one's."""
    first = dataclasses.asdict(models[0].config)
    for i, model in enumerate(models):
        for name, value in dataclasses.asdict(model.config).items():
            if value != first[name]:
                raise ValueError(f"models[{i}] has {name} {value}, expected {first[name]}: as [0]")


def check_same_tokenizer(tokenizers: Sequence[Tokenizer]) -> None:
    """Refuse tokenizers that give an id another meaning than the first one does."""
    first = tokenizers[0]
    for i, tokenizer in enumerate(tokenizers):
        if tokenizer.vocab_size != first.vocab_size:
            raise ValueError(
                f"tokenizers[{i}] has {tokenizer.vocab_size} tokens, expected {first.vocab_size}: "
                "as [0]"
            )
        for token in range(first.vocab_size):
            ours, theirs = first.token_text(token), tokenizer.token_text(token)
            if ours != theirs:
                raise ValueError(
                    f"tokenizers[{i}] reads token {token} as {theirs!r}, expected {ours!r}: as [0]"
                )
        if tokenizer.eos_id != first.eos_id:
            raise ValueError(
                f"tokenizers[{i}] ends with {tokenizer.eos!r}, expected {first.eos!r}: as [0]"
            )
