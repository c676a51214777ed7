"""The loop of PPO as it runs: the log, warm-up, truncation, resuming, two processes, learning."""

import copy
import json
import os
import signal

import pytest
import torch

from reasoning_from_scratch import ppo
from reasoning_from_scratch.model import ScalarHead
from reasoning_from_scratch.ppo import PPO_PRESETS, PPOSettings, ppo_preset, train_ppo
from reasoning_from_scratch.runs import CHECKPOINT, Run, read_checkpoint
from reasoning_from_scratch.training import rank, start_processes
from tests.batches import REFUSED_REWARDS, double_critic, made_batch
from tests.tensors import refuses
from tests.toys import Copy, Parity, SayB, double_model, toy_model, toy_tokenizer, weights
from tests.workers import run_process, run_ranks

SMALL = dict(
    steps=3, prompts=4, group_size=4, max_new_tokens=8, warmup=1, lr=1e-2, critic_lr=1e-2,
    critic_updates=2,
)  # fmt: skip


LEARNING = dict(
    prompts=8, group_size=8, max_new_tokens=1, lr=2e-2, critic_lr=1e-2, warmup=2, critic_updates=2
)


def train(task, settings, *, train_ppo=train_ppo, model=None, critic=None, **options):
    model = model or toy_model(scale=8.0)
    critic = critic or ScalarHead(copy.deepcopy(model))
    run = train_ppo(model, critic, toy_tokenizer(), task, settings, **options)
    return model, critic, run


# What is logged.

LOGGED = {
    "reward", "reward_correct", "length", "finished", "entropy", "completions", "return", "value",
    "explained_variance", "kl_coef", "loss", "ratio_mean", "approx_kl", "clip_low_fraction",
    "clip_high_fraction", "grad_norm", "lr", "critic_loss", "critic_grad_norm", "critic_lr",
    "sample_seconds", "seconds",
}  # fmt: skip


@pytest.mark.parametrize("name", PPO_PRESETS)
@pytest.mark.parametrize("group_size", [1, 4])
def test_every_preset_trains_both_models(name, group_size):
    settings = ppo_preset(name, **SMALL | dict(group_size=group_size, prompts=16))
    model, critic, run = train(Parity(), settings)
    for found in (model, critic.body):
        assert (weights(found) - weights(toy_model(scale=8.0))).abs().max() > 1e-3
        assert weights(found).isfinite().all()
    assert critic.score.weight.abs().max() > 1e-3
    for line in run.history:
        assert set(line) >= LOGGED and "mixed_groups" not in line
        assert ("kl" in line) == ("kl_completion" in line) == (name == "rlhf")
        json.dumps(line, allow_nan=False)
        assert line["grad_norm"] > 0 and line["critic_grad_norm"] > 0
    assert run.history[0]["value"] == 0  # the head starts at zero


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_on_the_first_update_the_ratio_is_one_and_the_kl_zero(temperature):
    settings = ppo_preset("rlhf", **SMALL | dict(steps=1, epochs=1, temperature=temperature))
    _, _, run = train(Parity(), settings)
    first = run.history[0]
    assert first["ratio_mean"] == pytest.approx(1, abs=1e-4)
    assert first["ratio_max"] == pytest.approx(1, abs=1e-4)
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert first["clip_low_fraction"] == first["clip_high_fraction"] == 0


def test_later_passes_over_a_rollout_are_off_policy():
    _, _, run = train(Parity(), PPOSettings(**SMALL | dict(epochs=6, lr=3e-2)))
    assert run.history[1]["approx_kl"] > 1e-4
    assert run.history[1]["clip_high_fraction"] + run.history[1]["clip_low_fraction"] > 0


def test_the_kl_of_a_completion_is_the_sum_over_its_tokens():
    _, _, run = train(Parity(), ppo_preset("rlhf", **SMALL))
    for line in run.history[1:]:
        expected = line["kl"] * line["length"]  # both means weigh each token alike
        assert line["kl_completion"] == pytest.approx(expected, rel=1e-4) and line["kl"] > 0


def test_the_return_is_the_reward_minus_what_the_kl_costs():
    settings = ppo_preset("rlhf", **SMALL | dict(unfinished_reward=None))
    _, _, run = train(Parity(), settings)
    for line in run.history:
        expected = line["reward"] - line["kl_coef"] * line["kl_completion"]
        assert line["return"] == pytest.approx(expected, abs=1e-5)


def test_completions_are_kept_with_their_mean_advantage(tmp_path):
    run = Run.create(tmp_path / "run", {})
    _, _, run = train(Parity(), PPOSettings(**SMALL, record_every=2), run=run)
    lines = [json.loads(line) for line in (run.folder / "rollouts.jsonl").open()]
    assert [line["step"] for line in lines] == [0] * 4 + [2] * 4
    told = [(c["advantage"], c["length"]) for line in lines[:4] for c in line["completions"]]
    assert sum(a * n for a, n in told) == pytest.approx(0, abs=0.01)  # whitened over tokens
    assert len({a for a, _ in told}) > 1


def test_a_reward_of_several_parts_and_evaluations_are_used_and_logged():
    def reward(owners, rollout):
        return {"correct": [1.0] * 16, "brief": [-float(n) for n in rollout.lengths]}

    settings = PPOSettings(**SMALL, evaluate_every=2)
    _, _, run = train(Parity(), settings, reward=reward, evaluate=lambda model: {"n": 1})
    assert [line.get("eval") for line in run.history] == [None, {"n": 1}, None]
    for line in run.history:
        assert line["reward"] == line["return"] == pytest.approx(1 - line["length"])


# What the settings do.


def test_train_ppo_lets_the_critic_alone_learn_during_its_warm_up(subject):
    settings = PPOSettings(**SMALL | dict(critic_warmup=2, warmup=2, final_lr=0.5))
    seen = []

    class Watched(Run):
        def log(self, step, stats):
            seen.append((weights(model), weights(critic)))
            super().log(step, stats)

    model = toy_model(scale=8.0)
    critic = ScalarHead(copy.deepcopy(model))
    before = weights(model), weights(critic)
    options = dict(train_ppo=subject("train_ppo"), model=model, critic=critic, run=Watched())
    _, _, run = train(Parity(), settings, **options)
    for policy_then, critic_then in seen[:2]:
        assert torch.equal(policy_then, before[0]) and not torch.equal(critic_then, before[1])
    assert not torch.equal(seen[2][0], before[0])
    assert ["grad_norm" in line for line in run.history] == [False, False, True]
    # The policy's own warm-up begins with its first step: 1/2 of the peak, of one step.
    assert [line["lr"] for line in run.history] == pytest.approx([0, 0, 0.005])
    assert [line["critic_lr"] for line in run.history] == pytest.approx([0.005, 0.01, 0.01])


def test_train_ppo_leaves_a_critic_with_rate_0_as_it_is(subject):
    model = toy_model(scale=8.0)
    critic = ScalarHead(copy.deepcopy(model))
    torch.nn.init.constant_(critic.score.bias, 0.5)  # a constant as baseline
    before = weights(critic)
    settings = PPOSettings(**SMALL | dict(critic_lr=0.0))
    options = dict(train_ppo=subject("train_ppo"), critic=critic)
    _, _, run = train(Parity(), settings, **options)
    assert torch.equal(weights(critic), before)
    assert "critic_loss" not in run.history[0] and run.history[0]["value"] == 0.5
    assert run.history[0]["explained_variance"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("unfinished, expected", [(None, 2.0), (-1.0, -1.0), (0.0, 0.0)])
def test_train_ppo_gives_what_was_cut_off_the_reward_of_the_settings(subject, unfinished, expected):
    def reward(owners, rollout):
        return {"correct": [2.0] * 16}

    settings = PPOSettings(**SMALL | dict(steps=1, unfinished_reward=unfinished))
    options = dict(train_ppo=subject("train_ppo"), reward=reward)
    _, _, run = train(Parity(), settings, **options)
    assert 0 < run.history[0]["finished"] < 1
    for line in run.history:
        mixed = 2.0 * line["finished"] + expected * (1 - line["finished"])
        assert line["return"] == pytest.approx(mixed) and line["reward"] == 2


def test_train_ppo_keeps_its_reference_where_the_policy_began(subject):
    # A price of 10 a nat is steep, one of a millionth only has the KL measured.
    found = {}
    for kl_coef in (10.0, 1e-6):
        settings = PPOSettings(**LEARNING, steps=10, epochs=1, kl_coef=kl_coef)
        options = dict(model=toy_model(), train_ppo=subject("train_ppo"))
        _, _, run = train(SayB(), settings, **options)
        found[kl_coef] = sum(line["kl"] for line in run.history[-5:]) / 5
        assert {line["kl_coef"] for line in run.history} == {kl_coef}
    assert abs(found[10.0]) < 0.05 and found[1e-6] > 0.3


def test_train_ppo_refuses_what_it_cannot_work_with(subject, monkeypatch):
    model, train = toy_model(), subject("train_ppo")
    more = (toy_tokenizer(), Copy(), PPOSettings(**SMALL))
    refuses(train, model, toy_model(1), *more, match="critic is a GPT, expected a ScalarHead")
    refuses(train, model, ScalarHead(model), *more, match="critic shares weights with policy")
    half = ScalarHead(copy.deepcopy(model))
    half.body.blocks[0] = model.blocks[0]
    refuses(train, model, half, *more, match="critic shares weights with policy")
    critic = ScalarHead(copy.deepcopy(model))
    refuses(train, model, critic, *more, evaluate=len, match="evaluate_every is 0")
    monkeypatch.setitem(train.__globals__, "world_size", lambda: 3)
    refuses(train, model, critic, *more, match="prompts is 4, expected a multiple of 3 processes")
    monkeypatch.setitem(train.__globals__, "world_size", lambda: 4)
    refuses(train, model, critic, *more, match="critic_updates is 2, expected at most 1")


@pytest.mark.parametrize("returned, message", REFUSED_REWARDS)
def test_train_ppo_refuses_what_no_reward_function_returns(subject, returned, message):
    settings, before = PPOSettings(steps=1, prompts=2, group_size=2, max_new_tokens=2), toy_model()
    model, critic = toy_model(), ScalarHead(toy_model())
    refuses(
        subject("train_ppo"), model, critic, toy_tokenizer(), Copy(), settings, match=message,
        reward=lambda owners, rollout: returned,
    )  # fmt: skip
    assert torch.equal(weights(model), weights(before))


# It learns.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", PPO_PRESETS)
def test_it_learns_to_say_the_token_that_is_rewarded(name, seed):
    settings = ppo_preset(
        name, **LEARNING, steps=25, seed=seed, epochs=2, unfinished_reward=None, kl_target=0.0,
        kl_coef=0.02 * (name == "rlhf"),
    )  # fmt: skip
    _, _, run = train(SayB(), settings, model=toy_model(seed))
    assert run.history[0]["reward"] < 0.25  # of 18 tokens one
    assert sum(line["reward"] for line in run.history[-5:]) / 5 > 0.9


class FirstDigitLow(Copy):
    """Worth what the prompt says: a critic can know it before anything is written."""

    def score(self, problem, completion):
        return float(problem.answer < "5")


def test_the_critic_learns_to_foresee_the_reward():
    settings = PPOSettings(
        steps=20, prompts=10, group_size=4, max_new_tokens=4, lr=1e-5, critic_lr=1e-2, warmup=1
    )
    _, _, run = train(FirstDigitLow(), settings, model=toy_model())
    assert run.history[0]["explained_variance"] == pytest.approx(0, abs=1e-6)
    assert run.history[-1]["explained_variance"] > 0.9
    assert run.history[-1]["critic_loss"] < 0.1 * run.history[0]["critic_loss"]


# A run that is killed goes on to the same end, bit for bit.

KILLED = ppo_preset(
    "rlhf", steps=6, prompts=3, group_size=2, max_new_tokens=6, epochs=2, critic_updates=2,
    warmup=2, critic_warmup=3, kl_target=0.1, kl_horizon=12, checkpoint_every=2, record_every=1,
    lr=1e-3,
)  # fmt: skip


def resumable(folder, kill_after=None):
    """Start a run, or go on with it; perhaps die after a step."""
    exists = os.path.exists(os.path.join(folder, "settings.json"))
    run = Run.resume(folder) if exists else Run.create(folder, KILLED)

    def die(line):
        if line["step"] == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    run.on_step = die
    model, critic, _ = train(Parity(), KILLED, run=run)
    return weights(model).tolist(), weights(critic).tolist()


def lines_of(folder, name):
    lines = [json.loads(line) for line in (folder / name).open()]
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return folder, resumable(str(folder))


@pytest.mark.parametrize("moments", [(2,), (4,), (0, 2, 4)])  # 2: the policy has no moments yet
def test_a_killed_run_goes_on_to_the_same_end(tmp_path, moments, undisturbed):
    folder = tmp_path / "run"
    for moment in moments:
        code, _ = run_process(resumable, str(folder), moment)
        assert code == -signal.SIGKILL
    found = resumable(str(folder))
    assert found == undisturbed[1]
    for name in ("log.jsonl", "rollouts.jsonl"):
        assert lines_of(folder, name) == lines_of(undisturbed[0], name)
    coefs = [line["kl_coef"] for line in lines_of(folder, "log.jsonl")]
    assert len(set(coefs)) == 6  # it was adapted all the time
    tensors, state = read_checkpoint(folder / CHECKPOINT)
    assert state["step"] == 6 and state["kl_coef"] not in coefs
    assert {name.split(".")[1] for name in tensors if name[:6] == "model."} == {"policy", "critic"}


def test_train_ppo_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(
    subject, tmp_path, undisturbed
):
    run = Run.create(tmp_path / "run", KILLED)

    def stop(line):
        run.stopping = line["step"] == 3

    run.on_step = stop
    with pytest.raises(KeyboardInterrupt):
        train(Parity(), KILLED, run=run, train_ppo=subject("train_ppo"))
    run = Run.resume(tmp_path / "run")
    model, critic, _ = train(Parity(), KILLED, run=run, train_ppo=subject("train_ppo"))
    assert (weights(model).tolist(), weights(critic).tolist()) == undisturbed[1]


# Two processes do what one does with the same batch.


def part_of(batch, rows):
    r, part = batch.rollout, copy.copy(batch)
    tensors = (x[rows] for x in (r.tokens, r.logprobs, r.mask, r.prompt_lengths))
    texts = [r.texts[row] for row in rows]
    part.rollout = type(r)(*tensors, texts, r.finished[rows])
    part.rewards, part.problems = batch.rewards[rows], [batch.problems[row] for row in rows]
    return part


def on_given_rollouts(whiten):
    """Two steps on rollouts that processes share out, if there are several."""
    start_processes()
    batches = [made_batch(seed) for seed in range(2)]
    for batch in batches:
        batch.rewards = batch.rewards / 8 - 1
        batch.rollout.finished[3:5] = False
        batch.problems = Copy().generate(16, seed=0, split="train")
    if torch.distributed.is_initialized():
        batches = [part_of(batch, torch.arange(8) + 8 * rank()) for batch in batches]
    left, collect = iter(batches), ppo.collect
    ppo.collect = lambda *_: (next(left), {"mixed_groups": 1.0})
    try:
        settings = ppo_preset(
            "rlhf", steps=2, prompts=4, group_size=4, max_new_tokens=9, epochs=2, lr=1e-3,
            warmup=1, kl_horizon=100, kl_target=0.1, whiten=whiten,
        )  # fmt: skip
        policy, critic = double_model({}), double_critic()
        run = train_ppo(policy, critic, toy_tokenizer(), Copy(), settings)
    finally:
        ppo.collect = collect
    return run.history, weights(policy).tolist(), weights(critic).tolist()


def both_ways():
    return [on_given_rollouts(whiten) for whiten in (True, False)]


SHARED = (
    "return", "value", "explained_variance", "kl", "kl_completion", "kl_coef", "loss", "grad_norm",
    "critic_loss", "critic_grad_norm",
)  # fmt: skip


def test_two_processes_do_what_one_does():
    expected = both_ways()
    for results in run_ranks(both_ways):
        for found, wanted in zip(results, expected, strict=True):
            for line, other in zip(found[0], wanted[0], strict=True):
                for name in SHARED:
                    assert line[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), name
            for theirs, ours in zip(found[1:], wanted[1:], strict=True):
                # Sums in another order, and Adam divides a tiny gradient by itself.
                difference = torch.tensor(theirs) - torch.tensor(ours)
                assert difference.abs().max() < 1e-4


def sampled_together(folder):
    start_processes()
    run = Run.create(folder, {"seed": 0})
    settings = ppo_preset("rlhf", **SMALL | dict(checkpoint_every=1))
    model, critic, run = train(Parity(), settings, run=run)
    return run.history, weights(model).tolist(), weights(critic).tolist()


def test_two_processes_that_sample_keep_one_policy_one_critic_and_one_record(tmp_path):
    folder = tmp_path / "run"
    (history, policy, critic), other = run_ranks(sampled_together, str(folder))
    assert (policy, critic) == other[1:]
    assert policy != weights(toy_model(scale=8.0)).tolist()
    for line, theirs in zip(history, other[0], strict=True):
        assert all(line[name] == theirs[name] for name in (*SHARED, "reward", "length"))
        assert line["completions"] == 16
    assert [line["step"] for line in lines_of(folder, "log.jsonl")] == [0, 1, 2]
