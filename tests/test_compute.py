"""The arithmetic of a training step: by hand, against a count of what the model runs, refusals."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasoning_from_scratch import grpo
from reasoning_from_scratch.compute import FORWARD_FLOPS, TRAINING_FLOPS
from reasoning_from_scratch.model import GPT
from tests.tensors import refuses
from tests.toys import Parity, toy_model, toy_tokenizer

# Two prompts of 3 and 2 tokens; the first has completions of 4 and 5, one right, the second of 6
# and 1, both wrong. Sampled: 3+4+5 + 2+6+1 = 21 tokens. The first group teaches: 12 tokens.
ROLLOUT = ([3, 2], [[4, 5], [6, 1]], [[1.0, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize("options, expected", [
    ({}, 10 * (2 * 21 + 6 * 12)),
    ({"epochs": 3}, 10 * (2 * 21 + 6 * 3 * 12)),
    ({"reference": True}, 10 * (2 * 21 + 8 * 21)),  # a KL counts every token, and is read twice
    ({"epochs": 2, "reference": True}, 10 * (2 * 21 + 8 * 2 * 21)),
])  # fmt: skip
def test_grpo_step_flops_by_hand(subject, options, expected):
    assert subject("compute.grpo_step_flops")(10, *ROLLOUT, **options) == expected


def test_grpo_step_flops_of_tensors_are_those_of_their_numbers(subject):
    count = subject("compute.grpo_step_flops")
    prompts = torch.tensor([500], dtype=torch.int32)
    lengths = torch.tensor([[1000, 500]], dtype=torch.int32)
    # All right: only sampled, 2 operations for each of 2,000 tokens; more than an int32 holds.
    assert count(135_000_000, prompts, lengths, torch.ones(1, 2)) == 540_000_000_000


def test_a_rollout_that_teaches_nothing_costs_its_sampling(subject):
    flops = subject("compute.grpo_step_flops")
    assert flops(7, [2], [[3, 4]], [[1.0, 1.0]]) == 7 * 2 * 9
    assert flops(7, [2], [[3, 4]], [[0.5, 0.5]], epochs=4) == 7 * 2 * 9
    assert flops(7, [2], [[3]], [[1.0]]) == 7 * 2 * 5  # a group of one agrees with itself


rollouts = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0, 0.5, 1])), min_size=1),
    ),
    min_size=1,
    max_size=4,
)


@given(rollout=rollouts, epochs=st.integers(1, 3), reference=st.booleans(), n=st.integers(1, 99))
def test_grpo_step_flops_equals_the_slow_loop(subject, rollout, epochs, reference, n):
    work = 0
    for prompt, group in rollout:
        read = [prompt] + [length for length, _ in group]
        teaches = any(reward != group[0][1] for _, reward in group)
        for length in read:
            work += 2 * n * length
            for _ in range(epochs):
                if teaches or reference:
                    work += 6 * n * length
                if reference:
                    work += 2 * n * length
    prompts = [prompt for prompt, _ in rollout]
    lengths, rewards = ([[pair[i] for pair in group] for _, group in rollout] for i in (0, 1))
    found = subject("compute.grpo_step_flops")(
        n, prompts, lengths, rewards, epochs=epochs, reference=reference
    )
    assert found == work


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_grpo_step_flops_counts_the_tokens_that_the_loop_runs(subject, monkeypatch, kl_coef):
    task, ran, stream = Parity(), {"read": 0, "learned": 0}, GPT.stream

    def counted(self, tokens, *args, **options):
        ran["learned" if torch.is_grad_enabled() else "read"] += tokens.numel()
        return stream(self, tokens, *args, **options)

    monkeypatch.setattr(GPT, "stream", counted)
    seen = []

    def reward(owners, rollout):
        correct = [task.score(p, text) for p, text in zip(owners, rollout.texts, strict=True)]
        seen.append((rollout.prompt_lengths.tolist(), rollout.lengths.tolist(), correct))
        return {"correct": correct}

    settings = grpo.GRPOSettings(
        steps=1, prompts=4, group_size=4, max_new_tokens=9, kl_coef=kl_coef
    )
    grpo.train_grpo(toy_model(), toy_tokenizer(), task, settings, reward=reward)
    ((prompts, lengths, correct),) = seen
    groups = [[column[i : i + 4] for i in range(0, 16, 4)] for column in (lengths, correct)]
    assert 0 < sum(len(set(group)) > 1 for group in groups[1]) < 4
    work = subject("compute.grpo_step_flops")(1, prompts[::4], *groups, reference=bool(kl_coef))
    assert ran["learned"] > 0
    # The loop pads, and neither samples nor learns from a last token: the count is near, not equal.
    loop = FORWARD_FLOPS * ran["read"] + TRAINING_FLOPS * ran["learned"]
    assert work == pytest.approx(loop, rel=0.25)


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(parameters=0), "parameters is 0, expected at least 1"),
        (dict(epochs=0), "epochs is 0, expected at least 1"),
        (dict(prompt_lengths=[]), "prompt_lengths is empty, expected at least one prompt"),
        (dict(lengths=[[4, 5]]), "lengths has 1 rows, expected 2: one a prompt"),
        (dict(rewards=[[1, 0]]), "rewards has 1 rows, expected 2: one a prompt"),
        (dict(rewards=[[1, 0], [0]]), "rewards[1] has 1 entries, expected 2: one a completion"),
        (dict(lengths=[[4, 5], [6, -1]]), "lengths holds -1, expected 0 or above"),
        (dict(prompt_lengths=[3, float("nan")]), "prompt_lengths holds nan, expected 0 or above"),
    ],
)
def test_grpo_step_flops_refuses(subject, changes, said):
    names = dict(zip(("prompt_lengths", "lengths", "rewards"), ROLLOUT, strict=True))
    options = {"parameters": 10, **names, **changes}
    refuses(subject("compute.grpo_step_flops"), **options, match=re.escape(said))


# at_budget


@pytest.mark.parametrize("budget, expected", [
    (0, 0.1),
    (4, 0.1),    # the next took 5
    (5, 0.4),    # exactly
    (11, 0.3),   # the last, though 0.4 was better, and 12 is as near as 10
    (12, 0.6),
    (99, 0.5),
])  # fmt: skip
def test_at_budget_by_hand(subject, budget, expected):
    work, accuracy = [0, 5, 10, 12, 20], [0.1, 0.4, 0.3, 0.6, 0.5]
    assert subject("compute.at_budget")(work, accuracy, budget) == expected


def test_at_budget_of_measurements_that_took_no_work(subject):
    at_budget = subject("compute.at_budget")
    assert at_budget([3, 3, 4], [0.9, 0.2, 0.5], 3) == 0.2
    assert at_budget([3], [0.7], 3) == 0.7


runs = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), min_size=1, max_size=6)


@given(run=runs, extra=st.integers(0, 9))
def test_at_budget_equals_the_slow_loop(subject, run, extra):
    work, values = sorted(done for done, _ in run), [value for _, value in run]
    budget, expected = work[0] + extra, None
    for done, value in zip(work, values, strict=True):
        if done <= budget:
            expected = value
    assert subject("compute.at_budget")(work, values, budget) == expected


@given(run=runs, extra=st.integers(0, 9), later=st.integers(0, 9))
def test_at_budget_does_not_look_ahead(subject, run, extra, later):
    at_budget = subject("compute.at_budget")
    work, values = sorted(done for done, _ in run), [value for _, value in run]
    budget = work[0] + extra
    known = at_budget(work, values, budget)
    assert at_budget([*work, max(work[-1], budget + 1)], [*values, later], budget) == known


@pytest.mark.parametrize(
    "arguments, said",
    [
        (([1, 2], [0.5], 3), "values has 1 entries, expected 2: as work"),
        (([], [], 3), "work is empty, expected at least one measurement"),
        (([1, 3, 2], [0, 0, 0], 3), "work falls or holds NaN"),
        (([1, float("nan")], [0, 0], 3), "work falls or holds NaN"),
        (([2e9, 3e9], [0, 0], 1e9), "budget is 1e+09, expected at least 2e+09, what came first"),
    ],
)
def test_at_budget_refuses(subject, arguments, said):
    refuses(subject("compute.at_budget"), *arguments, match=re.escape(said))
