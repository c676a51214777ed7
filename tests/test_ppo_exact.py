"""What PPO's parts do to a policy, computed by enumeration: nothing here is sampled."""

import pytest
import torch
from torch.testing import assert_close

from reasoning_from_scratch.advantages import gae
from reasoning_from_scratch.exact import END, TablePolicy
from reasoning_from_scratch.losses import kl_estimate, policy_loss
from tests.tensors import random


def expected_step(policy, rewards, *, gamma=1.0, lam=1.0, critic=None, aggregate="constant"):
    """The step that PPO's first update takes on average, and each completion's advantages.

    `rewards` [N,T] are each token's; `critic` [S] says what follows a prefix, None expects nothing.
    A sum over all completions, each as often as it is drawn.
    """
    values = torch.zeros_like(rewards) if critic is None else critic[policy.prefixes]
    advantages, _ = gae(rewards, values, policy.mask, gamma=gamma, lam=lam)
    chances = policy.probabilities().detach()[:, None] * len(rewards)
    logprobs = policy.logprobs()
    loss, _ = policy_loss(
        logprobs, logprobs.detach(), advantages * chances, policy.mask, aggregate=aggregate,
        max_tokens=1,
    )  # fmt: skip
    return -policy.gradient(loss), advantages


def at_the_end(subject, policy, scores):
    no_kl = torch.zeros(policy.mask.shape, dtype=torch.float64)
    return subject("token_rewards")(scores, no_kl, policy.mask, kl_coef=0.0)


@pytest.mark.parametrize("seed", range(3))
def test_token_rewards_and_a_critic_that_says_nothing_make_ppo_reinforce(subject, seed):
    # γ = λ = 1, no KL, V = 0, one update.
    policy = TablePolicy.random(seed)
    scores = random(seed + 10, len(policy.tokens))
    step, advantages = expected_step(policy, at_the_end(subject, policy, scores))
    assert_close(advantages, torch.where(policy.mask, scores[:, None], 0))
    assert_close(step, policy.gradient(policy.expectation(scores)))


@pytest.mark.parametrize("seed", range(3))
def test_with_lambda_1_any_critic_leaves_the_gradient_of_token_rewards_as_it_is(subject, seed):
    policy = TablePolicy.random(seed)
    scores = random(seed + 10, len(policy.tokens))
    critic = random(seed + 20, len(policy.logits))
    step, advantages = expected_step(policy, at_the_end(subject, policy, scores), critic=critic)
    expected = torch.where(policy.mask, scores[:, None] - critic[policy.prefixes], 0)
    assert_close(advantages, expected)
    assert_close(step, policy.gradient(policy.expectation(scores)))


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95])
def test_with_lambda_below_1_only_a_perfect_critic_leaves_it(subject, lam):
    policy = TablePolicy.random(0)
    scores = random(10, len(policy.tokens))
    rewards = at_the_end(subject, policy, scores)
    truth = policy.gradient(policy.expectation(scores))
    step, _ = expected_step(policy, rewards, lam=lam, critic=policy.values(scores))
    assert_close(step, truth)
    wrong, _ = expected_step(policy, rewards, lam=lam, critic=random(20, len(policy.logits)))
    assert (wrong - truth).abs().max() > 0.01


@pytest.mark.parametrize("seed", range(3))
def test_token_rewards_of_k1_are_minus_the_gradient_of_the_kl(subject, seed):
    policy, reference = TablePolicy.random(seed), TablePolicy.random(seed + 1)
    scores = random(seed, len(policy.tokens))
    logprobs, ref_logprobs = policy.logprobs().detach(), reference.logprobs().detach()
    kl = kl_estimate(logprobs, ref_logprobs, kind="k1")
    rewards = subject("token_rewards")(scores, kl, policy.mask, kl_coef=0.3)
    step, _ = expected_step(policy, rewards)
    objective = policy.expectation(scores) - 0.3 * policy.kl(reference)
    assert_close(policy.expectation(rewards.sum(1)), objective)
    assert_close(step, policy.gradient(objective))
    # k3 in its place has the same mean, and another gradient.
    k3 = kl_estimate(logprobs, ref_logprobs, kind="k3")
    rewards = subject("token_rewards")(scores, k3, policy.mask, kl_coef=0.3)
    other, _ = expected_step(policy, rewards)
    assert (other - step).abs().max() > 0.01


# λ < 1. Everything is equally wrong, or equally right: there is nothing to learn.


def drift(policy, reward, **options):
    """The step, and by how much it would change the mean length, per unit of learning rate."""
    scores = torch.full((len(policy.tokens),), reward, dtype=torch.float64)
    rewards = torch.zeros(policy.mask.shape, dtype=torch.float64)
    rewards[torch.arange(len(scores)), policy.lengths - 1] = scores
    step, _ = expected_step(policy, rewards, **options)
    lengths = policy.gradient(policy.expectation(policy.lengths.double()))
    return step, (step * lengths).sum().item()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("reward, longer", [(-1.0, True), (1.0, False)])
def test_with_lambda_below_1_wrong_answers_grow_and_right_ones_shrink(seed, reward, longer):
    policy = TablePolicy.random(seed)
    step, change = drift(policy, reward, lam=0.95)
    # After every prefix that is not the last, ending is discouraged, or encouraged.
    inner = policy.prefixes[policy.mask & (torch.arange(3) < 2)].unique()
    assert ((step[inner, END] < 0) == longer).all() and step[inner, END].abs().min() > 1e-5
    assert (change > 1e-3) if longer else (change < -1e-3)
    # With λ = 1 it stays as it is, and with a critic that has learned the reward as well.
    for options in ({"lam": 1.0}, {"lam": 0.95, "critic": torch.full_like(step[:, 0], reward)}):
        step, change = drift(policy, reward, **options)
        assert_close(step, torch.zeros_like(step))
        assert change == pytest.approx(0, abs=1e-12)


def test_it_is_the_discount_by_lambda_of_a_reward_that_no_critic_foretold():
    policy = TablePolicy.random(0)
    first, _ = drift(policy, -1.0, lam=0.95)
    assert_close(drift(policy, -1.0, gamma=0.95)[0], first)


@pytest.mark.parametrize("length, loss", [(1, 1.0), (10, 0.802526), (100, 0.198816), (1000, 0.02)])
def test_the_mean_loss_of_a_wrong_answer_falls_with_its_length(length, loss):
    # -(R/T)·(1-λ^T)/(1-λ) with R = -1 and λ = 0.95: 1; 20·(1-0.598737)/10; 20·0.994079/100; 0.02.
    mask, logprobs = torch.ones(1, length), torch.zeros(1, length, dtype=torch.float64)
    for reward in (-1.0, 1.0):
        rewards = torch.zeros_like(logprobs)
        rewards[0, -1] = reward
        for lam, expected in ((0.95, loss), (1.0, 1.0)):
            advantages, _ = gae(rewards, torch.zeros_like(rewards), mask, lam=lam)
            found, _ = policy_loss(logprobs, logprobs, advantages, mask, aggregate="sequence_mean")
            assert found.item() == pytest.approx(-reward * expected, abs=1e-6)


def test_per_token_means_have_a_length_bias_of_their_own_whatever_lambda_is():
    # The 1/length of "sequence_mean" is another mechanism: it stays at λ = 1.
    policy = TablePolicy.random(0)
    assert drift(policy, -1.0, aggregate="sequence_mean")[1] > 1e-3
    assert drift(policy, 1.0, aggregate="sequence_mean")[1] < -1e-3
    assert drift(policy, -1.0)[1] == pytest.approx(0, abs=1e-12)
