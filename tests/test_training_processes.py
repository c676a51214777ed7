"""Two processes against one with the same global batch."""

import json
import time

import pytest
import torch

from reasoning_from_scratch import problem_streams
from reasoning_from_scratch.grpo import GRPOSettings, PolicyLosses, train_grpo
from reasoning_from_scratch.problem_streams import ProblemStream
from reasoning_from_scratch.rollouts import Batch
from reasoning_from_scratch.runs import Run
from reasoning_from_scratch.sampling import Rollout, sample
from reasoning_from_scratch.sft import SFTSettings, train_sft
from reasoning_from_scratch.training import make_optimizer, optimiser_step, rank, start_processes
from tests.toys import Copy, Parity, toy_model, toy_tokenizer, weights
from tests.workers import run_ranks

EXAMPLES = [("1=", "1"), ("22=", "2"), ("3=", "33333333"), ("abc=", "c"), ("7", "7777"), ("e", "")]


def sft(batch):
    start_processes()
    settings = SFTSettings(
        steps=4, batch=batch, lr=1e-2, warmup=1, micro_tokens=12, train_on="completion"
    )
    model = toy_model().double()
    run = train_sft(model, toy_tokenizer(), EXAMPLES, settings)
    history = [
        {key: line[key] for key in ("step", "loss", "grad_norm", "lr", "tokens")}
        for line in run.history
    ]
    return history, weights(model).tolist()


def fixed_batch(policy, advantages):
    """Four groups of two completions, sampled from one process, with given advantages."""
    prompts = ["12=", "7=", "abcabc=", "0"]
    generator = torch.Generator().manual_seed(0)
    rollout = sample(
        policy, toy_tokenizer(), prompts, group_size=2, max_new_tokens=12, generator=generator
    )
    return Batch(rollout, [], {}, torch.zeros(8), torch.tensor(advantages))


def part_of(batch, rows):
    r = batch.rollout
    texts = [r.texts[row] for row in rows]
    tensors = (x[rows] for x in (r.tokens, r.logprobs, r.mask, r.prompt_lengths))
    rollout = Rollout(*tensors, texts, r.finished[rows])
    return Batch(rollout, [], {}, batch.rewards[rows], batch.advantages[rows])


def update(aggregate, kl_coef, steps):
    """Make optimiser steps with the given advantages; return the norms and the weights."""
    start_processes()
    policy, reference = toy_model(scale=8.0), toy_model(1, scale=8.0) if kl_coef else None
    settings = GRPOSettings(
        group_size=2, max_new_tokens=12, micro_tokens=30, aggregate=aggregate, kl_coef=kl_coef
    )
    batch = fixed_batch(policy, steps[0])
    policy = policy.double()
    reference = reference and reference.double()
    optimizer, norms = make_optimizer(policy, lr=1e-3, weight_decay=0.1), []
    for advantages in steps:
        batch.advantages = torch.tensor(advantages)
        mine = batch
        if torch.distributed.is_initialized():
            mine = part_of(batch, torch.arange(4) + 4 * rank())
        groups = torch.arange(len(mine.rewards) // 2)
        parts = PolicyLosses(policy, reference, mine, groups, settings)
        norm = optimiser_step(policy, optimizer, parts, lr=1e-3, max_grad_norm=0.1)
        norms.append(float(norm))
    return norms, weights(policy).tolist()


LIVE = [1.0, -1.0, 0.5, -0.5, 2.0, 0.0, -1.0, 1.0]
HALF = [1.0, -1.0, 0.5, -0.5, 0.0, 0.0, 0.0, 0.0]  # nothing for the second process
DEAD = [0.0] * 8


UPDATES = {
    "mean of sequences": ("sequence_mean", 0.0, [LIVE, HALF]),
    "mean of tokens": ("token_mean", 0.0, [HALF, LIVE]),
    "constant": ("constant", 0.0, [LIVE, LIVE]),
    "with KL": ("token_mean", 0.5, [LIVE, HALF]),
    "nothing to learn": ("sequence_mean", 0.0, [LIVE, DEAD, DEAD]),
}
BATCHES = (6, 3, 1)  # 3: one process has more; 1: one has nothing


def scenarios():
    """Everything that needs two processes and no folder: starting them is what takes time."""
    return {batch: sft(batch) for batch in BATCHES} | {
        name: update(*arguments) for name, arguments in UPDATES.items()
    }


@pytest.fixture(scope="module")
def results():
    return run_ranks(scenarios)


@pytest.mark.parametrize("batch", BATCHES)
def test_sft_on_two_processes_equals_one(results, batch):
    history, expected = sft(batch)
    for result in results:
        found, theirs = result[batch]
        torch.testing.assert_close(torch.tensor(theirs), torch.tensor(expected))
        for line, other in zip(found, history, strict=True):
            assert line == pytest.approx(other)


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_on_two_processes_equals_one(results, name):
    norms, expected = update(*UPDATES[name])
    for result in results:
        found, theirs = result[name]
        assert found == pytest.approx(norms)
        torch.testing.assert_close(torch.tensor(theirs), torch.tensor(expected))


def grpo(folder, stop_after, kind):
    """Train on a folder of its own, perhaps stopping early, perhaps going on."""
    start_processes()
    if kind == "create" and rank() == 1:
        time.sleep(0.3)  # the processes of a real run are never quite together
    model = toy_model(scale=8.0)
    run = Run.create(folder, {"seed": 0}) if kind == "create" else Run.resume(folder)
    prompts = []

    class Seen(Parity):
        def score(self, problem, completion):
            prompts.append(problem.prompt + completion)
            return super().score(problem, completion)

    def stop(line):
        if line["step"] + 1 == stop_after:
            raise InterruptedError

    run.on_step = stop
    # Groups that agree are replaced, so that the processes sample different amounts.
    settings = GRPOSettings(
        steps=4, prompts=4, group_size=4, max_new_tokens=8, checkpoint_every=2, resample=2
    )
    try:
        train_grpo(model, toy_tokenizer(), Seen(), settings, run=run)
    except InterruptedError:
        pass
    return run.history, weights(model).tolist(), prompts


KEYS = ("reward", "mixed_groups", "length", "finished", "entropy", "completions", "grad_norm")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "together"
    return folder, run_ranks(grpo, str(folder), None, "create")


def test_grpo_on_two_processes_keeps_one_policy_and_one_record(together):
    folder, ((history, first, prompts), (other_history, second, other_prompts)) = together
    assert first == second and first != weights(toy_model(scale=8.0)).tolist()
    for line, other in zip(history, other_history, strict=True):
        assert {key: line[key] for key in KEYS} == {key: other[key] for key in KEYS}
    lines = [json.loads(line) for line in (folder / "log.jsonl").open()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]  # written by one of them


def test_the_log_speaks_of_what_all_processes_sampled(together):
    _, ((history, _, prompts), (_, _, other_prompts)) = together
    everything = prompts + other_prompts
    assert sum(line["completions"] for line in history) == len(everything) > 4 * 16
    scores = [Parity().score(None, text.split("=", 1)[1]) for text in everything]
    rewards = sum(line["reward"] * line["completions"] for line in history)
    assert rewards == pytest.approx(sum(scores))


def test_two_processes_draw_different_completions(together):
    _, ((_, _, prompts), (_, _, other_prompts)) = together
    completions = [[text.split("=", 1)[1] for text in p] for p in (prompts, other_prompts)]
    assert completions[0] != completions[1]


def test_a_run_of_two_processes_goes_on_as_if_it_had_not_stopped(together, tmp_path):
    _, ((_, expected, _), _) = together
    folder = str(tmp_path / "stopped")
    run_ranks(grpo, folder, 3, "create")
    (_, found, _), _ = run_ranks(grpo, folder, None, "resume")
    assert found == expected


def test_processes_share_out_the_problems(monkeypatch):
    whole = [p.prompt for p in ProblemStream(Copy(), 0).take(12)]
    shares = []
    for number in range(3):
        monkeypatch.setattr(problem_streams, "world_size", lambda: 3)
        monkeypatch.setattr(problem_streams, "rank", lambda number=number: number)
        stream = ProblemStream(Copy(), 0)
        shares.append([p.prompt for count in (1, 2, 1) for p in stream.take(count)])
    assert shares == [whole[0::3], whole[1::3], whole[2::3]]
