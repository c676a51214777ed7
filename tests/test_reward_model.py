"""The reward model: where a reward is read, what a step averages, that it learns and resumes."""

import copy
import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from reasoning_from_scratch.grpo import GRPOSettings, train_grpo
from reasoning_from_scratch.model import ScalarHead
from reasoning_from_scratch.preferences import Preference
from reasoning_from_scratch.reward_model import RewardModelSettings, train_reward_model
from reasoning_from_scratch.reward_quality import pair_accuracy
from reasoning_from_scratch.runs import CHECKPOINT, Run, read_checkpoint
from reasoning_from_scratch.sampling import sample
from reasoning_from_scratch.tasks import Problem
from reasoning_from_scratch.training import start_processes
from tests.tensors import refuses
from tests.toys import Copy, toy_model, toy_tokenizer, weights
from tests.workers import run_ranks

END_ID = 17  # of the toy tokenizer, in which digits are their own ids, "=" is 10 and "a" 11


class Adding(nn.Module):
    """A body whose only channel adds up a number for each token read so far."""

    def __init__(self, worth, max_positions=64):
        super().__init__()
        self.config = SimpleNamespace(width=1, vocab_size=18, max_positions=max_positions)
        self.embedding = nn.Embedding(18, 1)
        with torch.no_grad():
            self.embedding.weight.zero_()
            for symbol, number in worth.items():
                self.embedding.weight[toy_tokenizer().encode(symbol)[0]] = number

    def hidden(self, tokens):
        return self.embedding(tokens).cumsum(1)


def adding(worth, *, bias=0.0, **options):
    """A reward model whose reward is the sum of what its symbols are worth, and the bias."""
    model = ScalarHead(Adding(worth, **options))
    with torch.no_grad():
        model.score.weight.fill_(1.0)
        model.score.bias.fill_(bias)
    return model


def judge(seed=0, *, scale=8.0, **changes):
    """A toy reward model with opinions: no weight of its head is 0."""
    model = ScalarHead(toy_model(seed, scale=scale, **changes))
    generator = torch.Generator().manual_seed(seed + 50)
    with torch.no_grad():
        for parameter in model.score.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


# Three prompts with five pairs; two completions are in two pairs each.
PAIRS = [
    Preference("1=", "1", "2"),
    Preference("1=", "1", "33333", margin=0.5),
    Preference("22=", "", "a", margin=1.0),
    Preference("1=", "2", "33333"),
    Preference("abcdef=", "0123456789", "f"),
]


# final_scores and encode_finished: where a reward is read


def test_final_scores_by_hand(subject):
    model = adding({"1": 1.0, "2": 10.0, "3": 100.0}, bias=0.5)
    rows = [[1, 2], [1], [1, 2, 3, 3]]
    found = subject("reward_model.final_scores")(model, rows)
    assert found.tolist() == [11.5, 1.5, 211.5]


@pytest.mark.parametrize("changes", [{}, {"heads": 4, "kv_heads": 2}, {"tied": False}], ids=str)
def test_final_scores_are_those_of_each_row_alone_at_its_last_token(subject, changes):
    model = judge(**changes).double()
    rows = [[1, 10, 2, 17], [3], [4, 10, 5, 6, 7, 8, 9, 17], [4, 10, 5, 6, 7, 8, 9, 16]]
    slow = torch.stack([model(torch.tensor([row]))[0, -1] for row in rows])
    found = subject("reward_model.final_scores")(model, rows)
    assert_close(found, slow)
    assert len(set(found.tolist())) == 4  # the end token and every other one matter


def test_encode_finished_joins_prompt_completion_and_end(subject, tokenizer):
    encode = subject("reward_model.encode_finished")
    assert encode(tokenizer, "1=", "23") == [1, 10, 2, 3, END_ID]
    assert encode(tokenizer, "", "") == [END_ID]


# encode_pairs


def test_encode_pairs_gathers_the_pairs_of_a_prompt_and_its_completions_once(subject, tokenizer):
    one, two, three = subject("reward_model.encode_pairs")(judge(), tokenizer, PAIRS)
    assert one.rows == [[1, 10, 1, 17], [1, 10, 2, 17], [1, 10, 3, 3, 3, 3, 3, 17]]
    assert (one.chosen, one.rejected, one.margins) == ([0, 0, 1], [1, 2, 2], [0, 0.5, 0])
    assert two.rows == [[2, 2, 10, 17], [2, 2, 10, 11, 17]]
    assert (two.chosen, two.rejected, two.margins) == ([0], [1], [1.0])
    assert (one.size(), two.size(), three.size()) == (24, 10, 36)  # three of 8, two of 5 and of 18


def test_encode_pairs_takes_the_same_text_of_two_prompts_apart(subject, tokenizer):
    pairs = [Preference("1=", "1", "2"), Preference("2=", "2", "1")]
    one, two = subject("reward_model.encode_pairs")(judge(), tokenizer, pairs)
    assert one.rows == [[1, 10, 1, 17], [1, 10, 2, 17]]
    assert two.rows == [[2, 10, 2, 17], [2, 10, 1, 17]]


def test_encode_pairs_refuses(subject, tokenizer):
    encode = subject("reward_model.encode_pairs")
    refuses(encode, judge(), tokenizer, [], match="pairs is empty, expected preference pairs")
    refuses(encode, judge(), tokenizer, [("1=", "1", "2")], match=r"pairs holds \('1=', '1', '2'\)")
    small = judge(max_positions=5)
    encode(small, tokenizer, [Preference("1=", "11", "2")])  # and the end token
    refuses(
        encode, small, tokenizer, [Preference("1=", "1", "222")],
        match="with its prompt and end token has 6 tokens, expected at most 5: '222'",
    )  # fmt: skip
    few = judge(vocab_size=12)
    refuses(encode, few, tokenizer, PAIRS, match="tokenizer has 18 tokens, expected at most the mo")


# part_losses: what a step averages over


def slow_step(model, tokenizer, pairs, centring):
    """Loss, accuracy, margin and score of a step, one pair at a time."""
    terms = []
    for pair in pairs:
        first, second = (
            model(torch.tensor([tokenizer.encode(pair.prompt + text) + [END_ID]]))[0, -1]
            for text in (pair.chosen, pair.rejected)
        )
        gap = first - second
        loss = -math.log(1 / (1 + math.exp(-(gap.item() - pair.margin))))
        likely = -nn.functional.logsigmoid(gap - pair.margin) + centring * (first + second) ** 2
        assert likely.item() == pytest.approx(loss + centring * (first + second).item() ** 2)
        terms.append(torch.stack([likely, (gap > 0).double(), gap, (first + second) / 2]))
    return torch.stack(terms).mean(0)


@pytest.mark.parametrize("centring", [0.0, 0.3])
@pytest.mark.parametrize("micro_tokens", [1, 60, 10_000])
def test_part_losses_add_up_to_the_mean_over_all_pairs(subject, tokenizer, micro_tokens, centring):
    model = judge().double()
    expected = slow_step(model, tokenizer, PAIRS, centring)
    compared = subject("reward_model.encode_pairs")(model, tokenizer, PAIRS)
    settings = RewardModelSettings(micro_tokens=micro_tokens, centring=centring)
    found = []
    parts = list(subject("reward_model.part_losses")(model, compared, settings, len(PAIRS), found))
    assert len(parts) == {1: 3, 60: 2, 10_000: 1}[micro_tokens]
    assert_close(sum(parts), expected[0])
    assert_close(sum(found), expected.detach().float())
    assert not any(stats.requires_grad for stats in found)
    for parameter in model.parameters():
        assert_close(gradient_of(sum(parts), parameter), gradient_of(expected[0], parameter))


def gradient_of(loss, parameter):
    return torch.autograd.grad(loss, parameter, retain_graph=True)[0]


def test_part_losses_of_a_share_of_the_pairs(subject, tokenizer):
    model, settings = judge().double(), RewardModelSettings()
    compared = subject("reward_model.encode_pairs")(model, tokenizer, PAIRS)
    part_losses = subject("reward_model.part_losses")
    whole, rest = list(part_losses(model, compared, settings, 5, [])), []
    for prompt in compared:  # as if each were on a process of its own
        rest += part_losses(model, [prompt], settings, 5, [])
    assert_close(sum(rest), sum(whole))
    assert list(part_losses(model, [], settings, 5, [])) == []


# train_reward_model


def first_step(subject, tokenizer, model, pairs, **changes):
    settings = RewardModelSettings(**dict(steps=1, batch=1) | changes)
    return subject("train_reward_model")(model, tokenizer, pairs, settings).history[0]


@pytest.mark.parametrize("margin, centring, expected", [
    (0.0, 0.0, 0.371101),   # -log σ(0.8) = log(1 + e^-0.8)
    (1 / 3, 0.0, 0.486793),
    (0.0, 0.01, 0.385501),  # 0.01 · (1.0 + 0.2)² = 0.0144 more
])  # fmt: skip
def test_train_reward_model_logs_the_loss_by_hand(subject, tokenizer, margin, centring, expected):
    model = adding({"a": 1.0, "b": 0.2, "=": 3.0}, bias=-3.0)  # the prompt "=" and the bias cancel
    pairs = [Preference("=", "a", "b", margin=margin)]
    line = first_step(subject, tokenizer, model, pairs, centring=centring)
    assert line["loss"] == pytest.approx(expected, abs=1e-6)
    assert (line["accuracy"], line["pairs"]) == (1.0, 1)
    assert (line["margin"], line["score"]) == (pytest.approx(0.8), pytest.approx(0.6))


def test_train_reward_model_starts_undecided(subject, tokenizer):
    line = first_step(subject, tokenizer, ScalarHead(toy_model()), PAIRS[:2], batch=4)
    margins = (0.0, 0.5)  # all rewards are 0: log(1 + e^margin)
    assert line["loss"] == pytest.approx(sum(math.log1p(math.exp(m)) for m in margins) / 2)
    assert (line["accuracy"], line["margin"], line["score"]) == (0.5, 0.0, 0.0)


def test_train_reward_model_takes_all_pairs_of_a_prompt_in_one_step(subject, tokenizer):
    settings = RewardModelSettings(steps=6, batch=1, lr=1e-9, seed=3)
    run = subject("train_reward_model")(judge(), tokenizer, PAIRS, settings)
    counts = [line["pairs"] for line in run.history]
    assert sorted(counts[:3]) == sorted(counts[3:]) == [1, 1, 3]  # two passes over three prompts


def test_train_reward_model_logs_rate_norm_and_evaluations(subject, tokenizer):
    settings = RewardModelSettings(
        steps=5, batch=3, lr=0.01, warmup=2, final_lr=0.0, evaluate_every=2
    )
    model = judge()
    before = weights(model)
    run = subject("train_reward_model")(
        model, tokenizer, PAIRS, settings, evaluate=lambda m: {"same": float(m is model)}
    )
    assert not torch.equal(weights(model), before)
    assert [line["step"] for line in run.history] == [0, 1, 2, 3, 4]
    assert [line["lr"] for line in run.history] == pytest.approx(
        [0.005, 0.01, 0.01, 0.0075, 0.0025]
    )
    assert run.history[0]["grad_norm"] > 0 and run.history[0]["seconds"] > 0
    assert [line.get("eval") for line in run.history] == [None, {"same": 1.0}] * 2 + [None]


def test_train_reward_model_moves_as_far_as_the_rate_allows(subject, tokenizer):
    model = judge()
    before = weights(model)
    line = first_step(subject, tokenizer, model, PAIRS, lr=0.01, warmup=100)
    # Adam's first step is the rate itself, for every weight that has a gradient.
    assert (weights(model) - before).abs().max().item() == pytest.approx(line["lr"], rel=0.01)
    assert line["lr"] == pytest.approx(1e-4)


def sees_b(seed):
    """Pairs in which the completion with a "b" is preferred: to train on, and others."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for i in range(120):
        text = [("0123456789acdef")[j] for j in torch.randint(15, (4,), generator=generator)]
        at = int(torch.randint(4, (1,), generator=generator))
        with_b = "".join("b" if j == at else symbol for j, symbol in enumerate(text))
        pairs.append(Preference(f"{i % 10}=", with_b, "".join(text)))
    return pairs[:60], pairs[60:]


@pytest.mark.parametrize("seed", range(3))
def test_train_reward_model_learns_what_is_preferred(subject, tokenizer, seed):
    model = ScalarHead(toy_model(seed, scale=4.0))
    train, test = sees_b(seed)
    settings = RewardModelSettings(steps=60, batch=10, lr=1e-2, warmup=5, seed=seed)
    run = subject("train_reward_model")(model, tokenizer, train, settings)
    assert run.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert run.history[-1]["loss"] < 0.2 and run.history[-1]["accuracy"] == 1
    chosen, rejected = subject("score_pairs")(model, tokenizer, test)
    assert pair_accuracy(chosen, rejected) > 0.9


def test_train_reward_model_centres_the_rewards_only_if_asked(subject, tokenizer):
    after = {}
    for centring in (0.0, 0.05):
        model = judge()
        with torch.no_grad():
            model.score.bias.fill_(5.0)
        settings = RewardModelSettings(steps=50, batch=3, lr=3e-2, warmup=0, centring=centring)
        run = subject("train_reward_model")(model, tokenizer, PAIRS, settings)
        assert run.history[-1]["accuracy"] == 1
        after[centring] = model.score.bias.item(), abs(run.history[-1]["score"])
    # No preference speaks of a constant; what moves it is rounding, which Adam makes a step of.
    assert after[0.0][0] == pytest.approx(5.0, abs=0.1)
    assert after[0.05][1] < 1 < after[0.0][1]


def test_train_reward_model_depends_on_the_seed_alone(subject, tokenizer):
    def final(seed):
        model = judge()
        settings = RewardModelSettings(steps=4, batch=1, lr=1e-2, warmup=0, seed=seed)
        subject("train_reward_model")(model, tokenizer, PAIRS, settings)
        return weights(model)

    assert torch.equal(final(0), final(0)) and not torch.equal(final(0), final(1))


def test_train_reward_model_refuses(subject, tokenizer):
    train = subject("train_reward_model")
    refuses(train, judge(), tokenizer, [], RewardModelSettings(), match="pairs is empty, expected")
    refuses(
        train, judge(), tokenizer, PAIRS, RewardModelSettings(), evaluate=lambda model: {},
        match="evaluate is given, but evaluate_every is 0: it would never be called",
    )  # fmt: skip
    few = RewardModelSettings(steps=1)
    refuses(
        train, toy_model(), tokenizer, PAIRS, few, match="model is a GPT, expected a ScalarHead"
    )
    refuses(RewardModelSettings, steps=2.0, match="steps is 2.0, expected a whole number")
    refuses(RewardModelSettings, steps=0, match="steps is 0, expected at least 1")
    refuses(RewardModelSettings, centring=-0.1, match="centring is -0.1, expected at least 0")


@pytest.mark.parametrize("saved, stopped", [(2, 4), (3, 4)])
def test_train_reward_model_goes_on_to_the_same_end_bit_for_bit(
    subject, tokenizer, tmp_path, saved, stopped
):
    train = subject("train_reward_model")
    settings = RewardModelSettings(
        steps=7, batch=2, lr=1e-2, warmup=2, weight_decay=0.1, checkpoint_every=saved
    )
    undisturbed, killed, resumed = judge(), judge(), judge()
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
    model = judge().double()
    settings = RewardModelSettings(steps=4, batch=batch, lr=1e-2, warmup=1, micro_tokens=30)
    run = train_reward_model(model, toy_tokenizer(), PAIRS, settings)
    names = ("step", "loss", "accuracy", "margin", "score", "grad_norm", "lr", "pairs")
    return [{name: line[name] for name in names} for line in run.history], weights(model).tolist()


@pytest.mark.parametrize("batch", [3, 1])  # with one prompt a step, a process has none
def test_two_processes_train_as_one(batch):
    history, expected = trained(batch)
    for found, final in run_ranks(trained, batch):
        assert final == pytest.approx(expected, abs=1e-9)
        for line, other in zip(found, history, strict=True):
            assert line == pytest.approx(other, rel=1e-5, abs=1e-6)  # summed in float32


# score


def test_score_by_hand(subject, tokenizer):
    model = adding({"1": 1.0, "a": 10.0, "b": -2.0}, bias=0.5)
    found = subject("score")(model, tokenizer, ["1=", "=", "11="], ["a", "bb", ""])
    assert found.tolist() == [11.5, -3.5, 2.5]
    assert not found.requires_grad and found.dtype == torch.float32


@pytest.mark.parametrize("micro_tokens", [1, 20, 4096])
def test_score_keeps_the_order_whatever_the_batch(subject, tokenizer, micro_tokens):
    model = judge().double()
    prompts = ["1=", "abc=", "2", "333=", "1="]
    completions = ["1", "0123456789", "", "ab", "1a"]
    slow = [
        model(torch.tensor([tokenizer.encode(prompt + text) + [END_ID]]))[0, -1]
        for prompt, text in zip(prompts, completions, strict=True)
    ]
    found = subject("score")(model, tokenizer, prompts, completions, micro_tokens=micro_tokens)
    assert_close(found, torch.stack(slow).detach())


def test_score_reads_what_training_read(subject, tokenizer):
    model = judge().double()
    chosen, rejected = subject("score_pairs")(model, tokenizer, PAIRS)
    expected = slow_step(model, tokenizer, PAIRS, 0.01)
    found = []
    compared = subject("reward_model.encode_pairs")(model, tokenizer, PAIRS)
    settings = RewardModelSettings()
    list(subject("reward_model.part_losses")(model, compared, settings, len(PAIRS), found))
    assert_close((chosen - rejected).mean(), expected[2].detach())
    assert_close(((chosen + rejected) / 2).mean().float(), sum(found)[3])


def test_score_cuts_a_completion_that_is_too_long(subject, tokenizer):
    model = adding({"1": 1.0, "a": 10.0, "b": 100.0}, max_positions=6)
    completions = ["aaa", "aaab", "aaabbbb"]  # 1=aaa and the end token are six
    assert subject("score")(model, tokenizer, ["1="] * 3, completions).tolist() == [31.0] * 3
    with torch.no_grad():
        model.body.embedding.weight[END_ID] = 0.5  # the end is read there, too
    assert subject("score")(model, tokenizer, ["1="] * 3, completions).tolist() == [31.5] * 3


def test_score_pairs_are_the_scores_of_both_sides(subject, tokenizer):
    model = adding({"1": 1.0, "2": 2.0, "3": 3.0, "a": 10.0})
    chosen, rejected = subject("score_pairs")(model, tokenizer, PAIRS[:3])
    assert (chosen.tolist(), rejected.tolist()) == ([2, 2, 4], [3, 16, 14])


def test_score_refuses(subject, tokenizer):
    score = subject("score")
    refuses(score, judge(), tokenizer, ["1="], ["1", "2"], match="completions has 2 entries, expec")
    refuses(score, judge(), tokenizer, [], [], match=r"prompts is \[\], expected a list of tex")
    refuses(score, judge(), tokenizer, "1", "2", match="prompts is '1', expected a list of texts")
    small = judge(max_positions=4)
    refuses(score, small, tokenizer, ["123="], [""], match="a prompt has 4 tokens, expected at mos")
    refuses(score, toy_model(), tokenizer, ["1"], ["1"], match="model is a GPT, expected a Scal")
    refuses(score, judge(vocab_size=9), tokenizer, ["1"], ["1"], match="tokenizer has 18 tokens")


# normalise_scores


def test_normalise_scores_by_hand(subject, tokenizer):
    model = adding({"a": 10.0, "b": 4.0}, bias=3.0)  # rewards 13 and 7: mean 10, deviation 3
    subject("normalise_scores")(model, tokenizer, ["=", "="], ["a", "b"])
    found = subject("score")(model, tokenizer, ["="] * 3, ["a", "b", "aa"])
    assert_close(found, torch.tensor([1.0, -1.0, 13 / 3]))  # (23 - 10) / 3


def test_normalise_scores_changes_no_preference(subject, tokenizer):
    model = judge()
    chosen, rejected = subject("score_pairs")(model, tokenizer, PAIRS)
    texts = [text for pair in PAIRS for text in (pair.chosen, pair.rejected)]
    prompts = [pair.prompt for pair in PAIRS for _ in range(2)]
    subject("normalise_scores")(model, tokenizer, prompts, texts)
    first, second = subject("score_pairs")(model, tokenizer, PAIRS)
    deviation = torch.cat([chosen, rejected]).std(correction=0)
    assert_close(first - second, (chosen - rejected) / deviation)
    both = torch.cat([first, second])
    assert both.mean().item() == pytest.approx(0, abs=1e-5)
    assert both.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_normalise_scores_refuses(subject, tokenizer):
    refuses(
        subject("normalise_scores"), ScalarHead(toy_model()), tokenizer, ["1=", "2="], ["1", "2"],
        match="all 2 completions have reward 0: nothing to scale",
    )  # fmt: skip


@pytest.mark.parametrize("gap", [0.0, 1e-6, 1e-5])
@pytest.mark.parametrize("bias", [0.0, 3.0, -3.0])  # with -3 the reward itself is 0
def test_normalise_scores_refuses_what_differs_by_rounding(subject, tokenizer, gap, bias):
    model = adding({"a": 3.0, "b": 3.0 + gap}, bias=bias)
    before = copy.deepcopy(model.state_dict())
    refuses(
        subject("normalise_scores"), model, tokenizer, ["="] * 4, ["a", "b", "a", "a"],
        match="all 4 completions have reward .*: nothing to scale",
    )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_normalise_scores_keeps_what_differs_by_more_than_rounding(subject, tokenizer):
    model = adding({"a": 3.0, "b": 3.01}, bias=1.0)
    subject("normalise_scores")(model, tokenizer, ["=", "="], ["a", "b"])
    found = subject("score")(model, tokenizer, ["=", "="], ["a", "b"])
    assert_close(found, torch.tensor([-1.0, 1.0]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_normalise_scores_refuses_equal_texts_of_different_batches(subject, tokenizer, seed):
    model = judge(seed)  # 455 rows fill the first micro-batch, the others a smaller one
    with pytest.raises(ValueError, match="nothing to scale"):
        subject("normalise_scores")(model, tokenizer, ["12="] * 700, ["34567"] * 700)


# proxy_reward


def test_proxy_reward_adds_up_to_the_reward_model_beside_the_truth(subject, tokenizer):
    problem = Problem("7=", "7", "7")
    model = adding({"7": 0.25, "8": 4.0})  # the prompt's 7 counts in every reward
    reward = subject("proxy_reward")(model, tokenizer, Copy())
    parts = reward([problem] * 3, SimpleNamespace(texts=["7", "8", "78"]))
    assert parts == {"correct": [1.0, 0.0, 0.0], "beyond": [-0.5, 4.25, 4.5]}
    assert [sum(both) for both in zip(*parts.values(), strict=True)] == [0.5, 4.25, 4.5]


def test_proxy_reward_is_what_a_policy_learns_and_the_truth_is_logged(subject, tokenizer):
    model = adding({"b": 1.0})
    reward, policy = subject("proxy_reward")(model, tokenizer, Copy()), toy_model(scale=4.0)
    before = copy.deepcopy(model.state_dict())
    settings = GRPOSettings(
        steps=30, prompts=4, group_size=8, max_new_tokens=4, lr=1e-2, warmup=2, baseline="mean",
        scale="none", aggregate="token_mean",
    )  # fmt: skip
    history = train_grpo(policy, tokenizer, Copy(), settings, reward=reward).history
    assert history[-1]["reward"] > 2 > 1 > history[0]["reward"]  # of 4 places
    assert history[-1]["reward_correct"] == 0  # no copy has a b
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    rollout = sample(policy, tokenizer, ["5="], max_new_tokens=4, temperature=0)
    assert rollout.texts[0].count("b") >= 2


@pytest.mark.cuda
def test_final_scores_on_a_gpu_are_float32_and_near_those_of_the_cpu(subject):
    model = judge()
    rows = [[1, 10, 2, 17], [3, 17], [4, 10, 5, 6, 7, 8, 9, 17]]
    expected = subject("reward_model.final_scores")(model, rows)
    found = subject("reward_model.final_scores")(model.cuda(), rows)
    assert found.dtype == torch.float32
    assert_close(found.cpu(), expected, rtol=0.05, atol=0.1)  # the body computes in bfloat16
