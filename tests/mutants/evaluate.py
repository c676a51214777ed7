"""Plausible mistakes in evaluate.py."""

MUTANTS = {
    "Evaluation.accuracy": {
        "the best of the samples counts": ("self.correct.mean(1)", "self.correct.max(1)"),
        "every sample counts as a problem of its own": (
            "self.correct.mean(1)",
            "self.correct.ravel()",
        ),
    },
    "Evaluation.accuracy_by": {"all problems in each group": (" if v == value]", "]")},
    "Evaluation.pass_at_k": {
        "a part of a score counts as right": ("self.correct >= 1", "self.correct > 0"),
        "the naive estimate": (
            "pass_at_k(self.correct.shape[1], c, k)",
            "1 - (1 - c / self.correct.shape[1]) ** k",
        ),
    },
    "Evaluation.vote": {
        "the vote is right if any completion is": (
            "correct[answers.index(winner)]",
            "correct.max()",
        ),
        "no answer counts as the first completion": (
            "0.0 if winner is None else correct[answers.index(winner)]",
            "correct[answers.index(winner)]",
        ),
        "equality is not passed on": (", equal=lambda a, b: a == b or equal(a, b))", ")"),
        "extraction is not passed on": ("extract(text) for", "extract_answer(text) for"),
    },
    "Evaluation.best_of_n": {
        "the scorer sees the first problem only": ("scorer(p, t)", "scorer(self.problems[0], t)")
    },
    "evaluate": {
        "completions are kept in the order of sampling": (
            "owners = [i for i in rows for _ in range(group_size)]",
            "owners = [i for _ in range(group_size) for i in rows]",
        ),
        "the seed is not used": ("manual_seed(seed)", "manual_seed(0)"),
        "every problem is scored as the first": (
            "task.score(problem, text)",
            "task.score(problems[0], text)",
        ),
        "several greedy samples are accepted": ("temperature == 0 and samples > 1", "False"),
        "progress forgets what was done before": ("done += len(owners)", "done = len(owners)"),
    },
    "_batches": {
        "the last problems are left out": (
            "range(0, len(order), width)",
            "range(0, len(order) - width + 1, width)",
        ),
        "more rows than allowed": ("width = batch // group_size", "width = batch"),
        "the last samples of a large group are too many": (
            "min(group_size, samples - first)",
            "group_size",
        ),
    },
    "_batch_that_fits": {
        "the vocabulary is left out": ("5 * config.vocab_size + ", ""),
        "the cache is left out": (" + 2 * cache", ""),
        "may be 0": ("max(1, _MEMORY //", "(_MEMORY //"),
    },
    "measure": {
        "samples greedily, too": ("(samples, temperature,", "(samples, 0.0,"),
        "the seed is not passed on": ("seed=seed", "seed=0"),
        "progress starts anew": ("progress(before + done, total)", "progress(done, total)"),
    },
    "summarise": {
        "thinking of the greedy run for both": (
            'metrics[f"thinks_{name}"] = run.thinking_rate()',
            'metrics[f"thinks_{name}"] = greedy.thinking_rate()',
        ),
        "finished of the greedy run alone": (
            "np.concatenate([finished, sampled.finished], axis=1)",
            "finished",
        ),
        "by steps of the samples": (
            "greedy.accuracy_by(by)",
            "(sampled or greedy).accuracy_by(by)",
        ),
    },
    "rate": {
        "a perfect score is certain": (
            "wilson_interval(float(values.sum()), len(values))",
            "bootstrap_interval(values)",
        ),
        "values that agree are certain": (" or (values == values[0]).all()", ""),
        "shares are counted as solved or not": (
            "return _metric(values, bootstrap_interval(values))",
            "return _metric(values, wilson_interval(float(values.sum()), len(values)))",
        ),
    },
}
