"""Keys and values kept: a cache against none, and prompts shared by a group against joined ones."""

import pytest
import torch

from reasoning_from_scratch.model import KVCache
from tests.toys import VARIANTS, double_model, random_tokens, toy_model

variants = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)


@pytest.fixture
def no_gradient():
    """A cache is written in place, which autograd refuses."""
    with torch.no_grad():
        yield


cached = pytest.mark.usefixtures("no_gradient")


def double_cache(model, batch, columns):
    return KVCache(model.config, batch, columns, dtype=torch.float64)


# The cache.


@cached
@variants
@pytest.mark.parametrize("pieces", [[1] * 9, [9], [4, 1, 1, 3], [2, 7], [8, 1]], ids=str)
def test_a_cache_equals_no_cache(changes, pieces):
    model, tokens = double_model(changes), random_tokens(2, 9)
    cache = double_cache(model, 2, 12)
    parts = [model(part, cache) for part in tokens.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens))


def joined(prompts, lengths, after):
    """Each prompt without its padding, then its continuation: a list of [1,T]."""
    return [torch.cat([p[:n], a])[None] for p, n, a in zip(prompts, lengths, after, strict=True)]


@cached
@variants
@pytest.mark.parametrize("pieces", [[1] * 5, [5], [1, 3, 1]], ids=str)
def test_prompts_of_different_lengths_go_on_at_their_own_positions(changes, pieces):
    model, prompts, after = double_model(changes), random_tokens(4, 6), random_tokens(4, 5, seed=1)
    lengths = torch.tensor([6, 1, 3, 5])
    cache = double_cache(model, 4, 11)
    model(prompts, cache)
    cache.set_lengths(lengths)
    logits = torch.cat([model(part, cache) for part in after.split(pieces, dim=1)], 1)
    for row, tokens in enumerate(joined(prompts, lengths, after)):
        torch.testing.assert_close(logits[row], model(tokens)[0, lengths[row] :])


@cached
@pytest.mark.parametrize("lengths", [[4, 4, 4], [4, 2, 3]], ids=["equal", "unequal"])
def test_rows_of_a_cache_are_repeated_reordered_and_dropped(lengths):
    model, prompts = double_model({}), random_tokens(3, 4)
    lengths = torch.tensor(lengths)
    cache = double_cache(model, 3, 4)
    model(prompts, cache)
    cache.set_lengths(lengths)
    # A group of two of each prompt, as sampling does it, then some rows less, then two more swaps.
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    cache, after = cache.select(owner, columns=10), random_tokens(6, 2, seed=1)
    assert cache.columns == 10
    first = model(after, cache)
    keep = torch.tensor([5, 2, 3])
    cache, more = cache.select(keep), random_tokens(3, 3, seed=2)
    second = model(more, cache)
    rows = joined(prompts[owner], lengths[owner], after)
    for row, tokens in enumerate(rows):
        torch.testing.assert_close(first[row], model(tokens)[0, -2:])
    for row, old in enumerate(keep.tolist()):
        tokens = torch.cat([rows[old], more[row, None]], 1)
        torch.testing.assert_close(second[row], model(tokens)[0, -3:])


@cached
def test_selecting_leaves_the_old_cache_as_it_was():
    model, tokens = double_model({}), random_tokens(2, 5)
    cache = double_cache(model, 2, 5)
    model(tokens[:, :3], cache)
    other = cache.select(torch.tensor([1, 0]), columns=9)
    model(random_tokens(2, 4, seed=3), other)
    torch.testing.assert_close(model(tokens[:, 3:], cache), model(tokens)[:, 3:])


# Prompts shared by a group.


@variants
def test_hidden_after_equals_hidden_on_joined_sequences_in_value_and_gradient(changes):
    model, lengths = double_model(changes), torch.tensor([4, 0, 2])
    prompts, after = random_tokens(3, 4), random_tokens(3, 2, 5, seed=1)
    found = model.hidden_after(prompts, lengths, after)  # [P,G,Tc,D]
    expected = torch.stack(
        [
            model.hidden(torch.cat([prompts[p, : lengths[p]], after[p, g]])[None])[0, lengths[p] :]
            for p in range(3)
            for g in range(2)
        ]
    ).view_as(found)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2)).double()
    trained = list(model.parameters())
    for result in (found, expected):  # first one, then the other, on the same model
        grads = torch.autograd.grad((result * weight).sum(), trained, allow_unused=True)
        if result is found:
            first = grads
    for (name, _), a, b in zip(model.named_parameters(), first, grads, strict=True):
        if b is None:  # an untied head has no part in it
            assert a is None and name == "head.weight"
        else:
            assert b.abs().max() > 0
            torch.testing.assert_close(a, b)


def test_hidden_after_does_not_see_the_padding_of_prompts_or_continuations():
    model, lengths = double_model({}), torch.tensor([4, 1])
    prompts, after = random_tokens(2, 4), random_tokens(2, 3, 5, seed=1)
    before = model.hidden_after(prompts, lengths, after)
    prompts[1, 1:], after[:, :, 3:] = 7, 8
    torch.testing.assert_close(
        model.hidden_after(prompts, lengths, after)[:, :, :3], before[:, :, :3]
    )
    wider = torch.cat([prompts, random_tokens(2, 2)], 1)
    torch.testing.assert_close(
        model.hidden_after(wider, lengths, after)[:, :, :3], before[:, :, :3]
    )


# Refusals.


@cached
def test_a_sequence_beyond_the_positions_is_refused():
    model = toy_model(max_positions=6)
    model(random_tokens(1, 6))
    message = "tokens reach 7 positions, expected at most max_positions=6"
    with pytest.raises(ValueError, match=message):
        model(random_tokens(1, 7))
    with pytest.raises(ValueError, match=message):
        model.hidden_after(random_tokens(1, 4), torch.tensor([4]), random_tokens(1, 1, 3))
    cache = KVCache(model.config, 1, 10)
    model(random_tokens(1, 6), cache)
    with pytest.raises(ValueError, match=message):
        model(random_tokens(1, 1), cache)


@cached
def test_a_cache_that_is_full_says_so():
    model = toy_model()
    cache = KVCache(model.config, 1, 5)
    model(random_tokens(1, 3), cache)
    with pytest.raises(ValueError, match="tokens has 3 columns, but the cache holds 3 of 5"):
        model(random_tokens(1, 3), cache)
    model(random_tokens(1, 2), cache)  # what fits still fits
