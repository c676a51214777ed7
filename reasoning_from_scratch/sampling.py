"""Sampling completions: in groups, in one batch, from a key/value cache.

Prompts of different lengths stand in one batch without left padding: each is run once, padded on
the right, and its row goes on at its own position. A row that has finished is dropped from the
batch. What comes back is a `Rollout`, aligned so that training needs no second look at the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reasoning_from_scratch.checks import check_texts
from reasoning_from_scratch.model import GPT, KVCache
from reasoning_from_scratch.tokenizer import Tokenizer


@dataclass(frozen=True)
class Rollout:
    """Sampled completions with their numbers. B = prompts · group_size; groups are adjacent.

    Row b is its prompt (`prompt_lengths[b]` tokens), the completion, then padding. `logprobs[b,t]`
    belongs to `tokens[b,t]`; `mask` is 1 on the sampled tokens, the stop token included.
    """

    tokens: Tensor  # [B,T] ids
    logprobs: Tensor  # [B,T] nats, at the sampling temperature, before top-p; 0 where mask is 0
    mask: Tensor  # [B,T] float
    prompt_lengths: Tensor  # [B] tokens
    texts: list[str]  # completions: without the end token, with a stop string if it was met
    finished: Tensor  # [B] bool: ended by itself; False where max_new_tokens cut it off

    @property
    def lengths(self) -> Tensor:
        """Tokens sampled in each row, the stop token included: [B]."""
        return self.mask.sum(1).long()


@torch.no_grad()
def sample(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    group_size: int = 1,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Rollout:
    """Sample `group_size` completions of each prompt.

    Args:
        prompts:        texts; special tokens in them are recognised, none is added.
        max_new_tokens: the longest completion, in tokens.
        temperature:    0 takes the likeliest token; its log-probabilities are then at 1.
        top_p:          1 samples from the whole distribution. Below 1 only the smallest set of
                        tokens with that much probability is sampled from, but `logprobs` stay
                        those of the whole distribution: do not train on such a rollout.
        stop:           strings that end a completion besides the tokenizer's end token.
        generator:      on the model's device. None uses PyTorch's global one.
        progress:       called after each token with (tokens so far, completions still open).

    Returns:
        A `Rollout`. The same generator state gives the same completions whether or not finished
        rows were dropped, because every row has its own uniform number for every token.

    Raises:
        ValueError: no prompt, an empty prompt, an option out of range, or a prompt that leaves no
            room for `max_new_tokens` within the model's positions.
    """
    check_options(group_size, max_new_tokens, temperature, top_p, stop)
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator is {generator!r}, expected a torch.Generator or None")
    device = model.embedding.weight.device
    ids = encode_prompts(model, tokenizer, prompts, max_new_tokens)
    lengths = torch.tensor([len(row) for row in ids], device=device)  # [P]
    width = max(len(row) for row in ids)
    padded = [row + [tokenizer.pad_id] * (width - len(row)) for row in ids]

    # Run each prompt once, then let its group share the result.
    cache = KVCache(model.config, len(ids), width, device=device, dtype=cache_dtype(device))
    hidden = model.hidden(torch.tensor(padded, device=device), cache)  # [P,width,D]
    cache.set_lengths(lengths)
    last = hidden[torch.arange(len(ids), device=device), lengths - 1]
    owner = torch.arange(len(ids), device=device).repeat_interleave(group_size)  # [B]
    cache = cache.select(owner, width + max_new_tokens)
    logits = model.head(last)[owner]  # [B,V]

    batch = len(owner)
    uniforms = torch.rand(batch, max_new_tokens, generator=generator, device=device)
    tokens = torch.full((batch, max_new_tokens), tokenizer.pad_id, device=device)
    logprobs = torch.zeros(batch, max_new_tokens, device=device)
    counts = torch.zeros(batch, dtype=torch.long, device=device)
    finished = torch.zeros(batch, dtype=torch.bool, device=device)
    stops = StopStrings(tokenizer, stop, batch)
    rows = torch.arange(batch, device=device)  # rows of the result that the cache still holds
    live = torch.ones(batch, dtype=torch.bool, device=device)  # of those, which are still open

    for column in range(max_new_tokens):
        chosen, logprob = choose(logits, uniforms[rows, column], temperature, top_p)
        ended = (chosen == tokenizer.eos_id) | stops.met(rows, chosen, live)
        open_rows = rows[live]
        tokens[open_rows, column], logprobs[open_rows, column] = chosen[live], logprob[live]
        counts[open_rows] += 1
        finished[rows[live & ended]] = True
        live = live & ~ended
        remaining = int(live.sum())
        if progress is not None:
            progress(column + 1, remaining)
        if remaining == 0 or column + 1 == max_new_tokens:
            break
        if remaining <= 0.75 * len(rows):  # each drop copies the cache: not for every single row
            keep = live.nonzero().squeeze(1)
            cache, rows, chosen, live = cache.select(keep), rows[keep], chosen[keep], live[keep]
        logits = model(chosen[:, None], cache)[:, 0]

    return assemble(
        tokenizer,
        torch.tensor(padded, device=device)[owner],
        lengths[owner],
        tokens,
        logprobs,
        counts,
        finished,
    )


def choose(
    logits: Tensor, uniform: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """Pick a token for each row of logits [B,V] by its uniform number [B]: (ids [B], logprobs [B]).

    The inverse of the cumulative sum needs one random number a row, where `torch.multinomial`
    draws one for each entry of the vocabulary.
    """
    logits = logits.float()
    if bool(logits.isnan().any()):
        raise ValueError("the model's logits hold NaN: its weights have diverged or are damaged")
    if temperature == 0:
        chosen = logits.argmax(-1)
        return chosen, logits.log_softmax(-1).gather(-1, chosen[:, None]).squeeze(-1)
    logprobs = (logits / temperature).log_softmax(-1)
    probabilities = logprobs.exp()
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p  # what stands before it is already enough
        probabilities = probabilities.scatter(-1, order, ordered.masked_fill(outside, 0))
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1]
    # Strictly below the total, or rounding could choose a token after the last possible one.
    threshold = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    chosen = torch.searchsorted(cumulative, threshold[:, None], right=True)
    return chosen.squeeze(-1), logprobs.gather(-1, chosen).squeeze(-1)


class StopStrings:
    """Watches each row's text for the strings that end it, which may span several tokens."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], batch: int) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.longest = max((len(s.encode()) for s in stop), default=0)
        self.tails: list[list[int]] = [[] for _ in range(batch)]

    def met(self, rows: Tensor, chosen: Tensor, live: Tensor) -> Tensor:
        """Return [N] bool: which rows' text now holds a stop string. Only open rows are read."""
        hit = torch.zeros_like(live)
        if not self.stop:
            return hit
        for i, (row, token, is_open) in enumerate(
            zip(rows.tolist(), chosen.tolist(), live.tolist(), strict=True)
        ):
            if is_open:
                # As many tokens as the longest stop string has bytes, and the one before them.
                tail = self.tails[row] = [*self.tails[row][-self.longest :], token]
                text = self.tokenizer.decode(tail)
                hit[i] = any(s in text for s in self.stop)
        return hit


def assemble(
    tokenizer: Tokenizer,
    prompts: Tensor,
    lengths: Tensor,
    sampled: Tensor,
    logprobs: Tensor,
    counts: Tensor,
    finished: Tensor,
) -> Rollout:
    """Put prompts [B,·] and completions [B,N] into one right-padded batch."""
    device, batch = prompts.device, len(prompts)
    total = int((lengths + counts).max())
    tokens = torch.full((batch, total), tokenizer.pad_id, device=device)
    tokens[:, : prompts.shape[1]] = prompts[:, :total]
    aligned, mask = (
        torch.zeros(batch, total, device=device),
        torch.zeros(batch, total, device=device),
    )
    column = torch.arange(sampled.shape[1], device=device)
    real = column < counts[:, None]  # [B,N]
    row = torch.arange(batch, device=device)[:, None].expand_as(real)[real]
    target = (lengths[:, None] + column)[real]
    tokens[row, target], aligned[row, target], mask[row, target] = (
        sampled[real],
        logprobs[real],
        1.0,
    )
    texts = []
    for ids, count in zip(sampled.tolist(), counts.tolist(), strict=True):
        ids = ids[:count]
        texts.append(tokenizer.decode(ids[:-1] if ids[-1] == tokenizer.eos_id else ids))
    return Rollout(tokens, aligned, mask, lengths, texts, finished)


def encode_prompts(
    model: GPT, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int
) -> list[list[int]]:
    """Return the prompts' ids, refusing what cannot be sampled from."""
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"prompts is {prompts!r}, expected a non-empty list of texts")
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    for prompt, row in zip(prompts, ids, strict=True):
        if not row:
            raise ValueError(f"prompts holds {prompt!r}, which has no token to continue")
        if max(row) >= model.config.vocab_size:
            raise ValueError(
                f"a prompt holds token {max(row)}, expected less than the model's vocab_size="
                f"{model.config.vocab_size}: does the tokenizer belong to it? {prompt[:60]!r}"
            )
        if len(row) + max_new_tokens > model.config.max_positions:
            raise ValueError(
                f"a prompt of {len(row)} tokens and max_new_tokens={max_new_tokens} exceed "
                f"max_positions={model.config.max_positions}: {prompt[:60]!r}"
            )
    return ids


def check_options(
    group_size: int, max_new_tokens: int, temperature: float, top_p: float, stop: Sequence[str]
) -> None:
    """Refuse options that mean nothing."""
    for name, value in (("group_size", group_size), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}, expected 0 (greedy) or a positive number")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}, expected a number in (0, 1]")
    check_texts("stop", stop)


def cache_dtype(device: torch.device) -> torch.dtype:
    """Return what attention computes in there: bfloat16 under CUDA's autocast, else float32."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return torch.float32
