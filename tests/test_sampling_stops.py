"""Stop strings: found across tokens, inside them, in one row and not in another."""

import pytest

from reasoning_from_scratch.sampling import sample
from reasoning_from_scratch.tokenizer import Tokenizer
from tests.toys import chain, toy_tokenizer


@pytest.fixture(scope="module")
def words():
    """A tokenizer whose tokens are pieces of words, for stop strings that span several."""
    return Tokenizer.train(["the answer is the answer", "</answer> é"], vocab_size=274)


def say(tokenizer, prompt, pieces, **options):
    """Sample from a model that says the given pieces, none of them twice, then the end token."""
    ids = [tokenizer.encode(prompt)[-1]]
    for piece in pieces:
        (token,) = tokenizer.encode(piece) if isinstance(piece, str) else [piece]
        ids.append(token)
    ids.append(tokenizer.eos_id)
    assert len(set(ids)) == len(ids)
    model = chain(dict(zip(ids, ids[1:], strict=False)), tokenizer.vocab_size)
    return sample(model, tokenizer, [prompt], max_new_tokens=len(pieces) + 3, **options)


@pytest.mark.parametrize(
    "stop, text, length",
    [
        (["c"], "xabc", 4),  # one token
        (["bcd"], "xabcd", 5),  # three tokens
        (["abcdefg"], "xabcdefg", 8),  # all but the first
        (["x"], "x", 1),  # at once
        (["zzz", "de", "efg"], "xabcde", 6),  # the first of several to be met
        (["bd", "gg", "axb"], "xabcdefg", 9),  # none: the end token, which is no text
        (["1x"], "xabcdefg", 9),  # the prompt's text is not the completion's
    ],
)
def test_stop_strings_may_span_tokens(words, stop, text, length):
    rollout = say(words, "1", list("xabcdefg"), stop=stop)
    assert rollout.texts == [text] and rollout.finished.all()
    assert rollout.lengths.tolist() == [length]


def test_a_stop_string_may_begin_and_end_inside_a_token(words):
    pieces = [t for t in ("the", " answer", " is") if len(words.encode(t)) == 1]
    assert pieces == ["the", " answer", " is"]  # the merges that this test is about
    rollout = say(words, "1", ["the", " answer", " is", "x"], stop=["e answer i"])
    assert rollout.texts == ["the answer is"] and rollout.lengths.tolist() == [3]


def test_a_stop_string_may_be_a_special_token_or_part_of_a_character(words):
    rollout = say(words, "1", ["a", "</answer>", "b"], stop=["</answer>"])
    assert rollout.texts == ["a</answer>"]
    euro = list("€".encode())  # three tokens of one byte each
    rollout = say(words, "1", ["a", *euro, "b"], stop=["€"])
    assert rollout.texts == ["a€"] and rollout.lengths.tolist() == [4]
    rollout = say(words, "1", ["a", *euro[:2], "b"], stop=["€"])
    assert rollout.texts == ["a\ufffdb"] and rollout.lengths.tolist() == [5]


def test_each_row_stops_by_itself():
    # From 1: 1 2 3 4 …; from 5: 5 6 7 8 9. "34" is said by one of them only.
    model = chain({i: i + 1 for i in range(9)} | {9: 17})
    rollout = sample(model, toy_tokenizer(), ["1", "5"], max_new_tokens=12, stop=["34"])
    assert rollout.texts == ["234", "6789"] and rollout.lengths.tolist() == [3, 5]
    assert rollout.finished.all()
