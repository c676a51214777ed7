"""The model: numbers by hand, a slow reference in loops, what a token sees, sizes, refusals."""

import cmath
import itertools
import math

import pytest
import torch

from reasoning_from_scratch.model import GPTConfig, ScalarHead
from tests.tensors import float64, random
from tests.toys import LLAMA3, VARIANTS, double_model, random_tokens, toy_model

variants = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)

# The whole model again, a number at a time.


def slow_norm(x, norm):
    scale = 1 / math.sqrt(sum(v * v for v in x) / len(x) + norm.eps)
    return [v * scale * w for v, w in zip(x, norm.weight.tolist(), strict=True)]


def slow_dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def slow_add(x, y):
    return [a + b for a, b in zip(x, y, strict=True)]


def slow_linear(x, linear):
    bias = [0.0] * linear.out_features if linear.bias is None else linear.bias.tolist()
    rows = linear.weight.tolist()
    return [slow_dot(row, x) + b for row, b in zip(rows, bias, strict=True)]


def slow_frequency(i, width, theta, scaling):
    """The rotation of channel pair i, in radians a position."""
    frequency = theta ** (-2 * i / width)
    if not scaling:
        return frequency
    factor = scaling["factor"]
    if scaling["rope_type"] == "linear":
        return frequency / factor
    wavelength, original = 2 * math.pi / frequency, scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    if wavelength > original / low:
        return frequency / factor
    if wavelength > original / high:
        smooth = (original / wavelength - low) / (high - low)
        return (1 - smooth) * frequency / factor + smooth * frequency
    return frequency


def slow_rotate(x, position, config):
    """Multiply the complex number (x[i], x[i + E/2]) by exp(i·angle)."""
    half, turned = len(x) // 2, [0.0] * len(x)
    for i in range(half):
        frequency = slow_frequency(i, len(x), config.rope_theta, config.rope_scaling)
        z = complex(x[i], x[i + half]) * cmath.exp(1j * position * frequency)
        turned[i], turned[i + half] = z.real, z.imag
    return turned


def slow_attention(inputs, block, config):
    """inputs: one list of D numbers for each token."""
    attention, size = block.attention, config.head_width
    queries, keys, values = [], [], []
    for position, x in enumerate(inputs):
        row = slow_linear(slow_norm(x, block.attention_norm), attention.qkv)
        heads = [row[i : i + size] for i in range(0, len(row), size)]
        query, rest = heads[: config.heads], heads[config.heads :]
        key, value = rest[: config.kv_heads], rest[config.kv_heads :]
        if config.qk_norm:
            query = [slow_norm(q, attention.query_norm) for q in query]
            key = [slow_norm(k, attention.key_norm) for k in key]
        queries.append([slow_rotate(q, position, config) for q in query])
        keys.append([slow_rotate(k, position, config) for k in key])
        values.append(value)
    outputs = []
    for t, heads in enumerate(queries):
        mixed = []
        for h, query in enumerate(heads):
            owner = h // (config.heads // config.kv_heads)  # neighbours share a key
            dots = [slow_dot(query, keys[s][owner]) for s in range(t + 1)]
            powers = [math.exp(d / math.sqrt(size)) for d in dots]
            for e in range(size):
                total = sum(p * values[s][owner][e] for s, p in enumerate(powers))
                mixed.append(total / sum(powers))
        outputs.append(slow_linear(mixed, attention.output))
    return outputs


def slow_mlp(x, block):
    both = slow_linear(slow_norm(x, block.mlp_norm), block.gate_up)
    gate, up = both[: len(both) // 2], both[len(both) // 2 :]
    gated = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up, strict=True)]
    return slow_linear(gated, block.down)


def slow_logits(model, tokens):
    stream = [model.embedding.weight[t].tolist() for t in tokens]
    for block in model.blocks:
        added = slow_attention(stream, block, model.config)
        stream = [slow_add(x, y) for x, y in zip(stream, added, strict=True)]
        stream = [slow_add(x, slow_mlp(x, block)) for x in stream]
    return [slow_linear(slow_norm(x, model.norm), model.head) for x in stream]


@variants
def test_the_model_equals_loops_over_numbers(changes):
    model, tokens = double_model(changes), random_tokens(1, 9)
    expected = torch.tensor(slow_logits(model, tokens[0].tolist()), dtype=torch.float64)
    # 1e-5: the table of rotations is computed in float32, the reference in float64.
    torch.testing.assert_close(model(tokens)[0], expected, rtol=0, atol=1e-5)


# Pieces by hand.


def test_attention_weighs_values_by_hand(subject):
    # Scores 0 and log 3, so weights 1/4 and 3/4; values 0 and 4: the second token gathers 3. The
    # first sees itself alone.
    query = torch.ones(1, 2, 1, 1)
    key = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1)
    value = torch.tensor([0.0, 4.0]).view(1, 2, 1, 1)
    mixed = subject("model.attend")(query, key, value)
    torch.testing.assert_close(mixed.flatten(), torch.tensor([0.0, 3.0]))


def test_attention_is_scaled_by_the_root_of_the_head_width(subject):
    # 4 channels, all ones: q·k = 4·log(3)/2, over sqrt(4) log 3. Weights as above.
    query = torch.ones(1, 1, 1, 4)
    key = torch.tensor([0.0, math.log(3) / 2]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    value = torch.tensor([0.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    mixed = subject("model.attend")(query, key, value)
    torch.testing.assert_close(mixed.flatten(), torch.full((4,), 3.0))


def test_grouped_queries_equal_repeated_heads(subject):
    attend, query = subject("model.attend"), random(0, 2, 5, 6, 4)
    key, value = random(1, 2, 2, 5, 2, 4)
    repeated = attend(query, key.repeat_interleave(3, 2), value.repeat_interleave(3, 2))
    torch.testing.assert_close(attend(query, key, value), repeated)


def slow_attend(query, key, value, bias):
    """[B,T,H,E] in loops; bias [T,S] is added to the scores, -inf where a token may not look."""
    mixed, owners = torch.zeros_like(query), query.shape[2] // key.shape[2]
    for b, t, h in itertools.product(*map(range, query.shape[:3])):
        k = h // owners  # neighbours share a key
        scores = [query[b, t, h] @ key[b, s, k] / 2 + bias[t, s] for s in range(key.shape[1])]
        powers = torch.stack(scores).exp()
        mixed[b, t, h] = powers / powers.sum() @ value[b, :, k]
    return mixed


def test_attention_equals_loops_over_queries(subject):
    query, (key, value) = random(0, 2, 3, 4, 4), random(1, 2, 2, 3, 2, 4)  # width 4: its root is 2
    causal = torch.full((3, 3), -math.inf).triu(1)
    slow = slow_attend(query, key, value, causal)
    torch.testing.assert_close(subject("model.attend")(query, key, value), slow)
    # Three queries, five keys, and who sees whom is said, in yes and no or by what to add.
    key, value = random(2, 2, 2, 5, 2, 4)
    seen = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [1, 0, 0, 0, 1]]).bool()
    bias = torch.zeros(3, 5, dtype=torch.float64).masked_fill(~seen, -math.inf)
    slow = slow_attend(query, key, value, bias)
    for mask in (seen[None, None], bias[None, None]):
        torch.testing.assert_close(subject("model.attend")(query, key, value, mask), slow)


def test_rotation_by_hand(subject):
    # Channels (0, 2) turn by 90 degrees, (1, 3) by 180: (1, 2) -> (-2, 1), (3, 4) -> (-3, -4).
    angles = torch.tensor([math.pi / 2, math.pi]).view(1, 1, 1, 2)
    x = torch.tensor([1.0, 3.0, 2.0, 4.0]).view(1, 1, 1, 4)
    turned = subject("model.rotate")(x, angles.cos(), angles.sin())
    torch.testing.assert_close(turned.flatten(), torch.tensor([-2.0, -3.0, 1.0, -4.0]))


def test_rotation_multiplies_by_a_complex_number_of_length_one(subject):
    x, angles = random(0, 2, 3, 2, 6), random(1, 1, 3, 1, 3)
    turned = subject("model.rotate")(x, angles.cos(), angles.sin())
    z = torch.complex(x[..., :3], x[..., 3:]) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned, torch.cat([z.real, z.imag], -1))


def test_rope_frequencies_by_hand(subject):
    # theta 100, 4 channels: 100^0 and 100^(-2/4). A factor of 4 divides both.
    frequencies_of = subject("model.rope_frequencies")
    shape = dict(vocab_size=2, width=4, layers=1, heads=1, rope_theta=100.0)
    torch.testing.assert_close(frequencies_of(GPTConfig(**shape)), torch.tensor([1.0, 0.1]))
    linear = GPTConfig(**shape, rope_scaling={"rope_type": "linear", "factor": 4.0})
    torch.testing.assert_close(frequencies_of(linear), torch.tensor([0.25, 0.025]))


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 3.0}, LLAMA3])
def test_rope_frequencies_equal_a_slow_loop(subject, scaling):
    # With theta 100 the wavelengths of 16 channels lie on both sides of Llama's two bounds.
    config = GPTConfig(
        vocab_size=2, width=32, layers=1, heads=2, rope_theta=100.0, rope_scaling=scaling
    )
    slow = [slow_frequency(i, 16, 100.0, scaling) for i in range(8)]
    found = subject("model.rope_frequencies")(config)
    torch.testing.assert_close(found, float64(*slow).float())


def test_the_score_of_two_tokens_depends_on_their_distance_only(subject):
    # That is what rotation is for: turn query and key by the same angle, and nothing changes.
    rotate = subject("model.rotate")
    query, key = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    angles = toy_model(head_width=8, max_positions=50)

    def score(at, before):
        q = rotate(query, angles.cos[None, at, None, None], angles.sin[None, at, None, None])
        k = rotate(key, angles.cos[None, before, None, None], angles.sin[None, before, None, None])
        return (q * k).sum()

    torch.testing.assert_close(score(7, 3), score(45, 41), atol=1e-5, rtol=0)  # float32 angles


# What a token may see.


@variants
def test_a_later_token_changes_nothing_before_it(changes):
    model, tokens = double_model(changes), random_tokens(2, 8)
    before = model(tokens)
    tokens[:, 5] = (tokens[:, 5] + 1) % 18
    after = model(tokens)
    assert torch.equal(before[:, :5], after[:, :5])
    assert ((before[:, 5:] - after[:, 5:]).abs().amax(-1) > 1e-4).all()  # and it is seen


def test_padding_on_the_right_changes_nothing():
    model = double_model({})
    tokens = random_tokens(3, 8)
    torch.testing.assert_close(model(tokens[:, :5]), model(tokens)[:, :5])


def test_rows_of_a_batch_do_not_see_each_other():
    model, tokens = double_model({}), random_tokens(3, 6)
    alone = torch.cat([model(row[None]) for row in tokens])
    torch.testing.assert_close(model(tokens), alone)


# The head that gives one number.


def test_a_scalar_head_starts_at_zero_and_reads_what_came_before():
    body = double_model({})
    head, tokens = ScalarHead(body).double(), random_tokens(2, 6)
    assert torch.equal(head(tokens), torch.zeros(2, 6, dtype=torch.float64))
    with torch.no_grad():
        head.score.weight.copy_(torch.arange(16.0)[None])
        head.score.bias.fill_(3.0)
    before = head(tokens)
    expected = (body.hidden(tokens) * torch.arange(16.0)).sum(-1) + 3
    torch.testing.assert_close(before, expected)
    tokens[:, 3] = (tokens[:, 3] + 1) % 18
    changed = (head(tokens) - before).abs() > 1e-9
    assert not changed[:, :3].any() and changed[:, 3:].all()


# Sizes, memory, fresh weights.


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_the_number_of_parameters_follows_from_the_shape(tied, bias, norm):
    model = toy_model(
        heads=4,
        kv_heads=2,
        head_width=6,
        mlp_width=20,
        tied=tied,
        attention_bias=bias,
        qk_norm=norm,
    )
    # A block: query, key, value 16·(24 + 12 + 12), out 24·16, gate, up and down 3·16·20, two norms.
    block = 16 * 48 + 24 * 16 + 3 * 16 * 20 + 2 * 16 + 48 * bias + 2 * 6 * norm
    expected = 18 * 16 * (1 if tied else 2) + 2 * block + 16
    assert sum(p.numel() for p in model.parameters()) == expected


def test_fields_left_out_follow_from_the_others():
    config = GPTConfig(vocab_size=5, width=96, layers=1, heads=4)
    assert (config.kv_heads, config.head_width, config.mlp_width) == (4, 24, 256)  # 8/3 · 96
    # 8/3 · 16 = 42.7, rounded up to a multiple of 32.
    assert GPTConfig(vocab_size=5, width=16, layers=1, heads=4).mlp_width == 64


def test_a_tied_head_is_the_embedding():
    model = toy_model(tied=True)
    assert model.head.weight is model.embedding.weight
    model.embedding.weight.data.zero_()
    assert model(random_tokens(1, 3)).abs().max() == 0
    assert toy_model(tied=False).head.weight is not toy_model(tied=False).embedding.weight


def test_fresh_weights_come_from_the_generator_alone():
    first, again, other = (list(toy_model(seed, tied=False).parameters()) for seed in (3, 3, 4))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0], other[0])


def test_fresh_weights_have_the_published_spread():
    model = toy_model(width=64, layers=8, vocab_size=500, attention_bias=True, qk_norm=True)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            assert (weight == (0 if "bias" in name else 1)).all()
        else:
            small = name.endswith(("output.weight", "down.weight"))
            expected = 0.02 / 4 if small else 0.02  # sqrt(2 · 8 layers) = 4
            # At least 4,096 numbers: their deviation is known to 1.2 %, and 6 of those are 7 %.
            assert weight.std().item() == pytest.approx(expected, rel=0.07)
            assert abs(weight.mean()) < 6 * expected / math.sqrt(weight.numel())


# Refusals.


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(width=15), r"width is 15, expected a multiple of heads=2"),
        (dict(layers=0), "layers is 0, expected at least 1"),
        (dict(vocab_size=-1), "vocab_size is -1, expected at least 1"),
        (dict(heads=0), "heads is 0, expected at least 1"),
        (dict(heads=4, kv_heads=3), "kv_heads is 3, expected a divisor of heads=4"),
        (dict(head_width=5), "head_width is 5, expected an even number"),
        (dict(rope_scaling={"rope_type": "yarn"}), "rope type is 'yarn', expected 'default', "),
        (dict(rope_scaling={"rope_type": "linear"}), "rope_scaling of type 'linear' lacks factor"),
        (
            dict(rope_scaling={"rope_type": "llama3", "factor": 8, "low_freq_factor": 1}),
            "of type 'llama3' lacks high_freq_factor, original_max_position_embeddings",
        ),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**dict(vocab_size=5, width=16, layers=1, heads=2) | changes)


def test_tokens_that_are_no_batch_are_refused():
    with pytest.raises(ValueError, match=r"tokens has shape \[3\], expected \[B, T\]"):
        toy_model()(torch.zeros(3, dtype=torch.long))
    with pytest.raises(
        ValueError, match=r"prompts has shape \[2, 3\] and continuations \[1, 1, 4\]"
    ):
        toy_model().hidden_after(random_tokens(2, 3), torch.tensor([3, 3]), random_tokens(1, 1, 4))
