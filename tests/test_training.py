"""Schedule, micro-batches, the optimiser's step: by hand and by their properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reasoning_from_scratch.training import (
    average,
    learning_rate,
    make_optimizer,
    micro_batches,
    optimiser_step,
    precision,
    rank,
    start_processes,
    sum_over_processes,
    warnings,
    world_size,
)
from tests.tensors import refuses
from tests.toys import toy_model, weights

# The learning rate.


@pytest.mark.parametrize(
    "step, linear, cosine",
    [
        (0, 0.5, 0.5),  # warm-up: 1/2
        (1, 1.0, 1.0),  # 2/2
        (2, 1.0, 1.0),  # nothing of the decay is done
        (3, 0.775, 0.868198),  # 1/4: .1 + .9 · 3/4; .1 + .9 · (1 + cos 45°)/2 = .1 + .9 · .853553
        (4, 0.55, 0.55),  # 1/2
        (5, 0.325, 0.231802),  # 3/4: .1 + .9 · 1/4; .1 + .9 · .146447
        (6, 0.1, 0.1),  # all of it
        (99, 0.1, 0.1),
    ],
)
def test_learning_rate_by_hand(step, linear, cosine):
    options = dict(lr=2.0, steps=6, warmup=2, final=0.1)
    assert learning_rate(step, **options) == pytest.approx(2 * linear)
    assert learning_rate(step, shape="cosine", **options) == pytest.approx(2 * cosine, abs=1e-5)


def test_learning_rate_is_constant_unless_told_otherwise():
    assert {learning_rate(step, lr=0.3, steps=10) for step in range(12)} == {0.3}


@given(
    steps=st.integers(1, 50),
    warmup=st.integers(0, 60),
    final=st.floats(0, 1),
    shape=st.sampled_from(["linear", "cosine"]),
)
def test_learning_rate_rises_then_falls_and_is_never_zero(steps, warmup, final, shape):
    rates = [
        learning_rate(step, lr=1.0, steps=steps, warmup=warmup, final=final, shape=shape)
        for step in range(steps)
    ]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_learning_rate_refuses_an_unknown_shape():
    refuses(learning_rate, 0, lr=1.0, steps=1, shape="step", match="shape is 'step', expected 'lin")


# Micro-batches.


def test_micro_batches_by_hand():
    # Longest first: 9 alone (2 · 9 > 12), then 5 5 (2 · 5 <= 12), then 3 2 1 (3 · 3 <= 12).
    parts = micro_batches(torch.tensor([5, 1, 9, 5, 3, 2]), max_tokens=12)
    assert [part.tolist() for part in parts] == [[2], [0, 3], [4, 5, 1]]


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 100))
def test_micro_batches_take_each_row_once_within_the_bound_longest_first(lengths, max_tokens):
    parts = [p.tolist() for p in micro_batches(torch.tensor(lengths), max_tokens=max_tokens)]
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    sizes = [[lengths[row] for row in part] for part in parts]
    for part in sizes:
        assert len(part) * max(part) <= max_tokens or len(part) == 1
    flat = [size for part in sizes for size in part]
    assert flat == sorted(flat, reverse=True)
    for part in sizes[:-1]:
        assert (len(part) + 1) * max(part) > max_tokens  # no smaller than needed


def test_micro_batches_refuse_a_limit_that_holds_nothing():
    refuses(micro_batches, torch.tensor([1]), max_tokens=0, match="max_tokens is 0, expected at")


# One step of the optimiser.


def line(*values):
    """A model of one row of weights, with plain gradient descent."""
    model = nn.Linear(len(values), 1, bias=False, dtype=torch.float64)
    model.weight.data = torch.tensor([values], dtype=torch.float64)
    return model, torch.optim.SGD(model.parameters(), lr=99.0)


def test_a_step_by_hand():
    # Gradient (3, 4), norm 5; shortened to norm 1 it is (.6, .8), and the rate of this step .5.
    model, optimizer = line(1.0, 1.0)
    parts = (part for part in (3 * model.weight[0, 0], 4 * model.weight[0, 1]))
    norm = optimiser_step(model, optimizer, parts, lr=0.5, max_grad_norm=1.0)
    assert norm.item() == pytest.approx(5)
    # 1e-6: clipping adds 1e-6 to the norm before it divides.
    expected = torch.tensor([[0.7, 0.6]], dtype=torch.float64)
    torch.testing.assert_close(model.weight.data, expected, atol=1e-6, rtol=0)


def test_a_small_gradient_is_not_changed():
    model, optimizer = line(1.0)
    optimiser_step(model, optimizer, [0.25 * model.weight.sum()], lr=1.0, max_grad_norm=1.0)
    assert model.weight.item() == pytest.approx(0.75)


def test_a_step_forgets_the_gradient_of_the_one_before():
    model, optimizer = line(1.0)
    for expected in (0.9, 0.8):
        optimiser_step(model, optimizer, [model.weight.sum()], lr=0.1, max_grad_norm=9.0)
        assert model.weight.item() == pytest.approx(expected)


def test_parts_that_add_up_equal_one_batch():
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def step(sizes):
        model, optimizer = line(1.0, 2.0, 3.0)
        parts = (model(part).square().mean() * (len(part) / 12) for part in x.split(sizes))
        norm = optimiser_step(model, optimizer, parts, lr=0.1, max_grad_norm=1.0)
        return norm, model.weight.data

    for sizes in ([1] * 12, [5, 7], [1, 2, 3, 6]):
        torch.testing.assert_close(step(sizes), step([12]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    model = toy_model()
    optimizer = make_optimizer(model, lr=0.1, weight_decay=0.1)
    tokens = torch.tensor([[1, 2, 3]])
    optimiser_step(model, optimizer, [model(tokens).square().mean()], lr=0.1, max_grad_norm=1.0)
    before, state = weights(model), optimizer.state_dict()["state"]
    moments = [s["exp_avg"].clone() for s in state.values()]
    loss = model(tokens).square().mean() * bad
    norm = optimiser_step(model, optimizer, [loss], lr=0.1, max_grad_norm=1.0)
    assert not norm.isfinite()
    assert torch.equal(weights(model), before)
    for old, new in zip(moments, optimizer.state_dict()["state"].values(), strict=True):
        assert torch.equal(old, new["exp_avg"]) and new["step"] == 1


def test_a_step_without_a_part_changes_nothing():
    model = toy_model()
    optimizer, before = make_optimizer(model, lr=0.1, weight_decay=0.1), weights(model)
    assert optimiser_step(model, optimizer, [], lr=0.1, max_grad_norm=1.0) == 0
    assert torch.equal(weights(model), before)


# The optimiser.


@pytest.mark.parametrize("tied", [True, False])
def test_only_matrices_decay(tied):
    model = toy_model(tied=tied, attention_bias=True, qk_norm=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    # No gradient at all: what is left of AdamW is the factor 1 - lr · decay = 1 - .5 · .2.
    loss = sum(p.sum() for p in model.parameters()) * 0
    optimizer = make_optimizer(model, lr=0.7, weight_decay=0.2)
    optimiser_step(model, optimizer, [loss], lr=0.5, max_grad_norm=1.0)
    for name, parameter in model.named_parameters():
        decays = parameter.dim() == 2 and name != "embedding.weight"
        torch.testing.assert_close(parameter.data, before[name] * (0.9 if decays else 1.0))
    assert ("head.weight" in before) != tied


def test_frozen_weights_are_left_out():
    model = toy_model()
    model.embedding.requires_grad_(False)
    held = [p for group in make_optimizer(model, lr=0.1).param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(held) == len(list(model.parameters())) - 1


# Numbers for the log.


def test_average_by_hand():
    stats = [{"a": torch.tensor(1.0), "b": 2.0}, {"a": torch.tensor(5.0), "b": 2.0}]
    assert average(stats, [3.0, 1.0]) == {"a": 2.0, "b": 2.0}  # (3 · 1 + 1 · 5) / 4
    assert average(stats, [0.0, 0.0]) == {"a": 0.0, "b": 0.0}
    assert average([], []) == {}


@pytest.mark.parametrize(
    "stats, words",
    [
        ({}, []),
        (dict(mixed_groups=0.1, finished=0.5, entropy=0.01, grad_norm=3.0), []),
        (dict(mixed_groups=0.0), ["every group have the same reward"]),
        (dict(finished=0.25), ["75% of the completions were cut off: raise max_new_tokens"]),
        (dict(entropy=0.004), ["entropy is 0.0040 nats a token: nearly all samples"]),
        (dict(entropy=0.0), ["are the same"]),
        (dict(grad_norm=math.nan), ["gradient is not finite"]),
        (dict(grad_norm=math.inf, mixed_groups=0), ["same reward", "not finite"]),
    ],
)
def test_warnings_say_when_nothing_can_be_learned(stats, words):
    found = warnings(stats)
    assert len(found) == len(words)
    for sentence, word in zip(found, words, strict=True):
        assert word in sentence


def test_one_process_is_alone():
    assert (world_size(), rank()) == (1, 0)
    assert sum_over_processes(1.5, 2.0) == [1.5, 2.0]


def test_without_torchrun_no_processes_are_joined(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert start_processes() == torch.device("cpu")
    assert world_size() == 1


def test_a_cpu_computes_in_float32():
    with precision(torch.device("cpu")):
        assert toy_model()(torch.tensor([[1, 2]])).dtype == torch.float32
