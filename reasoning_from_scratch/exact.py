"""The exact laboratory: a policy so small that every completion can be listed.

With a vocabulary of three and completions of up to three tokens there are fifteen completions. Then
an expectation (of a reward, of an estimator, of a *gradient*) is a finite sum: nothing is sampled,
and a bias of a thousandth can be seen. All lists of completions are [N,T] tensors that go straight
into `policy_loss` and its like.

Two sums must be told apart. `expectation` is the mathematical one: its gradient knows that a change
of the policy changes how often each completion is drawn. `sample_mean` is what a training step
averages over many samples: same number, but the samples are there already, so its gradient is the
expected gradient of the estimator. The policy-gradient theorem says when the two agree.
Left out on purpose: prompts, sampling, and anything that learns.

Shapes: N completions, T = max_tokens, V entries of the vocabulary, S prefixes, G in a group.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reasoning_from_scratch.advantages import group_advantages

END = 0  # the token that ends a completion
MAX_COMPLETIONS = 10_000
MAX_GROUPS = 1_000_000


class TablePolicy:
    """A policy with a row of logits of its own for each prefix, and all completions it can write.

    Args:
        logits:     [S,V] float64 is best; may hold -inf. S is `count_prefixes(V, max_tokens)`: one
                    row for each unfinished prefix, shorter first, then in the order of tokens.
        max_tokens: where a completion that has not ended is cut off.

    Attributes:
        tokens:   [N,T] each completion, its END token included, then END as padding.
        mask:     [N,T] True on the tokens that the policy chose.
        prefixes: [N,T] the row of logits that each token was drawn from (0 where masked).
        lengths:  [N] chosen tokens.
        finished: [N] True where the last token is END, False where it was cut off.

    Raises:
        ValueError: logits don't fit max_tokens, or there are too many completions to list.
    """

    def __init__(self, logits: Tensor, max_tokens: int) -> None:
        vocabulary = logits.shape[-1] if logits.dim() else 0
        if vocabulary < 2 or max_tokens < 1:
            raise ValueError(
                f"logits has shape {list(logits.shape)} and max_tokens is {max_tokens}, expected "
                "at least 2 entries of the vocabulary and 1 token"
            )
        expected = [count_prefixes(vocabulary, max_tokens), vocabulary]
        if list(logits.shape) != expected:
            raise ValueError(
                f"logits has shape {list(logits.shape)}, expected {expected}: one row for each "
                f"prefix of fewer than {max_tokens} tokens"
            )
        if expected[0] * vocabulary > MAX_COMPLETIONS:
            raise ValueError(f"max_tokens is {max_tokens}: that is too many completions to list")
        self.logits, self.max_tokens = logits, max_tokens
        self._list_completions(vocabulary, max_tokens)

    @classmethod
    def random(cls, seed: int, *, vocabulary: int = 3, max_tokens: int = 3) -> "TablePolicy":
        """Return a policy with standard normal logits, float64, that require a gradient."""
        generator = torch.Generator().manual_seed(seed)
        shape = (count_prefixes(vocabulary, max_tokens), vocabulary)
        logits = torch.randn(shape, generator=generator, dtype=torch.float64)
        return cls(logits.requires_grad_(), max_tokens)

    def with_logits(self, logits: Tensor) -> "TablePolicy":
        """Return a policy over the same completions with other logits, say after a step."""
        return TablePolicy(logits, self.max_tokens)

    def truncated(self, top_p: float) -> "TablePolicy":
        """Return the policy that top-p sampling really samples from; it carries no gradient.

        Of each row it keeps the likeliest tokens until their probabilities reach `top_p`.
        """
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p is {top_p}, expected above 0, at most 1")
        logits = self.logits.detach()
        sorted_probabilities, order = logits.softmax(-1).sort(dim=-1, descending=True)
        before = sorted_probabilities.cumsum(-1) - sorted_probabilities
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        return self.with_logits(logits.masked_fill(dropped, -math.inf))

    def logprobs(self) -> Tensor:
        """Return [N,T] log π(token), 0 where masked. Carries the gradient."""
        picked = self.logits.log_softmax(-1)[self.prefixes, self.tokens]
        return torch.where(self.mask, picked, 0)

    def probabilities(self) -> Tensor:
        """Return [N] the probability of each completion; they add up to 1. Carries the gradient."""
        return self.logprobs().sum(1).exp()

    def expectation(self, values: Tensor) -> Tensor:
        """Return Σ p·value over completions, [N,...] -> [...]. The gradient flows through both."""
        return _weighted_sum(self.probabilities(), values)

    def sample_mean(self, values: Tensor) -> Tensor:
        """Return the same sum with p held constant: the limit of a mean over samples.

        With the loss of each completion as values, its gradient is the estimator's expected one.
        Called on another policy than the one in the values, it is that of off-policy samples.
        """
        return _weighted_sum(self.probabilities().detach(), values)

    def groups(self, group_size: int) -> tuple[Tensor, Tensor]:
        """Return every group that can be drawn: rows [N^G,G] into the lists, probabilities [N^G].

        Raises:
            ValueError: there are more than a million.
        """
        count = len(self.tokens) ** group_size
        if group_size < 1 or count > MAX_GROUPS:
            raise ValueError(
                f"group_size is {group_size}: that makes {count} groups of {len(self.tokens)} "
                f"completions, expected 1 to {MAX_GROUPS}"
            )
        rows = torch.cartesian_prod(*[torch.arange(len(self.tokens))] * group_size)
        rows = rows.view(count, group_size)
        return rows, self.probabilities().detach()[rows].prod(1)

    def group_mean(self, function: Callable[[Tensor], Tensor], group_size: int) -> Tensor:
        """Return Σ p(group)·function(rows [G]) over all groups, with p held constant.

        The group's form of `sample_mean`: `function` sees one group as a training step would, say
        `lambda rows: policy_loss(policy.logprobs()[rows], ...)[0]`. It is called N^G times.
        """
        rows, weights = self.groups(group_size)
        drawn = weights > 0
        values = torch.stack([function(group) for group in rows[drawn]])
        return _weighted_sum(weights[drawn], values)

    def expected_advantages(self, rewards: Tensor, group_size: int, **options: object) -> Tensor:
        """Return [N] the mean advantage of each completion over the companions it may get.

        On policy this is all that a group algorithm does to a completion's gradient. Where it is
        reward minus a constant, the algorithm follows the expected reward; where not, its bias.

        Args:
            rewards:    [N] the reward of each completion.
            group_size: G.
            options:    those of `group_advantages`.
        """
        rows, weights = self.groups(group_size)
        advantages = group_advantages(rewards[rows], **options)[:, 0]
        totals = torch.zeros(len(rewards), dtype=weights.dtype)
        sums = totals.index_add(0, rows[:, 0], weights * advantages)
        probabilities = self.probabilities().detach()
        return torch.where(probabilities > 0, sums / probabilities, 0)

    def values(self, rewards: Tensor) -> Tensor:
        """Return [S] the reward to expect after each prefix: what a perfect critic says there.

        Args:
            rewards: [N] at the end of each completion.

        Returns:
            [S] without gradient; 0 after a prefix that cannot occur.
        """
        chances = self.probabilities().detach()  # [N]
        paid = torch.where(chances > 0, chances * rewards, 0)
        rows, owners = self.prefixes[self.mask], self.mask.nonzero()[:, 0]  # of each chosen token
        zeros = chances.new_zeros(len(self.logits))
        chance, total = (zeros.index_add(0, rows, x[owners]) for x in (chances, paid))
        return torch.where(chance > 0, total / torch.where(chance > 0, chance, 1), 0)

    def gradient(self, scalar: Tensor) -> Tensor:
        """Return [S,V] the derivative of `scalar` by the logits, which must require a gradient."""
        (slope,) = torch.autograd.grad(scalar, self.logits, retain_graph=True, allow_unused=True)
        return torch.zeros_like(self.logits) if slope is None else slope

    def entropy(self) -> Tensor:
        """Return the entropy of the whole completion, in nats. Carries the gradient."""
        logprobs = self.logprobs().sum(1)
        return self.expectation(torch.where(logprobs > -math.inf, -logprobs, 0))

    def kl(self, other: "TablePolicy") -> Tensor:
        """Return KL(self‖other) of whole completions, in nats. Carries both gradients."""
        logprobs, other_logprobs = self.logprobs().sum(1), other.logprobs().sum(1)
        possible = logprobs > -math.inf
        return self.expectation(torch.where(possible, logprobs - other_logprobs, 0))

    def _list_completions(self, vocabulary: int, max_tokens: int) -> None:
        names, unfinished, completions = {(): 0}, [()], []
        for length in range(1, max_tokens + 1):
            longer = [prefix + (token,) for prefix in unfinished for token in range(vocabulary)]
            ended = [tokens[-1] == END or length == max_tokens for tokens in longer]
            completions += [tokens for tokens, end in zip(longer, ended, strict=True) if end]
            unfinished = [tokens for tokens, end in zip(longer, ended, strict=True) if not end]
            names |= {prefix: len(names) + i for i, prefix in enumerate(unfinished)}
        padding = [max_tokens - len(tokens) for tokens in completions]
        rows = [[names[tokens[:t]] for t in range(len(tokens))] for tokens in completions]
        self.lengths = torch.tensor([len(tokens) for tokens in completions])
        self.mask = torch.arange(max_tokens) < self.lengths[:, None]
        self.finished = torch.tensor([tokens[-1] == END for tokens in completions])
        self.tokens = torch.tensor(
            [[*tokens, *[END] * pad] for tokens, pad in zip(completions, padding, strict=True)]
        )
        self.prefixes = torch.tensor(
            [row + [0] * pad for row, pad in zip(rows, padding, strict=True)]
        )


def count_prefixes(vocabulary: int, max_tokens: int) -> int:
    """Return how many prefixes of fewer than `max_tokens` tokens have not ended: 1 + (V-1) + ..."""
    return sum((vocabulary - 1) ** length for length in range(max_tokens))


def _weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """Σ weight·value over the first dimension; what has weight 0 adds 0, be it infinite or NaN."""
    weights = weights.view(-1, *[1] * (values.dim() - 1))
    return (weights * torch.where(weights > 0, values, 0)).sum(0)
