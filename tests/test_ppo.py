"""The pure helpers of PPO by hand and by slow loops; its settings; the loop against a plain one."""

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from reasoning_from_scratch.losses import policy_loss, token_logprobs, value_loss
from reasoning_from_scratch.ppo import PPOSettings
from tests.batches import LENGTHS, double_critic, made_batch
from tests.tensors import float64, random, refuses, spoil
from tests.toys import Copy, double_model, toy_tokenizer, weights

# Rewards of tokens.


def test_token_rewards_by_hand(subject):
    # -0.1·(-1 + 1.2) = -0.02; -0.1·(-0.5 + 0.4) = 0.01; -0.1·(-2 + 1.5) + 1 = 1.05.
    kl = float64([0.2, -0.1, -0.5, 7.0], [0.3, 7.0, 0.1, 0.2])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 1]])  # the second has a tool's output inside
    found = subject("token_rewards")(float64(1, -2), kl, mask, kl_coef=0.1)
    assert_close(found, float64([-0.02, 0.01, 1.05, 0], [-0.03, 0, -0.01, -2.02]))


@pytest.mark.parametrize("seed", range(5))
def test_token_rewards_equal_a_slow_loop(subject, seed):
    scores, kl = random(seed, 6), random(seed + 1, 6, 5).requires_grad_()
    mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(seed)) > 0.4
    mask[0] = False  # no token, no reward
    found = subject("token_rewards")(scores, spoil(kl, mask), mask, kl_coef=0.7)
    assert not found.requires_grad
    for row in range(6):
        counted = mask[row].nonzero().flatten().tolist()
        for t in range(5):
            reward = -0.7 * kl[row, t].item() if t in counted else 0.0
            reward += scores[row].item() if counted and t == counted[-1] else 0.0
            assert found[row, t].item() == pytest.approx(reward)


def test_token_rewards_of_a_completion_add_up_to_its_score_minus_its_kl(subject):
    scores, kl, mask = random(0, 4), random(1, 4, 3), torch.ones(4, 3)
    found = subject("token_rewards")(scores, kl, mask, kl_coef=0.2)
    assert_close(found.sum(1), scores - 0.2 * kl.sum(1))
    assert_close(subject("token_rewards")(scores, kl, mask, kl_coef=0.0)[:, -1], scores)


def test_token_rewards_say_what_they_refuse(subject):
    ones, function = torch.ones(2, 3), subject("token_rewards")
    refuses(function, torch.ones(3), ones, ones, kl_coef=0.1, match=r"scores has shape \[3\], exp")
    refuses(function, torch.ones(2), ones, ones[:1], kl_coef=0.1, match=r"mask has shape \[1, 3\]")
    refuses(function, torch.ones(2), ones, -ones, kl_coef=0.1, match="mask holds -1.0")
    refuses(function, torch.ones(2), ones[0], ones, kl_coef=0.1, match=r"expected \[B,T\]")
    refuses(function, [1.0, 0.0], ones, ones, kl_coef=0.1, match="scores is a list")
    refuses(function, torch.ones(2), ones, ones, kl_coef=-0.1, match="kl_coef is -0.1, expected a")
    refuses(function, torch.ones(2), ones, ones, kl_coef=math.nan, match="kl_coef is nan")


# The controller.


@pytest.mark.parametrize(
    "kl, coef",
    [
        (9, 0.151536),  # 9/6 - 1 = 0.5, held at 0.2: 0.15·(1 + 0.2·512/10000)
        (5, 0.14872),  # 5/6 - 1 = -0.1667: 0.15·(1 - 0.1667·0.0512)
        (6, 0.15),
        (6.6, 0.150768),  # 0.1: 0.15·1.00512
        (0, 0.148464),  # held at -0.2
        (-3, 0.148464),  # an estimate may be negative
    ],
)
def test_adapt_kl_coef_by_hand(subject, kl, coef):
    found = subject("adapt_kl_coef")(0.15, kl, target=6, horizon=10_000, n=512)
    assert found == pytest.approx(coef, abs=1e-9)


def test_adapt_kl_coef_steers_what_it_controls_to_its_target(subject):
    coef, kl = 5.0, 0.0
    for _ in range(400):  # a policy whose KL is 2 / coef
        kl = 2 / coef
        coef = subject("adapt_kl_coef")(coef, kl, target=4.0, horizon=1000, n=100)
    assert kl == pytest.approx(4.0, rel=1e-3)


def test_adapt_kl_coef_says_what_it_refuses(subject):
    function, fine = subject("adapt_kl_coef"), dict(target=6, horizon=100, n=10)
    refuses(function, 0.1, 5, **fine | {"target": 0}, match="target is 0, expected a number above")
    refuses(function, 0.1, 5, **fine | {"horizon": 0}, match="horizon is 0, expected a number abo")
    refuses(function, 0.1, 5, **fine | {"n": 500}, match="n is 500, expected 0 to less than 5")
    assert function(0.1, 0, **fine | {"n": 499}) > 0


# How much the critic knows.


def test_explained_variance_by_hand(subject):
    # Returns 1, 2, 3, 6: mean 3, squares 4 + 1 + 0 + 9. Errors 1, 0, 0, 1: mean 1/2, squares 4/4.
    returns, values = float64([1, 2], [3, 6]), float64([0, 2], [3, 5])
    found = subject("explained_variance")(values, returns, torch.ones(2, 2))
    assert found.item() == pytest.approx(1 - 1 / 14)


@pytest.mark.parametrize("seed", range(5))
def test_explained_variance_equals_a_slow_loop(subject, seed):
    values, returns = random(seed, 4, 5), random(seed + 1, 4, 5).requires_grad_()
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(seed)) > 0.4
    found = subject("explained_variance")(spoil(values, mask), spoil(returns, mask, 1), mask)
    pairs = [(values[i].item(), returns[i].item()) for i in map(tuple, mask.nonzero().tolist())]
    errors, wanted = [r - v for v, r in pairs], [r for _, r in pairs]
    spread = [sum((x - sum(xs) / len(xs)) ** 2 for x in xs) for xs in (errors, wanted)]
    assert found.item() == pytest.approx(1 - spread[0] / spread[1])
    assert not found.requires_grad


def test_explained_variance_of_critics_that_one_knows(subject):
    returns, mask = random(0, 3, 4), torch.ones(3, 4)
    found = [
        subject("explained_variance")(values, returns, mask).item()
        for values in (returns, returns + 5, torch.full_like(returns, 2.0), -returns)
    ]
    assert found == pytest.approx([1, 1, 0, -3])  # Var(2R) is 4 Var(R)


def test_explained_variance_is_0_where_there_is_none_to_explain(subject):
    function, mask = subject("explained_variance"), torch.ones(100, 100)
    values = torch.randn(100, 100)
    for returns in (0.3 + values - values, torch.full_like(values, -1.0), torch.zeros(100, 100)):
        assert function(values, returns, mask) == 0
    # What GAE returns is advantage plus value, and rounded.
    assert function(values, (1 - values) + values, mask) == 0
    assert function(values, values, torch.zeros(100, 100)) == 0


def test_explained_variance_says_what_it_refuses(subject):
    ones, function = torch.ones(2, 3), subject("explained_variance")
    refuses(function, ones, ones[:1], ones, match=r"returns has shape \[1, 3\], expected \[2, 3\]")
    refuses(function, ones, ones, -ones, match="mask holds -1.0, expected 0 or above")
    refuses(function, ones, ones, ones[0], match=r"mask has shape \[3\], expected \[2, 3\]")


# Settings.


def test_ppo_preset_is_the_published_recipe(subject):
    rlhf, vanilla = subject("ppo_preset")("rlhf"), subject("ppo_preset")("vanilla")
    # lm-human-preferences: 4 passes, one update in each, clips 0.2, KL 0.15 steered to 6 nats.
    assert (rlhf.epochs, rlhf.updates, rlhf.critic_updates) == (4, 1, 1)
    assert (rlhf.gamma, rlhf.lam, rlhf.whiten, rlhf.value_clip) == (1, 0.95, True, 0.2)
    assert (rlhf.kl_coef, rlhf.kl_target, rlhf.unfinished_reward) == (0.15, 6, -1)
    # A hundredth of the run, as 10,000 of a million.
    assert rlhf.kl_horizon == rlhf.steps * rlhf.prompts * rlhf.group_size / 100
    # Open-Reasoner-Zero, table of settings.
    assert (vanilla.epochs, vanilla.updates, vanilla.critic_updates) == (1, 1, 12)
    assert (vanilla.gamma, vanilla.lam, vanilla.whiten) == (1, 1, True)
    assert (vanilla.kl_coef, vanilla.kl_target, vanilla.unfinished_reward) == (0, 0, 0)
    assert vanilla.value_clip == math.inf
    for s in (rlhf, vanilla):
        assert (s.clip_low, s.clip_high, s.aggregate) == (0.2, 0.2, "token_mean")


def test_ppo_preset_can_be_changed_and_knows_no_other(subject):
    assert subject("ppo_preset")("vanilla", lam=0.9, steps=7).lam == 0.9
    assert subject("ppo_preset")("vanilla", lam=0.9, steps=7).critic_updates == 12
    refuses(subject("ppo_preset"), "grpo", match="preset is 'grpo', expected one of rlhf, vanilla")


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(steps=0), "steps is 0, expected at least 1"),
        (dict(epochs=0), "epochs is 0, expected at least 1"),
        (dict(updates=5, prompts=4), "updates is 5, expected at most prompts=4"),
        (dict(critic_updates=5, prompts=4), "critic_updates is 5, expected at most prompts=4"),
        (dict(temperature=0.0), "temperature is 0.0, expected a positive number"),
        (dict(gamma=1.5), "gamma is 1.5, expected 0 to 1"),
        (dict(lam=-0.1), "lam is -0.1, expected 0 to 1"),
        (dict(lam=math.nan), "lam is nan, expected 0 to 1"),
        (dict(critic_lr=-1.0), "critic_lr is -1.0, expected at least 0"),
        (dict(value_clip=-0.2), "value_clip is -0.2, expected at least 0"),
        (dict(kl_coef=-0.1), "kl_coef is -0.1, expected at least 0"),
        (dict(kl_target=6.0), "kl_target is 6.0, but kl_coef is 0"),
        (dict(kl_target=6.0, kl_coef=0.1, kl_horizon=25), "kl_horizon is 25, expected more than"),
        (dict(critic_warmup=200), "critic_warmup is 200, expected less than steps=200"),
        (dict(aggregate="mean"), "aggregate is 'mean', expected '"),
        (dict(clip_low=-1.0), "clip_low is -1.0, expected at least 0"),
        (dict(clip_high=math.nan), "clip_high is nan, expected at least 0"),
        (dict(stop="ab"), "stop is 'ab', expected a list of non-empty strings"),
        (dict(stop=(1,)), r"stop is \(1,\), expected a list of non-empty strings"),
        (dict(steps=2.0), "steps is 2.0, expected a whole number"),
        (dict(seed=None), "seed is None, expected a whole number"),
        (dict(unfinished_reward=math.nan), "unfinished_reward is nan, expected None or a finite"),
        (dict(unfinished_reward=-math.inf), "unfinished_reward is -inf"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message):
    refuses(PPOSettings, **changes, match=message)


# The loop. A plain one: no shared prompts, no micro-batches, an optimiser for each model.


def plain_ppo(policy, critic, batches, s, kl_coef):
    """What `train_ppo` does with given rollouts and no clipping of gradients; the coefficients."""
    reference, coefs = copy.deepcopy(policy), []
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0)
        for model, lr in ((policy, s.lr), (critic, s.critic_lr))
    ]
    for batch in batches:
        r = batch.rollout
        tokens, mask, old_logprobs = r.tokens[:, 1:], r.mask[:, 1:], r.logprobs[:, 1:]

        def logprobs_of(model, r=r, tokens=tokens):
            return token_logprobs(model(r.tokens[:, :-1]) / s.temperature, tokens)

        with torch.no_grad():
            values, kl = critic(r.tokens)[:, :-1], old_logprobs - logprobs_of(reference)
        advantages, returns = torch.zeros_like(values), torch.zeros_like(values)
        for row, length in enumerate(LENGTHS):
            start = int(r.prompt_lengths[row]) - 1
            score = batch.rewards[row].item() if r.finished[row] else s.unfinished_reward
            next_value = next_advantage = 0.0
            for t in reversed(range(start, start + length)):
                reward = -kl_coef * kl[row, t] + (score if t == start + length - 1 else 0)
                delta = reward + s.gamma * next_value - values[row, t]
                next_advantage = delta + s.gamma * s.lam * next_advantage
                next_value = values[row, t]
                advantages[row, t], returns[row, t] = next_advantage, next_advantage + next_value
        counted = advantages[mask == 1]
        if s.whiten:
            advantages = (advantages - counted.mean()) / counted.std(correction=0)
        for _ in range(s.epochs):
            loss, _ = policy_loss(logprobs_of(policy), old_logprobs, advantages, mask,
                                  clip_low=0.1, clip_high=0.3, aggregate="token_mean")  # fmt: skip
            now = critic(r.tokens)[:, :-1]
            losses = (loss, value_loss(now, values, returns, mask, clip=s.value_clip))
            for optimizer, part in zip(optimizers, losses, strict=True):
                optimizer.zero_grad()
                part.backward()
                optimizer.step()
        coefs.append(kl_coef)
        error = (kl * mask).sum(1).mean().item() / s.kl_target - 1
        kl_coef *= 1 + max(-0.2, min(0.2, error)) * 16 / s.kl_horizon
    return coefs


def given_batches(policy, temperature):
    """Two rollouts, near the policy but not its own, so that clips act; two completions cut off."""
    batches = [made_batch(seed) for seed in range(2)]
    for seed, batch in enumerate(batches):
        r = batch.rollout
        with torch.no_grad():
            logits = policy(r.tokens[:, :-1]).float() / temperature
            logprobs = token_logprobs(logits, r.tokens[:, 1:])
        noise = 0.2 * random(seed, *logprobs.shape)
        r.logprobs[:, 1:] = (logprobs + noise) * r.mask[:, 1:]
        batch.rewards = random(seed + 5, 16).float()
        batch.rollout.finished[3:5] = False
        batch.problems, batch.parts = Copy().generate(16, seed=0, split="train"), {}
    return batches


@pytest.mark.parametrize("whiten", [True, False])
def test_train_ppo_equals_a_plain_loop(subject, monkeypatch, whiten):
    s = PPOSettings(
        steps=2, prompts=4, group_size=4, max_new_tokens=9, epochs=3, lr=1e-3, critic_lr=3e-3,
        warmup=1, final_lr=1.0, max_grad_norm=1e9, gamma=0.9, lam=0.8, whiten=whiten, kl_coef=0.3,
        kl_target=2.0, kl_horizon=50, unfinished_reward=-1.5, micro_tokens=40, temperature=0.8,
        value_clip=0.3, clip_low=0.1, clip_high=0.3,
    )  # fmt: skip
    train, batches = subject("train_ppo"), given_batches(double_model({}), s.temperature)
    left = iter(batches)
    monkeypatch.setitem(train.__globals__, "collect", lambda *_: (next(left), {"mixed_groups": 1}))
    policy, critic = double_model({}), double_critic()
    start = weights(policy), weights(critic)
    run = train(policy, critic, toy_tokenizer(), Copy(), s)
    plain, plain_critic = double_model({}), double_critic()
    coefs = plain_ppo(plain, plain_critic, batches, s, 0.3)
    # The rollout's columns and the policy's log-probabilities are float32, and Adam divides a tiny
    # gradient by itself: of six steps of 1e-3 and 3e-3, a tenth of one.
    assert_close(weights(policy), weights(plain), atol=1e-4, rtol=0)
    assert_close(weights(critic), weights(plain_critic), atol=3e-4, rtol=0)
    assert (weights(policy) - start[0]).abs().median() > 1e-3
    assert (weights(critic) - start[1]).abs().max() > 1e-2
    assert [line["kl_coef"] for line in run.history] == pytest.approx(coefs)
    assert coefs[0] != coefs[1]
    for line in run.history:
        assert min(line["clip_low_fraction"], line["clip_high_fraction"]) > 0.02
