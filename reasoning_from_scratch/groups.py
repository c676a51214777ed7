"""Completions cut out of a rollout for the optimiser: each prompt once, its completions beside it.

Not here: what is learned from them (`grpo.py`, `ppo.py`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reasoning_from_scratch.losses import token_logprobs
from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.rollouts import Batch
from reasoning_from_scratch.training import precision


@dataclass
class Groups:
    """Completions cut out of a rollout: column j is about the completion's token j.

    U units of g completions with one prompt; Tp and Tc are the longest prompt and completion.
    """

    prompts: Tensor  # [U,Tp], each without its last token
    lengths: Tensor  # [U] tokens in them
    inputs: Tensor  # [U,g,Tc] the prompt's last token, then the completion but for its last
    targets: Tensor  # [U,g,Tc] the completion
    old_logprobs: Tensor  # [U,g,Tc]
    mask: Tensor  # [U,g,Tc]
    advantages: Tensor  # [U,g]

    @classmethod
    def cut(cls, batch: Batch, groups: Tensor, group_size: int, max_tokens: int) -> "Groups":
        """Cut the given groups [N] out of a batch.

        A group whose completions exceed `max_tokens` is cut into equal units, each with the prompt.
        """
        r = batch.rollout
        rows = groups[:, None] * group_size + torch.arange(group_size, device=groups.device)
        rows = rows.flatten()
        lengths, time = r.prompt_lengths[rows] - 1, int(r.lengths[rows].max())
        divisors = [g for g in range(group_size, 0, -1) if group_size % g == 0]
        unit = next((g for g in divisors if g * time <= max_tokens), 1)

        # Logits at t speak of token t+1. This is the one place that shifts.
        before = lengths[:, None] + torch.arange(time, device=rows.device)  # [b,Tc]
        last = r.tokens.shape[1] - 1

        def pick(x: Tensor, column: Tensor) -> Tensor:
            return x[rows].gather(1, column.clamp(max=last)).unflatten(0, (-1, unit))

        inside = (before < last).unflatten(0, (-1, unit))
        return cls(
            prompts=r.tokens[rows[::unit], : max(int(lengths.max()), 1)],
            lengths=lengths[::unit],
            inputs=pick(r.tokens, before),
            targets=pick(r.tokens, before + 1),
            old_logprobs=pick(r.logprobs, before + 1),
            mask=pick(batch.mask, before + 1) * inside,
            advantages=batch.advantages[rows].unflatten(0, (-1, unit)),
        )

    def sizes(self) -> Tensor:
        """Return each unit's tokens when it is padded to its own longest completion: [U]."""
        return self.lengths + self.mask.shape[1] * self.mask.sum(2).amax(1).long()

    def select(self, units: Tensor) -> "Groups":
        """Return the given units, without the columns that none of them needs."""
        prompt = max(int(self.lengths[units].max()), 1)
        time = int(self.mask[units].sum(2).max())
        cut = {name: getattr(self, name)[units] for name in ("lengths", "advantages")}
        for name in ("inputs", "targets", "old_logprobs", "mask"):
            cut[name] = getattr(self, name)[units, :, :time]
        return Groups(prompts=self.prompts[units, :prompt], **cut)

    def logprobs(self, model: GPT, temperature: float) -> Tensor:
        """Return log π of the completions at the temperature they were sampled with: [U·g,Tc]."""
        with precision(self.inputs.device):
            logits = model.head(model.hidden_after(self.prompts, self.lengths, self.inputs))
        logits = logits.float() / temperature
        return token_logprobs(logits, self.targets).flatten(0, 1)
