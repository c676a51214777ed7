"""DPO: what is summed, what a step averages over, that it learns, keeps its reference, resumes."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from reasoning_from_scratch.dpo import DPOSettings, train_dpo
from reasoning_from_scratch.preferences import Preference
from reasoning_from_scratch.pretrained import load_pretrained
from reasoning_from_scratch.runs import CHECKPOINT, Run, read_checkpoint
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.training import start_processes
from tests.tensors import refuses
from tests.toys import END, chain, double_model, toy_model, toy_tokenizer, weights
from tests.workers import run_ranks

BASE = Path(__file__).parents[1] / "data" / "models" / "base"
END_ID = 17  # of the toy tokenizer, in which digits are their own ids, "=" is 10 and "a" 11
CUT_OFF = {"finished": (True, False)}
PAIRS = [
    Preference("1=", "1", "2"),
    Preference("1=", "1", "33333", meta=CUT_OFF),
    Preference("22=", "", "a"),
    Preference("abcdef=", "0123456789", "f"),
    Preference("7", "77", "7", meta={"finished": (False, True), "key": 7}),
]
ROWS = [([1, 10, 2, 17], 2), ([3, 17], 1), ([4, 10, 5, 6, 7, 8, 9, 17], 2), ([4, 10, 5, 6], 1)]
MEANS = ("accuracy", "margin", "chosen_reward", "rejected_reward", "chosen_logprob",
         "rejected_logprob")  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


# completion_logprobs: the sum over the completion's own tokens


def slow_logprob(model, ids, start):
    """The log-probability of one completion, a token and a forward pass at a time."""
    logprobs = [
        model(torch.tensor([ids[:t]]))[0, -1].log_softmax(-1)[ids[t]]
        for t in range(start, len(ids))
    ]
    return torch.stack(logprobs).sum() if logprobs else torch.zeros((), dtype=torch.float64)


def test_completion_logprobs_by_hand(subject):
    # A successor has e² times the weight of each of the 17 others.
    sure = -math.log(1 + 17 * math.exp(-2))
    other = sure - 2
    model = chain({1: 2, 2: 3, 3: 17})
    with torch.no_grad():
        model.head.weight.mul_(0.2 / 6)  # a normed one-hot of 36 channels is 6
    rows = [([1, 2, 3, 17], 1), ([1, 2, 3], 2), ([5, 1, 3, 17], 2), ([5, 9, 1, 2, 3, 17], 3)]
    expected = [3 * sure, sure, other + sure, 3 * sure]  # the prompts' own are no part
    found = subject("dpo.completion_logprobs")(model, rows)
    assert found.tolist() == pytest.approx(expected, rel=1e-3)


def test_completion_logprobs_are_those_of_each_row_alone(subject):
    model = double_model({})
    expected = torch.stack([slow_logprob(model, *row) for row in ROWS])
    found = subject("dpo.completion_logprobs")(model, ROWS)
    assert_close(found, expected)
    assert_close(subject("dpo.completion_logprobs")(model, ROWS[::-1]), expected.flip(0))
    for one, other in zip(
        gradients(found.sum(), model), gradients(expected.sum(), model), strict=True
    ):
        assert_close(one, other)


def test_completion_logprobs_of_nothing_are_0(subject):
    found = subject("dpo.completion_logprobs")(double_model({}), [([1, 10], 2), ([1, 10, 17], 2)])
    assert found[0] == 0 > found[1]


def test_completion_logprobs_are_float32_at_least(subject):
    model = toy_model().bfloat16()
    assert subject("dpo.completion_logprobs")(model, ROWS).dtype == torch.float32


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)


# encode_pairs and with_reference


def test_encode_pairs_joins_prompt_completion_and_the_end_that_was_sampled(subject, tokenizer):
    encode = subject("dpo.encode_pairs")
    found = encode(toy_model(), tokenizer, PAIRS[:3] + PAIRS[4:])
    rows = [(pair.chosen, pair.rejected) for pair in found]
    assert rows[0] == (([1, 10, 1, 17], 2), ([1, 10, 2, 17], 2))
    assert rows[1] == (([1, 10, 1, 17], 2), ([1, 10, 3, 3, 3, 3, 3], 2))  # cut off: no end
    assert rows[2] == (([2, 2, 10, 17], 3), ([2, 2, 10, 11, 17], 3))
    assert rows[3] == (([7, 7, 7], 1), ([7, 7, 17], 1))
    assert [pair.size() for pair in found] == [8, 14, 10, 6]


def test_both_completions_follow_the_same_tokens(subject):
    # "ab" is a token, but sampling after the prompt "a" would never meet it.
    tokenizer = Tokenizer.train(["ab ab"], vocab_size=258, special_tokens=[END])
    model = toy_model(vocab_size=258)
    (pair,) = subject("dpo.encode_pairs")(model, tokenizer, [Preference("a", "b", "c")])
    assert pair.chosen == ([97, 98, 257], 1) and pair.rejected == ([97, 99, 257], 1)


def test_encode_pairs_refuses(subject, tokenizer):
    encode, model = subject("dpo.encode_pairs"), toy_model()
    refuses(encode, model, tokenizer, [], match="pairs is empty, expected preference pairs")
    refuses(encode, model, tokenizer, [("1=", "1", "2")], match=r"pairs holds \('1=', '1', '2'\)")
    refuses(
        encode, model, tokenizer, [Preference("", "1", "2")],
        match="pairs holds an empty prompt: a completion's first token needs one",
    )  # fmt: skip
    few = toy_model(vocab_size=12)
    refuses(encode, few, tokenizer, PAIRS, match="tokenizer has 18 tokens, expected at most the mo")
    small = toy_model(max_positions=5)
    encode(small, tokenizer, [Preference("1=", "11", "2")])  # and the end token
    encode(small, tokenizer, [Preference("1=", "1", "222", meta=CUT_OFF)])
    refuses(
        encode, small, tokenizer, [Preference("1=", "1", "222")],
        match="a completion with its prompt has 6 tokens, expected at most 5: '222'",
    )  # fmt: skip
    refuses(
        encode, model, tokenizer, [Preference("1=", "1", "2", meta={"finished": True})],
        match=r"a pair's meta has finished True, expected \(chosen, rejected\)",
    )  # fmt: skip


@pytest.mark.parametrize("micro_tokens", [1, 16, 10_000])
def test_with_reference_keeps_each_completions_own(subject, tokenizer, micro_tokens):
    model = double_model({})
    pairs = subject("dpo.encode_pairs")(model, tokenizer, PAIRS)
    found = subject("dpo.with_reference")(model, pairs, micro_tokens)
    for pair, known in zip(pairs, found, strict=True):
        assert (known.chosen, known.rejected) == (pair.chosen, pair.rejected)
        expected = [slow_logprob(model, *row).item() for row in (pair.chosen, pair.rejected)]
        assert [known.ref_chosen, known.ref_rejected] == pytest.approx(expected)


# part_losses: what a step averages over


def slow_step(policy, reference, pairs, beta, nll_coef):
    """Loss and logged means of a step, one pair at a time, by the paper's formula."""
    terms = []
    for pair in pairs:
        chosen, rejected = (slow_logprob(policy, *row) for row in (pair.chosen, pair.rejected))
        with torch.no_grad():
            references = [slow_logprob(reference, *row) for row in (pair.chosen, pair.rejected)]
        rewards = beta * (chosen - references[0]), beta * (rejected - references[1])
        loss = -torch.log(1 / (1 + torch.exp(rewards[1] - rewards[0])))
        loss = loss - nll_coef * chosen / (len(pair.chosen[0]) - pair.chosen[1])
        right = (rewards[0] > rewards[1]).double()
        terms.append(
            torch.stack([loss, right, rewards[0] - rewards[1], *rewards, chosen, rejected])
        )
    return torch.stack(terms).mean(0)


@pytest.mark.parametrize("nll_coef", [0.0, 0.7])
@pytest.mark.parametrize("micro_tokens", [1, 40, 10_000])
def test_part_losses_add_up_to_the_mean_over_all_pairs(subject, tokenizer, micro_tokens, nll_coef):
    policy, reference = double_model({}), double_model({}, seed=1)
    pairs = subject("dpo.encode_pairs")(reference, tokenizer, PAIRS)
    expected = slow_step(policy, reference, pairs, 0.3, nll_coef)
    known = subject("dpo.with_reference")(reference, pairs, 10_000)
    settings = DPOSettings(micro_tokens=micro_tokens, beta=0.3, nll_coef=nll_coef)
    found = []
    parts = list(subject("dpo.part_losses")(policy, known, settings, len(PAIRS), found))
    assert len(parts) == {1: 5, 40: 3, 10_000: 1}[micro_tokens]
    assert_close(sum(parts), expected[0])
    assert_close(sum(found), expected.detach().float())
    assert not any(stats.requires_grad for stats in found)
    for one, other in zip(
        gradients(sum(parts), policy), gradients(expected[0], policy), strict=True
    ):
        assert_close(one, other)


def test_part_losses_of_a_share_of_the_pairs(subject, tokenizer):
    model, settings = double_model({}), DPOSettings()
    pairs = subject("dpo.encode_pairs")(model, tokenizer, PAIRS)
    part_losses, rest = subject("dpo.part_losses"), []
    whole = list(part_losses(model, pairs, settings, 5, []))
    for pair in pairs:  # as if each were on a process of its own
        rest += part_losses(model, [pair], settings, 5, [])
    assert_close(sum(rest), sum(whole))
    assert list(part_losses(model, [], settings, 5, [])) == []


@pytest.mark.parametrize("beta", [0.05, 0.7])
@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_weighs_by_how_wrong_the_implicit_rewards_are(subject, seed, beta):
    # -β·σ(r̂_rejected - r̂_chosen)·(∇log π(chosen) - ∇log π(rejected)), for one pair.
    model, logprobs = double_model({}, seed), subject("dpo.completion_logprobs")
    encoded = subject("dpo.encode_pairs")(model, toy_tokenizer(), PAIRS[seed % 5 :][:1])
    (pair,) = subject("dpo.with_reference")(double_model({}, seed + 1), encoded, 10_000)
    (loss,) = subject("dpo.part_losses")(model, [pair], DPOSettings(beta=beta), 1, [])
    chosen, rejected = logprobs(model, [pair.chosen, pair.rejected])
    gap = beta * ((chosen - pair.ref_chosen) - (rejected - pair.ref_rejected)).item()
    weight = -beta / (1 + math.exp(gap))
    for one, other in zip(gradients(loss, model), gradients(chosen - rejected, model), strict=True):
        assert_close(one, weight * other)


# train_dpo


def first_step(subject, tokenizer, model, pairs, **changes):
    settings = DPOSettings(**dict(steps=1, batch=len(pairs)) | changes)
    return subject("train_dpo")(model, tokenizer, pairs, settings).history[0]


@pytest.mark.parametrize("logprobs, expected", [
    # β 0.1: 0.1·((-12 + 13) - (-15 + 14)) = 0.2, log(1 + e^-0.2)
    ((-12.0, -15.0, -13.0, -14.0), (0.598139, 1.0, 0.2, 0.1, -0.1)),
    ((-14.0, -18.0, -13.0, -14.0), (0.554355, 1.0, 0.3, -0.1, -0.4)),  # both fall: displacement
    ((-13.0, -14.0, -13.0, -14.0), (0.693147, 0.5, 0.0, 0.0, 0.0)),    # at the start: a tie
    ((-13.0, -14.0 + 5e-4, -13.0, -14.0), (0.693172, 0.5, -5e-5, 0.0, 5e-5)),  # rounding, too
    ((-13.0, -13.9, -13.0, -14.0), (0.698160, 0.0, -0.01, 0.0, 0.01)),
])  # fmt: skip
def test_part_losses_by_hand(subject, monkeypatch, logprobs, expected):
    part_losses, Pair = subject("dpo.part_losses"), subject("dpo.Pair")
    chosen, rejected, ref_chosen, ref_rejected = logprobs
    monkeypatch.setitem(
        part_losses.__globals__, "completion_logprobs",
        lambda model, rows: torch.tensor([chosen, rejected], dtype=torch.float64),
    )  # fmt: skip
    found, pair = [], Pair(*ROWS[:2], ref_chosen, ref_rejected)
    (loss,) = part_losses(None, [pair], DPOSettings(), 1, found)
    assert loss.item() == pytest.approx(expected[0], abs=1e-6)
    assert found[0].tolist() == pytest.approx([*expected, chosen, rejected], abs=1e-6)


def test_train_dpo_starts_undecided(subject, tokenizer):
    model = toy_model(scale=8.0)
    expected = [slow_logprob(model, [1, 10, 1, 17], 2), slow_logprob(model, [1, 10, 2, 17], 2)]
    line = first_step(subject, tokenizer, model, PAIRS[:1] * 3, nll_coef=0.5)
    assert line["accuracy"] == 0.5 and line["pairs"] == 3
    for name in ("margin", "chosen_reward", "rejected_reward"):
        assert line[name] == pytest.approx(0, abs=1e-5)
    found = [line["chosen_logprob"], line["rejected_logprob"]]
    assert found == pytest.approx([x.item() for x in expected], abs=1e-4)
    assert line["loss"] == pytest.approx(math.log(2) - 0.5 * expected[0].item() / 2, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_train_dpo_learns_what_is_preferred_and_the_log_tells(subject, tokenizer, seed):
    model = toy_model(seed, scale=4.0)
    reference = toy_model(seed, scale=4.0)
    settings = DPOSettings(steps=60, batch=5, lr=3e-3, warmup=5, seed=seed)
    history = subject("train_dpo")(model, tokenizer, PAIRS, settings).history
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert history[-1]["loss"] < 0.4 and history[-1]["accuracy"] == 1
    with torch.no_grad():
        known = subject("dpo.with_reference")(
            reference, subject("dpo.encode_pairs")(reference, tokenizer, PAIRS), 10_000
        )
        last = slow_step(model, reference, known, settings.beta, 0.0)
    # The last line is of before the last update; a step of a tenth of the rate changes little.
    logged = [history[-1][name] for name in MEANS]
    assert logged == pytest.approx(last[1:].tolist(), abs=0.5)
    for line in history:
        difference = line["chosen_reward"] - line["rejected_reward"]
        assert line["margin"] == pytest.approx(difference, abs=1e-5)


def test_train_dpo_compares_with_the_policy_as_it_came(subject, tokenizer):
    model = toy_model(scale=4.0)
    known = subject("dpo.with_reference")(
        model, subject("dpo.encode_pairs")(model, tokenizer, PAIRS), 10_000
    )
    settings = DPOSettings(steps=10, batch=5, lr=1e-2, warmup=0)
    run = subject("train_dpo")(model, tokenizer, PAIRS, settings)
    references = (sum(pair.ref_chosen for pair in known), sum(pair.ref_rejected for pair in known))
    for line in run.history:  # a batch is all the pairs
        for name, reference in zip(("chosen", "rejected"), references, strict=True):
            gain = line[f"{name}_logprob"] - reference / 5
            assert line[f"{name}_reward"] == pytest.approx(0.1 * gain, abs=1e-4)


def test_a_weight_on_the_chosen_ones_likelihood_keeps_it_from_falling(subject, tokenizer):
    # Of two texts that begin alike, most of what makes the rejected one rarer hits both.
    pairs = [Preference(f"{d}=", f"{d}aaaab", f"{d}aaaac") for d in range(8)]
    gains = {}
    for nll_coef in (0.0, 1.0):
        model = toy_model(3, scale=4.0)
        settings = DPOSettings(steps=40, batch=8, lr=3e-3, warmup=5, nll_coef=nll_coef)
        last = subject("train_dpo")(model, tokenizer, pairs, settings).history[-1]
        assert last["accuracy"] == 1
        gains[nll_coef] = last["chosen_reward"]
    assert gains[1.0] > max(gains[0.0], 0)


def test_train_dpo_logs_rate_norm_and_evaluations(subject, tokenizer):
    settings = DPOSettings(steps=5, batch=3, lr=0.01, warmup=2, final_lr=0.0, evaluate_every=2)
    model = toy_model()
    before = weights(model)
    run = subject("train_dpo")(
        model, tokenizer, PAIRS, settings, evaluate=lambda m: {"same": float(m is model)}
    )
    assert not torch.equal(weights(model), before)
    assert [line["step"] for line in run.history] == [0, 1, 2, 3, 4]
    assert [line["lr"] for line in run.history] == pytest.approx(
        [0.005, 0.01, 0.01, 0.0075, 0.0025]
    )
    assert run.history[0]["grad_norm"] > 0 and run.history[0]["seconds"] > 0
    assert [line.get("eval") for line in run.history] == [None, {"same": 1.0}] * 2 + [None]


def test_train_dpo_moves_as_far_as_the_rate_allows(subject, tokenizer):
    model = toy_model(scale=4.0)
    before = weights(model)
    line = first_step(subject, tokenizer, model, PAIRS, lr=0.01, warmup=100)
    # Adam's first step is the rate itself, for every weight that has a gradient.
    assert (weights(model) - before).abs().max().item() == pytest.approx(line["lr"], rel=0.01)
    assert line["lr"] == pytest.approx(1e-4)


def test_train_dpo_depends_on_the_seed_alone(subject, tokenizer):
    def final(seed):
        model = toy_model()
        settings = DPOSettings(steps=4, batch=1, lr=1e-2, warmup=0, seed=seed)
        subject("train_dpo")(model, tokenizer, PAIRS, settings)
        return weights(model)

    assert torch.equal(final(0), final(0)) and not torch.equal(final(0), final(1))


def test_train_dpo_refuses(subject, tokenizer):
    train = subject("train_dpo")
    refuses(train, toy_model(), tokenizer, [], DPOSettings(), match="pairs is empty, expected")
    refuses(
        train, toy_model(), tokenizer, PAIRS, DPOSettings(), evaluate=lambda model: {},
        match="evaluate is given, but evaluate_every is 0: it would never be called",
    )  # fmt: skip
    refuses(train, "base", tokenizer, PAIRS, DPOSettings(), match="policy is a str, expected a GPT")
    refuses(DPOSettings, steps=2.0, match="steps is 2.0, expected a whole number")
    refuses(DPOSettings, batch=0, match="batch is 0, expected at least 1")
    refuses(DPOSettings, beta=0.0, match="beta is 0.0, expected a positive number")
    refuses(DPOSettings, beta=math.nan, match="beta is nan, expected a positive number")
    refuses(DPOSettings, nll_coef=-0.1, match="nll_coef is -0.1, expected at least 0")


@pytest.mark.parametrize("saved, stopped", [(2, 4), (3, 4)])
def test_train_dpo_goes_on_to_the_same_end_bit_for_bit(
    subject, tokenizer, tmp_path, saved, stopped
):
    train = subject("train_dpo")
    settings = DPOSettings(steps=7, batch=2, lr=1e-2, warmup=2, checkpoint_every=saved)
    undisturbed, killed, resumed = (toy_model(scale=4.0) for _ in range(3))
    whole = train(undisturbed, tokenizer, PAIRS, settings, run=Run.create(tmp_path / "a", settings))
    run = Run.create(tmp_path / "b", settings)

    def die(line):
        if line["step"] == stopped:
            raise KeyboardInterrupt

    run.on_step = die  # after the step was logged, before it is saved
    with pytest.raises(KeyboardInterrupt):
        train(killed, tokenizer, PAIRS, settings, run=run)
    assert read_checkpoint(tmp_path / "b" / CHECKPOINT)[1]["step"] == stopped // saved * saved
    again = train(resumed, tokenizer, PAIRS, settings, run=Run.resume(tmp_path / "b"))
    assert torch.equal(weights(resumed), weights(undisturbed))
    assert not torch.equal(weights(killed), weights(undisturbed))

    def lines(history):
        return [{k: v for k, v in line.items() if k != "seconds"} for line in history]

    assert lines(again.history) == lines(whole.history)
    log = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").open()]
    assert lines(log) == lines(whole.history)


def trained(batch):
    start_processes()
    model = double_model({})
    settings = DPOSettings(steps=4, batch=batch, lr=1e-2, warmup=1, micro_tokens=30, nll_coef=0.1)
    run = train_dpo(model, toy_tokenizer(), PAIRS, settings)
    names = ("step", "loss", *MEANS, "grad_norm", "lr", "pairs")
    return [{name: line[name] for name in names} for line in run.history], weights(model).tolist()


@pytest.mark.parametrize("batch", [3, 1])  # with one pair a step, a process has none
def test_two_processes_train_as_one(batch):
    history, expected = trained(batch)
    for found, final in run_ranks(trained, batch):
        assert final == pytest.approx(expected, abs=1e-9)
        for line, other in zip(found, history, strict=True):
            assert line == pytest.approx(other, rel=1e-5, abs=1e-6)  # summed in float32


@pytest.mark.parametrize("lengths", [(2, 9), (9, 2)])
def test_a_longer_completion_is_less_likely_and_no_shorter_one_is_helped(subject, lengths):
    # Where every token has one probability, a sum says how many there are, and a mean nothing.
    model = toy_model()
    with torch.no_grad():
        model.embedding.weight.zero_()
    rows = [([1, *[2] * n], 1) for n in lengths]
    found = subject("dpo.completion_logprobs")(model, rows)
    assert_close(found, -math.log(18) * torch.tensor(lengths).float())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_train_dpo_goes_the_same_way_as_trl(tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stories = [
        ("Cleo has 3 coins. finds 1. how many?\n", "<answer>4</answer>", "<answer>3</answer>"),
        ("Cleo has 5 coins. finds 2. how many?\n", "<think>5+2=7</think><answer>7</answer>",
         "<answer>1</answer>"),
        ("Cleo has 8 coins. sells 2. how many?\n", "<answer>6</answer>",
         "<think>8+2=10</think><answer>10</answer>"),
    ]  # fmt: skip
    how = trl.DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=3, max_steps=4, learning_rate=2e-4,
        lr_scheduler_type="constant", beta=0.1, logging_steps=1, report_to=[], use_cpu=True,
        bf16=False, adam_beta2=0.95, max_grad_norm=1.0, weight_decay=0.0, save_strategy="no",
        disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    columns = ("prompt", "chosen", "rejected")
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(BASE), args=how,
        train_dataset=Dataset.from_list([dict(zip(columns, x, strict=True)) for x in stories]),
        processing_class=AutoTokenizer.from_pretrained(BASE),
    )  # fmt: skip
    trainer.train()

    policy, tokenizer = load_pretrained(BASE)
    settings = DPOSettings(steps=4, batch=3, lr=2e-4, warmup=0, final_lr=1.0)
    run = train_dpo(policy, tokenizer, [Preference(*story) for story in stories], settings)
    names = {
        "loss": "loss", "grad_norm": "grad_norm", "rewards/chosen": "chosen_reward",
        "rewards/rejected": "rejected_reward", "rewards/margins": "margin",
        "logps/chosen": "chosen_logprob", "logps/rejected": "rejected_logprob",
    }  # fmt: skip
    for line, theirs in zip(run.history, trainer.state.log_history[:4], strict=True):
        found = [line[ours] for ours in names.values()]
        assert found == pytest.approx([theirs[name] for name in names], rel=1e-4, abs=1e-5)
    assert run.history[-1]["margin"] > 0.4


@pytest.mark.cuda
def test_completion_logprobs_on_a_gpu_are_float32_and_near_those_of_the_cpu(subject):
    model = toy_model(scale=4.0)
    expected = subject("dpo.completion_logprobs")(model, ROWS)
    found = subject("dpo.completion_logprobs")(model.cuda(), ROWS)
    assert found.dtype == torch.float32
    assert_close(found.cpu(), expected, rtol=0.05, atol=0.2)  # the model computes in bfloat16
