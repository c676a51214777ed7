"""Exercises of chapter 04: learning from examples.

Write your lines where `raise NotImplementedError` stands; what is around it is given. Then

    make check CH=4        or one of them:  make check CH=4 ONLY=sft_loss

Hints stand at the end of the file. Shapes: B sequences, T tokens, V entries of the vocabulary.
A mask is not 0 where a token counts; what stands elsewhere may be anything, NaN included, and must
change neither a value nor a gradient.
"""

# ruff: noqa: F401  (what is imported and prepared here waits for your lines)

from collections.abc import Sequence

import torch
from torch import Tensor

from reasoning_from_scratch import losses
from reasoning_from_scratch.checks import check_mask, check_shape
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.sft import shuffled
from reasoning_from_scratch.tokenizer import Tokenizer


def masked_mean(x: Tensor, mask: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Exercise 4.1 ★ (10 minutes, write the formula). The mean over the entries that count.

    Args:
        x:    any shape. Carries the gradient.
        mask: the same shape, not 0 where an entry counts.
        dim:  the dimensions to average over, None for all.

    Returns:
        The mean; 0, with a gradient of 0, where nothing counts.

    >>> masked_mean(torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]]), torch.tensor([[1, 1, 0],
    ...             [1, 0, 0]]), 1)
    tensor([1.5000, 4.0000])

    Mirrors `losses.masked_mean`; held by tests/test_losses.py.
    """
    check_mask(mask, x.shape, "one entry for each of x")
    x = x if x.dtype == torch.float64 else x.float()  # whole numbers have no mean
    raise NotImplementedError("exercise 4.1, masked_mean")


def sft_loss(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Exercise 4.2 ★ (10 minutes, write the formula). How surprising was the assistant's text?

    Args:
        logits:  [B,T,V]; those at t already speak of targets[:, t]. Carries the gradient.
        targets: [B,T] token ids; where masked they may be anything, such as -100.
        mask:    [B,T] not 0 where the target is the assistant's.

    Returns:
        A scalar in nats: the mean over *all* counted tokens of the batch of -log p(target).

    >>> logits = torch.tensor([[[1.0, 1.0], [1.0, 3.0], [0.0, 0.0]]]).log()  # ½, then ¼ for token 0
    >>> sft_loss(logits, torch.tensor([[0, 0, -100]]), torch.tensor([[1, 1, 0]]))
    tensor(1.0397)

    `losses.token_logprobs` and `losses.masked_mean` may be used. Mirrors `losses.sft_loss`; held by
    tests/test_losses.py.
    """
    check_shape("targets", targets, logits.shape[:-1], "one target for each row of logits")
    if not targets.numel():
        raise ValueError(f"targets has shape {list(targets.shape)}, expected at least one entry")
    check_mask(mask, targets.shape, "one entry for each of targets")
    raise NotImplementedError("exercise 4.2, sft_loss")


def encode_examples(
    model: GPT, tokenizer: Tokenizer, examples: Sequence[tuple[str, str]], train_on: str
) -> list[tuple[list[int], list[int]]]:
    """Exercise 4.3 ★★ (15 minutes, find the bug). From texts to tokens, and which of them count.

    An example is its prompt, its completion and the end token. A model that was trained on this
    code's examples does well on some prompts and stumbles over the first token of others: it meets
    tokens there that it never saw in training. Delete the first line, find out why, and mend it.

    Args:
        model:     its `config.max_positions` is the longest example, end token included.
        tokenizer: `encode(text)` gives ids, `eos_id` is the end token.
        examples:  (prompt, completion) pairs.
        train_on:  "all" tokens count, or the "completion" and its end token alone.

    Returns:
        (ids, mask) of each example, equally long.

    >>> from tests.toys import toy_model, toy_tokenizer  # digits are their own ids, "=" is 10
    >>> encode_examples(toy_model(), toy_tokenizer(), [("1=", "23")], "completion")
    [([1, 10, 2, 3, 17], [0, 0, 1, 1, 1])]

    Mirrors `sft.encode_examples`; held by tests/test_sft.py.
    """
    raise NotImplementedError("exercise 4.3, encode_examples: delete this line, find the bug")
    if not examples:
        raise ValueError("examples is empty, expected (prompt, completion) pairs")
    encoded, limit = [], model.config.max_positions
    for prompt, completion in examples:
        first, second = tokenizer.encode(prompt), tokenizer.encode(completion)
        ids = [*tokenizer.encode(prompt + completion), tokenizer.eos_id]
        if len(ids) > limit:
            raise ValueError(f"an example has {len(ids)} tokens, expected at most {limit}")
        counts = 1 if train_on == "all" else 0
        encoded.append((ids, [counts] * len(first) + [1] * (len(second) + 1)))
    return encoded


def batch_rows(examples: int, batch: int, step: int, seed: int) -> list[int]:
    """Exercise 4.4 ★★ (20 minutes, design). Which examples does a step take?

    Pass after pass goes over all examples, each pass in an order of its own, and every step takes
    the next `batch` of them: a step may finish one pass and begin another, or span several. A
    resumed run asks for step 700 first, so nothing may be remembered between calls.

    Args:
        examples: how many there are.
        batch:    rows to return.
        step:     from 0.
        seed:     of the orders.

    Returns:
        [batch] row numbers below `examples`.

    `shuffled(examples, seed, number_of_the_pass)` gives the order of a pass, as a list.

    >>> shuffled(3, 0, 0), shuffled(3, 0, 1)
    ([2, 0, 1], [1, 2, 0])
    >>> batch_rows(3, 2, 1, 0)  # the third and the fourth of 2, 0, 1, 1, 2, 0, …
    [1, 1]

    Mirrors `sft.batch_rows`; held by tests/test_sft.py.
    """
    raise NotImplementedError("exercise 4.4, batch_rows")


# region Hints: open one at a time
#
# 4.1  0 · NaN is NaN, and infinity too: `torch.where` takes entries out before they are added. What
#      does `clamp(min=1)` do to a count of 0?
#
# 4.2  -100 is no token: put any id in its place before looking it up. A mean of means would weigh
#      the tokens of a short answer more.
#
# 4.3  Sampling encodes the prompt alone, and goes on from there. In which order does this code
#      join and encode? Think of a prompt that ends with "a", a completion "b", and a token "ab".
#
# 4.4  Number all rows that were ever taken: which numbers are this step's? `divmod` by `examples`
#      gives the pass and the place in it.
#
# endregion
