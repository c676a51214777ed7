"""Rollouts and critics made by hand, for the tests of what learns token by token."""

import math

import torch

from reasoning_from_scratch.model import ScalarHead
from reasoning_from_scratch.rollouts import Batch
from reasoning_from_scratch.sampling import Rollout
from tests.toys import double_model

PROMPTS = [[1], [2, 3, 4, 5, 10], [6, 10], [7, 8, 10]]
LENGTHS = [1, 9, 4, 2, 3, 3, 3, 3, 8, 1, 1, 1, 5, 6, 7, 2]  # four completions of each

# What a reward function may not return for four completions, and what is then said.
REFUSED_REWARDS = [
    ([1.0] * 4, r"reward returned \[1.0, .*, expected a dict of lists"),
    (torch.ones(4), r"reward returned tensor\(\[1.*, expected a dict of lists"),
    (None, "reward returned None, expected a dict of lists"),
    ({"brief": [1.0] * 4}, r"reward returned \['brief'\], expected a part called 'correct'"),
    ({"correct": [1.0] * 3}, r"part 'correct' has shape \[3\], expected \[4\]"),
    ({"correct": [1.0, None, 0.0, 0.0]}, r"part 'correct' is \[1.0, None.* expected one number"),
    ({"correct": [1.0, 0, 0, math.nan]}, "part 'correct' holds nan, expected finite"),
    ({"correct": [1.0] * 4, "brief": [0, -math.inf, 0, 0]}, "part 'brief' holds -inf, expected fi"),
]


def made_batch(seed=0):
    """A batch of random completions; what is padding in it would be noticed."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        (PROMPTS[i // 4], torch.randint(17, (n,), generator=generator).tolist())
        for i, n in enumerate(LENGTHS)
    ]
    width = max(len(prompt) + len(completion) for prompt, completion in rows)
    tokens, mask = torch.full((16, width), 17), torch.zeros(16, width)
    for row, (prompt, completion) in enumerate(rows):
        start, end = len(prompt), len(prompt) + len(completion)
        tokens[row, :end] = torch.tensor(prompt + completion)
        mask[row, start:end] = 1
    logprobs = -torch.rand(16, width, generator=generator) * mask
    lengths = torch.tensor([len(prompt) for prompt, _ in rows])
    finished = torch.ones(16, dtype=torch.bool)
    rollout = Rollout(tokens, logprobs, mask, lengths, [""] * 16, finished)
    return Batch(rollout, [], {}, torch.arange(16.0))


def double_critic(seed=1):
    """A critic with opinions."""
    critic = ScalarHead(double_model({}, seed)).double()
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.normal_(critic.score.weight, generator=generator)
    torch.nn.init.constant_(critic.score.bias, 0.3)
    return critic
