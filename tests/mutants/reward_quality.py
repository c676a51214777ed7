"""Plausible mistakes in reward_quality.py."""

MUTANTS = {
    "pair_accuracy": {
        "a tie is wrong": (" + (difference == 0).mean() / 2", ""),
        "a tie is right": ("(difference == 0).mean() / 2", "(difference == 0).mean()"),
        "counts the rejected ones": ("difference > 0", "difference < 0"),
    },
    "pair_confidence": {
        "the probability of the chosen one, which may be below one half": (
            "np.abs(difference)",
            "difference",
        ),
        "the outcome is 1 by construction": (
            "(np.sign(difference) + 1) / 2",
            "np.ones_like(difference)",
        ),
        "a tie is wrong": ("(np.sign(difference) + 1) / 2", "(difference > 0) * 1.0"),
        "of the wrong sign": ("np.exp(-np.abs", "np.exp(np.abs"),
    },
    "calibration_curve": {
        "the middle of the bin in place of what was predicted": (
            "float(p[inside].mean())",
            "(i + 0.5) / bins",
        ),
        "1 has a bin of its own": ("np.minimum((p * bins).astype(int), bins - 1)",
                                   "(p * bins).astype(int)"),
        "predicted and observed are exchanged": (
            "means = float(p[inside].mean()), float(happened[inside].mean())",
            "means = float(happened[inside].mean()), float(p[inside].mean())",
        ),
        "rounds to the nearest edge": ("(p * bins).astype(int)", "(p * bins).round().astype(int)"),
        "counts all": ("int(inside.sum())", "len(p)"),
    },
    "expected_calibration_error": {
        "each bin counts the same": (
            "return distances / sum(b.count for b in curve)",
            "return sum(abs(b.observed - b.predicted) for b in curve) / len(curve)",
        ),
        "errors of both signs cancel": (
            "abs(b.observed - b.predicted)",
            "(b.observed - b.predicted)",
        ),
        "the sum, not the mean": (" / sum(b.count for b in curve)", ""),
        "always ten bins": ("bins=bins", "bins=10"),
    },
    "expected_best_of_n": {
        "draws with replacement": (
            "math.comb(len(proxy), n), (math.comb(i, n - 1) for i in range(len(proxy)))",
            "len(proxy)**n, ((i + 1)**n - i**n for i in range(len(proxy)))",
        ),
        "the best by the truth": ("np.argsort(proxy", "np.argsort(true"),
        "the worst of n": ('kind="stable")]', 'kind="stable")[::-1]]'),
        "of equal rewards the last wins": ("ordered = even[", "ordered = true["),
        "one too many below": ("math.comb(i, n - 1)", "math.comb(i, n)"),
    },
    "best_of_n_kl": {
        "log n alone": (" - (n - 1) / n", ""),
        "n / (n - 1)": ("(n - 1) / n", "n / max(n - 1, 1)"),
        "in bits": ("math.log(n)", "math.log2(n)"),
    },
    "OveroptimisationFit.peak": {
        "where the gain is 0 again": ("self.alpha / (2 * self.beta)", "self.alpha / self.beta"),
        "RL without the 1": ("self.alpha / self.beta - 1)", "self.alpha / self.beta)"),
        "a law without a turn has one": ("if self.beta <= 0:", "if self.beta == 0:"),
        "the gain is the distance": ("return distance, self.beta * distance",
                                     "return distance, distance"),
    },
    "fit_best_of_n": {
        "the law of RL": ('_fit("best_of_n"', '_fit("rl"'),
        "the KL itself is the distance": (
            '_fit("best_of_n", kl, gain)',
            '_fit("best_of_n", [float(k) ** 2 for k in kl], gain)',
        ),
        "gain and KL are exchanged": ('_fit("best_of_n", kl, gain)', '_fit("best_of_n", gain, kl)'),
    },
    "fit_rl": {
        "alpha·d - beta·d², which only the best of n follows": ('_fit("rl"', '_fit("best_of_n"'),
        "the KL itself is the distance": (
            '_fit("rl", kl, gain)',
            '_fit("rl", [float(k) ** 2 for k in kl], gain)',
        ),
        "gain and KL are exchanged": ('_fit("rl", kl, gain)', '_fit("rl", gain, kl)'),
    },
    "_fit": {
        "with an intercept": (
            "np.linalg.lstsq(terms, gains, rcond=None)",
            "np.linalg.lstsq(terms - terms.mean(0), gains - gains.mean(), rcond=None)",
        ),
        "the residual is a sum": (".mean())\n    return", ".sum())\n    return"),
        "a gain at the start is taken": ("(gains[distances == 0] != 0).any()", "False"),
        "one point is enough": ("< 2:", "< 1:"),
    },
    "_terms": {
        "of RL: log of the KL, twice that of the distance": (
            "-distances * logs]",
            "-2 * distances * logs]",
        ),
        "not 0 at 0": ("np.log(np.where(distances > 0, distances, 1))",
                       "np.log(distances + 1e-3)"),
        "beta of the wrong sign": ("-np.square(distances)", "np.square(distances)"),
    },
    "_distances": {
        "no square root": ("return np.sqrt(numbers)", "return numbers"),
        "a negative KL counts as 0": (
            "if numbers.min() < 0:",
            "numbers = numbers.clip(min=0)\n    if False:",
        ),
    },
}  # fmt: skip
