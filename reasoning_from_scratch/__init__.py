"""Reinforcement learning for language-model reasoning, by hand and from scratch.

Every public name can be imported from here: `from reasoning_from_scratch import policy_loss`.
A name is loaded when it is first asked for, so that a program that needs only the verifier does
not wait for PyTorch.
"""

import importlib

_MODULES = {
    "model": ("GPT", "GPTConfig", "KVCache", "ScalarHead"),
    "tokenizer": ("Tokenizer", "train_bpe"),
    "pretrained": ("load_pretrained", "save_pretrained", "find_smollm2"),
    "merging": ("merge_models",),
    "sampling": ("Rollout", "sample"),
    "verify": ("extract_answer", "math_equal", "check_format"),
    "sandbox": ("RunResult", "run_python"),
    "rewards": (
        "accuracy_reward", "format_reward", "rule_reward", "language_reward", "repetition_penalty",
        "token_f1", "combine", "reward_parts", "random_reward", "inverted_reward", "as_trl_reward",
        "from_trl_reward", "trl_columns",
    ),
    "lengths": (
        "lcpo_exact", "lcpo_max", "kimi_length_reward", "cosine_reward", "overlong_penalty",
        "length_part",
    ),
    "tasks": ("Problem", "Task", "get_task"),
    "advantages": ("group_advantages", "process_advantages", "gae", "whiten"),
    "losses": (
        "token_logprobs", "token_entropy", "masked_mean", "sft_loss", "bradley_terry_loss",
        "kl_estimate", "probability_ratio", "policy_loss", "value_loss", "dpo_loss",
        "aggregate_tokens", "aggregate_share",
    ),
    "exact": ("TablePolicy",),
    "evaluate": ("Evaluation", "measure"),
    "compute": ("grpo_step_flops", "at_budget"),
    "stats": (
        "pass_at_k", "mixed_group_chance", "bootstrap_interval", "t_interval", "wilson_interval",
        "paired_difference", "mcnemar_p", "t_quantile", "standard_error", "majority_vote",
        "weighted_vote", "best_of_n",
    ),
    "reward_quality": (
        "pair_accuracy", "pair_confidence", "calibration_curve", "expected_calibration_error",
        "expected_best_of_n", "best_of_n_kl", "fit_best_of_n", "fit_rl",
    ),
    "rollouts": ("fill_with_mixed",),
    "problem_streams": ("ProblemStream", "PrioritisedStream", "priorities"),
    "training": ("learning_rate", "make_optimizer", "micro_batches"),
    "runs": ("Run",),
    "sft": ("SFTSettings", "train_sft"),
    "imitation": ("ImitationSettings", "imitate", "sample_examples", "select_samples"),
    "report": ("figure_style", "learning_curves", "before_after_figure", "write_page"),
    "grpo": ("GRPOSettings", "PRESETS", "preset", "train_grpo"),
    "ppo": (
        "PPOSettings", "PPO_PRESETS", "ppo_preset", "train_ppo", "token_rewards", "adapt_kl_coef",
        "explained_variance",
    ),
    "preferences": (
        "Preference", "sample_preferences", "preference_pairs", "shortest_right_pairs",
        "flip_labels",
    ),
    "dpo": ("DPOSettings", "train_dpo"),
    "reward_model": (
        "RewardModelSettings", "train_reward_model", "score", "score_pairs", "normalise_scores",
        "proxy_reward",
    ),
    "reward_model_files": ("save_reward_model", "load_reward_model"),
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
