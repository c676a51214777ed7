"""Next-token training: what counts, which rows come when, and that it learns."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasoning_from_scratch.sampling import sample
from reasoning_from_scratch.sft import SFTSettings, encode_examples, part_losses, train_sft
from reasoning_from_scratch.tokenizer import Tokenizer
from tests.tensors import refuses
from tests.toys import END, toy_model, toy_tokenizer, weights

EXAMPLES = [("1=", "1"), ("22=", "2"), ("3=", "33333333"), ("abc=", "c"), ("", "7777"), ("e", "")]
COPIES = [(f"{d}=", str(d)) for d in range(10)]


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


# What counts.


def test_examples_are_prompt_completion_end_and_a_mask(subject, tokenizer):
    encode_examples = subject("sft.encode_examples")
    examples = [("1=", "23"), ("", "a")]  # digits are their own ids, "=" is 10, "a" 11, end 17
    expected = [[1, 10, 2, 3, 17], [11, 17]]
    everything = encode_examples(toy_model(), tokenizer, examples, "all")
    assert everything == [(expected[0], [1] * 5), (expected[1], [1, 1])]
    completions = encode_examples(toy_model(), tokenizer, examples, "completion")
    assert completions == [(expected[0], [0, 0, 1, 1, 1]), (expected[1], [1, 1])]


def test_no_merge_crosses_the_border_of_prompt_and_completion(subject):
    # "ab" is a token, but sampling after the prompt "a" would never meet it.
    tokenizer = Tokenizer.train(["ab ab"], vocab_size=258, special_tokens=[END])
    assert tokenizer.encode("ab") == [256]
    (example,) = subject("sft.encode_examples")(toy_model(), tokenizer, [("a", "b")], "completion")
    assert example == ([97, 98, 257], [0, 1, 1])


def test_an_example_may_fill_all_positions_but_no_more(subject, tokenizer):
    encode_examples, model = subject("sft.encode_examples"), toy_model(max_positions=6)
    encode_examples(model, tokenizer, [("12=", "34")], "all")  # and the end token
    with pytest.raises(ValueError, match="an example has 7 tokens, expected at most 6"):
        encode_examples(model, tokenizer, [("12=", "34"), ("12=", "345")], "all")


def test_examples_that_are_none_are_refused(subject, tokenizer):
    encode, model = subject("sft.encode_examples"), toy_model()
    refuses(encode, model, tokenizer, [], "all", match="examples is empty, expected")


def test_what_cannot_be_trained_on_is_refused(tokenizer):
    refuses(SFTSettings, steps=2.0, match="steps is 2.0, expected a whole number")
    refuses(SFTSettings, train_on="prompt", match="train_on is 'prompt', expected 'all' or")
    with pytest.raises(ValueError):  # one token has nothing before it to be predicted from
        train_sft(toy_model(), tokenizer, [("", "")], SFTSettings(steps=1, batch=1))


def slow_loss(model, encoded):
    """The mean over counted tokens of all examples, one row and one token at a time."""
    terms = []
    for ids, mask in encoded:
        logprobs = model(torch.tensor([ids]))[0].log_softmax(-1)
        for t in range(1, len(ids)):
            if mask[t]:
                terms.append(-logprobs[t - 1, ids[t]])
    return torch.stack(terms).mean(), len(terms)


@pytest.mark.parametrize("train_on", ["all", "completion"])
@pytest.mark.parametrize("micro_tokens", [1, 12, 30, 10_000])
def test_micro_batches_add_up_to_the_mean_over_all_counted_tokens(
    tokenizer, train_on, micro_tokens
):
    model = toy_model(scale=8.0).double()
    encoded = encode_examples(model, tokenizer, EXAMPLES, train_on)
    expected, counted = slow_loss(model, encoded)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    losses = []
    parts = list(part_losses(model, encoded, micro_tokens, counted, losses))
    assert len(parts) == {1: 6, 12: 4, 30: 2, 10_000: 1}[micro_tokens]
    torch.testing.assert_close(sum(parts), expected)
    torch.testing.assert_close(sum(losses), expected.detach())
    found = torch.autograd.grad(sum(parts), list(model.parameters()))
    for gradient, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(gradient, other)


def test_a_longer_neighbour_changes_nothing(tokenizer):
    model = toy_model(scale=8.0).double()
    encoded = encode_examples(model, tokenizer, EXAMPLES[:2], "completion")
    longer = encode_examples(model, tokenizer, [("", "0" * 40)], "all")
    alone, together = [], []
    list(part_losses(model, encoded, 10_000, 4, alone))
    list(part_losses(model, encoded + longer, 10_000, 4, together))
    rest = []
    list(part_losses(model, longer, 10_000, 4, rest))
    torch.testing.assert_close(sum(together), sum(alone) + sum(rest))


# Which rows.


@given(
    examples=st.integers(1, 13), batch=st.integers(1, 30), steps=st.integers(1, 12),
    seed=st.integers(0, 3),
)  # fmt: skip
def test_each_pass_takes_every_example_once(subject, examples, batch, steps, seed):
    pieces = [subject("sft.batch_rows")(examples, batch, step, seed) for step in range(steps)]
    assert all(len(rows) == batch for rows in pieces)
    rows = [row for piece in pieces for row in piece]
    for start in range(0, len(rows), examples):
        passed = rows[start : start + examples]
        if len(passed) == examples:
            assert sorted(passed) == list(range(examples))
        else:  # the last pass is not over
            assert len(set(passed)) == len(passed)


def test_passes_and_seeds_have_orders_of_their_own(subject):
    batch_rows = subject("sft.batch_rows")
    orders = {tuple(batch_rows(50, 50, step, seed)) for step in range(3) for seed in range(3)}
    assert len(orders) == 9
    assert tuple(range(50)) not in orders
    assert batch_rows(50, 20, 7, 1) == batch_rows(50, 20, 7, 1)  # a resumed run asks again


# The loop.


def train(tokenizer, seed=0, examples=COPIES, **changes):
    settings = SFTSettings(**dict(steps=100, batch=10, lr=3e-2, warmup=5, seed=seed) | changes)
    model = toy_model(seed)
    return model, train_sft(model, tokenizer, examples, settings)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("train_on", ["all", "completion"])
def test_it_learns_to_copy_and_to_stop(tokenizer, seed, train_on):
    model, run = train(tokenizer, seed, train_on=train_on)
    prompts = [prompt for prompt, _ in COPIES]
    rollout = sample(model, tokenizer, prompts, max_new_tokens=6, temperature=0)
    right = sum(text == want for text, (_, want) in zip(rollout.texts, COPIES, strict=True))
    assert right >= 9 and rollout.finished.sum() >= 9
    assert run.history[0]["loss"] > 2.5  # of log(18) = 2.9
    assert run.history[-1]["loss"] < 0.2


def test_prompts_are_not_learned_when_completions_are_trained_on(tokenizer):
    tokens = torch.tensor([tokenizer.encode("5=")])
    after = {}
    for train_on in ("all", "completion"):
        model, _ = train(tokenizer, examples=[("5=5", "5")], steps=60, train_on=train_on)
        after[train_on] = model(tokens)[0, 0].softmax(-1)[10].item()  # "=" follows "5"
    assert after["all"] > 0.9 and after["completion"] < 0.5


def test_the_log_tells_loss_norm_rate_and_tokens(tokenizer):
    model = toy_model()
    encoded = encode_examples(model, tokenizer, EXAMPLES, "completion")
    expected, counted = slow_loss(model, encoded)
    settings = SFTSettings(
        steps=5, batch=6, lr=0.01, warmup=2, final_lr=0.0, train_on="completion", evaluate_every=2
    )
    before = weights(model)
    run = train_sft(
        model, tokenizer, EXAMPLES, settings, evaluate=lambda m: {"same": float(m is model)}
    )
    assert not torch.equal(weights(model), before)
    assert [line["step"] for line in run.history] == [0, 1, 2, 3, 4]
    first = run.history[0]
    assert first["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert first["tokens"] == counted and first["grad_norm"] > 0
    # Warm-up 1/2 and 2/2; then half a cosine over three steps: 1, 3/4, 1/4 of the peak.
    assert [line["lr"] for line in run.history] == pytest.approx(
        [0.005, 0.01, 0.01, 0.0075, 0.0025]
    )
    assert [line.get("eval") for line in run.history] == [None, {"same": 1.0}] * 2 + [None]


def test_the_same_seed_gives_the_same_weights(tokenizer):
    first, again = (weights(train(tokenizer, steps=5, batch=3)[0]) for _ in range(2))
    assert torch.equal(first, again)
    settings = SFTSettings(steps=5, batch=3, lr=3e-2, warmup=5, seed=1)
    model = toy_model(0)
    train_sft(model, tokenizer, COPIES, settings)
    assert not torch.equal(weights(model), first)
