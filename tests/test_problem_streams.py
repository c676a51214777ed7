"""Which problems come next: new ones, or the least solved of a fixed set."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from reasoning_from_scratch.grpo import preset, train_grpo
from reasoning_from_scratch.problem_streams import PrioritisedStream, ProblemStream
from reasoning_from_scratch.runs import Run
from tests.tensors import refuses
from tests.toys import Copy, Parity, toy_model, toy_tokenizer, weights


class Ten(Copy):
    """Ten problems: one for each digit."""


def taken(stream, *counts):
    return [[problem.answer for problem in stream.take(count)] for count in counts]


# New ones.


def test_problems_come_one_after_another_however_many_are_taken():
    expected = [p.prompt for p in Copy().generate(20, seed=3, split="train")]
    stream = ProblemStream(Copy(), 3)
    found = [p.prompt for count in (1, 7, 0, 12) for p in stream.take(count)]
    assert found == expected
    resumed = ProblemStream(Copy(), 3)
    resumed.restore([8])
    assert [p.prompt for p in resumed.take(12)] == expected[8:] and resumed.state() == [20]
    resumed.restore(None)
    assert resumed.state() == [0]


# The chances.


def test_priorities_by_hand(subject):
    priorities = subject("problem_streams.priorities")
    expected = torch.tensor([0.0666667, 0.3333333, 0.6])  # .1, .5 and .9 of 1.5
    assert_close(priorities(torch.tensor([0.9, 0.5, 0.1])), expected)
    assert_close(priorities(torch.tensor([1.0, 0.0, 1.0])), torch.tensor([0.0, 1.0, 0.0]))
    assert_close(priorities(torch.ones(4)), torch.full((4,), 0.25))  # all are solved


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9))
def test_priorities_are_chances_and_fall_with_the_rate(subject, rates):
    chances = subject("problem_streams.priorities")(torch.tensor(rates))
    assert chances.sum().item() == pytest.approx(1, abs=1e-5) and (chances >= 0).all()
    order = torch.tensor(rates).argsort()
    assert (chances[order].diff() <= 1e-6).all()


def test_priorities_refuse(subject):
    priorities = subject("problem_streams.priorities")
    refuses(priorities, [0.5], match="rates is a list, expected a tensor")
    refuses(priorities, torch.ones(2, 2), match=r"rates has shape \[2, 2\], expected \[N\]")
    refuses(priorities, torch.ones(0), match="with N at least 1")
    refuses(priorities, torch.tensor([0.5, 1.5]), match="rates is .* expected numbers from 0 to 1")
    refuses(priorities, torch.tensor([torch.nan]), match="expected numbers from 0 to 1")


# The fixed set.


def test_a_rate_moves_halfway_to_what_was_seen():
    stream = PrioritisedStream(Ten(), 0, 10)
    problems = stream.known[:2]
    stream.learn(problems, torch.tensor([1.0, 0.5]))
    stream.learn(problems, torch.tensor([1.0, 0.0]))
    assert stream.rates[:2].tolist() == [0.75, 0.125] and stream.rates[2:].sum() == 0


def test_each_rollout_has_different_problems_and_the_solved_ones_hardly_come():
    stream = PrioritisedStream(Ten(), 0, 10)
    stream.rates = torch.tensor([1.0] * 5 + [0.2] * 5)
    unsolved = {problem.answer for problem in stream.known[5:]}
    found = taken(stream, *[4] * 50)
    assert all(len(set(four)) == 4 for four in found)
    assert all(set(four) <= unsolved for four in found)
    assert len({tuple(four) for four in found}) > 20  # another draw each time
    # Where only two are left to solve, the others fill up.
    stream.rates = torch.tensor([1.0] * 8 + [0.0] * 2)
    assert all({p.answer for p in stream.known[8:]} < set(four) for four in taken(stream, *[4] * 9))


def test_the_chances_are_those_of_the_rates():
    stream = PrioritisedStream(Ten(), 0, 3)
    stream.rates = torch.tensor([0.9, 0.5, 0.1])
    first = [stream.known.index(stream.take(1)[0]) for _ in range(3000)]
    shares = torch.bincount(torch.tensor(first), minlength=3) / 3000
    assert_close(shares, torch.tensor([0.0667, 0.3333, 0.6]), atol=0.03, rtol=0)  # 3 deviations


def test_it_goes_on_where_it_was_and_another_seed_draws_otherwise():
    stream = PrioritisedStream(Ten(), 3, 10)
    stream.learn(stream.take(4), torch.tensor([1.0, 0.0, 0.5, 1.0]))
    state, expected = stream.state(), taken(stream, 4, 4, 4)
    resumed = PrioritisedStream(Ten(), 3, 10)
    resumed.restore(state)
    assert taken(resumed, 4, 4, 4) == expected
    assert taken(PrioritisedStream(Ten(), 4, 10), 4, 4, 4) != expected


def test_a_pool_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr("reasoning_from_scratch.problem_streams.world_size", lambda: 2)
    refuses(PrioritisedStream, Ten(), 0, 5, match="pool is 5, expected a multiple of 2 processes")


# In the loop.


def test_training_on_a_pool_takes_only_from_it_and_resumes_exactly(tmp_path):
    s = preset(
        "dr_grpo", steps=4, prompts=3, group_size=4, max_new_tokens=8, pool=5, lr=1e-2,
        checkpoint_every=1, record_every=1,
    )  # fmt: skip
    ends = []
    for name, stop in (("whole", None), ("killed", 2)):
        model, run = toy_model(scale=8.0), Run.create(tmp_path / name, {})
        if stop:

            def interrupt(line, stop=stop):
                if line["step"] + 1 == stop:
                    raise KeyboardInterrupt

            run.on_step = interrupt
            with pytest.raises(KeyboardInterrupt):
                train_grpo(model, toy_tokenizer(), Parity(), s, run=run)
            model, run = toy_model(scale=8.0), Run.resume(tmp_path / name)
        train_grpo(model, toy_tokenizer(), Parity(), s, run=run)
        ends.append(weights(model))
        read = (tmp_path / name / "rollouts.jsonl").read_text()
        pool = {problem.prompt for problem in Parity().generate(5, seed=0, split="train")}
        assert {prompt for prompt in (f"{d}=" for d in range(10)) if f'"{prompt}"' in read} <= pool
    assert torch.equal(*ends)
