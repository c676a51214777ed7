"""Merging: the average by hand, what stays as it was, what is refused."""

import dataclasses
import math

import pytest
import torch
from torch.testing import assert_close

from reasoning_from_scratch.pretrained import load_pretrained, save_pretrained
from reasoning_from_scratch.tokenizer import Tokenizer
from tests.tensors import refuses
from tests.toys import VARIANTS, random_tokens, toy_model, toy_tokenizer, weights


def filled(*values, **changes):
    """Models of which every parameter is one number."""
    models = [toy_model(**changes) for _ in values]
    for model, value in zip(models, values, strict=True):
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, value)
    return models


def all_are(model, value):
    return torch.equal(weights(model), torch.full_like(weights(model), value))


def test_merge_models_by_hand(subject):
    merge = subject("merge_models")
    assert all_are(merge(filled(1.0, 3.0)), 2.0)
    assert all_are(merge(filled(1.0, 2.0, 6.0)), 3.0)
    assert all_are(merge(filled(1.0, 3.0), [0.75, 0.25]), 1.5)
    assert all_are(merge(filled(1.0, 3.0), torch.tensor([0.75, 0.25])), 1.5)
    assert all_are(merge(filled(1.0, 2.0, 6.0), [0.5, 0.25, 0.25]), 2.5)
    assert all_are(merge(filled(1.0, 2.0, 6.0), [0, 1, 0]), 2.0)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_merge_models_is_linear_in_every_weight(subject, seed, count):
    models = [toy_model(seed + i) for i in range(count)]
    shares = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shares /= shares.sum()
    merged = subject("merge_models")(models, shares.tolist())
    expected = sum(share * weights(m).double() for share, m in zip(shares, models, strict=True))
    assert_close(weights(merged), expected.float(), rtol=0, atol=1e-8)
    other_way = subject("merge_models")(models[::-1], shares.flip(0).tolist())
    assert_close(weights(other_way), weights(merged), rtol=0, atol=1e-8)


@pytest.mark.parametrize("shares", [None, [0.3, 0.3, 0.4], [0.1, 0.2, 0.7]])
def test_merge_models_of_equal_models_is_that_model_bit_for_bit(subject, shares):
    merged = subject("merge_models")([toy_model(5) for _ in range(3)], shares)
    assert torch.equal(weights(merged), weights(toy_model(5)))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_merge_models_keeps_the_kind_of_model_and_leaves_the_models_alone(subject, changes):
    models = [toy_model(seed, **changes) for seed in range(2)]
    merged = subject("merge_models")(models, [0.5, 0.5])
    assert merged.config == models[0].config
    assert (merged.head.weight is merged.embedding.weight) == merged.config.tied
    for seed, model in enumerate(models):
        assert torch.equal(weights(model), weights(toy_model(seed, **changes)))
    assert all(p.requires_grad and p.grad is None for p in merged.parameters())
    tokens = random_tokens(2, 7)
    expected = toy_model(**changes)
    with torch.no_grad():
        for parameter, *both in zip(
            expected.parameters(), *(m.parameters() for m in models), strict=True
        ):
            parameter.copy_((both[0] + both[1]) / 2)
        assert_close(merged(tokens), expected(tokens))
        models[0].embedding.weight.zero_()
        assert_close(merged(tokens), expected(tokens))  # it shares no memory with them


def test_merge_models_takes_the_first_ones_precision(subject):
    first, second = filled(1.0, 2.0)
    merged = subject("merge_models")([first.bfloat16(), second])
    assert merged.embedding.weight.dtype == torch.bfloat16 and all_are(merged, 1.5)


def test_a_merged_model_can_be_saved_and_opened(subject, tmp_path):
    merged = subject("merge_models")([toy_model(0), toy_model(1)], [0.4, 0.6])
    save_pretrained(merged, toy_tokenizer(), tmp_path / "merged")
    assert torch.equal(weights(load_pretrained(tmp_path / "merged")[0]), weights(merged))


def test_merge_models_refuses_what_is_no_average(subject):
    merge, two = subject("merge_models"), filled(1.0, 2.0)
    refuses(merge, two[:1], match="models has 1 entries, expected at least 2")
    refuses(merge, [], match="models has 0 entries, expected at least 2")
    refuses(merge, [two[0], "base"], match="models is a str, expected a GPT")
    refuses(merge, two, [1.0], match="weights has 1 entries, expected 2: as models")
    for wrong in ([0.3, 0.3], [1.5, -0.5], [math.nan, 1.0], [1.0, 1.0]):
        refuses(
            merge, two, wrong, match=r"weights is \[.*, expected numbers of at least 0 that add"
        )


@pytest.mark.parametrize("name, value", [
    ("layers", 3), ("width", 32), ("vocab_size", 19), ("heads", 1), ("tied", False),
    ("max_positions", 32), ("rope_theta", 5.0), ("qk_norm", True), ("attention_bias", True),
    ("mlp_width", 96), ("norm_eps", 1e-6),
])  # fmt: skip
@pytest.mark.parametrize("at", [1, 2])
def test_merge_models_names_the_field_in_which_a_model_differs(subject, name, value, at):
    models = [toy_model() for _ in range(3)]
    other = toy_model(**{name: value})
    models[at] = other
    changed = [
        field for field, ours in dataclasses.asdict(models[0].config).items()
        if getattr(other.config, field) != ours
    ]  # fmt: skip
    first = getattr(other.config, changed[0])
    refuses(subject("merge_models"), models, match=rf"models\[{at}\] has {changed[0]} {first}, exp")
    assert name in changed


def test_merge_models_names_the_token_that_tokenizers_read_differently(subject):
    merge, models = subject("merge_models"), [toy_model() for _ in range(3)]
    same, other = toy_tokenizer(), toy_tokenizer("0123456789=abcdeg")
    assert isinstance(merge(models, tokenizers=[same, toy_tokenizer(), same]), type(models[0]))
    for tokenizers in ([same, other, same], [same, same, other]):
        at = tokenizers.index(other)
        refuses(
            merge, models, tokenizers=tokenizers,
            match=rf"tokenizers\[{at}\] reads token 16 as 'g', expected 'f': as \[0\]",
        )  # fmt: skip
    few = toy_tokenizer("0123456789=abcde")
    refuses(
        merge, models, tokenizers=[same, few, same],
        match=r"tokenizers\[1\] has 17 tokens, expected 18: as \[0\]",
    )  # fmt: skip


def test_merge_models_refuses_tokenizers_of_some(subject):
    refuses(
        subject("merge_models"), filled(1.0, 2.0), tokenizers=[toy_tokenizer()],
        match="tokenizers has 1 entries, expected 2: as models",
    )  # fmt: skip


def test_merge_models_refuses_another_end_token(subject):
    first, second = (
        Tokenizer.train([""], vocab_size=258, special_tokens=["<a>", "<b>"], eos=eos)
        for eos in ("<a>", "<b>")
    )
    refuses(
        subject("merge_models"), [toy_model()] * 2, tokenizers=[first, second],
        match=r"tokenizers\[1\] ends with '<b>', expected '<a>': as \[0\]",
    )  # fmt: skip
