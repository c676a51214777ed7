"""Preference pairs: who is preferred, which pairs are taken, what noise does to the labels."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasoning_from_scratch.preferences import Preference, shortest_right_pairs
from reasoning_from_scratch.tasks import Problem
from tests.tensors import refuses
from tests.toys import Copy, Parity, toy_model, toy_tokenizer

SEVEN = Problem("7=", "7", "7", {"key": "7"})
TEXTS, LENGTHS = ["7", "8", "77", "8"], [2, 4, 3, 4]  # tokens, of which characters tell little


def ranked(pairs):
    return sorted((pair.chosen, pair.rejected) for pair in pairs)


# Preference


def test_a_preference_is_between_two_texts_with_a_margin_of_at_least_0():
    pair = Preference("7=", "7", "8")
    assert (pair.margin, pair.meta) == (0.0, {})
    refuses(Preference, "7=", "7", "7", match="chosen and rejected are both '7': no preference")
    refuses(Preference, "7=", "7", None, match="rejected is None, expected a text")
    refuses(Preference, "7=", "7", "8", margin=-1.0, match="margin is -1.0, expected a finite")
    refuses(Preference, "7=", "7", "8", margin=math.nan, match="margin is nan")


# preference_pairs


@pytest.mark.parametrize("length_coef, expected", [
    (0.0, [("7", "77"), ("7", "8")]),                # 1 against 0 and 0, which is no pair
    (0.6, [("7", "77"), ("8", "7"), ("8", "77")]),   # 2.2, 2.4 and 1.8: two tokens beat being right
    (1.5, [("77", "7"), ("8", "7"), ("8", "77")]),   # 4, 6 and 4.5: one does
    (-0.5, [("7", "77"), ("7", "8"), ("77", "8")]),  # 0, -2 and -1.5: brevity
])  # fmt: skip
def test_preference_pairs_by_hand(subject, length_coef, expected):
    pairs = subject("preference_pairs")(
        Copy(), SEVEN, TEXTS, LENGTHS, per_prompt=9, length_coef=length_coef
    )
    assert ranked(pairs) == expected
    assert {pair.prompt for pair in pairs} == {"7="} and {pair.margin for pair in pairs} == {0}


def test_preference_pairs_tell_what_is_known_of_chosen_and_rejected(subject):
    pairs = subject("preference_pairs")(
        Copy(), SEVEN, ["77", "7"], [3, 2], per_prompt=9, length_coef=1.5
    )
    known = {
        "key": "7", "correct": (0.0, 1.0), "length": (3, 2), "finished": (True, True),
        "flipped": False,
    }  # fmt: skip
    assert [(pair.chosen, pair.rejected, pair.meta) for pair in pairs] == [("77", "7", known)]


def test_preference_pairs_of_completions_that_are_worth_the_same_are_none(subject):
    make = subject("preference_pairs")
    assert make(Copy(), SEVEN, ["1", "2", "3"], [2, 2, 2], length_coef=0.1) == []
    assert make(Copy(), SEVEN, ["7", "7"], [2, 3], length_coef=0.1) == []  # one text
    assert make(Copy(), SEVEN, ["7", "7"], [2, 2]) == make(Copy(), SEVEN, [], []) == []


@given(
    texts=st.lists(st.sampled_from("0123456789"), max_size=8), seed=st.integers(0, 99),
    per_prompt=st.integers(1, 5),
)  # fmt: skip
def test_preference_pairs_are_right_over_wrong_and_no_more_than_asked(
    subject, texts, seed, per_prompt
):
    make = subject("preference_pairs")
    lengths = [2] * len(texts)
    pairs = make(Copy(), SEVEN, texts, lengths, per_prompt=per_prompt, seed=seed)
    everything = {("7", text) for text in texts if text != "7"} if "7" in texts else set()
    assert len(pairs) == min(per_prompt, len(everything))
    assert set(ranked(pairs)) <= everything and len(set(ranked(pairs))) == len(pairs)
    assert make(Copy(), SEVEN, texts, lengths, per_prompt=per_prompt, seed=seed) == pairs


def test_preference_pairs_are_taken_evenly(subject):
    counts = dict.fromkeys("12345", 0)
    for seed in range(1000):
        (pair,) = subject("preference_pairs")(Copy(), SEVEN, list("123457"), [2] * 6, seed=seed)
        counts[pair.rejected] += 1
    assert min(counts.values()) > 150  # of 200; the deviation is 12.6


def test_preference_pairs_tell_which_of_the_two_was_cut_off(subject):
    make = subject("preference_pairs")
    (pair,) = make(Copy(), SEVEN, ["77", "7"], [3, 2], finished=[False, True])
    assert (pair.chosen, pair.meta["finished"]) == ("7", (True, False))
    (pair,) = make(Copy(), SEVEN, ["77", "7"], [3, 2], finished=[True, False])
    assert (pair.chosen, pair.meta["finished"]) == ("7", (False, True))  # right it is all the same


def test_preference_pairs_prefer_the_shortest_right_one_if_asked(subject):
    # "7" is right; Parity, which likes even lengths, would call "8888" right as well.
    texts, lengths = ["8", "22", "8888", "22", "55", "9" * 6], [2, 3, 5, 9, 3, 7]
    make = subject("preference_pairs")
    pairs = make(Parity(), SEVEN, texts, lengths, prefer="shortest", per_prompt=9)
    assert ranked(pairs) == [("22", "8888"), ("22", "999999")]
    assert {pair.meta["correct"] for pair in pairs} == {(1.0, 1.0)}
    assert sorted(pair.meta["length"] for pair in pairs) == [(3, 5), (3, 7)]
    cut_off = [True, False, True, True, True, True]
    pairs = make(Parity(), SEVEN, texts, lengths, finished=cut_off, prefer="shortest", per_prompt=9)
    assert ranked(pairs) == [("55", "8888"), ("55", "999999")]
    (one,) = make(Parity(), SEVEN, texts, lengths, prefer="shortest")
    assert (one.chosen, one.rejected) in [("22", "8888"), ("22", "999999")]


def test_preference_pairs_refuse(subject):
    make = subject("preference_pairs")
    refuses(make, Copy(), SEVEN, ["7", "8"], [2], match="lengths has 1 entries, expected 2: as com")
    refuses(
        make, Copy(), SEVEN, ["7", "8"], [2, 2], finished=[True],
        match="finished has 1 entries, expected 2: as completions",
    )  # fmt: skip
    refuses(make, Copy(), SEVEN, ["7"], [2], per_prompt=0, match="per_prompt is 0, expected at")
    refuses(make, Copy(), SEVEN, ["7"], [2], prefer="short", match="prefer is 'short', expected 'r")
    refuses(
        make, Copy(), SEVEN, ["7"], [2], prefer="shortest", length_coef=0.1,
        match="length_coef is 0.1, expected 0 with prefer='shortest'",
    )  # fmt: skip


# shortest_right_pairs


@pytest.mark.parametrize("correct, lengths, longer, expected", [
    ([1, 1, 0, 0], [100, 200, 300, 500], 1.5, [(0, 1), (0, 2), (0, 3)]),
    ([1, 1, 0], [100, 140, 120], 1.5, [(0, 2)]),                   # hardly longer: wrong alone
    ([1, 1, 1, 1], [100, 150, 151, 90], 1.5, [(3, 1), (3, 2)]),    # 135 is the limit
    ([1, 1, 1], [100, 150, 151], 1.5, [(0, 2)]),                   # more than half as long again
    ([1, 1, 1], [100, 150, 151], 1.0, [(0, 1), (0, 2)]),
    ([1, 1, 1], [100, 150, 301], 3.0, [(0, 2)]),
    ([0, 1, 0, 0], [50, 100, 100, 101], 1.5, [(1, 3)]),            # a wrong one must be longer
    ([0, 0], [100, 200], 1.5, []),
    ([1, 1], [7, 7], 1.0, []),
    ([0, 1, 1], [9, 4, 4], 1.5, [(1, 0)]),                         # the first of the shortest
    ([0.9, 1.0], [8, 13], 1.5, []),                                # nearly right is wrong
    ([0.9, 1.0], [10, 9], 1.5, [(1, 0)]),                          # and no longer than right
    ([], [], 1.5, []),
])  # fmt: skip
def test_shortest_right_pairs_by_hand(subject, correct, lengths, longer, expected):
    finished = [True] * len(correct)
    assert subject("shortest_right_pairs")(correct, lengths, finished, longer=longer) == expected


def test_shortest_right_pairs_reject_half_as_long_again_unless_told_otherwise(subject):
    pairs = subject("shortest_right_pairs")([1, 1, 1], [100, 150, 151], [True] * 3)
    assert pairs == [(0, 2)]


def test_shortest_right_pairs_never_choose_what_was_cut_off_but_reject_it(subject):
    make = subject("shortest_right_pairs")
    assert make([1, 1, 0], [3, 9, 20], [False, True, False]) == [(1, 2)]
    assert make([1, 1, 0], [20, 9, 12], [False, True, True]) == [(1, 0), (1, 2)]
    assert make([1, 1], [3, 9], [False, False]) == []


@given(
    group=st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(1, 9), st.booleans()), max_size=8)
)
def test_shortest_right_pairs_are_what_the_definition_says(subject, group):
    pairs = subject("shortest_right_pairs")(*([list(column) for column in zip(*group, strict=True)]
                                              or [[], [], []]))  # fmt: skip
    chosen = {i for i, _ in pairs}
    assert len(chosen) <= 1
    for i in chosen:
        assert group[i][0] == 1 and group[i][2]
        assert all(n >= group[i][1] for right, n, ended in group if right and ended)
        rejected = [
            j for j, (right, n, _) in enumerate(group)
            if (2 * n > 3 * group[i][1] if right else n > group[i][1])
        ]  # fmt: skip
        assert [j for _, j in pairs] == rejected
    if not chosen and any(right and ended for right, _, ended in group):
        shortest = min(n for right, n, ended in group if right and ended)
        assert all(n <= shortest or (right and 2 * n <= 3 * shortest) for right, n, _ in group)


def test_shortest_right_pairs_refuse_what_is_no_score_and_no_length():
    refuses(shortest_right_pairs, [1, 7], [5, 6], [1, 1], match="correct holds 7, expected 0 to 1")
    refuses(shortest_right_pairs, [1, 1], [5, -6], [1, 1], match="lengths holds -6, expected at")


def test_shortest_right_pairs_refuse(subject):
    make = subject("shortest_right_pairs")
    refuses(make, [1, 0], [2], [True, True], match="lengths has 1 entries, expected 2")
    refuses(make, [1, 0], [2, 3], [True], match="finished has 1 entries, expected 2")
    refuses(make, [1], [2], [True], longer=0.5, match="longer is 0.5, expected at least 1")
    refuses(make, [1], [2], [True], longer=math.nan, match="longer is nan, expected at least 1")


# sample_preferences


MODEL = toy_model(scale=8.0)


def sampled(subject, seed=0, task=None, problems=80, **options):
    options = {"count": 40, "group_size": 4, "max_new_tokens": 6, "seed": seed, **options}
    task = task or Parity()
    drawn = task.generate(problems, seed=0, split="train") if type(problems) is int else problems
    return subject("sample_preferences")(MODEL, toy_tokenizer(), task, drawn, **options)


def test_sample_preferences_compare_completions_of_one_problem(subject):
    problems = [Problem(f"{i}=", str(i), str(i), {"key": str(i)}) for i in range(100)]
    pairs = sampled(subject, problems=problems)
    assert len(pairs) == 40
    prompts = [int(pair.prompt[:-1]) for pair in pairs]
    assert prompts == sorted(set(prompts))  # in the order of the problems, one pair each
    task, right = Parity(), toy_tokenizer()
    for pair in pairs:
        problem = problems[int(pair.prompt[:-1])]
        assert pair.meta["correct"] == (1.0, 0.0) and pair.meta["key"] == problem.answer
        assert (task.score(problem, pair.chosen), task.score(problem, pair.rejected)) == (1, 0)
        for text, length in zip((pair.chosen, pair.rejected), pair.meta["length"], strict=True):
            assert length - len(right.encode(text)) in (0, 1)  # the end token, unless cut off


def test_sample_preferences_with_more_of_them_begin_with_the_same(subject):
    more = sampled(subject, count=50, problems=300)
    assert len(more) == 50
    assert sampled(subject, count=3) == more[:3]
    assert sampled(subject, count=20) == more[:20]


def test_sample_preferences_take_several_pairs_of_a_problem_if_asked(subject):
    pairs = sampled(subject, per_prompt=2, problems=[SEVEN] * 30, count=30)
    assert {pair.prompt for pair in pairs} == {"7="}
    assert len(pairs) == 30
    liking = sampled(subject, length_coef=5.0, per_prompt=99, count=60)
    assert all(pair.meta["length"][0] >= pair.meta["length"][1] for pair in liking)
    assert {pair.meta["correct"] for pair in liking} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_sample_preferences_of_the_shortest_right_ones(subject):
    pairs = sampled(subject, prefer="shortest", per_prompt=99, count=30)
    known = [(*pair.meta["correct"], *pair.meta["length"]) for pair in pairs]
    assert all(right == 1 and longer > length for right, _, length, longer in known)
    assert all(2 * longer > 3 * length for _, right, length, longer in known if right)
    assert {right for _, right, *_ in known} == {0, 1}
    assert len(pairs) > len({(pair.prompt, pair.chosen) for pair in pairs})  # one against several


def test_sample_preferences_know_which_completions_ended_by_themselves(subject):
    pairs = sampled(subject, count=30)
    everything = [(text, *known) for pair in pairs for text, *known in zip(
        (pair.chosen, pair.rejected), pair.meta["length"], pair.meta["finished"], strict=True
    )]  # fmt: skip
    ids = toy_tokenizer().encode
    # Of six tokens at most, one that ended has the end token as its last.
    assert all(ended == (length == len(ids(text)) + 1) for text, length, ended in everything)
    assert {ended for _, _, ended in everything} == {True, False}


def echo(model, tokenizer, prompts, *, group_size, **options):
    """A rollout that says each prompt again, then a letter: the first of a group "a"."""
    texts = [prompt + letter for prompt in prompts for letter in "abcdef"[:group_size]]
    lengths = torch.tensor([len(text) for text in texts])
    return SimpleNamespace(texts=texts, lengths=lengths, finished=lengths > 0)


class LikesB(Parity):
    def score(self, problem, completion):
        return float(completion == problem.prompt + "b")


def test_sample_preferences_keep_each_problem_with_its_own_group(subject, monkeypatch):
    monkeypatch.setitem(subject("sample_preferences").__globals__, "sample", echo)
    problems = [Problem(f"{i}=", str(i), str(i), {"key": str(i)}) for i in range(70)]
    pairs = sampled(subject, task=LikesB(), problems=problems, count=70)
    assert [pair.prompt for pair in pairs] == [problem.prompt for problem in problems]
    assert all(pair.chosen == pair.prompt + "b" for pair in pairs)
    assert all(pair.rejected[:-1] == pair.prompt for pair in pairs)


def test_sample_preferences_choose_a_pair_of_each_problem_anew(subject, monkeypatch):
    monkeypatch.setitem(subject("sample_preferences").__globals__, "sample", echo)
    options = {"task": LikesB(), "problems": [SEVEN] * 60, "count": 60}
    losers = [pair.rejected[-1] for pair in sampled(subject, **options)]
    assert min(losers.count(letter) for letter in "acd") > 8  # of 20 each; the deviation is 3.7
    assert [pair.rejected[-1] for pair in sampled(subject, seed=1, **options)] != losers


def test_sample_preferences_draw_the_samples_from_the_seed(subject):
    def everything(seed):
        return {pair.chosen for pair in sampled(subject, seed=seed, per_prompt=99, count=30)}

    assert everything(0) == everything(0) != everything(1)


def test_sample_preferences_leave_the_model_and_the_global_generator_alone(subject):
    before = torch.random.get_rng_state()
    seen = []
    sampled(subject, count=30, progress=lambda done, total: seen.append((done, total)))
    assert torch.equal(before, torch.random.get_rng_state())
    assert seen[-1] == (30, 30) and [total for _, total in seen] == [30] * len(seen)


def test_sample_preferences_refuse(subject):
    with pytest.raises(
        ValueError, match="problems has 80 entries that gave [0-9]+ pairs, expected"
    ):
        sampled(subject, count=1000)
    with pytest.raises(ValueError, match="problems has 0 entries that gave 0 pairs, expected 40"):
        sampled(subject, problems=0)
    with pytest.raises(ValueError, match="count is 0, expected at least 1"):
        sampled(subject, count=0)
    with pytest.raises(ValueError, match="group_size is 1, expected at least 2"):
        sampled(subject, group_size=1)


# flip_labels

PAIRS = [
    Preference(
        f"{i}=",
        "a",
        "b",
        0.5,
        {"key": i, "correct": (1.0, 0.0), "length": (3, 7), "finished": (True, False)},
    )
    for i in range(2000)
]


def test_flip_labels_swaps_all_or_none(subject):
    flip = subject("flip_labels")
    assert flip(PAIRS, 0.0, seed=0) == PAIRS
    swapped = flip(PAIRS, 1.0, seed=0)
    meta = {"key": 5, "correct": (0.0, 1.0), "length": (7, 3), "finished": (False, True)}
    meta["flipped"] = True
    assert swapped[5] == Preference("5=", "b", "a", 0.5, meta)
    back = flip(swapped, 1.0, seed=1)
    assert [dataclasses.replace(p, meta=p.meta | {"flipped": False}) for p in PAIRS] == back
    plain = [Preference("7=", "7", "8")]
    assert flip(plain, 1.0, seed=0) == [Preference("7=", "8", "7", meta={"flipped": True})]
    assert PAIRS[5].chosen == "a" and PAIRS[5].meta["length"] == (3, 7)  # what came is untouched


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_flip_labels_as_often_as_asked(subject, probability, seed):
    flipped = [pair.chosen == "b" for pair in subject("flip_labels")(PAIRS, probability, seed=seed)]
    deviation = math.sqrt(probability * (1 - probability) / len(PAIRS))
    assert abs(sum(flipped) / len(PAIRS) - probability) < 4 * deviation


def test_flip_labels_by_coins_of_seed_and_place(subject):
    flip = subject("flip_labels")

    def flips(pairs, probability, seed=0):
        return [pair.chosen == "b" for pair in flip(pairs, probability, seed=seed)]

    half = flips(PAIRS, 0.5)
    assert flips(PAIRS[:100], 0.5) == half[:100]
    assert flips(PAIRS, 0.5) == half != flips(PAIRS, 0.5, seed=1)
    fewer = flips(PAIRS, 0.2)
    assert all(a or not b for a, b in zip(half, fewer, strict=True))  # more noise keeps what was
    same = flips([PAIRS[0]] * 200, 0.5)  # a prompt that comes again has a coin of its own
    assert 60 < sum(same) < 140


def test_flip_labels_refuses(subject):
    refuses(subject("flip_labels"), PAIRS, 1.5, seed=0, match="probability is 1.5, expected 0 to 1")
    refuses(subject("flip_labels"), PAIRS, math.nan, seed=0, match="probability is nan")
