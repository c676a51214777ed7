"""Byte-pair merges: by hand, and against counting everything anew."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasoning_from_scratch.tokenizer import Tokenizer

PATIENT = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def naive_bpe(pieces, merges):
    """Count every pair of every piece anew for each merge."""
    learned = []
    for new in range(256, 256 + merges):
        counts = {}
        for piece in pieces:
            for pair in zip(piece, piece[1:], strict=False):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        learned.append(best)
        pieces = [replace(piece, best, new) for piece in pieces]
    return learned


def replace(piece, pair, new):
    """Replace a pair from the left, by a scan."""
    done = []
    for token in piece:
        if done and (done[-1], token) == pair:
            done[-1] = new
        else:
            done.append(token)
    return done


def naive_encode(text, merges):
    """Apply each merge in turn to one piece."""
    piece = list(text.encode())
    for new, pair in enumerate(merges, start=256):
        piece = replace(piece, pair, new)
    return piece


# aaabdaaabac: (a,a) occurs 4 times, the most -> 256:      256 a b d 256 a b a c
# now (256,a) and (a,b) both twice; (97,98) is the smaller -> 257:  256 257 d 256 257 a c
# now (256,257) twice -> 258:                              258 d 258 a c
def test_three_merges_are_those_worked_by_hand(subject):
    assert subject("train_bpe")(["aaabdaaabac"], merges=3) == [(97, 97), (97, 98), (256, 257)]
    tokenizer = Tokenizer.train(["aaabdaaabac"], vocab_size=260, special_tokens=["<|end|>"])
    assert tokenizer.encode("aaabdaaabac<|end|>") == [258, 100, 258, 97, 99, 259]
    assert tokenizer.vocab_size == 260 and tokenizer.eos_id == tokenizer.pad_id == 259


@PATIENT
@given(st.lists(st.text("aab ", max_size=30), max_size=4), st.integers(0, 12))
def test_training_equals_counting_everything_anew(subject, texts, merges):
    train_bpe = subject("train_bpe")
    pieces = [list(text.encode()) for text in texts]
    expected = naive_bpe(pieces, merges)
    if len(expected) < merges:
        with pytest.raises(ValueError, match=f"texts hold {len(expected)} merges"):
            train_bpe(texts, merges=merges, pattern=r"(?s).+")
    else:
        assert train_bpe(texts, merges=merges, pattern=r"(?s).+") == expected


@PATIENT
@given(st.lists(st.text("aabc", min_size=1, max_size=30), min_size=1, max_size=4), st.text("aabc"))
def test_tiktoken_applies_the_merges_in_the_order_they_were_learned(texts, text):
    merges = naive_bpe([list(piece.encode()) for piece in texts], 10)
    tokenizer = Tokenizer.train(
        texts, vocab_size=257 + len(merges), pattern=r"(?s).+", special_tokens=["<|end|>"]
    )
    assert tokenizer.encode(text) == naive_encode(text, merges)


def test_no_merge_crosses_the_border_of_a_piece(subject):
    # "ab" is 4 times in one piece or another, "b a" and "ba" never, though "b" stands before "a".
    assert subject("train_bpe")(["ab" * 4], merges=1, pattern="ab") == [(97, 98)]
    with pytest.raises(ValueError, match="texts hold 1 merges, expected 2"):
        subject("train_bpe")(["ab" * 4], merges=2, pattern="ab")


def test_a_piece_counts_as_often_as_it_occurs(subject):
    # (99,100) is in one piece that occurs three times, (97,98) in two different ones.
    texts = ["cd", "cd", "cd", "abx", "aby"]
    assert subject("train_bpe")(texts, merges=1, pattern=r"\w+") == [(99, 100)]


def test_no_merge_holds_a_part_of_a_special_token(subject):
    text, train_bpe = "ab<|end|><|end|><|end|>", subject("train_bpe")
    assert train_bpe([text], merges=1, pattern=r"(?s).+", special_tokens=["<|end|>"]) == [(97, 98)]
    assert train_bpe([text], merges=1, pattern=r"(?s).+") != [(97, 98)]
