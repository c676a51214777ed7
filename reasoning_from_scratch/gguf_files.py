"""Models in GGUF, llama.cpp's file format: weights, shape and tokenizer in one file.

`read_gguf` hands over tensors under their published names, in float32 and in the published order.
Left out: writing, and the metadata of other architectures than Llama, Qwen2 and Qwen3.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from reasoning_from_scratch.model import GPTConfig, rope_frequencies

# bias on query, key and value; norm of query and key
_ARCHITECTURES = {"llama": (False, False), "qwen2": (True, False), "qwen3": (False, True)}
_PUBLISHED = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


def read_gguf(path: Path) -> tuple[GPTConfig, set[str], Callable[[str], Tensor], dict[str, object]]:
    """Open a GGUF file.

    Returns:
        The model's shape; the published names of its tensors; a function that reads one of them
        in float32; and all metadata, which describe the tokenizer.

    Raises:
        ValueError: the file is damaged, or holds another kind of model or of quantization.
    """
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise ValueError(f"{path} is no GGUF file, or damaged or cut short: {error}") from None
    stored = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(path, fields, stored)
    homes = {_published(name): name for name in stored if name != "rope_freqs.weight"}
    permuted = fields["general.architecture"] == "llama"

    def fetch(name: str) -> Tensor:
        tensor = stored[homes[name]]
        try:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise ValueError(f"{path}: {tensor.name} cannot be dequantized: {error}") from None
        values = torch.from_numpy(np.array(values, dtype=np.float32))
        heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
        return _unpermute(values, heads) if permuted and heads else values

    return config, set(homes), fetch, fields


def _published(name: str) -> str:
    """Return the published name of a tensor; one that is not known keeps its own."""
    stem, _, suffix = name.rpartition(".")
    if not stem.startswith("blk."):
        return f"{_PUBLISHED.get(stem, stem)}.{suffix}"
    _, layer, stem = stem.split(".", 2)
    return f"model.layers.{layer}.{_PUBLISHED.get(stem, stem)}.{suffix}"


def _unpermute(tensor: Tensor, heads: int) -> Tensor:
    """Put the rows of a query or key projection back in their published order.

    llama.cpp turns neighbouring channels together in Llama models, (0,1), (2,3) …, and its
    converter interleaves the two halves of each head to that end.
    """
    if tensor.shape[0] % (2 * heads):
        return tensor  # of no right shape, which is refused later
    pairs = tensor.shape[0] // heads // 2
    return tensor.view(heads, pairs, 2, -1).transpose(1, 2).reshape(tensor.shape)


def _config(path: Path, fields: Mapping[str, object], tensors: Mapping[str, object]) -> GPTConfig:
    """Translate a GGUF file's metadata."""
    kind = fields.get("general.architecture")
    if kind not in _ARCHITECTURES:
        expected = ", ".join(map(repr, _ARCHITECTURES))
        raise ValueError(f"{path}: architecture is {kind!r}, expected one of {expected}")
    get = {name.removeprefix(f"{kind}."): value for name, value in fields.items()}.get
    needed = (
        "embedding_length", "block_count", "attention.head_count", "feed_forward_length",
        "context_length", "attention.layer_norm_rms_epsilon",
    )  # fmt: skip
    for name in needed:
        if not isinstance(get(name), int | float):
            raise ValueError(f"{path}: {kind}.{name} is {get(name)!r}, expected a number")
    for name in ("attention.sliding_window", "expert_count"):
        if get(name):
            raise ValueError(f"{path}: {kind}.{name} is {get(name)}, which GPT does not have")
    heads, width = get("attention.head_count"), get("embedding_length")
    head_width = get("attention.key_length") or width // heads
    theta, (bias, qk_norm) = get("rope.freq_base") or 10_000.0, _ARCHITECTURES[kind]
    return GPTConfig(
        vocab_size=len(fields.get("tokenizer.ggml.tokens", ())), width=width,
        layers=get("block_count"), heads=heads, kv_heads=get("attention.head_count_kv"),
        head_width=head_width, mlp_width=get("feed_forward_length"),
        max_positions=get("context_length"), rope_theta=theta,
        rope_scaling=_rope(path, get, tensors, theta, head_width),
        norm_eps=get("attention.layer_norm_rms_epsilon"), tied="output.weight" not in tensors,
        qk_norm=qk_norm, attention_bias=bias,
    )  # fmt: skip


def _rope(
    path: Path, get: Callable, tensors: Mapping[str, object], theta: float, head_width: int
) -> dict[str, float | str] | None:
    """Return the rope scaling, which a Llama 3 file holds as a table of divisors only."""
    kind = get("rope.scaling.type") or "none"
    if kind == "linear" and get("rope.scaling.factor"):
        return {"rope_type": "linear", "factor": get("rope.scaling.factor")}
    if kind != "none":
        raise ValueError(
            f"{path}: rope type is {kind!r}, expected 'none', or 'linear' and a factor"
        )
    if "rope_freqs.weight" not in tensors:
        return None
    divisors = torch.from_numpy(np.array(tensors["rope_freqs.weight"].data, dtype=np.float32))
    # All published Llama 3 models share the other three numbers; the check below holds them to it.
    scaling = {
        "rope_type": "llama3", "factor": divisors.max().item(), "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    sizes = dict(vocab_size=1, width=1, layers=1, heads=1, head_width=head_width, rope_theta=theta)
    plain, stretched = (
        rope_frequencies(GPTConfig(**sizes, rope_scaling=one)) for one in (None, scaling)
    )
    if not torch.allclose(plain / divisors, stretched, rtol=1e-4):
        raise ValueError(f"{path}: rope_freqs.weight is not that of Llama 3's rope scaling")
    return scaling
