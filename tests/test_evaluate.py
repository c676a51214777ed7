"""Metrics of a model: scripted completions worked by hand, tiny models, refusals."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasoning_from_scratch.stats import bootstrap_interval, wilson_interval
from reasoning_from_scratch.tasks import Problem, Task
from tests.tensors import refuses
from tests.toys import Copy, chain, toy_model, toy_tokenizer

TOKENIZER = toy_tokenizer()


class Exact(Task):
    """Right if the text holds the answer in its tags; half right if anywhere."""

    def score(self, problem, completion):
        return float(f"<answer>{problem.answer}</answer>" in completion) or (
            0.5 if problem.answer in completion else 0.0
        )


def say(answer, thought=""):
    return (f"<think>{thought}</think>" if thought else "") + f"<answer>{answer}</answer>"


# Three problems with four completions each; the second has two steps, the others three.
PROBLEMS = [
    Problem("1=", "6", "", {"steps": 3}),
    Problem("22=", "7", "", {"steps": 2}),
    Problem("3=", "8", "", {"steps": 3}),
]
SCRIPT = {
    "1=": [say(6), say(6, "b"), say(5), "6"],          # 1, 1, 0, 1/2
    "22=": [say(5, "a"), say(5, "a"), say(7), "a"],    # 0, 0, 1, 0
    "3=": ["", "cd", say(1, "b"), say("1.0")],         # nothing right
}  # fmt: skip


class Script:
    """Stands in for `sample`: says what `SCRIPT` holds, a prompt's next lines at each call."""

    def __init__(self, script):
        self.script, self.calls = script, []
        self.said = dict.fromkeys(script, 0)

    def __call__(self, model, tokenizer, prompts, *, group_size, **options):
        self.calls.append((list(prompts), group_size, options))
        texts = []
        for prompt in prompts:
            first = self.said[prompt]
            self.said[prompt] += group_size
            texts += self.script[prompt][first : first + group_size]
        lengths = torch.tensor([len(text) for text in texts])
        finished = torch.tensor([text.endswith(">") for text in texts])
        return SimpleNamespace(texts=texts, lengths=lengths, finished=finished)


@pytest.fixture
def scripted(subject, monkeypatch):
    """Return a function that evaluates the scripted completions."""

    def run(name="evaluate.evaluate", script=SCRIPT, problems=PROBLEMS, **options):
        function, sampler = subject(name), Script(script)
        monkeypatch.setitem(function.__globals__, "sample", sampler)
        options = {"max_new_tokens": 9} | options
        return function(toy_model(), TOKENIZER, Exact(), problems, **options), sampler

    return run


def metric(mean, low, high, n):
    return {
        "mean": pytest.approx(mean),
        "low": pytest.approx(low),
        "high": pytest.approx(high),
        "n": n,
    }


# evaluate


def test_evaluate_keeps_the_order_of_the_problems_whatever_the_batch(subject, scripted):
    for batch in (1, 2, 3, 4, 7, 8, None):
        result, sampler = scripted(samples=4, batch=batch)
        assert result.texts == [SCRIPT[problem.prompt] for problem in PROBLEMS]
        assert result.correct.tolist() == [[1, 1, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 0]]
        assert result.lengths.tolist() == [[len(t) for t in row] for row in result.texts]
        assert result.thinks.tolist()[1] == [True, True, False, False]
        assert result.finished.tolist()[2] == [False, False, True, True]
        sizes = [len(prompts) * size for prompts, size, _ in sampler.calls]
        assert sum(sizes) == 12 and max(sizes) <= (batch or 12)
        assert len(sizes) == {1: 12, 2: 6, 3: 6, 4: 3, 7: 3, 8: 2, None: 1}[batch]
        assert sampler.calls[0][0][0] == "22="  # the longest prompt first


def test_evaluate_passes_its_options_on(subject, scripted):
    _, sampler = scripted(
        samples=4, temperature=0.6, top_p=0.95, stop=("</answer>",), max_new_tokens=7, seed=3
    )
    (_, _, options), = sampler.calls  # fmt: skip
    generator = options.pop("generator")
    assert generator.initial_seed() == 3
    expected = {"max_new_tokens": 7, "temperature": 0.6, "top_p": 0.95, "stop": ("</answer>",)}
    assert options == expected


def test_evaluate_reports_progress_and_asks_the_given_predicate(subject, scripted):
    heard = []
    result, _ = scripted(
        samples=4, batch=4, thinks=lambda text: "a" in text, progress=lambda *c: heard.append(c)
    )
    assert heard == [(4, 12), (8, 12), (12, 12)]
    assert result.thinks.tolist()[1] == [True, True, True, True]  # "a" is in "answer", too
    assert result.thinks.tolist()[2] == [False, False, True, True]


def test_evaluate_of_a_model_that_always_says_3(subject):
    # After "=" comes 3, after 3 the end: right for the one problem of ten that wants it.
    model = chain({10: 3, 3: 17})
    problems = Copy().generate(10, seed=0, split="test")
    result = subject("evaluate.evaluate")(
        model, TOKENIZER, Copy(), problems, max_new_tokens=5, temperature=0
    )
    assert result.texts == [["3"]] * 10 and (result.lengths == 2).all() and result.finished.all()
    assert [p.answer for p, c in zip(problems, result.correct, strict=True) if c[0]] == ["3"]
    assert result.accuracy() == metric(0.1, *wilson_interval(1, 10), 10)
    assert result.mean_length() == metric(2, 2, 2, 10)


def test_evaluate_gives_the_same_completions_for_any_batch_and_others_for_another_seed(subject):
    model, problems = toy_model(), Copy().generate(5, seed=0, split="test")

    def texts(**options):
        options = {"samples": 3, "max_new_tokens": 6, "seed": 1} | options
        return subject("evaluate.evaluate")(model, TOKENIZER, Copy(), problems, **options).texts

    first = texts()
    assert texts(batch=1) == texts(batch=2) == texts(batch=7) == first
    assert texts(seed=2) != first
    assert len({text for row in first for text in row}) > 10  # and they are all drawn anew


def test_evaluate_refuses(subject):
    def run(problems=PROBLEMS, **options):
        options = {"max_new_tokens": 4} | options
        subject("evaluate.evaluate")(toy_model(), TOKENIZER, Exact(), problems, **options)

    refuses(run, [], match="problems is empty, expected at least one")
    refuses(run, samples=0, match="samples is 0, expected at least 1")
    refuses(run, batch=0, match="batch is 0, expected at least 1")
    refuses(run, samples=2, temperature=0, match="samples is 2 at temperature 0: all would be the")
    refuses(run, temperature=-1, match="temperature is -1")


def test_batch_that_fits_is_small_for_big_vocabularies_and_long_caches(subject):
    fits = subject("evaluate._batch_that_fits")
    tiny = SimpleNamespace(vocab_size=60, layers=4, kv_heads=4, head_width=24)
    assert fits(SimpleNamespace(config=tiny), 150) == 256
    # Numbers of 4 bytes: 5 · 49,152 of the head, and 2 · (2 · 30 · 3 · 64 · 200) of the cache.
    smollm2 = SimpleNamespace(vocab_size=49_152, layers=30, kv_heads=3, head_width=64)
    expected = 512 * 2**20 // (4 * (5 * 49_152 + 2 * 2 * 30 * 3 * 64 * 200))
    assert fits(SimpleNamespace(config=smollm2), 200) == expected == 27
    huge = SimpleNamespace(vocab_size=10**9, layers=1, kv_heads=1, head_width=1)
    assert fits(SimpleNamespace(config=huge), 1) == 1


# The metrics of an Evaluation


def test_accuracy_is_the_mean_over_samples_then_problems(subject, scripted):
    result, _ = scripted(samples=4)
    means = [2.5 / 4, 1 / 4, 0]
    assert result.accuracy() == metric(0.875 / 3, *bootstrap_interval(means), 3)


def test_accuracy_by_a_key_of_meta(subject, scripted):
    result, _ = scripted(samples=4)
    assert list(result.accuracy_by("steps")) == ["2", "3"]
    assert result.accuracy_by("steps")["2"] == metric(0.25, *wilson_interval(0.25, 1), 1)
    assert result.accuracy_by("steps")["3"] == metric(0.3125, *bootstrap_interval([0.625, 0]), 2)
    refuses(result.accuracy_by, "size", match=r"key is 'size', expected one of \['steps'\]")


def test_pass_at_k_averages_over_problems_and_wants_a_full_score(subject, scripted):
    result, _ = scripted(samples=4)
    # Right of four: 2 (the half does not count), 1, 0. Two of four: 1 - 1/6, 1/2, 0.
    assert result.pass_at_k(1)["mean"] == pytest.approx(0.75 / 3)
    assert result.pass_at_k(2)["mean"] == pytest.approx((5 / 6 + 1 / 2) / 3)
    assert result.pass_at_k(4) == metric(2 / 3, *wilson_interval(2, 3), 3)
    refuses(result.pass_at_k, 5, match="k is 5, expected 1 to n=4")


def test_vote_takes_the_score_of_the_answer_that_wins(subject, scripted):
    result, _ = scripted(samples=4)
    # 6 with two votes is right, 5 with two is wrong; 1 and 1.0 are one answer, and wrong.
    assert result.vote() == metric(1 / 3, *wilson_interval(1, 3), 3)
    # Of texts with a 6 or a 7 in them, whole: the first of problem 1, and the one of problem 2.
    vote = result.vote(extract=lambda text: text if "6" in text or "7" in text else None)
    assert vote["mean"] == pytest.approx(2 / 3)


def test_vote_counts_equal_answers_together_and_none_never(subject, scripted):
    texts = ["", "", "", say("0.5"), say("7"), say("7"), say("1/2"), say(".5")]
    problems = [Problem("1=", "0.5", "", {})]
    result, _ = scripted(script={"1=": texts}, problems=problems, samples=8)
    assert result.vote()["mean"] == 1
    assert result.vote(equal=lambda a, b: a == b)["mean"] == 0  # 7 twice, the others once
    result, _ = scripted(script={"1=": ["0.5", ""]}, problems=problems, samples=2)
    assert result.vote()["mean"] == 0 < result.accuracy()["mean"]  # no answer, though half right


def test_best_of_n_takes_the_score_of_what_the_scorer_likes(subject, scripted):
    result, _ = scripted(samples=4)
    assert result.best_of_n(lambda problem, text: -len(text))["mean"] == pytest.approx(0.5 / 3)
    perfect = result.best_of_n(Exact().score)
    assert perfect == result.pass_at_k(4)  # with a perfect scorer the two are one


def test_rates_of_thinking_and_finishing_and_the_mean_length(subject, scripted):
    result, _ = scripted(samples=4)
    assert result.thinking_rate()["mean"] == pytest.approx((1 / 4 + 2 / 4 + 1 / 4) / 3)
    assert result.finished_rate()["mean"] == pytest.approx((3 / 4 + 3 / 4 + 2 / 4) / 3)
    means = [sum(map(len, texts)) / 4 for texts in result.texts]
    assert result.mean_length() == metric(sum(means) / 3, *bootstrap_interval(means), 3)


# rate


def test_rate_of_solved_or_not_has_wilsons_interval(subject):
    rate = subject("evaluate.rate")
    assert rate([1, 1, 1, 1]) == metric(1, *wilson_interval(4, 4), 4)
    assert rate([1, 0, 1, 1]) == metric(0.75, *wilson_interval(3, 4), 4)


def test_rate_of_shares_is_resampled_unless_all_agree(subject):
    rate = subject("evaluate.rate")
    assert rate([0.25, 0.5, 1]) == metric(1.75 / 3, *bootstrap_interval([0.25, 0.5, 1]), 3)
    assert rate([0.5, 0.5]) == metric(0.5, *wilson_interval(1, 2), 2)


@given(values=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=8))
def test_rate_is_never_certain_and_always_plain(subject, values):
    found = subject("evaluate.rate")(values)
    assert 0 <= found["low"] <= found["mean"] <= found["high"] <= 1
    assert found["low"] < found["high"]
    assert [type(value) for value in found.values()] == [float, float, float, int]


# summarise and measure


def evaluation(subject, correct, **changes):
    """An Evaluation with the given scores [N,S]."""
    correct = np.array(correct, float)
    shape = correct.shape
    problems = [Problem(f"{i}=", "", "", {"steps": 2 + i % 2}) for i in range(len(correct))]
    fields = {
        "problems": problems,
        "texts": [[""] * shape[1]] * shape[0],
        "correct": correct,
        "lengths": np.full(shape, 5),
        "thinks": np.zeros(shape, bool),
        "finished": np.ones(shape, bool),
    }
    return subject("evaluate.Evaluation")(**fields | changes)


def test_summarise_tells_both_runs_apart(subject):
    greedy = evaluation(subject, [[1], [0]], finished=np.array([[True], [False]]))
    sampled = evaluation(
        subject, [[1, 0, 0], [0, 0, 1]], lengths=np.full((2, 3), 9), thinks=np.ones((2, 3), bool)
    )
    found = subject("evaluate.summarise")(greedy, sampled)
    means = {key: value["mean"] for key, value in found.items() if key != "by_steps"}
    assert means == pytest.approx({
        "greedy": 0.5, "sampled": 1 / 3, "pass@3": 1.0, "thinks_greedy": 0.0, "thinks_sampled": 1.0,
        "length_greedy": 5.0, "length_sampled": 9.0,
        "finished": 7 / 8,  # of the second problem's four completions one was cut off
    })  # fmt: skip
    assert {key: value["mean"] for key, value in found["by_steps"].items()} == {"2": 1.0, "3": 0.0}


def test_summarise_leaves_out_what_there_is_not(subject):
    greedy = evaluation(subject, [[1], [0]])
    assert set(subject("evaluate.summarise")(greedy, by="size")) == {
        "greedy", "thinks_greedy", "length_greedy", "finished",
    }  # fmt: skip
    one = subject("evaluate.summarise")(greedy, evaluation(subject, [[1], [1]]))
    assert one["sampled"]["mean"] == 1 and not [key for key in one if key.startswith("pass")]


def test_measure_runs_greedily_then_sampled(subject, scripted):
    # The first line of each script is the greedy one, the next three the samples.
    heard = []
    found, sampler = scripted(
        "evaluate.measure", samples=3, temperature=0.7, seed=5, progress=lambda *c: heard.append(c)
    )
    kinds = [(size, options["temperature"]) for _, size, options in sampler.calls]
    assert kinds == [(1, 0.0), (3, 0.7)] and heard == [(3, 12), (12, 12)]
    assert all(options["generator"].initial_seed() == 5 for _, _, options in sampler.calls)
    assert found["greedy"]["mean"] == pytest.approx(1 / 3)
    assert found["sampled"]["mean"] == pytest.approx((0.5 + 1 / 3) / 3)
    assert found["pass@3"]["mean"] == pytest.approx(2 / 3)
    assert found["finished"]["mean"] == pytest.approx((3 / 4 + 3 / 4 + 2 / 4) / 3)
    assert found["by_steps"]["2"]["mean"] == 0 and found["by_steps"]["3"]["mean"] == 0.5


def test_measure_may_be_greedy_alone(subject, scripted):
    heard = []
    found, sampler = scripted("evaluate.measure", samples=0, progress=lambda *c: heard.append(c))
    assert len(sampler.calls) == 1 and heard == [(3, 3)] and "sampled" not in found


def test_measure_of_a_tiny_model_is_plain_and_finite(subject):
    problems = Copy().generate(6, seed=0, split="test")
    found = subject("evaluate.measure")(
        toy_model(), TOKENIZER, Copy(), problems, samples=4, max_new_tokens=6, by="key"
    )
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found and found["pass@4"]["n"] == 6 and len(found["by_key"]) == 6


def test_measure_refuses(subject, scripted):
    with pytest.raises(ValueError, match="samples is -1, expected 0"):
        scripted("evaluate.measure", samples=-1)
