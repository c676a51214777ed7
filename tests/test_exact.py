"""The exact laboratory: held by brute force, and the theorems that it lets one compute."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from reasoning_from_scratch.advantages import group_advantages
from reasoning_from_scratch.exact import TablePolicy, count_prefixes
from reasoning_from_scratch.losses import policy_loss
from tests.tensors import float64, random, refuses


def completions(policy):
    """Each completion as a tuple of the tokens that the policy chose."""
    rows = zip(policy.tokens.tolist(), policy.lengths.tolist(), strict=True)
    return [tuple(tokens[:length]) for tokens, length in rows]


def test_a_policy_of_two_tokens_by_hand():
    # It ends at once with 1/4; after token 1 it ends with 1/3, or is cut off after two tokens.
    policy = TablePolicy(float64([1, 3], [1, 2]).log().requires_grad_(), max_tokens=2)
    assert completions(policy) == [(0,), (1, 0), (1, 1)]
    assert policy.prefixes.tolist() == [[0, 0], [0, 1], [0, 1]]
    assert policy.finished.tolist() == [True, True, False]
    assert_close(policy.probabilities(), float64(1 / 4, 3 / 4 / 3, 3 / 4 * 2 / 3))
    assert policy.expectation(policy.lengths).item() == pytest.approx(1 / 4 + 3 / 4 * 2)
    entropy = 2 * 1 / 4 * math.log(4) + 1 / 2 * math.log(2)
    assert policy.entropy().item() == pytest.approx(entropy)
    uniform = policy.with_logits(torch.zeros(2, 2, dtype=torch.float64))  # 1/2, 1/4, 1/4
    expected = 1 / 4 * math.log(1 / 2) + 1 / 4 * math.log(1) + 1 / 2 * math.log(2)
    assert policy.kl(uniform).item() == pytest.approx(expected)


@pytest.mark.parametrize("vocabulary, max_tokens", [(2, 1), (2, 4), (3, 3), (4, 2)])
def test_every_completion_is_listed_once(vocabulary, max_tokens):
    policy = TablePolicy.random(0, vocabulary=vocabulary, max_tokens=max_tokens)
    strings = itertools.product(range(vocabulary), repeat=max_tokens)
    cut = {s[: s.index(0) + 1] if 0 in s else s for s in strings}  # what follows END is not written
    assert sorted(completions(policy)) == sorted(cut)
    assert policy.mask.sum(1).equal(policy.lengths)
    assert not policy.tokens[~policy.mask].any() and not policy.logprobs()[~policy.mask].any()
    assert policy.probabilities().sum().item() == pytest.approx(1)


def test_every_prefix_has_its_own_row():
    policy = TablePolicy.random(0)
    rows = {}
    for tokens, prefixes in zip(completions(policy), policy.prefixes.tolist(), strict=True):
        for t in range(len(tokens)):
            assert rows.setdefault(tokens[:t], prefixes[t]) == prefixes[t]
    assert sorted(rows.values()) == list(range(count_prefixes(3, 3))) == list(range(7))
    assert sorted(rows, key=lambda prefix: (len(prefix), prefix)) == sorted(rows, key=rows.get)


def test_drawing_token_after_token_gives_the_probabilities():
    policy = TablePolicy.random(3)
    rows = {}
    for tokens, prefixes in zip(completions(policy), policy.prefixes.tolist(), strict=True):
        rows |= {tokens[:t]: prefixes[t] for t in range(len(tokens))}
    generator, table = torch.Generator().manual_seed(0), policy.logits.detach().softmax(-1)
    drawn = {prefix: torch.multinomial(table[row], 4000, True, generator=generator).tolist()
             for prefix, row in rows.items()}  # fmt: skip
    counts = dict.fromkeys(completions(policy), 0)
    for _ in range(4000):
        written = ()
        while written not in counts:
            written += (drawn[written].pop(),)
        counts[written] += 1
    frequencies = float64(*counts.values()) / 4000
    # Four standard errors of the likeliest completion.
    assert_close(frequencies, policy.probabilities().detach(), rtol=0, atol=0.03)


def test_the_values_of_a_policy_of_two_tokens_by_hand():
    # 1/4 for ending at once (reward 8); then 1/3 for an end (reward 3), 2/3 for none (reward 6).
    policy = TablePolicy(float64([1, 3], [1, 2]).log(), max_tokens=2)
    assert_close(policy.values(float64(8, 3, 6)), float64(8 / 4 + 3 / 4 * 5, 5))
    # What cannot occur adds nothing, and what follows it is worth nothing.
    ended = policy.with_logits(float64([0, -math.inf], [0, 0]))
    assert_close(ended.values(float64(8, math.nan, math.inf)), float64(8, 0))


@pytest.mark.parametrize("seed", range(3))
def test_values_are_the_mean_reward_of_what_follows_each_prefix(seed):
    policy = TablePolicy.random(seed)
    rewards, found = (
        random(seed, len(policy.tokens)),
        policy.values(random(seed, len(policy.tokens))),
    )
    assert_close(found[0], policy.expectation(rewards).detach())
    written = completions(policy)
    for tokens, prefixes in zip(written, policy.prefixes.tolist(), strict=True):
        for t in range(len(tokens)):
            rows = [i for i, other in enumerate(written) if other[:t] == tokens[:t]]
            chances = policy.probabilities().detach()[rows]
            expected = (chances * rewards[rows]).sum() / chances.sum()
            assert_close(found[prefixes[t]], expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_policy_gradient_theorem(seed):
    policy = TablePolicy.random(seed)
    rewards, logprobs = random(seed, len(policy.tokens)), policy.logprobs().sum(1)
    truth = policy.gradient(policy.expectation(rewards))
    assert_close(policy.gradient(policy.sample_mean(rewards * logprobs)), truth)
    # A baseline may even depend on the prefix: what came before cannot be blamed on a token.
    baseline = random(seed + 1, len(policy.logits))[policy.prefixes]
    per_token = ((rewards[:, None] - baseline) * policy.logprobs()).sum(1)
    assert_close(policy.gradient(policy.sample_mean(per_token)), truth)
    # The two sums have the same value but not the same gradient.
    assert_close(policy.expectation(logprobs), policy.sample_mean(logprobs))
    assert_close(policy.gradient(policy.sample_mean(logprobs)), torch.zeros_like(truth))
    assert_close(policy.gradient(policy.entropy()), policy.gradient(-policy.expectation(logprobs)))


def test_old_samples_are_unbiased_only_with_the_ratio_of_the_whole_completion():
    policy, old = TablePolicy.random(0), TablePolicy.random(1)
    rewards = random(2, len(policy.tokens))
    truth = policy.gradient(policy.expectation(rewards))
    log_ratio = policy.logprobs() - old.logprobs().detach()
    whole = old.sample_mean(log_ratio.sum(1).exp() * rewards)
    assert_close(policy.gradient(whole), truth)
    token = old.sample_mean((log_ratio.exp() * rewards[:, None] * policy.mask).sum(1))
    assert (policy.gradient(token) - truth).abs().max() > 0.01


@pytest.mark.parametrize("group_size", [2, 3])
def test_group_advantages_expect_the_reward_above_the_mean(group_size):
    policy = TablePolicy.random(0)
    rewards = random(1, len(policy.tokens))
    above = rewards - policy.expectation(rewards).detach()
    options = {"baseline": "leave_one_out", "scale": "none"}
    assert_close(policy.expected_advantages(rewards, group_size, **options), above)
    shrunk = policy.expected_advantages(rewards, group_size, scale="none")
    assert_close(shrunk, above * (group_size - 1) / group_size)


@pytest.mark.parametrize("easy", [-3.0, 0.0, 3.0])
def test_dividing_by_the_deviation_reweighs_problems_by_how_hard_they_are(easy):
    # Groups of 4 and a reward for first token 1: the gradient is w(p)·∇p, where w is lowest at
    # p = 1/2; the plain advantage has the same weight 3/4 for every p.
    policy = TablePolicy(torch.zeros(3, 3, dtype=torch.float64, requires_grad=True), 2)
    with torch.no_grad():
        policy.logits[0, 1] = easy
    right = (policy.tokens[:, 0] == 1).double()
    p = policy.expectation(right)
    slow = 0.0
    for k in range(4):  # k of the other three are right
        chance = math.comb(3, k) * p.item() ** k * (1 - p.item()) ** (3 - k)
        above, below = 1 - (k + 1) / 4, -k / 4
        deviations = [math.sqrt(4 * q * (1 - q) / 3) for q in ((k + 1) / 4, k / 4)]
        gains = [x / s if s else 0.0 for x, s in zip((above, below), deviations, strict=True)]
        slow += chance * (gains[0] - gains[1])
    for options, weight in (({"eps": 0.0}, slow), ({"scale": "none"}, 3 / 4)):
        advantages = policy.expected_advantages(right, 4, **options)
        update = policy.sample_mean(advantages * policy.logprobs().sum(1))
        assert_close(policy.gradient(update), weight * policy.gradient(p))
    assert 1.3995 < slow < 1.5  # its values at p = 1/2 and at 0 or 1; further apart as groups grow


@pytest.mark.parametrize("aggregate, longer", [("sequence_mean", True), ("constant", False)])
def test_grpo_makes_wrong_answers_longer_and_right_ones_shorter(aggregate, longer):
    # Only the first token decides, so nothing is gained by a change of what follows it.
    policy = TablePolicy.random(0)
    right = (policy.tokens[:, 0] == 1).double()
    advantages = policy.expected_advantages(right, 2, scale="none")
    weighted = advantages * policy.probabilities().detach() * len(right)  # exact expectation
    logprobs = policy.logprobs()
    loss, _ = policy_loss(
        logprobs, logprobs, weighted, policy.mask, aggregate=aggregate, max_tokens=3
    )
    step = -policy.gradient(loss)
    after_right, after_wrong = (
        policy.prefixes[policy.tokens[:, 0] == first, 1].unique() for first in (1, 2)
    )
    if longer:
        assert (step[after_right, 0] > 0).all() and (step[after_wrong, 0] < 0).all()
    else:
        assert_close(step[1:], torch.zeros_like(step[1:]))
        assert step[0].abs().max() > 0.01


def test_group_mean_shows_a_group_as_a_training_step_sees_it():
    policy = TablePolicy.random(0, max_tokens=2)
    rewards, logprobs = random(1, len(policy.tokens)), policy.logprobs()

    def loss(rows):
        advantages = group_advantages(rewards[rows][None], scale="none")[0]
        batch = logprobs[rows], logprobs[rows], advantages, policy.mask[rows]
        return policy_loss(*batch, aggregate="constant", max_tokens=1)[0]

    truth = policy.gradient(policy.expectation(rewards))
    assert_close(policy.gradient(-policy.group_mean(loss, 2)), truth / 2)
    assert_close(policy.group_mean(lambda rows: rewards[rows].mean(), 2),
                 policy.expectation(rewards).detach())  # fmt: skip
    rows, weights = policy.groups(2)
    assert len(rows) == 49 and rows.unique(dim=0).shape == rows.shape
    assert weights.sum().item() == pytest.approx(1)


def test_top_p_keeps_the_likeliest_tokens():
    policy = TablePolicy(float64([5, 3, 2]).log(), 1)  # probabilities 0.5, 0.3, 0.2
    expected = {
        0.4: [1, 0, 0],
        0.6: [5 / 8, 3 / 8, 0],
        0.79: [5 / 8, 3 / 8, 0],
        1.0: [0.5, 0.3, 0.2],
    }
    for top_p, probabilities in expected.items():
        assert_close(policy.truncated(top_p).probabilities(), float64(*probabilities))


def test_scoring_without_the_top_p_one_sampled_with_is_a_force_of_its_own():
    policy = TablePolicy.random(0)
    sampled = policy.truncated(0.7)
    score = policy.logprobs().sum(1)  # every completion is equally good: nothing should happen
    assert_close(policy.gradient(policy.sample_mean(score)), torch.zeros_like(policy.logits))
    push = policy.gradient(sampled.sample_mean(score))
    dropped = sampled.logits == -math.inf
    assert (push[dropped] <= 0).all() and push[0][dropped[0]].max() < -0.01
    # And no ratio repairs it: what is never drawn can't be weighted.
    rewards = random(1, len(policy.tokens))
    drawn = torch.where(sampled.probabilities() > 0, sampled.probabilities(), 1)
    ratio = policy.probabilities() / drawn
    repaired = policy.gradient(sampled.sample_mean(ratio * rewards))
    assert (repaired - policy.gradient(policy.expectation(rewards))).abs().max() > 0.01


def test_impossible_completions_add_nothing():
    policy = TablePolicy.random(0)
    sampled = policy.truncated(0.7)
    sampled.logits.requires_grad_()
    for scalar in (sampled.entropy(), sampled.kl(policy)):
        assert scalar.isfinite() and sampled.gradient(scalar).isfinite().all()
    assert sampled.entropy() < policy.entropy()
    assert policy.kl(sampled) == math.inf and policy.kl(policy) == 0
    never = torch.where(sampled.probabilities() > 0, 1.0, math.nan)
    assert sampled.expectation(never).item() == pytest.approx(1)
    assert sampled.group_mean(lambda rows: never[rows].mean(), 2).item() == pytest.approx(1)
    assert sampled.expected_advantages(never.nan_to_num(), 2).isfinite().all()


def test_the_gradient_of_what_does_not_depend_on_the_policy_is_zero():
    policy, other = TablePolicy.random(0), TablePolicy.random(1)
    assert not policy.gradient(other.entropy()).any()


def test_the_laboratory_says_what_it_refuses():
    refuses(TablePolicy, torch.zeros(6, 3), 3, match=r"has shape \[6, 3\], expected \[7, 3\]")
    refuses(TablePolicy, torch.zeros(1, 1), 1, match="at least 2 entries of the vocabulary")
    refuses(TablePolicy, torch.zeros(1, 3), 0, match="max_tokens is 0")
    refuses(TablePolicy.random, 0, max_tokens=15, match="too many completions to list")
    refuses(TablePolicy.random(0).truncated, 0.0, match="top_p is 0.0, expected above 0")
    refuses(TablePolicy.random(0).groups, 6, match="group_size is 6: that makes 11390625 groups")
    refuses(TablePolicy.random(0).groups, 0, match="group_size is 0")
