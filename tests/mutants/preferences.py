"""Plausible mistakes in preferences.py."""

MUTANTS = {
    "sample_preferences": {
        "the same pair of every problem": (
            'seed=stable_hash(f"{seed} {start + i}"),',
            "seed=seed,",
        ),
        "completions of two problems are compared": (
            "rows = slice(i * group_size, (i + 1) * group_size)",
            "rows = slice(i * group_size + 1, (i + 1) * group_size + 1)",
        ),
        "interleaved groups": (
            "rows = slice(i * group_size, (i + 1) * group_size)",
            "rows = slice(i, None, len(batch))",
        ),
        "more pairs than asked for": ("return pairs[:count]", "return pairs"),
        "too few pairs are returned in silence": (
            "if len(pairs) >= count:",
            "if len(pairs) >= count or start + _PROMPTS_AT_ONCE >= len(problems):",
        ),
        "the seed is ignored": (".manual_seed(seed)", ".manual_seed(0)"),
        "length is never liked": ("length_coef=length_coef, seed=stable_hash",
                                  "length_coef=0.0, seed=stable_hash"),
    },
    "preference_pairs": {
        "the worse one is chosen": ("if worth[i] > worth[j]]", "if worth[i] < worth[j]]"),
        "equal ones make a pair": (
            "if worth[i] > worth[j]]",
            "if i != j and worth[i] >= worth[j]]",
        ),
        "length is punished": (
            "correct[i] + length_coef * lengths[i]",
            "correct[i] - length_coef * lengths[i]",
        ),
        "length in characters": ("length_coef * lengths[i]", "length_coef * len(completions[i])"),
        "a text that comes twice is taken twice": (
            "rows = sorted(first.values())",
            "rows = list(range(len(completions)))",
        ),
        "always the first pairs": (
            "Random(seed).sample(better, min(per_prompt, len(better)))",
            "better[:per_prompt]",
        ),
        "lengths of the wrong completion": (
            '"length": (lengths[i], lengths[j])',
            '"length": (lengths[j], lengths[i])',
        ),
    },
    "flip_labels": {
        "never": ("_swapped(pair) if coin < probability else pair", "pair"),
        "with one minus the probability": ("coin < probability", "coin >= probability"),
        "one coin a prompt": ('f"{seed} {i} {pair.prompt}"', 'f"{seed} {pair.prompt}"'),
        "the seed is ignored": ('f"{seed} {i} {pair.prompt}"', 'f"{i} {pair.prompt}"'),
        "exactly so many": (
            "coins = (stable_hash",
            "coins = (i / len(pairs) for i, _ in enumerate(pairs)) if seed >= 0 else (stable_hash",
        ),
    },
    "_swapped": {
        "what is known is not swapped": ("pair.meta[name][::-1]", "pair.meta[name]"),
        "a flip is not told": ('not pair.meta.get("flipped", False)', "False"),
        "flipped twice is flipped": ('not pair.meta.get("flipped", False)', "True"),
        "the margin is lost": ("replace(pair, chosen", "replace(pair, margin=0.0, chosen"),
    },
}  # fmt: skip
