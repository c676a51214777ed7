"""Exercises of chapter 02: what a language model is made of.

Write your lines where `raise NotImplementedError` stands; what is around it is given. Then

    make check CH=2        or one of them:  make check CH=2 ONLY=rotate

Hints stand at the end of the file. Shapes: B sequences, T tokens, H heads, K key/value heads,
E channels of a head.
"""

# ruff: noqa: F841  (what is imported and prepared here waits for your lines)

from collections.abc import Iterable, Sequence

import regex
import torch
from torch import Tensor

from reasoning_from_scratch.model import GPTConfig
from reasoning_from_scratch.tokenizer_files import DIGIT_PATTERN


def train_bpe(
    texts: Iterable[str],
    *,
    merges: int,
    pattern: str = DIGIT_PATTERN,
    special_tokens: Sequence[str] = (),
) -> list[tuple[int, int]]:
    """Exercise 2.1 ★★★ (30 minutes, design). Learn the merges of a byte-pair encoding.

    Again and again, join the adjacent pair of tokens that occurs most often into a new token: the
    first merge makes token 256, the next 257. Of equally frequent pairs take the smaller. How you
    keep the counts is yours; counting everything anew for each merge is fast enough here.

    Args:
        texts:          what to learn from.
        merges:         how many.
        pattern:        whose matches are the pieces; no merge crosses the border of one.
        special_tokens: cut out before.

    Returns:
        The pairs that were joined, in order.

    Raises:
        ValueError: the texts run out of pairs: "texts hold 3 merges, expected 5".

    >>> train_bpe(["aaabdaaabac"], merges=3)  # aa, then ab (97, 98), then both together
    [(97, 97), (97, 98), (256, 257)]

    Mirrors `tokenizer.train_bpe`; held by tests/test_tokenizer_bpe.py.
    """
    border = "|".join(regex.escape(token) for token in special_tokens) or r"(?!)"
    pieces = [
        list(piece.encode())
        for text in texts
        for part in regex.split(border, text)
        for piece in regex.findall(pattern, part)
    ]
    raise NotImplementedError("exercise 2.1, train_bpe")


def rope_frequencies(config: GPTConfig) -> Tensor:
    """Exercise 2.2 ★ (10 minutes, find the bug). How fast does each pair of channels turn?

    Pair i of a head with E channels turns by theta^(-2i/E) radians a position: the first pair by
    one radian, the last one hardly at all. With this code a model trains, but the weights of others
    give nonsense: the pairs turn at other speeds. Delete the first line, find out why, and mend it.

    Args:
        config: `head_width` is E, `rope_theta` theta. `rope_scaling` stretches the rotations for
                longer texts; its two kinds are right as they are.

    Returns:
        [E/2], float32.

    >>> rope_frequencies(GPTConfig(vocab_size=2, width=4, layers=1, heads=1, rope_theta=100.0))
    tensor([1.0000, 0.1000])

    Mirrors `model.rope_frequencies`; held by tests/test_model.py.
    """
    raise NotImplementedError("exercise 2.2, rope_frequencies: delete this line, find the bug")
    steps = torch.arange(config.head_width // 2, dtype=torch.float32)
    frequencies = config.rope_theta ** (-steps / config.head_width)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling["rope_type"] == "linear":
        return frequencies / scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * torch.pi)
    keep = ((turns - low) / (high - low)).clamp(0, 1)  # 0: fully stretched, 1: untouched
    return frequencies * (keep + (1 - keep) / scaling["factor"])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Exercise 2.3 ★ (10 minutes, write the formula). Turn pairs of channels by their angles.

    Channels i and i + E/2 are the two coordinates of a point in a plane; turn it, anticlockwise,
    by the angle whose cosine and sine are given.

    Args:
        x:        [B,T,H,E] queries or keys, E even.
        cos, sin: [B or 1,T,1,E/2] of each pair's angle.

    Returns:
        [B,T,H,E].

    >>> quarter = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)  # cosine and sine of 90 degrees
    >>> rotate(torch.tensor([1.0, 2.0]).view(1, 1, 1, 2), *quarter).flatten()
    tensor([-2.,  1.])

    Mirrors `model.rotate`; held by tests/test_model.py.
    """
    raise NotImplementedError("exercise 2.3, rotate")


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Exercise 2.4 ★★ (20 minutes, write the formula). What does each token gather?

    softmax(query · key / √E) over the tokens that it may look at, times their values. With fewer
    key heads than query heads, H/K neighbouring query heads share one.

    Args:
        query: [B,T,H,E].
        key:   [B,S,K,E], K a divisor of H.
        value: [B,S,K,E].
        mask:  [B or 1, H or 1, T,S] bool, True where a token may look; or of numbers, which are
               added to the scores (-inf: may not look). Without one, token t looks at itself and
               at those before it, if there are several queries; a single one looks at everything.

    Returns:
        [B,T,H,E].

    >>> key = torch.tensor([0.0, 3.0]).log().view(1, 2, 1, 1)
    >>> key[0, 0] = 0.0  # scores 0 and log 3, so weights ¼ and ¾
    >>> attend(torch.ones(1, 1, 1, 1), key, torch.tensor([0.0, 4.0]).view(1, 2, 1, 1)).flatten()
    tensor([3.0000])

    Mirrors `model.attend`; held by tests/test_model.py.
    """
    raise NotImplementedError("exercise 2.4, attend")


# region Hints: open one at a time
#
# 2.1  `Counter(zip(piece, piece[1:]))` counts the pairs of a piece; `min` over them with the key
#      (-count, pair) finds the one to join. "aaa" holds the pair (a, a) twice, and is joined to how
#      many tokens, from the left?
#
# 2.2  The exponent of pair i is -2i/E. Which i does `steps` hold, and what is it divided by?
#
# 2.3  (a, b) turned by an angle is (a cos - b sin, b cos + a sin). `chunk(2, dim=-1)`.
#
# 2.4  Bring the heads to the front: [B,H,T,E]. `repeat_interleave` or `repeat`: which makes
#      neighbours of the copies? A lower triangle of True is `torch.ones(T, S).tril().bool()`.
#
# endregion
