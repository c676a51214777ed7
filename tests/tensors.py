"""What the tests of tensor functions share: random inputs, and garbage where a mask is 0."""

import math

import pytest
import torch
from hypothesis import strategies as st

GARBAGE = (math.nan, math.inf, -math.inf, 1e30, -1e30)

seeds = st.integers(0, 2**32 - 1)
masks = st.integers(1, 5).flatmap(
    lambda length: st.lists(
        st.lists(st.booleans(), min_size=length, max_size=length), min_size=1, max_size=4
    )
)


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def random(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def gradient(loss, tensor):
    return torch.autograd.grad(loss, tensor)[0]


def spoil(tensor, mask, seed=0):
    """A copy with NaN, infinities and huge numbers wherever the mask is 0."""
    garbage = torch.tensor(GARBAGE, dtype=tensor.dtype)[(torch.arange(mask.numel()) + seed) % 5]
    garbage = garbage.view(mask.shape)
    if tensor.dim() > mask.dim():
        mask, garbage = mask[..., None], garbage[..., None]
    return torch.where(mask, tensor.detach(), garbage).requires_grad_(tensor.requires_grad)


def refuses(function, *arguments, match, **options):
    with pytest.raises(ValueError, match=match):
        function(*arguments, **options)
