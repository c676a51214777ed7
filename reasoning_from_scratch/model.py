"""A decoder-only language model in the style that today's open models share.

RMSNorm before each block, rotary positions, grouped-query attention, SwiGLU, a tied or untied
head; options for query/key norm, attention bias and head width. One class therefore holds this
project's tiny models and the weights of SmolLM2, Llama 2 and 3, Qwen2.5 and Qwen3.

It does *not* hold mixture-of-experts, sliding windows, dropout or left padding: batches are padded
on the right, where causal attention cannot see the padding.

Shapes: B sequences, T tokens, V vocabulary entries, D width, H heads, K key/value heads, E head
width, C columns of a cache.
"""

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LLAMA3_SCALING = (
    "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"
)  # fmt: skip
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]  # query, key, value -> what each token gathered


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a `GPT`. Fields left at None follow from the others.

    Raises:
        ValueError: heads do not divide, a size is not positive, or a rope type is unknown.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int | None = None  # None: as many as heads
    head_width: int | None = None  # None: width // heads
    mlp_width: int | None = None  # None: 8/3 width, as Llama, rounded up to a multiple of 32
    max_positions: int = 1024  # tokens of prompt and completion together
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, float | str] | None = None  # {"rope_type": "linear" or "llama3", …}
    norm_eps: float = 1e-5
    tied: bool = True  # the head reuses the embedding
    qk_norm: bool = False  # RMSNorm of each head's query and key, as Qwen3
    attention_bias: bool = False  # bias on query, key and value, as Qwen2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        fill = object.__setattr__  # the dataclass is frozen for everyone else
        if self.kv_heads is None:
            fill(self, "kv_heads", self.heads)
        if self.head_width is None:
            if self.width % self.heads:
                raise ValueError(
                    f"width is {self.width}, expected a multiple of heads={self.heads}"
                )
            fill(self, "head_width", self.width // self.heads)
        if self.mlp_width is None:
            fill(self, "mlp_width", 32 * math.ceil(self.width * 8 / 3 / 32))
        if self.heads % self.kv_heads:
            raise ValueError(
                f"kv_heads is {self.kv_heads}, expected a divisor of heads={self.heads}"
            )
        if self.head_width % 2:
            raise ValueError(f"head_width is {self.head_width}, expected an even number")
        rope_frequencies(self)  # refuses an unknown rope type here, not at the first forward pass


def rope_frequencies(config: GPTConfig) -> Tensor:
    """Return the rotation of each pair of channels, in radians a position: [E/2], float32.

    Source: Su et al. 2021 (RoFormer), eq. 15; "llama3" stretches the slow channels as Llama 3.1's
    published configuration describes, with a smooth passage between the two wavelength bounds.
    """
    steps = torch.arange(0, config.head_width, 2, dtype=torch.float32)
    frequencies = config.rope_theta ** (-steps / config.head_width)
    scaling = config.rope_scaling
    kind = "default" if scaling is None else scaling.get("rope_type", scaling.get("type"))
    if kind == "default":
        return frequencies
    needed = {"linear": ("factor",), "llama3": LLAMA3_SCALING}.get(kind, ())
    if missing := [name for name in needed if name not in scaling]:
        raise ValueError(f"rope_scaling of type {kind!r} lacks {', '.join(missing)}")
    if kind == "linear":
        return frequencies / scaling["factor"]
    if kind != "llama3":
        raise ValueError(f"rope type is {kind!r}, expected 'default', 'linear' or 'llama3'")
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    keep = ((turns - low) / (high - low)).clamp(0, 1)  # 0: fully stretched, 1: untouched
    return frequencies * (keep + (1 - keep) / scaling["factor"])


class KVCache:
    """Keys and values of all layers for a batch that grows by columns.

    A row's prompt may be shorter than its neighbours': after the prompts were run, call
    `set_lengths`, and the padding columns are hidden from then on while each row goes on at its
    own position. Rows can be repeated (a group shares one prompt's prefill) and dropped.

    Memory comes in blocks of columns, and a token attends to whole blocks, where what is not yet
    written is hidden: reading more of it in one piece is faster than reading less in strides.
    """

    BLOCK = 32  # columns

    def __init__(
        self,
        config: GPTConfig,
        batch: int,
        columns: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.layers, 2, batch, config.kv_heads, 0, config.head_width)
        self.store = torch.empty(shape, device=device, dtype=dtype)  # [layers,2,B,K,C,E]
        self.columns = columns  # how many tokens a row can hold, padding included
        self.length = 0  # columns in use, the same for all rows
        self.positions = torch.zeros(batch, dtype=torch.long, device=device)  # next one, a row
        self.padding: Tensor | None = None  # [B, columns at set_lengths] bool; None: there is none

    def set_lengths(self, lengths: Tensor) -> None:
        """Say how many of the columns so far are real in each row: lengths [B], in tokens."""
        self.positions = lengths.clone()
        padding = torch.arange(self.length, device=lengths.device) >= lengths[:, None]
        self.padding = padding if bool(padding.any()) else None

    def grow(self, time: int) -> None:
        """Make room for `time` more tokens a row, which `__call__` then writes layer by layer."""
        start, end = self.length, self.length + time
        if end > self.columns:
            raise ValueError(
                f"tokens has {time} columns, but the cache holds {start} of {self.columns}"
            )
        if end > self.store.shape[4]:
            self.store = self.copied(self.store, end)
        self.length, self.positions = end, self.positions + time
        self.written = slice(start, end)
        column = torch.arange(self.store.shape[4], device=self.store.device)
        hidden = (column > column[self.written, None])[None, None]  # [1,1,T,C]
        if self.padding is not None:
            padding = F.pad(self.padding, (0, len(column) - self.padding.shape[1]))
            hidden = hidden | padding[:, None, None]
        self.bias = torch.zeros(hidden.shape, dtype=self.store.dtype, device=hidden.device)
        self.bias.masked_fill_(hidden, -torch.inf)

    def copied(self, store: Tensor, columns: int) -> Tensor:
        """Return a store with whole blocks for at least `columns`, or all that are allowed."""
        blocks = math.ceil(columns / self.BLOCK) * self.BLOCK
        *outer, _, width = store.shape
        # Zeros, as hidden columns are weighted by 0, which does not hide a NaN.
        found = store.new_zeros((*outer, min(blocks, self.columns), width))
        found[..., : self.length, :] = store[..., : self.length, :]
        return found

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Write a layer's new keys and values [B,T,K,E], and attend to all so far."""
        keys, values = self.store[layer]  # [B,K,C,E]
        keys[:, :, self.written] = key.transpose(1, 2)
        values[:, :, self.written] = value.transpose(1, 2)
        if query.shape[1] == self.length:
            return attend(query, key, value)
        if query.shape[1] > 1:
            return attend(query, keys.transpose(1, 2), values.transpose(1, 2), self.bias)
        # One token a row: two plain products are faster than the fused kernel, and the heads that
        # share a key are the rows of one product.
        batch, kv_heads, _, width = keys.shape
        grouped = (query * width**-0.5).view(batch, kv_heads, -1, width)  # [B,K,H/K,E]
        weights = (grouped @ keys.transpose(-1, -2)).add_(self.bias).softmax(-1)
        return (weights @ values).view(query.shape)

    def select(self, rows: Tensor, columns: int | None = None) -> "KVCache":
        """Return a cache of the given rows [N], in that order and as often as they are named."""
        chosen = copy.copy(self)
        chosen.columns = self.columns if columns is None else columns
        chosen.store = chosen.copied(self.store[:, :, rows], self.length + 1)
        chosen.positions = self.positions[rows]
        chosen.padding = None if self.padding is None else self.padding[rows]
        return chosen


class SharedPrompts:
    """Attention over prompts and, below them, the G continuations of each, all in one stream.

    The stream [1, P·Tp + P·G·Tc] holds the prompts, then the continuations. A continuation sees its
    own prompt and itself, so a prompt's keys and values are computed once for its whole group, with
    the gradient of all of it.
    """

    def __init__(self, lengths: Tensor, columns: int, group_size: int, time: int) -> None:
        self.shape = (len(lengths), group_size, time)  # P, G, Tc
        self.columns = columns  # Tp
        seen = torch.arange(columns, device=lengths.device) < lengths[:, None]  # [P,Tp]
        own = torch.ones(time, time, dtype=torch.bool, device=lengths.device).tril()
        mask = torch.cat([seen[:, None].expand(-1, time, -1), own.expand(len(seen), -1, -1)], -1)
        self.mask = mask.repeat_interleave(group_size, 0)[:, None]  # [P·G,1,Tc,Tp+Tc]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        prompts, group_size, time = self.shape
        border = prompts * self.columns
        above = [x[0, :border].unflatten(0, (prompts, -1)) for x in (query, key, value)]
        below = [
            x[0, border:].unflatten(0, (prompts * group_size, -1)) for x in (query, key, value)
        ]
        of_prompts = attend(*above)
        keys, values = (
            torch.cat([x.repeat_interleave(group_size, 0), y], 1)
            for x, y in zip(above[1:], below[1:], strict=True)
        )
        of_continuations = attend(below[0], keys, values, self.mask)
        return torch.cat([of_prompts.flatten(0, 1), of_continuations.flatten(0, 1)])[None]


def causal(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend from every token to itself and those before it, in each row of a plain batch."""
    return attend(query, key, value)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend from query [B,T,H,E] to key and value [B,S,K,E]; without a mask, causally."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None and query.shape[2] > 1,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return mixed.transpose(1, 2)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; who sees whom is decided by `mix`."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.sizes = [config.heads, config.kv_heads, config.kv_heads]
        self.head_width = config.head_width
        # One matrix for query, key and value: three small multiplications cost more than one.
        outputs = sum(self.sizes) * config.head_width
        self.qkv = nn.Linear(config.width, outputs, bias=config.attention_bias)
        self.output = nn.Linear(config.heads * config.head_width, config.width, bias=False)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.query_norm = nn.RMSNorm(config.head_width, eps=config.norm_eps)
            self.key_norm = nn.RMSNorm(config.head_width, eps=config.norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mix: Mix) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (-1, self.head_width))  # [B,T,H+2K,E]
        query, key, value = qkv.split(self.sizes, dim=2)
        if self.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        mixed = mix(rotate(query, cos, sin), rotate(key, cos, sin), value)
        return self.output(mixed.flatten(-2))


class Block(nn.Module):
    """Attention and SwiGLU, each added to the stream after an RMSNorm of its input."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.gate_up = nn.Linear(config.width, 2 * config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mix: Mix) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, mix)
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class GPT(nn.Module):
    """The language model: tokens in, logits of the next token out."""

    def __init__(self, config: GPTConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        angles = torch.outer(torch.arange(config.max_positions).float(), rope_frequencies(config))
        self.register_buffer("cos", angles.cos(), persistent=False)  # [max_positions,E/2]
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.initialise(generator)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: N(0, 0.02), the projections into the stream smaller with depth."""
        into_stream = 0.02 / math.sqrt(2 * self.config.layers)  # Radford et al. 2019, section 2.3
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                small = name.endswith(("output.weight", "down.weight"))
                parameter.normal_(0.0, into_stream if small else 0.02, generator=generator)

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return logits [B,T,V]; those at t speak of token t+1.

        Args:
            tokens: [B,T] ids, padded on the right.
            cache:  what these tokens continue; they are appended to it. Without a gradient.

        Raises:
            ValueError: tokens is not [B,T], or longer than max_positions or the cache allow.
        """
        return self.head(self.hidden(tokens, cache))

    def hidden(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return what the head reads: [B,T,D], normalised. Arguments as for `forward`."""
        if tokens.dim() != 2:
            raise ValueError(f"tokens has shape {list(tokens.shape)}, expected [B, T]")
        if cache is None:
            self.check_positions(tokens.shape[1])
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
            return self.stream(tokens, positions, causal)
        cache.grow(tokens.shape[1])
        positions = cache.positions[:, None] - torch.arange(
            tokens.shape[1], 0, -1, device=tokens.device
        )
        self.check_positions(int(positions.max()) + 1)
        return self.stream(tokens, positions, cache)

    def hidden_after(self, prompts: Tensor, lengths: Tensor, continuations: Tensor) -> Tensor:
        """Return what the head reads at each continuation's tokens, running each prompt once.

        The same numbers and gradients as `hidden` on every prompt joined with each of its
        continuations, without computing a prompt G times.

        Args:
            prompts:       [P,Tp] ids, padded on the right.
            lengths:       [P] tokens of each prompt, at least 0.
            continuations: [P,G,Tc] ids, padded on the right.

        Returns:
            [P,G,Tc,D].
        """
        if prompts.dim() != 2 or continuations.dim() != 3 or len(prompts) != len(continuations):
            raise ValueError(
                f"prompts has shape {list(prompts.shape)} and continuations "
                f"{list(continuations.shape)}, expected [P, Tp] and [P, G, Tc]"
            )
        (count, columns), (_, group_size, time) = prompts.shape, continuations.shape
        self.check_positions(columns + time)
        device = prompts.device
        after = lengths[:, None, None] + torch.arange(time, device=device)  # [P,1,Tc]
        positions = torch.cat(
            [
                torch.arange(columns, device=device).repeat(count),
                after.expand(continuations.shape).flatten(),
            ]
        )
        tokens = torch.cat([prompts.flatten(), continuations.flatten()])
        mix = SharedPrompts(lengths, columns, group_size, time)
        x = self.stream(tokens[None], positions[None], mix)
        return x[0, count * columns :].view(count, group_size, time, -1)

    def stream(self, tokens: Tensor, positions: Tensor, mix: Callable[..., Tensor]) -> Tensor:
        """Run tokens [B,T] at positions [B or 1,T] through all blocks: [B,T,D], normalised.

        `mix(layer, query [B,T,H,E], key [B,T,K,E], value [B,T,K,E])` returns [B,T,H,E].
        """
        cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]
        x = self.embedding(tokens)
        for layer, block in enumerate(self.blocks):
            x = block(x, cos, sin, functools.partial(mix, layer))
        return self.norm(x)

    def check_positions(self, needed: int) -> None:
        """Refuse a sequence that is too long for the table of rotations."""
        if needed > self.config.max_positions:
            raise ValueError(
                f"tokens reach {needed} positions, expected at most "
                f"max_positions={self.config.max_positions}"
            )


class ScalarHead(nn.Module):
    """A `GPT` body with one number a token for a head: a reward model's score or a critic's value.

    The head starts at zero, so that a critic's first values do not drown the rewards.
    """

    def __init__(self, body: GPT) -> None:
        super().__init__()
        self.body = body
        self.score = nn.Linear(body.config.width, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B,T]: the entry at t has read tokens up to t. A reward is read at the last."""
        return self.score(self.body.hidden(tokens)).squeeze(-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel pair (i, i + E/2) of x [B,T,H,E] by its angle; cos, sin [B or 1,T,1,E/2].

    Source: Su et al. 2021, eq. 34, with the pairing that published Llama and Qwen weights use.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
