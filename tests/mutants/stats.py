"""Plausible mistakes in stats.py."""

MUTANTS = {
    "pass_at_k": {
        "the biased estimate 1 - (1 - c/n)^k": (
            "(subsets - math.comb(n - c, k)) / subsets",
            "1 - (1 - c / n) ** k",
        ),
        "counts the subsets of right ones": ("math.comb(n - c, k)", "math.comb(c, k)"),
        "returns the probability that all are right": (
            "(subsets - math.comb(n - c, k)) / subsets",
            "math.comb(c, k) / subsets",
        ),
        "numerator and denominator are exchanged": (
            "(subsets - math.comb(n - c, k)) / subsets",
            "1 - subsets / math.comb(n - c, k)",
        ),
        "the probability that all are wrong, upside down": (
            "(subsets - math.comb(n - c, k)) / subsets",
            "subsets / math.comb(n - c, k)",
        ),
        "chooses c of the n, not k of the wrong ones": ("math.comb(n - c, k)", "math.comb(n, c)"),
        "returns the probability that all are wrong": (
            "(subsets - math.comb(n - c, k)) / subsets",
            "math.comb(n - c, k) / subsets",
        ),
    },
    "mixed_group_chance": {
        "the biased estimate 1 - p^G - (1-p)^G with p = c/n": (
            "(subsets - agree) / subsets",
            "1 - (c / n) ** group_size - (1 - c / n) ** group_size",
        ),
        "a group that is all right counts as mixed": (
            "math.comb(c, group_size) + math.comb(n - c, group_size)",
            "math.comb(n - c, group_size)",
        ),
        "a group that is all wrong counts as mixed": (
            "math.comb(c, group_size) + math.comb(n - c, group_size)",
            "math.comb(c, group_size)",
        ),
        "floats overflow where there are many sets": (
            "(subsets - agree) / subsets",
            "1 - float(agree) / float(subsets)",
        ),
        "the chance that a group is dead": ("(subsets - agree) / subsets", "agree / subsets"),
    },
    "bootstrap_interval": {
        "an interval of single values, not of the mean": (
            "size=shape)].mean(1))",
            "size=shape)].ravel())",
        ),
        "both tails on each side": ("tail = (1 - level) / 2", "tail = 1 - level"),
        "the seed is not used": ("np.random.default_rng(seed)", "np.random.default_rng(0)"),
        "resamples without replacement": (
            "generator.integers(len(numbers), size=shape)",
            "generator.permuted(np.tile(np.arange(len(numbers)), (shape[0], 1)), axis=1)",
        ),
        "half as many problems in each resample": (
            "samples - start), len(numbers))",
            "samples - start), max(1, len(numbers) // 2))",
        ),
        "only one chunk is drawn": (
            "for start in range(0, samples, rows):",
            "for start in range(0, 1, rows):",
        ),
    },
    "t_interval": {
        "divides by n, not by n - 1": ("numbers.std(ddof=1)", "numbers.std()"),
        "the deviation of one run, not the error of the mean": (" / math.sqrt(len(numbers))", ""),
        "one-sided quantile": ("t_quantile((1 + level) / 2,", "t_quantile(level,"),
        "as many degrees of freedom as runs": (", len(numbers) - 1)", ", len(numbers))"),
    },
    "t_quantile": {
        "the one-sided quantile for the two-sided share": (
            "2 * probability - 1, 0.0",
            "probability, 0.0",
        ),
        "forgets √freedom": ("math.sqrt(freedom) * math.tan(low)", "math.tan(low)"),
        "the lower half is not mirrored": (
            "return -t_quantile(1 - probability",
            "return t_quantile(1 - probability",
        ),
    },
    "_share_within": {
        "one term too few": ("freedom - 2, 2)", "freedom - 3, 2)"),
        "odd freedom loses its cosine": ("cosine * float(", "float("),
        "even and odd are exchanged": ("odd = freedom % 2", "odd = 1 - freedom % 2"),
    },
    "paired_difference": {
        "second minus first": ("ours - theirs", "theirs - ours"),
        "unpaired: the second model's problems are shuffled": (
            "ours - theirs",
            "ours - np.roll(theirs, 1)",
        ),
        "the level is not passed on": ("level=level, ", ""),
    },
    "mcnemar_p": {
        "one-sided": ("2 * tail", "tail"),
        "counts agreements too": ("gained + lost, min", "len(ours), min"),
        "the tail without the observed count": ("range(fewer + 1)", "range(fewer)"),
        "a probability above 1": ("min(1.0, 2 * tail / 2**coins)", "2 * tail / 2**coins"),
    },
    "standard_error": {
        "the variance": ("return math.sqrt(p * (1 - p) / n)", "return p * (1 - p) / n"),
        "the root is of n alone": ("math.sqrt(p * (1 - p) / n)", "p * (1 - p) / math.sqrt(n)"),
        "divides by n - 1": ("(p * (1 - p) / n)", "(p * (1 - p) / max(1, n - 1))"),
        "divides by n outside the root": ("(p * (1 - p) / n)", "(p * (1 - p)) / n"),
        "of a rate of one half": ("p * (1 - p)", "0.25"),
    },
    "wilson_interval": {
        "Wald's interval, p ∓ z · standard error": (
            "low, high = (centre - reach) / (1 + z * z / n), (centre + reach) / (1 + z * z / n)",
            "reach = z * standard_error(p, n)\n"
            "    low, high = max(0.0, p - reach), min(1.0, p + reach)",
        ),
        "Wald's interval, which has no width at 0 and 1": (
            "p * (1 - p) / n + z * z / (4 * n * n)",
            "p * (1 - p) / n",
        ),
        "centred on the rate itself": ("centre = p + z * z / (2 * n)", "centre = p"),
        "one-sided quantile": ("inv_cdf((1 + level) / 2)", "inv_cdf(level)"),
        "not divided by 1 + z²/n": (
            "low, high = (centre - reach) / (1 + z * z / n), (centre + reach) / (1 + z * z / n)",
            "low, high = centre - reach, centre + reach",
        ),
    },
    "majority_vote": {
        "a missing answer may win": (
            "return weighted_vote(answers, [1.0]",
            "return weighted_vote([a or 0 for a in answers], [1.0]",
        ),
        "None may win": (
            "return weighted_vote(answers, [1.0] * len(answers), equal=equal)",
            "return max(answers, key=lambda a: sum(equal(a, b) for b in answers), default=None)",
        ),
        "the last answer wins": (
            "return weighted_vote(answers, [1.0] * len(answers), equal=equal)",
            "return answers[-1] if len(answers) else None",
        ),
        "equality is not passed on": (", equal=equal)", ")"),
        "ties go to the last seen": (
            "weighted_vote(answers, [1.0] * len(answers)",
            "weighted_vote(answers[::-1], [1.0] * len(answers)",
        ),
    },
    "weighted_vote": {
        "the weights are not used": ("votes[i] += weight", "votes[i] += 1.0"),
        "the heaviest single vote wins": ("votes[i] += weight", "votes[i] = max(votes[i], weight)"),
        "the first vote of an answer does not count": ("votes.append(weight)", "votes.append(0.0)"),
        "None may win": ("if answer is None:", "if False:"),
    },
    "best_of_n": {
        "the lowest score": ("argmax()", "argmin()"),
        "the score, not its place": (".argmax())", ".max())"),
        "the last of several": (
            'int(_numbers("scores", scores).argmax())',
            'len(scores) - 1 - int(_numbers("scores", scores)[::-1].argmax())',
        ),
    },
}
