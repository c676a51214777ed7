"""Columns of tokens: where a value belongs, micro-batches against one batch, two processes."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch.testing import assert_close

from reasoning_from_scratch.advantages import whiten
from reasoning_from_scratch.losses import policy_loss, token_logprobs, value_loss
from reasoning_from_scratch.model import ScalarHead
from reasoning_from_scratch.ppo import PPOSettings, critic_part, policy_part
from reasoning_from_scratch.training import make_optimizer, optimiser_step
from tests.batches import LENGTHS, double_critic, made_batch
from tests.tensors import random
from tests.toys import double_model, weights


@dataclass
class Sizes:
    """What is read of an algorithm's settings here."""

    group_size: int = 4
    micro_tokens: int = 1024
    max_grad_norm: float = 1.0


# Where a value belongs.


@pytest.mark.parametrize("micro_tokens", [1, 25, 10_000])
def test_token_values_have_read_all_before_their_token_and_nothing_else(subject, micro_tokens):
    batch, critic, sizes = made_batch(), double_critic(), Sizes(micro_tokens=micro_tokens)
    groups, mask = subject("credit.cut")(batch, sizes)
    values = subject("credit.token_values")
    found = subject("credit.in_parts")(groups, lambda part: values(critic, part), sizes)
    r = batch.rollout
    assert found.shape == mask.shape == (16, 9)
    assert mask.sum(1).tolist() == LENGTHS
    for row, length in enumerate(LENGTHS):
        start = int(r.prompt_lengths[row])
        for t in range(length):
            before = r.tokens[None, row, : start + t]  # the action itself is not in it
            assert_close(found[row, t].double(), critic(before)[0, -1], atol=1e-5, rtol=1e-5)


def test_token_values_are_the_plain_critics_one_column_earlier(subject):
    batch, critic = made_batch(), double_critic()
    groups, mask = subject("credit.cut")(batch, Sizes())
    found = subject("credit.token_values")(critic, groups)
    plain = critic(batch.rollout.tokens)[:, :-1][batch.rollout.mask[:, 1:] == 1]
    assert_close(found[mask == 1], plain)
    found[mask == 1].sum().backward()
    assert all(
        p.grad.abs().max() > 0 for p in (critic.score.weight, critic.body.blocks[0].down.weight)
    )


def test_a_value_of_the_first_token_depends_on_the_prompt_alone(subject):
    batch, critic = made_batch(), double_critic()
    groups, _ = subject("credit.cut")(batch, Sizes())
    first = subject("credit.token_values")(critic, groups)[:, 0].view(4, 4)
    assert_close(first, first[:, :1].expand(4, 4))
    assert len(set(first[:, 0].tolist())) == 4


def test_a_cut_batch_is_in_its_order(subject):
    batch = made_batch()
    r = batch.rollout
    for micro_tokens in (1, 12, 1024):
        groups, mask = subject("credit.cut")(batch, Sizes(micro_tokens=micro_tokens))
        assert groups.targets.flatten(0, 1)[mask == 1].equal(r.tokens[r.mask == 1])
        assert groups.old_logprobs.flatten(0, 1)[mask == 1].equal(r.logprobs[r.mask == 1])


# k micro-batches equal one batch.

SETTINGS = dict(prompts=4, group_size=4, max_new_tokens=9, value_clip=0.5, temperature=0.8)


def example(subject, settings):
    """Two models, and credit of random numbers, in the layout of a batch: [16,9] each."""
    batch = made_batch()
    groups, mask = subject("credit.cut")(batch, settings)
    columns = [random(seed, 16, 9) for seed in range(3)]  # values, advantages, returns
    credit = subject("credit.Credit").of(groups, *columns)
    return batch, mask, columns, credit


def plain_losses(policy, critic, batch, columns, rows, s):
    """Both losses of the given rows: whole sequences, one batch, each completion cut by hand."""
    r = batch.rollout
    logits = policy(r.tokens[:, :-1]).float() / s.temperature
    logprobs = token_logprobs(logits, r.tokens[:, 1:])
    values = critic(r.tokens)[:, :-1]
    shifted = [torch.zeros(16, r.tokens.shape[1] - 1, dtype=torch.float64) for _ in columns]
    for row, length in enumerate(LENGTHS):
        start = int(r.prompt_lengths[row]) - 1
        for x, column in zip(shifted, columns, strict=True):
            x[row, start : start + length] = column[row, :length]
    old_values, advantages, returns = (x[rows] for x in shifted)
    mask = r.mask[rows, 1:]
    loss, _ = policy_loss(
        logprobs[rows], r.logprobs[rows, 1:], advantages, mask, clip_low=s.clip_low,
        clip_high=s.clip_high, aggregate=s.aggregate, max_tokens=s.max_new_tokens,
    )  # fmt: skip
    return loss, value_loss(values[rows], old_values, returns, mask, clip=s.value_clip)


@pytest.mark.parametrize("micro_tokens", [1, 25, 60, 10_000])
@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("share", [[0, 1, 2, 3], [2, 0], [1]])
def test_CreditLosses_of_micro_batches_equal_one_plain_batch(
    subject, micro_tokens, aggregate, share
):
    s = PPOSettings(**SETTINGS, micro_tokens=micro_tokens, aggregate=aggregate)
    policy, critic = double_model({}), double_critic()
    batch, _, columns, credit = example(subject, s)
    rows = [4 * group + i for group in share for i in range(4)]
    expected = plain_losses(policy, critic, batch, columns, rows, s)
    parts = ((policy, policy_part), (critic, critic_part))
    for (model, part_loss), loss in zip(parts, expected, strict=True):
        share = torch.as_tensor(share)
        losses = subject("credit.CreditLosses")(model, part_loss, credit, share, s)
        trained = [p for p in model.parameters()]
        total = sum(losses)
        found = torch.autograd.grad(total, trained, allow_unused=True)
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        # 1e-5 of the largest entry: logits are taken to float32 before the loss.
        assert total.item() == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
        assert losses.stats()["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
        largest = max(g.abs().max() for g in gradients if g is not None).item()
        assert largest > 0
        for gradient, other in zip(found, gradients, strict=True):
            assert (gradient is None) == (other is None)
            if gradient is not None:
                assert_close(gradient, other, atol=1e-5 * largest, rtol=0)


def test_the_loss_is_that_of_the_whole_step_and_the_ratio_the_largest(subject):
    s = PPOSettings(**SETTINGS, micro_tokens=20)
    _, _, _, credit = example(subject, s)
    losses = subject("credit.CreditLosses")(
        double_model({}), policy_part, credit, torch.arange(4), s
    )
    assert len(list(losses)) > 3
    stats = losses.stats()
    assert stats["ratio_max"] == max(float(part["ratio_max"]) for part in losses.found)
    assert stats["ratio_mean"] < stats["ratio_max"]


def test_learn_makes_a_step_of_one_model_for_each_share_and_none_at_a_rate_of_0(subject):
    s = PPOSettings(**SETTINGS)
    policy, critic = double_model({}), double_critic()
    _, _, _, credit = example(subject, s)
    optimizer = make_optimizer(torch.nn.ModuleList([policy, critic]), lr=1.0)
    before = weights(policy), weights(critic)
    shares = torch.arange(4).tensor_split(3)
    learn = subject("credit.learn")
    assert learn(policy, policy_part, optimizer, credit, shares, 0.0, s) == []
    assert torch.equal(weights(policy), before[0])
    found = learn(critic, critic_part, optimizer, credit, shares, 0.01, s)
    assert len(found) == 3 and all(line["grad_norm"] > 0 for line in found)
    assert torch.equal(weights(policy), before[0]) and not torch.equal(weights(critic), before[1])
    after = weights(critic)
    assert len(learn(policy, policy_part, optimizer, credit, shares, 0.01, s)) == 3
    assert torch.equal(weights(critic), after) and not torch.equal(weights(policy), before[0])


def test_learn_takes_rate_and_longest_gradient_from_the_settings(subject, monkeypatch):
    seen, learn = [], subject("credit.learn")

    def watched(*arguments, **options):
        seen.append(options)
        return optimiser_step(*arguments, **options)

    monkeypatch.setitem(learn.__globals__, "optimiser_step", watched)
    s, policy = PPOSettings(**SETTINGS, max_grad_norm=0.7), double_model({})
    credit = example(subject, s)[-1]
    learn(policy, policy_part, make_optimizer(policy, lr=1.0), credit, [torch.arange(4)], 0.01, s)
    assert seen == [{"lr": 0.01, "max_grad_norm": 0.7}]


def test_one_optimizer_for_two_models_does_what_two_would(subject):
    s = PPOSettings(**SETTINGS, weight_decay=0.1)
    _, _, _, credit = example(subject, s)
    shares, ends = torch.arange(4).tensor_split(2), []
    for together in (True, False):
        policy, critic = double_model({}), double_critic()
        both = torch.nn.ModuleList([policy, critic])
        modules = (both, both) if together else (policy, critic)
        made = [make_optimizer(m, lr=1.0, weight_decay=0.1) for m in modules]
        optimizers = made[:1] * 2 if together else made
        for rate in (1e-2, 3e-3):
            for model, part_loss, optimizer, factor in zip(
                (policy, critic), (policy_part, critic_part), optimizers, (1, 5), strict=True
            ):
                subject("credit.learn")(
                    model, part_loss, optimizer, credit, shares, factor * rate, s
                )
        ends.append((weights(policy), weights(critic)))
    assert torch.equal(ends[0][0], ends[1][0]) and torch.equal(ends[0][1], ends[1][1])


# All processes together; two of them in test_ppo_processes.py.


def test_whiten_together_in_one_process_is_whiten(subject):
    x, mask = random(0, 5, 4), torch.rand(5, 4) > 0.3
    found = subject("credit.whiten_together")(x, mask, 9)
    assert found.shape == (5, 4)
    assert_close(found, whiten(x, mask))


def test_everywhere_pads_to_one_width(subject):
    x = torch.ones(2, 3)
    found = subject("credit.everywhere")(x, 5)
    assert found.tolist() == [[1, 1, 1, 0, 0]] * 2


def test_a_critic_of_another_size_than_the_policy_will_do(subject):
    critic = ScalarHead(double_model(dict(width=24, layers=1))).double()
    torch.nn.init.ones_(critic.score.weight)
    batch = made_batch()
    groups, mask = subject("credit.cut")(batch, Sizes())
    found = subject("credit.token_values")(copy.deepcopy(critic), groups)
    plain = critic(batch.rollout.tokens)[:, :-1][batch.rollout.mask[:, 1:] == 1]
    assert_close(found[mask == 1], plain)
