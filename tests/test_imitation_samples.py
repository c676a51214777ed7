"""Which samples are imitated, and how they are sampled."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasoning_from_scratch.tasks.base import Problem
from tests.tensors import refuses
from tests.toys import toy_model, toy_tokenizer


@pytest.fixture
def settings(subject):
    """A function that makes settings of the class under test."""
    sizes = dict(group_size=8, max_new_tokens=8)
    return lambda **changes: subject("ImitationSettings")(**sizes | changes)


# Which samples are chosen.

# The row that is right and long in tokens is short in letters, and the other way round.
GROUP = [
    ("aa", 1, 5, True),
    ("bb", 0, 2, True),  # wrong
    ("aa", 1, 5, True),  # seen before
    ("cccccc", 1, 3, True),
    ("dd", 1, 1, False),  # cut off
    ("eeee", 1, 3, True),  # as long as c
    ("aa", 1, 4, True),  # the same text in fewer tokens
    ("ff", 0.5, 2, True),  # partly right
]
COLUMNS = [list(column) for column in zip(*GROUP, strict=True)]


@pytest.mark.parametrize(
    "options, rows",
    [
        ({}, [0, 3, 5]),
        (dict(per_prompt=0), [0, 3, 5]),
        (dict(per_prompt=2), [0, 3]),
        (dict(per_prompt=1), [0]),
        (dict(keep="shortest"), [3, 5, 6]),
        (dict(keep="shortest", per_prompt=1), [3]),  # Kimi's
        (dict(keep="shortest", per_prompt=0, duplicates="keep"), [3, 5, 6, 0, 2]),
        (dict(duplicates="keep"), [0, 2, 3, 5]),
        (dict(duplicates="keep", per_prompt=0), [0, 2, 3, 5, 6]),
        (dict(all_right="drop"), [0, 3, 5]),
    ],
    ids=str,
)
def test_select_samples_by_hand(subject, options, rows):
    assert subject("select_samples")(*COLUMNS, **options) == rows


def test_select_samples_of_a_prompt_that_is_always_solved(subject):
    select = subject("select_samples")
    solved = (["a", "a", "b"], [1, 1, 1], [2, 2, 3], [True] * 3)
    assert select(*solved) == [0, 2]
    assert select(*solved, all_right="drop") == []
    different = (["a", "b"], [1, 1], [2, 3], [True, True])
    assert select(*different, all_right="drop") == [] and select(*different) == [0, 1]
    cut_off = (*solved[:3], [True, True, False])  # not solved every time
    assert select(*cut_off, all_right="drop") == [0]
    assert select(["a"], [1.0], [9], [True]) == [0]


def test_select_samples_of_nothing_and_of_nothing_right(subject):
    select = subject("select_samples")
    assert select([], [], [], []) == select([], [], [], [], all_right="drop") == []
    assert select(["a", "b"], [0, 0.99], [1, 1], [True, True], keep="shortest") == []


def test_select_samples_calls_texts_equal_that_agree_to_the_letter(subject):
    texts = ["a", "a ", "A", "a", "\na"]
    assert subject("select_samples")(texts, [1] * 5, [1] * 5, [True] * 5) == [0, 1, 2, 4]


def slow_choice(texts, correct, lengths, finished, *, keep, per_prompt, duplicates, all_right):
    """One row at a time: the best of those that may still be taken."""
    right = [c == 1 and f for c, f in zip(correct, finished, strict=True)]
    if all(right) and all_right == "drop":
        return []
    taken = []
    while True:
        seen = [texts[row] for row in taken]
        open_rows = [
            row for row in range(len(texts))
            if right[row] and row not in taken and (duplicates == "keep" or texts[row] not in seen)
        ]  # fmt: skip
        if not open_rows or (per_prompt and len(taken) == per_prompt):
            return taken
        least = min(lengths[row] for row in open_rows)
        fitting = [row for row in open_rows if keep == "first" or lengths[row] == least]
        taken.append(fitting[0])


groups = st.lists(
    st.tuples(
        st.sampled_from(["a", "bb", "ccc"]), st.sampled_from([0, 0.5, 1, True]),
        st.integers(1, 4), st.booleans() | st.just(True),
    ),
    max_size=9,
)  # fmt: skip
choices = st.fixed_dictionaries(
    {
        "keep": st.sampled_from(["first", "shortest"]), "per_prompt": st.integers(0, 4),
        "duplicates": st.sampled_from(["drop", "keep"]),
        "all_right": st.sampled_from(["drop", "keep"]),
    }
)  # fmt: skip


@given(group=groups, options=choices)
def test_select_samples_equals_the_slow_loop(subject, group, options):
    columns = [list(column) for column in zip(*group, strict=True)] or [[], [], [], []]
    rows = subject("select_samples")(*columns, **options)
    assert rows == slow_choice(*columns, **options)
    assert all(group[row][1] == 1 and group[row][3] for row in rows)  # never wrong, never cut off
    assert len(set(rows)) == len(rows) <= (options["per_prompt"] or len(group))
    if options["duplicates"] == "drop":
        assert len({group[row][0] for row in rows}) == len(rows)
    if options["keep"] == "first":
        assert rows == sorted(rows)
    else:
        assert [group[row][2] for row in rows] == sorted(group[row][2] for row in rows)


@given(group=groups, options=choices)
def test_select_samples_takes_no_notice_of_what_is_wrong(subject, group, options):
    right = [x for x in group if x[1] == 1 and x[3]]
    options |= {"all_right": "keep"}

    def chosen(samples):
        columns = [list(column) for column in zip(*samples, strict=True)] or [[], [], [], []]
        return [samples[row][:3:2] for row in subject("select_samples")(*columns, **options)]

    assert chosen(group) == chosen(right)


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(texts="ab"), "texts is 'ab', expected a list of texts"),
        (dict(correct=[1]), "correct has 1 entries, expected 2: as texts"),
        (dict(lengths=[1, 2, 3]), "lengths has 3 entries, expected 2: as texts"),
        (dict(finished=[]), "finished has 0 entries, expected 2: as texts"),
        (dict(correct=[1, float("nan")]), "correct holds nan, expected 0 to 1"),
        (dict(correct=[2, 0]), "correct holds 2, expected 0 to 1"),
        (dict(correct=[0, -1]), "correct holds -1, expected 0 to 1"),
        (dict(lengths=[1, -1]), "lengths holds -1, expected 0 or above"),
        (dict(lengths=[float("nan"), 1]), "lengths holds nan, expected 0 or above"),
        (dict(keep="best"), "keep is 'best', expected 'first' or 'shortest'"),
        (dict(duplicates=True), "duplicates is True, expected 'drop' or 'keep'"),
        (dict(all_right="no"), "all_right is 'no', expected 'keep' or 'drop'"),
        (dict(per_prompt=-1), "per_prompt is -1, expected at least 0"),
    ],
    ids=str,
)
def test_select_samples_refuses(subject, changes, said):
    columns = dict(texts=["a", "b"], correct=[1, 0], lengths=[1, 2], finished=[True, True])
    refuses(subject("select_samples"), **columns | changes, match=said)


# What is sampled.


class Scripted:
    """Stands in for `sample`: a prompt's completions are written down, and calls are kept."""

    def __init__(self, completions):
        self.completions, self.calls = completions, []

    def __call__(self, model, tokenizer, prompts, **options):
        self.calls.append((list(prompts), options))
        columns = list(zip(*(x for p in prompts for x in self.completions[p].pop(0)), strict=True))
        texts, lengths, finished = columns
        return SimpleNamespace(
            texts=list(texts), lengths=torch.tensor(lengths), finished=torch.tensor(finished)
        )


@pytest.fixture
def sampled(subject, settings, monkeypatch):
    """A function that calls `sample_examples` with scripted completions."""
    function = subject("sample_examples")

    def call(completions, prompts, score, progress=None, **changes):
        script = Scripted(completions)
        monkeypatch.setitem(function.__globals__, "sample", script)
        problems = [Problem(prompt, "x", "x") for prompt in prompts]
        found = function(
            toy_model(), toy_tokenizer(), problems, score, settings(**changes),
            generator=torch.Generator(), progress=progress,
        )  # fmt: skip
        return *found, script.calls

    return call


def test_sample_examples_by_hand(sampled):
    completions = {
        "1=": [
            [("1=x", 3, True), ("1=y", 4, True)],
            [("1=x", 3, True), ("1=z", 2, True)],  # the same problem once more
        ],
        "2=": [[("2=x", 8, False), ("2=w", 7, True)]],
    }

    def score(problem, text):
        assert text.startswith(problem.prompt)
        return float(text[2] in "xz")

    examples, numbers, _ = sampled(completions, ["1=", "2=", "1="], score, group_size=2)
    assert examples == [("1=", "1=x"), ("1=", "1=z")]
    assert numbers == {
        "completions": 6, "correct": 4 / 6, "finished": 5 / 6, "length": 27 / 6, "prompts": 2,
        "solved_prompts": 1, "kept_prompts": 1, "kept": 2, "kept_length": 2.5,
    }  # fmt: skip


def test_sample_examples_hands_the_choice_on(sampled):
    def completions():
        return {"1=": [[("a", 3, True), ("a", 3, True), ("b", 1, True), ("c", 2, True)]]}

    for options, expected in (
        (dict(), ["a", "b", "c"]),
        (dict(per_prompt=1), ["a"]),
        (dict(keep="shortest", per_prompt=2), ["b", "c"]),
        (dict(duplicates="keep"), ["a", "a", "b", "c"]),
        (dict(all_right="drop"), []),
    ):
        examples, numbers, _ = sampled(
            completions(), ["1="], lambda *_: 1.0, group_size=4, **options
        )
        assert examples == [("1=", text) for text in expected]
        lengths = [{"a": 3, "b": 1, "c": 2}[text] for text in expected]
        assert numbers["kept_length"] == sum(lengths) / max(len(lengths), 1)
        assert numbers["kept_prompts"] == bool(expected) and numbers["solved_prompts"] == 1


@pytest.mark.parametrize("group_size, sizes", [(8, [32, 32, 6]), (100, [2] * 35), (300, [1] * 70)])
def test_sample_examples_asks_in_batches_and_says_how_far_it_is(sampled, group_size, sizes):
    prompts = [f"{i}=" for i in range(70)]
    completions = {prompt: [[(prompt, 2, True)] * group_size] for prompt in prompts}
    seen = []
    examples, numbers, calls = sampled(
        completions, prompts, lambda *_: 1.0, group_size=group_size, temperature=0.7, stop=("\n",),
        max_new_tokens=5, progress=lambda *a: seen.append(a),
    )  # fmt: skip
    assert [len(asked) for asked, _ in calls] == sizes
    assert examples == [(prompt, prompt) for prompt in prompts]
    assert numbers["completions"] == 70 * group_size
    ends = torch.tensor(sizes).cumsum(0) * group_size
    assert seen == [(end, 70 * group_size) for end in ends.tolist()]
    for _, options in calls:
        assert isinstance(options.pop("generator"), torch.Generator)
        assert options == dict(
            group_size=group_size, temperature=0.7, stop=("\n",), max_new_tokens=5
        )


def test_sample_examples_draws_from_the_generator_it_is_given(subject, settings):
    def texts(seed):
        found = []
        subject("sample_examples")(
            toy_model(), toy_tokenizer(), [Problem("7=", "7", "7")] * 2,
            lambda _, text: found.append(text) or 0.0, settings(group_size=200),
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        return found

    first = texts(0)
    assert first == texts(0) and first != texts(1)
    assert first[:200] != first[200:]  # two batches


def test_sample_examples_refuses(subject, settings):
    def call(problems, score=lambda *_: 1.0):
        subject("sample_examples")(
            toy_model(), toy_tokenizer(), problems, score, settings(), generator=torch.Generator()
        )

    refuses(call, [], match="problems is empty, expected at least one")
    problems = [Problem("7=", "7", "7")]
    refuses(call, problems, lambda *_: 2.0, match="correct holds 2.0, expected 0 to 1")
