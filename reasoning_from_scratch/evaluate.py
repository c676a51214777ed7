"""How good a model is at a task: accuracy, pass@k, votes, best-of-n, each with its interval.

Every interval is over *problems*: what would other problems of the same kind have given? It says
nothing of other training seeds (`stats.t_interval`), and two models on the same problems are
compared by `stats.paired_difference`. Left out: choosing temperature or checkpoint, which must
happen on problems of another split.

N problems, S completions of each. A metric is {"mean", "low", "high", "n"}, with n problems and a
95 % interval.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reasoning_from_scratch.model import GPT
from reasoning_from_scratch.sampling import sample
from reasoning_from_scratch.stats import (
    best_of_n,
    bootstrap_interval,
    majority_vote,
    pass_at_k,
    wilson_interval,
)
from reasoning_from_scratch.tasks import Problem, Task
from reasoning_from_scratch.tokenizer import Tokenizer
from reasoning_from_scratch.verify import extract_answer, math_equal

Metric = dict[str, float]
_MEMORY = 512 * 2**20  # bytes that a batch may take by default
_MOST_ROWS = 256  # completions in a batch; more are no faster


@dataclass(frozen=True)
class Evaluation:
    """What a model answered, and its metrics over the problems."""

    problems: list[Problem]  # [N]
    texts: list[list[str]]  # [N][S] completions
    correct: np.ndarray  # [N,S] Task.score, 0 to 1
    lengths: np.ndarray  # [N,S] tokens
    thinks: np.ndarray  # [N,S] bool
    finished: np.ndarray  # [N,S] bool: ended by itself; a cut-off one is mostly counted wrong

    def accuracy(self) -> Metric:
        """Mean score of a completion (also called pass@1, or avg@S)."""
        return rate(self.correct.mean(1))

    def accuracy_by(self, key: str) -> dict[str, Metric]:
        """Accuracy of the problems that share a value of `meta[key]`, by that value as text.

        Raises:
            ValueError: a problem's meta has no such key.
        """
        for problem in self.problems:
            if key not in problem.meta:
                raise ValueError(f"key is {key!r}, expected one of {sorted(problem.meta)}")
        values = [problem.meta[key] for problem in self.problems]
        means = self.correct.mean(1)
        return {
            str(value): rate([m for m, v in zip(means, values, strict=True) if v == value])
            for value in sorted(set(values))
        }

    def pass_at_k(self, k: int) -> Metric:
        """Probability that one of k completions is right, from all S; right means a score of 1.

        Raises:
            ValueError: k is above S.
        """
        counts = (self.correct >= 1).sum(1)
        return rate([pass_at_k(self.correct.shape[1], c, k) for c in counts])

    def vote(
        self,
        *,
        extract: Callable[[str], str | None] = extract_answer,
        equal: Callable[[str, str], bool] = math_equal,
    ) -> Metric:
        """Accuracy of the answer that most of a problem's completions give (cons@S)."""
        scores = []
        for texts, correct in zip(self.texts, self.correct, strict=True):
            answers = [extract(text) for text in texts]
            winner = majority_vote(answers, equal=lambda a, b: a == b or equal(a, b))
            scores.append(0.0 if winner is None else correct[answers.index(winner)])
        return rate(scores)

    def best_of_n(self, scorer: Callable[[Problem, str], float]) -> Metric:
        """Accuracy of each problem's completion that `scorer(problem, completion)` likes most."""
        rows = zip(self.problems, self.texts, self.correct, strict=True)
        return rate([c[best_of_n([scorer(p, t) for t in texts])] for p, texts, c in rows])

    def thinking_rate(self) -> Metric:
        """Share of completions that think."""
        return rate(self.thinks.mean(1))

    def finished_rate(self) -> Metric:
        """Share of completions that ended by themselves."""
        return rate(self.finished.mean(1))

    def mean_length(self) -> Metric:
        """Mean length of a completion, in tokens."""
        means = self.lengths.mean(1)
        return _metric(means, bootstrap_interval(means))


def evaluate(
    model: GPT,
    tokenizer: Tokenizer,
    task: Task,
    problems: Sequence[Problem],
    *,
    samples: int = 1,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    batch: int | None = None,
    thinks: Callable[[str], bool] = lambda text: "<think>" in text,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Sample completions of each problem and score them.

    Args:
        samples:     completions of each problem.
        temperature: 0 is greedy, which wants samples=1.
        seed:        of the sampling. On one device the same seed gives the same completions,
                     whatever the batch (rounding aside, which may turn a tie).
        batch:       completions sampled at once; None takes what fits into half a GiB.
        thinks:      whether a completion thinks.
        progress:    called after each batch with (completions so far, completions in all).

    Raises:
        ValueError: no problems, samples or batch below 1, several greedy samples, or what `sample`
            refuses.
    """
    for name, value in (("samples", samples), ("batch", 1 if batch is None else batch)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if not problems:
        raise ValueError("problems is empty, expected at least one")
    if temperature == 0 and samples > 1:
        raise ValueError(f"samples is {samples} at temperature 0: all would be the same, use 1")
    sizes = [len(tokenizer.encode(problem.prompt)) for problem in problems]
    batch = batch or _batch_that_fits(model, max(sizes) + max_new_tokens)
    generator = torch.Generator(model.embedding.weight.device).manual_seed(seed)
    # Prompts of similar length together, the longest first: if memory fails, then at once.
    order = sorted(range(len(problems)), key=lambda i: -sizes[i])

    texts: list[list[str]] = [[] for _ in problems]
    lengths: list[list[int]] = [[] for _ in problems]
    finished: list[list[bool]] = [[] for _ in problems]
    done = 0
    for rows, group_size in _batches(order, samples, batch):
        rollout = sample(
            model, tokenizer, [problems[i].prompt for i in rows], group_size=group_size,
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, stop=stop,
            generator=generator,
        )  # fmt: skip
        owners = [i for i in rows for _ in range(group_size)]
        measured = (rollout.texts, rollout.lengths.tolist(), rollout.finished.tolist())
        for i, text, length, ended in zip(owners, *measured, strict=True):
            texts[i].append(text)
            lengths[i].append(length)
            finished[i].append(ended)
        done += len(owners)
        if progress is not None:
            progress(done, len(problems) * samples)

    pairs = list(zip(problems, texts, strict=True))
    return Evaluation(
        list(problems),
        texts,
        np.array([[task.score(problem, text) for text in row] for problem, row in pairs], float),
        np.array(lengths),
        np.array([[thinks(text) for text in row] for row in texts]),
        np.array(finished),
    )


def measure(
    model: GPT,
    tokenizer: Tokenizer,
    task: Task,
    problems: Sequence[Problem],
    *,
    samples: int = 8,
    max_new_tokens: int,
    temperature: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    batch: int | None = None,
    by: str = "steps",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, object]:
    """Evaluate greedily and, unless `samples` is 0, sampled; return what `summarise` makes of both.

    Args:
        samples:     completions of each problem at `temperature`; 0 for greedy ones alone.
        progress:    called after each batch with (completions so far, completions in all).

    Raises:
        ValueError: as `evaluate`.
    """
    if samples < 0:
        raise ValueError(f"samples is {samples}, expected 0 (greedy alone) or more")
    runs, total = [], len(problems) * (1 + samples)
    for count, heat, before in ((1, 0.0, 0), (samples, temperature, len(problems))):
        if count == 0:
            break

        def report(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, total)

        runs.append(
            evaluate(
                model, tokenizer, task, problems, samples=count, max_new_tokens=max_new_tokens,
                temperature=heat, stop=stop, seed=seed, batch=batch, progress=report,
            )
        )  # fmt: skip
    return summarise(*runs, by=by)


def summarise(
    greedy: Evaluation, sampled: Evaluation | None = None, *, by: str = "steps"
) -> dict[str, object]:
    """Return the metrics of a model as plain values.

    Args:
        greedy, sampled: of the same problems.
        by:              where every problem's meta has this key, greedy accuracy is told by it.

    Returns:
        {"greedy": metric, "thinks_greedy", "length_greedy", "finished": of all completions}, with
        `sampled` also "sampled", "thinks_sampled", "length_sampled" and, of S > 1, "pass@S"; and
        "by_steps": {"2": metric, …}.
    """
    metrics: dict[str, object] = {"greedy": greedy.accuracy()}
    finished = greedy.finished
    if sampled is not None:
        count = sampled.correct.shape[1]
        metrics["sampled"] = sampled.accuracy()
        if count > 1:
            metrics[f"pass@{count}"] = sampled.pass_at_k(count)
        finished = np.concatenate([finished, sampled.finished], axis=1)
    for name, run in (("greedy", greedy), ("sampled", sampled)):
        if run is not None:
            metrics[f"thinks_{name}"] = run.thinking_rate()
            metrics[f"length_{name}"] = run.mean_length()
    metrics["finished"] = rate(finished.mean(1))
    if all(by in problem.meta for problem in greedy.problems):
        metrics[f"by_{by}"] = greedy.accuracy_by(by)
    return metrics


def rate(values: Sequence[float]) -> Metric:
    """Return the mean of one rate a problem, each 0 to 1, with its interval over problems.

    Wilson's where each problem counts as solved or not, or where all agree and the bootstrap would
    claim to be certain; the bootstrap otherwise.
    """
    values = np.asarray(values, float)
    if np.isin(values, (0, 1)).all() or (values == values[0]).all():
        return _metric(values, wilson_interval(float(values.sum()), len(values)))
    return _metric(values, bootstrap_interval(values))


def _metric(values: np.ndarray, interval: tuple[float, float]) -> Metric:
    low, high = interval
    return {"mean": float(values.mean()), "low": low, "high": high, "n": len(values)}


def _batches(order: Sequence[int], samples: int, batch: int) -> Iterator[tuple[Sequence[int], int]]:
    """Yield (problems, completions of each): at most `batch` together, in the order of `order`."""
    group_size = min(samples, batch)
    width = batch // group_size
    for start in range(0, len(order), width):
        for first in range(0, samples, group_size):
            yield order[start : start + width], min(group_size, samples - first)


def _batch_that_fits(model: GPT, tokens: int) -> int:
    """Return how many completions of so many tokens fit into `_MEMORY`.

    Each holds about five numbers for every entry of the vocabulary while a token is chosen, and
    its keys and values, twice while the cache is copied.
    """
    config = model.config
    cache = 2 * config.layers * config.kv_heads * config.head_width * tokens
    return min(_MOST_ROWS, max(1, _MEMORY // (4 * (5 * config.vocab_size + 2 * cache))))
