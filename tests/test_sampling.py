"""Sampling: one token against exact probabilities, whole rollouts against slow ones, refusals."""

import math
from dataclasses import replace

import pytest
import torch

from reasoning_from_scratch.losses import token_logprobs
from reasoning_from_scratch.model import KVCache
from reasoning_from_scratch.sampling import Rollout, sample
from tests.toys import END, chain, toy_model, toy_tokenizer

PROMPTS = ["12=", "7=", "abcabc=", "0"]


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


@pytest.fixture(scope="module")
def model():
    return toy_model(scale=8.0)  # opinions strong enough that texts differ, weak enough to end


def draw(model, tokenizer, prompts=PROMPTS, *, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return sample(
        model, tokenizer, prompts, generator=generator, **dict(max_new_tokens=12) | options
    )


def without_end():
    """A tokenizer whose end token no model can say."""
    tokenizer = toy_tokenizer()
    tokenizer.eos_id = -1
    return tokenizer


def completions(rollout):
    """The sampled ids of each row."""
    return [t[m.bool()].tolist() for t, m in zip(rollout.tokens, rollout.mask, strict=True)]


def assert_same(one, other):
    assert one.texts == other.texts and completions(one) == completions(other)
    for name in ("tokens", "mask", "prompt_lengths", "finished"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    # 1e-5: the shape of a matrix product decides its rounding.
    torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)


# One token. `choose` turns a uniform number into a token, so a fine grid of uniform numbers,
# instead of random ones, measures each token's probability to the width of the grid.


def frequencies(choose, logits, *, temperature=1.0, top_p=1.0, grid=20_000):
    uniform = (torch.arange(grid) + 0.5) / grid
    rows = torch.tensor(logits).expand(grid, -1)
    chosen, _ = choose(rows, uniform, temperature, top_p)
    return torch.bincount(chosen, minlength=len(logits)) / grid


LOGITS = [
    [0.3, -1.0, 2.0, 0.0, 1.1],
    [5.0, 5.0, 5.0],
    [0.0, -math.inf, 1.0, -math.inf],
    [-4.0, 9.0],
]


@pytest.mark.parametrize("logits", LOGITS, ids=str)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_come_with_their_softmax_probability(subject, logits, temperature):
    expected = (torch.tensor(logits) / temperature).softmax(-1)
    # A cell of the grid at each border between two tokens: 2 / 20,000.
    found = frequencies(subject("sampling.choose"), logits, temperature=temperature)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_top_p_by_hand(subject):
    # Probabilities .1 .5 .05 .35: for 0.8 the largest two (.85) are enough, and one (.5) is not.
    # What is left is scaled up: .5/.85 and .35/.85.
    logits = [math.log(p) for p in (0.1, 0.5, 0.05, 0.35)]
    expected = torch.tensor([0, 0.5, 0, 0.35]) / 0.85
    found = frequencies(subject("sampling.choose"), logits, top_p=0.8)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "top_p, kept",
    [
        (0.4, {0}),  # the first has .5
        (0.5, {0}),  # exactly enough
        (0.51, {0, 1}),
        (0.75, {0, 1}),  # exactly enough
        (0.8, {0, 1, 2}),
        (0.9, {0, 1, 2, 3}),
        (1e-9, {0}),  # never none
    ],
)
def test_top_p_keeps_the_smallest_set_that_is_enough(subject, top_p, kept):
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log2() * math.log(2)  # exact powers of 2
    found = frequencies(subject("sampling.choose"), logits.tolist(), top_p=top_p)
    assert set(found.nonzero().flatten().tolist()) == kept


def test_log_probabilities_are_of_the_whole_distribution_at_the_temperature(subject):
    choose = subject("sampling.choose")
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.0]])
    expected = (logits[0] / 0.7).log_softmax(-1)
    for top_p in (1.0, 0.5):
        for uniform in torch.linspace(0.01, 0.99, 9):
            chosen, logprob = choose(logits, uniform[None], 0.7, top_p)
            torch.testing.assert_close(logprob[0], expected[chosen[0]])
    chosen, logprob = choose(logits, torch.zeros(1), 0, 1.0)  # greedy: at temperature 1
    assert chosen.item() == 2
    torch.testing.assert_close(logprob[0], logits[0].log_softmax(-1)[2])


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("size", [3, 50, 50_000])
def test_an_impossible_token_is_never_chosen(subject, size, top_p):
    generator = torch.Generator().manual_seed(size)
    logits = torch.randn(8, size, generator=generator) * 5
    logits[:, 0] = logits[:, -1] = logits[::2, size // 3] = -math.inf
    if size == 3:
        logits[:, 1] = 0.0
    below_one = 1 - 2**-24  # the largest number that torch.rand gives
    for uniform in (0.0, 1e-30, 0.5, 1 - 1e-6, below_one):
        chosen, logprob = subject("sampling.choose")(logits, torch.full((8,), uniform), 1.0, top_p)
        assert logprob.isfinite().all() and (chosen < size).all()


def test_rows_choose_by_their_own_number(subject):
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [-math.inf, 0.0]])
    chosen, _ = subject("sampling.choose")(logits, torch.tensor([0.1, 0.9, 0.1]), 1.0, 1.0)
    assert chosen.tolist() == [0, 1, 1]


# Whole rollouts.


def greedy_by_hand(model, tokenizer, prompt, length):
    """One row, no cache: the likeliest token of the whole sequence so far, again and again."""
    ids = tokenizer.encode(prompt)
    for _ in range(length):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_id:
            break
    return ids[len(tokenizer.encode(prompt)) :]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_with_a_cache_equals_greedy_without(tokenizer, seed):
    model = toy_model(seed, scale=8.0)
    expected = [greedy_by_hand(model, tokenizer, prompt, 12) for prompt in PROMPTS]
    assert completions(draw(model, tokenizer, temperature=0)) == expected


def test_a_batch_equals_its_prompts_one_by_one(tokenizer, model):
    # Greedy, and from the same uniform numbers: a batch draws them in rows, one row after another.
    for options in (dict(temperature=0), dict(temperature=1.3), dict(top_p=0.6)):
        generator = torch.Generator().manual_seed(3)
        alone = [
            sample(model, tokenizer, [p], max_new_tokens=12, generator=generator, **options)
            for p in PROMPTS
        ]
        together = draw(model, tokenizer, seed=3, **options)
        assert completions(together) == [completions(a)[0] for a in alone]
        assert together.texts == [a.texts[0] for a in alone]
        for row, one in enumerate(alone):
            width = one.tokens.shape[1]
            torch.testing.assert_close(
                together.logprobs[row, :width], one.logprobs[0], atol=1e-5, rtol=0
            )


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("changes", [{}, dict(heads=4, kv_heads=2, qk_norm=True)], ids=str)
def test_sampler_and_trainer_agree_on_log_probabilities(tokenizer, temperature, changes):
    model = toy_model(scale=8.0, **changes)
    rollout = draw(model, tokenizer, group_size=8, temperature=temperature)
    logits = model(rollout.tokens[:, :-1]) / temperature
    expected = token_logprobs(logits, rollout.tokens[:, 1:])
    at = rollout.mask[:, 1:].bool()
    torch.testing.assert_close(rollout.logprobs[:, 1:][at], expected[at], atol=1e-4, rtol=0)
    assert (rollout.logprobs[rollout.mask == 0] == 0).all()
    assert rollout.logprobs[rollout.mask == 1].std() > 0.05  # it says something


def test_first_tokens_follow_the_model(tokenizer, model):
    rollout = draw(model, tokenizer, ["12="], group_size=4000, max_new_tokens=1)
    found = torch.bincount(rollout.tokens[:, 3], minlength=18) / 4000
    expected = model(torch.tensor([tokenizer.encode("12=")]))[0, -1].softmax(-1)
    # Chi-square over 18 tokens: above 45 once in 4,000 seeds.
    assert (4000 * (found - expected).square() / expected).sum() < 45


def test_rows_are_prompt_completion_padding(tokenizer, model):
    rollout = draw(model, tokenizer, group_size=3)
    assert isinstance(rollout, Rollout) and len(rollout.texts) == 12
    owners = [prompt for prompt in PROMPTS for _ in range(3)]  # groups are adjacent
    lengths = rollout.lengths.tolist()
    for row, prompt in enumerate(owners):
        ids, start, count = tokenizer.encode(prompt), int(rollout.prompt_lengths[row]), lengths[row]
        assert rollout.tokens[row, :start].tolist() == ids and start == len(ids)
        expected = [0] * start + [1] * count
        expected += [0] * (rollout.mask.shape[1] - len(expected))
        assert rollout.mask[row].tolist() == expected
        assert (rollout.tokens[row, start + count :] == tokenizer.pad_id).all()
        sampled = rollout.tokens[row, start : start + count].tolist()
        ended = sampled[-1] == tokenizer.eos_id
        assert tokenizer.eos_id not in sampled[:-1]
        assert rollout.finished[row].item() == ended
        assert ended or count == 12
        assert rollout.texts[row] == tokenizer.decode(sampled[:-1] if ended else sampled)
        assert END not in rollout.texts[row]
    assert rollout.tokens.shape[1] == max(int(n) for n in rollout.prompt_lengths + rollout.lengths)
    assert 0 < rollout.finished.sum() < 12  # both kinds were there


def always(token):
    return chain(dict.fromkeys(range(18), token))


def test_the_end_token_counts_but_is_no_text(tokenizer):
    rollout = draw(always(tokenizer.eos_id), tokenizer, ["1", "22"], max_new_tokens=5)
    assert rollout.texts == ["", ""] and rollout.lengths.tolist() == [1, 1]
    assert rollout.finished.all()
    assert rollout.tokens.tolist() == [[1, 17, 17], [2, 2, 17]]
    assert rollout.mask.tolist() == [[0, 1, 0], [0, 0, 1]]


def test_a_completion_that_was_cut_off_is_not_finished(tokenizer):
    rollout = draw(always(3), tokenizer, ["1"], max_new_tokens=4)
    assert rollout.texts == ["3333"] and not rollout.finished.any()


def test_the_end_token_in_the_last_column_finishes(tokenizer):
    rollout = draw(always(tokenizer.eos_id), tokenizer, ["1"], max_new_tokens=1)
    assert rollout.finished.all() and rollout.texts == [""]


# Random numbers.


def test_the_same_generator_state_gives_the_same_rollout(tokenizer, model):
    first, again = draw(model, tokenizer, group_size=4), draw(model, tokenizer, group_size=4)
    assert_same(first, again)
    assert draw(model, tokenizer, group_size=4, seed=1).texts != first.texts
    assert len(set(first.texts[:4])) > 1  # a group's members differ


def test_dropping_finished_rows_changes_nothing(tokenizer, model, monkeypatch):
    dropped = draw(model, tokenizer, group_size=8)
    assert dropped.finished.sum() > 8  # so that rows were dropped
    select, calls = KVCache.select, []

    def counted(self, rows, columns=None):
        calls.append(len(rows))
        return select(self, rows, columns)

    monkeypatch.setattr(KVCache, "select", counted)
    draw(model, tokenizer, group_size=8)
    assert len(calls) > 1
    # With a stop that never comes and no end token, the same numbers are drawn, none dropped.
    endless = without_end()
    calls.clear()
    kept = draw(model, endless, group_size=8)
    assert len(calls) == 1  # only the one that spreads prompts over groups
    for row, count in enumerate(dropped.lengths.tolist()):
        assert completions(kept)[row][:count] == completions(dropped)[row]


def test_without_a_generator_the_global_one_is_used(tokenizer, model):
    torch.manual_seed(5)
    first = sample(model, tokenizer, PROMPTS, max_new_tokens=8)
    torch.manual_seed(5)
    assert_same(first, sample(model, tokenizer, PROMPTS, max_new_tokens=8))


def test_sampling_leaves_no_gradient_behind(tokenizer, model):
    rollout = draw(model, tokenizer)
    assert not rollout.logprobs.requires_grad
    assert all(p.grad is None for p in model.parameters())


# Progress and refusals.


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tokenizer, model):
    model.config = replace(model.config, vocab_size=10)
    with pytest.raises(ValueError, match="a prompt holds token 17, expected less than the model's"):
        draw(model, tokenizer, [f"1{END}"])


def test_progress_tells_tokens_and_open_completions(tokenizer):
    seen = []
    model = chain({i: i + 1 for i in range(9)} | {9: 17})
    draw(
        model, tokenizer, ["8", "7", "1"], temperature=0, max_new_tokens=6,
        progress=lambda column, remaining: seen.append((column, remaining)),
    )  # fmt: skip
    # "8": 9, end. "7": 8 9 end. "1": 2 3 4 5 6 7, cut off.
    assert seen == [(1, 3), (2, 2), (3, 1), (4, 1), (5, 1), (6, 1)]


@pytest.mark.parametrize(
    "prompts, options, message",
    [
        ([], {}, r"prompts is \[\], expected a non-empty list of texts"),
        ("12=", {}, "prompts is '12=', expected a non-empty list"),
        (["1", ""], {}, "prompts holds '', which has no token to continue"),
        (["1"], dict(max_new_tokens=0), "max_new_tokens is 0, expected at least 1"),
        (["1"], dict(group_size=0), "group_size is 0, expected at least 1"),
        (["1"], dict(temperature=-1.0), r"temperature is -1.0, expected 0 \(greedy\) or"),
        (["1"], dict(temperature=math.inf), "temperature is inf"),
        (["1"], dict(temperature=math.nan), "temperature is nan"),
        (["1"], dict(top_p=0.0), r"top_p is 0.0, expected a number in \(0, 1\]"),
        (["1"], dict(top_p=1.1), "top_p is 1.1"),
        (["1"], dict(stop="end"), "stop is 'end', expected a list of non-empty strings"),
        (["1"], dict(stop=[1]), r"stop is \[1\], expected a list of non-empty strings"),
        (["1"], dict(stop=["a", ""]), r"stop is \['a', ''\]"),
        (
            ["1", "123"],
            dict(max_new_tokens=62),
            "a prompt of 3 tokens and max_new_tokens=62 exceed",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused(model, tokenizer, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        draw(model, tokenizer, prompts, **options)


def test_a_seed_is_no_generator(model, tokenizer):
    with pytest.raises(ValueError, match="generator is 0, expected a torch.Generator or None"):
        sample(model, tokenizer, ["1"], max_new_tokens=1, generator=0)


def test_a_completion_may_fill_all_positions(model, tokenizer):
    endless = without_end()
    rollout = draw(model, endless, ["123", "1"], max_new_tokens=61)
    assert rollout.lengths.tolist() == [61, 61]
