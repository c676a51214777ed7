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
        "length is never liked": ("length_coef=length_coef,", "length_coef=0.0,"),
        "the shortest is never preferred": ("prefer=prefer,", 'prefer="right",'),
        "what was cut off counts as finished": ("finished=finished[rows]", "finished=None"),
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
        "cut off is said of the other completion": (
            '"finished": (finished[i], finished[j])',
            '"finished": (finished[j], finished[i])',
        ),
        "rows of the different texts are taken for rows of all": (
            "(rows[i], rows[j]) for i, j in shortest",
            "(i, j) for i, j in shortest",
        ),
        "the shortest is preferred always": (
            'if prefer == "shortest":',
            "if not length_coef:",
        ),
    },
    "shortest_right_pairs": {
        "wrong ones that are shorter are rejected, too": (
            "if lengths[i] > limits[i]]",
            "if lengths[i] > limits[i] or correct[i] < 1]",
        ),
        "right ones that are hardly longer are rejected": (
            "(longer if score >= 1 else 1)",
            "1",
        ),
        "wrong ones must be much longer, too": ("(longer if score >= 1 else 1)", "longer"),
        "the factors of right and wrong ones are exchanged": (
            "(longer if score >= 1 else 1)",
            "(longer if score < 1 else 1)",
        ),
        "the shortest of all is chosen": (
            "if correct[i] >= 1 and finished[i]]",
            "if finished[i]]",
        ),
        "the longest right one is chosen": ("chosen = min(right", "chosen = max(right"),
        "what was cut off may be chosen": (" and finished[i]]", "]"),
        "what was cut off is never rejected": (
            "for i in rows if lengths[i] > limits[i]]",
            "for i in rows if finished[i] and lengths[i] > limits[i]]",
        ),
        "what is nearly right is right": ("if correct[i] >= 1 and", "if correct[i] > 0.5 and"),
        "as long as the limit is too long": ("lengths[i] > limits[i]]",
                                             "i != chosen and lengths[i] >= limits[i]]"),
        "rejected and chosen are exchanged": ("[(chosen, i) for i", "[(i, chosen) for i"),
        "the last of the shortest is chosen": ("lengths[i])\n", "(lengths[i], -i))\n"),
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
        "who was cut off is not swapped": ("for name in _TWOFOLD", "for name in _TWOFOLD[:2]"),
        "what is known is not swapped": ("pair.meta[name][::-1]", "pair.meta[name]"),
        "a flip is not told": ('not pair.meta.get("flipped", False)', "False"),
        "flipped twice is flipped": ('not pair.meta.get("flipped", False)', "True"),
        "the margin is lost": ("replace(pair, chosen", "replace(pair, margin=0.0, chosen"),
    },
}  # fmt: skip
