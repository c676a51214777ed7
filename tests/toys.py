"""What the tests of training and sampling share: a tiny model, tokenizer and tasks."""

import tiktoken
import torch

from reasoning_from_scratch.model import GPT, GPTConfig
from reasoning_from_scratch.tasks.base import Problem, Task
from reasoning_from_scratch.tokenizer import Tokenizer

SYMBOLS = "0123456789=abcdef"
END = "<|end|>"
LLAMA3 = dict(
    rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)  # fmt: skip
VARIANTS = {
    "plain": {},
    "grouped": dict(heads=4, kv_heads=2),
    "one key for all": dict(heads=4, kv_heads=1, head_width=6),
    "untied, biased, normed": dict(tied=False, attention_bias=True, qk_norm=True, mlp_width=20),
    "llama3": dict(rope_scaling=LLAMA3, head_width=16, rope_theta=100.0),
}


def toy_tokenizer(symbols=SYMBOLS):
    """One token a symbol, and the end token."""
    ranks = {symbol.encode(): i for i, symbol in enumerate(symbols)}
    encoding = tiktoken.Encoding(
        "toy", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={END: len(ranks)}
    )
    return Tokenizer(encoding, eos=END)


def toy_model(seed=0, *, scale=1.0, **changes):
    """A model of two layers; `scale` multiplies its matrices, so that it has opinions."""
    config = dict(vocab_size=len(SYMBOLS) + 1, width=16, layers=2, heads=2, max_positions=64)
    model = GPT(GPTConfig(**config | changes), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(scale)
    return model


def chain(successors, vocabulary=18):
    """A model in which each token has one successor, with probability near 1."""
    model = toy_model(vocab_size=vocabulary, width=2 * vocabulary, tied=False)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.output.weight.zero_()
            block.down.weight.zero_()
        model.embedding.weight.copy_(torch.eye(vocabulary, 2 * vocabulary))
        model.head.weight.zero_()
        for token, successor in successors.items():
            model.head.weight[successor, token] = 10.0
    return model


class Copy(Task):
    """Say the prompt's first digit, then stop: "7=" wants "7"."""

    def generate(self, n, *, seed, split):
        digits = [(i * 7 + seed) % 10 for i in range(n)]
        return [Problem(f"{d}=", str(d), str(d), {"key": str(d)}) for d in digits]

    def score(self, problem, completion):
        return float(completion == problem.answer)


class SayB(Copy):
    """Reward for one particular token, whatever the prompt."""

    def score(self, problem, completion):
        return float(completion.startswith("b"))


class Parity(Copy):
    """Reward for a completion of even length: half of all are, so groups are mixed."""

    def score(self, problem, completion):
        return float(len(completion) % 2 == 0)


def weights(model):
    """All weights in one row."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def double_model(changes, seed=0):
    """A float64 model in which every weight matters: no norm is 1 and no bias 0."""
    model = toy_model(seed, scale=10.0, **changes).double()
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model


def random_tokens(*shape, seed=0, vocabulary=18):
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))
