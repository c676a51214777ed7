"""Filling a batch with groups that teach; what length adds to a reward."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasoning_from_scratch import rollouts
from reasoning_from_scratch.tasks import Problem
from tests.tensors import refuses

ALIVE, RIGHT, WRONG = [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]


class Draws:
    """A `draw` that gives these groups one after the other; `asked` is what it was asked for."""

    def __init__(self, *groups, asked=()):
        self.groups, self.asked = groups, [*asked]

    def __call__(self, count):
        start = sum(self.asked)
        self.asked.append(count)
        return torch.tensor(self.groups[start : start + count])

    def __repr__(self):
        return f"the groups {self.groups}, one after the other"

    def snapshot(self):
        return Draws(*self.groups, asked=self.asked)


def test_filled_by_hand(subject):
    draw = Draws(RIGHT, ALIVE, WRONG, WRONG, ALIVE, ALIVE)
    chosen = subject("rollouts.fill_with_mixed")(draw, 3, rounds=9)
    assert chosen == [(0, 1), (1, 1), (2, 0)] and draw.asked == [3, 2, 1]  # only what is missing


def test_nothing_more_is_drawn_when_all_are_mixed(subject):
    draw = Draws(ALIVE, ALIVE)
    assert subject("rollouts.fill_with_mixed")(draw, 2, rounds=5) == [(0, 0), (0, 1)]
    assert draw.asked == [2]


def test_what_is_missing_after_the_last_round_is_filled_up_with_the_first_others(subject):
    draw = Draws(RIGHT, WRONG, ALIVE, WRONG, ALIVE)
    assert subject("rollouts.fill_with_mixed")(draw, 3, rounds=2) == [(0, 2), (1, 1), (0, 0)]
    assert draw.asked == [3, 2]


def test_a_score_between_makes_a_group_mixed_too(subject):
    draw = Draws([0.0, 0.0, 0.5], [0.5, 0.5, 0.5])
    assert subject("rollouts.fill_with_mixed")(draw, 2, rounds=1) == [(0, 0), (0, 1)]


@pytest.mark.parametrize("worths, mixed", [
    ([1.0, 0.0, 1.0], True),
    ([1.0, 2.0], True),
    ([0.5, 0.5], False),
    ([2.0, 2.0], False),
    ([0.1] * 7, False),  # whose deviation may come out as 8e-9 in float32
])  # fmt: skip
def test_a_group_is_mixed_where_its_largest_worth_is_above_its_smallest(subject, worths, mixed):
    draw = Draws([0.0] * len(worths), worths)  # the second goes first if it is mixed
    chosen = subject("rollouts.fill_with_mixed")(draw, 2, rounds=1)
    assert chosen == ([(0, 1), (0, 0)] if mixed else [(0, 0), (0, 1)])


@given(
    st.integers(1, 5), st.integers(1, 6),
    st.lists(st.sampled_from([ALIVE, RIGHT, WRONG]), min_size=30, max_size=30),
)  # fmt: skip
def test_a_filled_batch_has_all_the_mixed_groups_that_were_drawn(subject, wanted, rounds, groups):
    draw = Draws(*groups)
    chosen = subject("rollouts.fill_with_mixed")(draw, wanted, rounds=rounds)
    assert len(chosen) == len(set(chosen)) == wanted and len(draw.asked) <= rounds
    places = [(r, g) for r, count in enumerate(draw.asked) for g in range(count)]
    mixed = [place for place, x in zip(places, groups, strict=False) if x is ALIVE]
    assert chosen[: len(mixed)] == mixed
    assert len(mixed) == wanted or len(draw.asked) == rounds


def test_filling_refuses(subject):
    fill = subject("rollouts.fill_with_mixed")
    refuses(fill, Draws(ALIVE), 0, rounds=1, match="wanted is 0, expected at least 1")
    refuses(fill, Draws(ALIVE), 1, rounds=0, match="rounds is 0, expected at least 1")
    refuses(fill, Draws(ALIVE), 2, rounds=1, match=r"draw returned shape \[1, 2\]")


def settings(kind, **changes):
    how = dict(length_reward=kind, length_coef=0.5, group_size=2, max_new_tokens=100)
    return SimpleNamespace(**how | changes)


def by_length(kind, correct, lengths, targets=(None, None), **changes):
    owners = [Problem("", "", "", {"target_tokens": t}) for t in targets for _ in range(2)]
    rollout = SimpleNamespace(lengths=torch.tensor(lengths))
    return rollouts.by_length(torch.tensor(correct), rollout, owners, settings(kind, **changes))


def test_each_group_is_compared_with_itself():
    found = by_length("kimi", [1.0, 1.0, 1.0, 0.0], [10, 20, 80, 40])
    assert found.tolist() == [0.25, -0.25, -0.25, 0.0]  # half of ±0.5; short and wrong gets none


def test_each_group_has_a_target_of_its_own():
    found = by_length("lcpo_exact", [1.0, 0.0] * 2, [10, 20, 10, 20], (10, 40), length_coef=0.01)
    assert found.tolist() == pytest.approx([0.0, -0.1, -0.3, -0.2])
