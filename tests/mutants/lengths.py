"""Plausible mistakes in lengths.py."""

MUTANTS = {
    "lcpo_exact": {
        "the length is rewarded, not punished": (
            "float(correct) - alpha",
            "float(correct) + alpha",
        ),
        "only what is too long is punished": (
            "abs(float(target) - float(length))",
            "max(0.0, float(length) - float(target))",
        ),
        "no absolute value: what is too long is rewarded": (
            "abs(float(target) - float(length))",
            "(float(target) - float(length))",
        ),
        "no absolute value: what is too short is rewarded": (
            "abs(float(target) - float(length))",
            "(float(length) - float(target))",
        ),
        "relative to the target": (
            "abs(float(target) - float(length))",
            "abs(float(target) - float(length)) / max(float(target), 1.0)",
        ),
        "multiplied with being right": (
            "float(correct) - alpha * abs(float(target) - float(length))",
            "float(correct) * (1 - alpha * abs(float(target) - float(length)))",
        ),
    },
    "lcpo_max": {
        "length minus target": (
            "(float(target) - float(length))",
            "(float(length) - float(target))",
        ),
        "delta is left out": (" + delta, 0.0)", ", 0.0)"),
        "not clipped at 0": (
            "min(max(alpha * (float(target) - float(length)) + delta, 0.0), 1.0)",
            "min(alpha * (float(target) - float(length)) + delta, 1.0)",
        ),
        "not clipped at 1": ("min(max(", "max(max("),
        "added to being right, so that a short wrong answer pays": (
            "float(correct) * min",
            "float(correct) + min",
        ),
    },
    "kimi_length_reward": {
        "short and wrong is rewarded": ("min(0.0, reward)", "reward"),
        "long is rewarded": (
            "0.5 - (length - shortest) / spread",
            "(length - shortest) / spread - 0.5",
        ),
        "measured from 0, not from the shortest": ("(length - shortest)", "length"),
        "wrong ones get nothing at all": ("min(0.0, reward)", "0.0"),
        "relative to the longest, not to the spread": (
            "(length - shortest) / spread",
            "(length - shortest) / max(sizes)",
        ),
        "shortest of the right ones only": (
            "shortest, spread = min(sizes)",
            "shortest, spread = min([n for n, c in zip(sizes, right) if c] or sizes)",
        ),
        "shortest and longest of the right ones only": (
            "shortest, spread = min(sizes), max(sizes) - min(sizes)",
            "kept = [n for n, c in zip(sizes, right) if c] or sizes\n"
            "    shortest, spread = min(kept), max(kept) - min(kept)",
        ),
        "a group of equal lengths gets 0.5": ("if spread else 0.0", "if spread else 0.5"),
        "a tensor comes back as a list": ("return like.new_tensor(rewards)", "return rewards"),
    },
    "cosine_reward": {
        "the wave turns past the limit": (
            "min(float(length) / max_length, 1.0)",
            "float(length) / max_length",
        ),
        "short and long are exchanged": ("long + (short - long) *", "short + (long - short) *"),
        "a straight line": ("(1 + math.cos(math.pi * progress)) / 2", "(1 - progress)"),
        "the whole wave": ("math.cos(math.pi * progress)", "math.cos(2 * math.pi * progress)"),
        "right and wrong are exchanged": ("if correct else", "if not correct else"),
        "what was cut off is not noticed": ("length >= max_length", "length > 2 * max_length"),
    },
    "overlong_penalty": {
        "starts only at the limit": ("allowed = max_length - cache_length", "allowed = max_length"),
        "relative to the limit, not to the cache": (
            "-cache_length) / cache_length",
            "-cache_length) / max_length",
        ),
        "grows beyond -1": ("max(allowed - length, -cache_length)", "(allowed - length)"),
        "a reward instead of a penalty": (
            "max(allowed - length, -cache_length)",
            "min(length - allowed, cache_length)",
        ),
        "the first token beyond is free": ("length <= allowed", "length <= allowed + 1"),
    },
    "length_part": {
        "the reward for being right is counted twice": (
            "lcpo_exact(right, length, target, alpha=coef) - right",
            "lcpo_exact(right, length, target, alpha=coef)",
        ),
        "the weight is left out": ("[coef * reward for", "[reward for"),
        "a wrong answer's reward falls with its length": (
            '"wrong_short": -coef}',
            '"wrong_short": 0.0, "wrong_long": -coef}',
        ),
        "a missing target is 0": (
            "    if kind in TARGETED and target is None:\n",
            "    target = target or 0\n    if False:\n",
        ),
        "what is added to a wrong answer may be negative under LCPO-Max": (
            "lcpo_max(right, length, target, alpha=coef) - right",
            "lcpo_max(right, length, target, alpha=coef) - 1",
        ),
    },
}
