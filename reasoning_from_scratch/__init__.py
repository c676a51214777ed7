"""Reinforcement learning for language-model reasoning, by hand and from scratch.

Every public name can be imported from here: `from reasoning_from_scratch import policy_loss`.
A name is loaded when it is first asked for, so that a program that needs only the verifier does
not wait for PyTorch.
"""

import importlib

_MODULES = {
    "model": ("GPT", "GPTConfig", "KVCache", "ScalarHead"),
    "tokenizer": ("Tokenizer",),
    "pretrained": ("load_pretrained", "save_pretrained"),
    "sampling": ("Rollout", "sample"),
    "verify": ("extract_answer", "math_equal"),
    "sandbox": ("RunResult", "run_python"),
    "rewards": (),
    "lengths": (
        "lcpo_exact", "lcpo_max", "kimi_length_reward", "cosine_reward", "overlong_penalty",
    ),
    "tasks": ("Problem", "Task", "get_task"),
    "advantages": ("group_advantages", "gae", "whiten"),
    "losses": (
        "token_logprobs", "token_entropy", "masked_mean", "sft_loss", "bradley_terry_loss",
        "kl_estimate", "policy_loss", "value_loss", "dpo_loss", "aggregate_tokens",
        "aggregate_share",
    ),
    "exact": ("TablePolicy",),
    "evaluate": (),
    "stats": ("pass_at_k", "bootstrap_interval", "majority_vote"),
    "runs": ("Run",),
    "sft": ("SFTSettings", "train_sft"),
    "grpo": ("GRPOSettings", "PRESETS", "train_grpo"),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
