"""From a rollout to a gradient: groups cut by hand, micro-batches, against one plain batch."""

from dataclasses import replace

import pytest
import torch

from reasoning_from_scratch import grpo
from reasoning_from_scratch.groups import Groups
from reasoning_from_scratch.grpo import PRESETS, PolicyLosses, preset
from reasoning_from_scratch.losses import aggregate_tokens, kl_estimate, policy_loss, token_logprobs
from reasoning_from_scratch.rollouts import Batch
from reasoning_from_scratch.sampling import Rollout
from reasoning_from_scratch.training import make_optimizer, optimiser_step
from tests.toys import double_model, weights


def made_batch(rows, advantages):
    """A batch of (prompt ids, completion ids); log-probabilities count -1, -2, … in each row."""
    width = max(len(prompt) + len(completion) for prompt, completion in rows)
    tokens = torch.full((len(rows), width), 17)
    logprobs, mask = torch.zeros(len(rows), width), torch.zeros(len(rows), width)
    for row, (prompt, completion) in enumerate(rows):
        start, end = len(prompt), len(prompt) + len(completion)
        tokens[row, :end] = torch.tensor(prompt + completion)
        logprobs[row, start:end] = -torch.arange(1.0, len(completion) + 1)
        mask[row, start:end] = 1
    lengths = torch.tensor([len(prompt) for prompt, _ in rows])
    texts, finished = [""] * len(rows), torch.ones(len(rows), dtype=torch.bool)
    rollout = Rollout(tokens, logprobs, mask, lengths, texts, finished)
    return Batch(rollout, [], {}, torch.zeros(len(rows)), torch.tensor(advantages))


# Cutting, by hand. Two groups of two: a prompt of one token and one of four.

HAND = made_batch(
    [([1], [2, 3, 4]), ([1], [5]), ([6, 7, 7, 8], [9]), ([6, 7, 7, 8], [1, 2])],
    [1.0, -1.0, 0.5, -0.5],
)


def counted(x, mask):
    """The entries where the mask is 1, as lists."""
    pairs = zip(x, mask, strict=True)
    return [[y[m.bool()].tolist() for y, m in zip(a, b, strict=True)] for a, b in pairs]


def test_groups_cut_by_hand():
    groups = Groups.cut(HAND, torch.tensor([0, 1]), group_size=2, max_tokens=100)
    assert groups.lengths.tolist() == [0, 3]  # without the prompt's last token
    assert groups.prompts.shape == (2, 3) and groups.prompts[1].tolist() == [6, 7, 7]
    assert groups.mask.tolist() == [[[1, 1, 1], [1, 0, 0]], [[1, 0, 0], [1, 1, 0]]]
    assert counted(groups.targets, groups.mask) == [[[2, 3, 4], [5]], [[9], [1, 2]]]
    # What is read when each of them is to be predicted: the token before.
    assert counted(groups.inputs, groups.mask) == [[[1, 2, 3], [1]], [[8], [8, 1]]]
    assert counted(groups.old_logprobs, groups.mask) == [[[-1, -2, -3], [-1]], [[-1], [-1, -2]]]
    assert groups.advantages.tolist() == [[1.0, -1.0], [0.5, -0.5]]
    # A prompt once, and every completion as long as the longest: 0 + 2 · 3 and 3 + 2 · 2.
    assert groups.sizes().tolist() == [6, 7]


def test_groups_come_in_the_order_asked_for_and_may_be_left_out():
    groups = Groups.cut(HAND, torch.tensor([1]), group_size=2, max_tokens=100)
    assert groups.prompts.tolist() == [[6, 7, 7]] and groups.mask.tolist() == [[[1, 0], [1, 1]]]
    swapped = Groups.cut(HAND, torch.tensor([1, 0]), group_size=2, max_tokens=100)
    assert swapped.advantages.tolist() == [[0.5, -0.5], [1.0, -1.0]]
    assert counted(swapped.targets, swapped.mask) == [[[9], [1, 2]], [[2, 3, 4], [5]]]


def test_selecting_units_drops_columns_that_none_of_them_needs():
    groups = Groups.cut(HAND, torch.tensor([0, 1]), group_size=2, max_tokens=100)
    one = groups.select(torch.tensor([1]))
    assert one.prompts.tolist() == [[6, 7, 7]] and one.mask.tolist() == [[[1, 0], [1, 1]]]
    first = groups.select(torch.tensor([0]))
    assert first.prompts.shape == (1, 1) and first.mask.shape == (1, 2, 3)
    assert counted(first.targets, first.mask) == [[[2, 3, 4], [5]]]


@pytest.mark.parametrize(
    "group_size, max_tokens, unit",
    [
        (4, 12, 4),  # 4 completions of 3 tokens fit
        (4, 11, 2),
        (4, 6, 2),
        (4, 5, 1),
        (4, 1, 1),  # a single longer one still goes
        (3, 8, 1),  # two would fit, but do not divide three
        (6, 9, 3),
    ],
)
def test_a_group_too_large_for_a_micro_batch_is_cut_into_equal_units(group_size, max_tokens, unit):
    rows = [([1, 2 + p], [p, p + 1, p + 2][: 3 - i % 2]) for p in (3, 5) for i in range(group_size)]
    batch = made_batch(rows, [float(i) for i in range(2 * group_size)])
    groups = Groups.cut(batch, torch.tensor([1, 0]), group_size, max_tokens)
    units = 2 * group_size // unit
    assert groups.mask.shape == (units, unit, 3) and groups.prompts.shape == (units, 1)
    assert groups.lengths.tolist() == [1] * units
    order = [*range(group_size, 2 * group_size), *range(group_size)]
    assert groups.advantages.flatten().tolist() == order
    completions = counted(groups.targets.flatten(0, 1)[None], groups.mask.flatten(0, 1)[None])
    assert completions == [[rows[row][1] for row in order]]
    firsts = [rows[row][0][-1] for row in order]  # each unit goes with its own prompt
    assert groups.inputs[:, :, 0].flatten().tolist() == firsts


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_whole_sequences(temperature):
    model = double_model({})
    groups = Groups.cut(HAND, torch.tensor([0, 1]), group_size=2, max_tokens=100)
    found = groups.logprobs(model, temperature)
    tokens, mask = HAND.rollout.tokens, HAND.rollout.mask[:, 1:].bool()
    expected = token_logprobs(model(tokens[:, :-1]).float() / temperature, tokens[:, 1:])
    assert found.shape == (4, 3)
    torch.testing.assert_close(found[groups.mask.flatten(0, 1).bool()], expected[mask])


# One optimiser step's loss. Four groups of four, two of them without any advantage.

PROMPTS = [[1], [2, 3, 4, 5, 10], [6, 10], [7, 8, 10]]
LENGTHS = [1, 9, 4, 2, 3, 3, 3, 3, 8, 1, 1, 1, 5, 6, 7, 2]
ADVANTAGES = [1.5, -0.5, -0.5, -0.5, 0, 0, 0, 0, 0.9, -0.9, 0.9, -0.9, 0, 0, 0, 0]


def example(seed=0):
    """A batch whose old log-probabilities are near, but not at, the policy's: clips act."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        (PROMPTS[i // 4], torch.randint(17, (n,), generator=generator).tolist())
        for i, n in enumerate(LENGTHS)
    ]
    policy, batch = double_model({}, seed), made_batch(rows, [float(a) for a in ADVANTAGES])
    r = batch.rollout
    with torch.no_grad():
        logprobs = token_logprobs(policy(r.tokens[:, :-1]).float(), r.tokens[:, 1:])
    noise = torch.randn(logprobs.shape, generator=generator) * 0.3
    r.logprobs[:, 1:] = (logprobs + noise) * r.mask[:, 1:]
    return policy, double_model({}, seed + 1), batch


def settings_of(name, micro_tokens=1024):
    return preset(name, group_size=4, max_new_tokens=20, micro_tokens=micro_tokens)


def plain_loss(policy, reference, batch, s):
    """All rows in one batch, whole sequences, nothing left out: what a paper's formula says."""
    r = batch.rollout
    tokens, mask = r.tokens[:, 1:], batch.mask[:, 1:]
    logprobs = token_logprobs(policy(r.tokens[:, :-1]).float() / s.temperature, tokens)
    how = dict(aggregate=s.aggregate, max_tokens=s.max_new_tokens)
    loss, _ = policy_loss(
        logprobs, r.logprobs[:, 1:], batch.advantages, mask, clip_low=s.clip_low,
        clip_high=s.clip_high, ratio=s.ratio, clip=s.clip, **how,
    )  # fmt: skip
    if s.kl_coef:
        with torch.no_grad():
            other = token_logprobs(reference(r.tokens[:, :-1]).float() / s.temperature, tokens)
        kl = kl_estimate(logprobs, other, kind=s.kl)
        loss = loss + s.kl_coef * aggregate_tokens(kl, mask, **how)
    return loss


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("micro_tokens", [1, 25, 60, 10_000])
def test_micro_batches_equal_one_plain_batch(name, micro_tokens):
    policy, reference, batch = example()
    s = settings_of(name, micro_tokens)
    expected = plain_loss(policy, reference, batch, s)
    gradients = torch.autograd.grad(expected, list(policy.parameters()))
    parts = PolicyLosses(policy, reference if s.kl_coef else None, batch, torch.arange(4), s)
    losses = list(parts)
    assert (len(losses) > 1) == (micro_tokens < 10_000)
    # 1e-5 of the gradient's largest entry: logits are taken to float32 before the loss.
    torch.testing.assert_close(sum(losses), expected, atol=1e-6, rtol=1e-5)
    assert parts.stats()["loss"] == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    found = torch.autograd.grad(sum(losses), list(policy.parameters()))
    scale = max(g.abs().max() for g in gradients).item()
    assert scale > 0
    for gradient, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5 * scale, rtol=0)


def test_the_order_of_groups_does_not_matter_and_a_share_of_them_is_a_batch_of_its_own():
    policy, _, batch = example()
    s = settings_of("dapo", 30)
    order = torch.tensor([2, 0, 3, 1])
    expected = plain_loss(policy, None, batch, s).item()
    parts = PolicyLosses(policy, None, batch, order, s)
    assert sum(parts).item() == pytest.approx(expected, rel=1e-5)
    few = PolicyLosses(policy, None, batch, torch.tensor([0]), s)
    alone = made_batch([([1], [0] * n) for n in LENGTHS[:4]], ADVANTAGES[:4])
    for name in ("tokens", "logprobs", "mask"):
        width = alone.rollout.mask.shape[1]
        getattr(alone.rollout, name).copy_(getattr(batch.rollout, name)[:4, :width])
    assert sum(few).item() == pytest.approx(plain_loss(policy, None, alone, s).item(), rel=1e-5)


def test_groups_without_advantage_cost_nothing_but_count(monkeypatch):
    policy, _, batch = example()
    seen, run = [], type(policy).hidden_after

    def watched(self, prompts, lengths, continuations):
        seen.append(continuations.shape[0] * continuations.shape[1])
        return run(self, prompts, lengths, continuations)

    monkeypatch.setattr(type(policy), "hidden_after", watched)
    s = replace(settings_of("grpo", 60), kl_coef=0.0)
    loss = sum(PolicyLosses(policy, None, batch, torch.arange(4), s))
    assert sum(seen) == 8  # of 16 completions
    # They count: without them the mean over sequences would be twice as large.
    live = PolicyLosses(policy, None, batch, torch.tensor([0, 2]), s)
    assert sum(live).item() == pytest.approx(2 * loss.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("micro_tokens", [25, 10_000])
def test_what_was_cut_off_is_left_out_of_the_loss(name, micro_tokens):
    policy, reference, batch = example()
    batch.rollout.finished[:] = torch.tensor([True, False] * 6 + [False] * 4)
    batch.advantages = torch.linspace(-1, 1, 16)  # the last group's too, though none finished
    s = settings_of(name, micro_tokens)
    other = plain_loss(policy, reference, batch, s).item()
    batch.drop_unfinished = True
    expected = plain_loss(policy, reference, batch, s)
    assert abs(expected.item() - other) > 1e-3
    parts = PolicyLosses(policy, reference if s.kl_coef else None, batch, torch.arange(4), s)
    torch.testing.assert_close(sum(parts), expected, atol=1e-6, rtol=1e-5)
    batch.rollout.finished[:] = False  # nothing is left
    parts = PolicyLosses(policy, reference if s.kl_coef else None, batch, torch.arange(4), s)
    assert list(parts) == [] and parts.stats() == {"loss": 0.0}


def test_with_a_kl_term_every_group_takes_part():
    policy, reference, batch = example()
    batch.advantages = torch.zeros(16)
    s = settings_of("grpo")
    parts = list(PolicyLosses(policy, reference, batch, torch.arange(4), s))
    assert sum(parts).item() == pytest.approx(plain_loss(policy, reference, batch, s).item())
    assert sum(parts) > 0


def test_a_step_in_which_all_agree_changes_nothing():
    policy, _, batch = example()
    batch.advantages = torch.zeros(16)
    parts = PolicyLosses(policy, None, batch, torch.arange(4), settings_of("dr_grpo"))
    before, optimizer = weights(policy), make_optimizer(policy, lr=0.1, weight_decay=0.1)
    assert optimiser_step(policy, optimizer, parts, lr=0.1, max_grad_norm=1.0) == 0
    assert torch.equal(weights(policy), before)
    assert parts.stats() == {"loss": 0.0}


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_at_the_start_the_kl_term_is_zero_with_gradient_zero(kind):
    policy, _, batch = example()
    s = replace(settings_of("grpo"), kl=kind, kl_coef=100.0)
    batch.advantages = torch.zeros(16)
    parts = PolicyLosses(policy, policy, batch, torch.arange(4), s)
    loss = sum(parts)
    assert loss.item() == 0 and parts.stats()["kl"] == 0
    for gradient in torch.autograd.grad(loss, list(policy.parameters())):
        assert gradient.abs().max() == 0


def test_the_loss_reads_the_settings_it_is_given(monkeypatch):
    seen = {}

    def watched(*arguments, **options):
        seen.update(options)
        return policy_loss(*arguments, **options)

    monkeypatch.setattr(grpo, "policy_loss", watched)
    policy, _, batch = example()
    s = settings_of("gspo")
    list(PolicyLosses(policy, None, batch, torch.arange(4), s))
    assert seen == dict(
        clip_low=3e-4, clip_high=4e-4, ratio="sequence", clip="ppo", aggregate="sequence_mean",
        max_tokens=20,
    )  # fmt: skip
