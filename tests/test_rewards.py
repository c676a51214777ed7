"""Reward functions: examples worked by hand, properties, slow references, TRL, refusals."""

import pickle
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasoning_from_scratch.sampling import Rollout
from reasoning_from_scratch.tasks import Problem
from tests.tensors import refuses

words = st.lists(
    st.sampled_from(["a", "the", "yes", "no", "tower", "Paris", "u.s.", "7"]), max_size=6
)
sentences = words.map(" ".join)


def problems(*answers):
    return [Problem(f"{answer}=", answer, answer, {"steps": 2}) for answer in answers]


def rollout(*texts):
    """A rollout of prompts of two tokens; a completion has one token a letter, id 7, 8, …."""
    width = 2 + max(map(len, texts))
    tokens = torch.arange(5, 5 + width).repeat(len(texts), 1)
    mask = torch.tensor([[2 <= t < 2 + len(text) for t in range(width)] for text in texts]).float()
    lengths, ended = torch.full((len(texts),), 2), torch.ones(len(texts), dtype=torch.bool)
    return Rollout(tokens, torch.zeros_like(mask), mask, lengths, list(texts), ended)


# accuracy_reward


@pytest.mark.parametrize("completion, answer, expected", [
    ("<think>3*2=6</think><answer>6</answer>", "6", 1.0),
    ("<answer> 6.0 </answer>", "6", 1.0),
    ("so \\boxed{6}", "6", 1.0),
    ("<answer>5</answer> no: <answer>6</answer>", "6", 1.0),  # the last one counts
    ("<answer>6</answer> no: <answer>5</answer>", "6", 0.0),
    ("<answer>5</answer>", "6", 0.0),
    ("<think>6</think>6", "6", 0.0),                          # no answer at all
    ("6", "6", 0.0),
    ("<answer>6", "6", 0.0),                                  # cut off
    ("", "6", 0.0),
    ("<answer></answer>", "6", 0.0),
])  # fmt: skip
def test_accuracy_reward_by_hand(subject, completion, answer, expected):
    reward = subject("rewards.accuracy_reward")(completion, answer)
    assert type(reward) is float and reward == expected


# format_reward


@pytest.mark.parametrize("completion, expected", [
    ("<think>a</think><answer>6</answer>", 1.0),
    ("<think>a</think>\n<answer>6</answer>\n", 1.0),
    ("<answer>6</answer>", 0.0),
    ("<answer>6</answer><think>a</think>", 0.0),                 # the other way round
    ("<think>a</think><answer>6</answer><answer>7</answer>", 0.0),
    ("a</think><answer>6</answer>", 0.0),                        # not prefilled: a tag is missing
    ("<think>a\nb</think><answer>c\nd</answer>", 1.0),
    ("<think></think><answer></answer>", 1.0),                   # whatever the blocks hold
    ("so <think>a</think><answer>6</answer>", 0.0),
    ("<think>a</think> so <answer>6</answer>", 0.0),
    ("<think>a</think><answer>6</answer>!", 0.0),
    ("<think>a<think></think><answer>6</answer>", 0.0),
    ("<think>a</think><answer>6", 0.0),
    ("<think>a</think></think><answer>6</answer>", 0.0),         # closed twice
    ("<think>a</think><answer>6</answer></answer>", 0.0),
    ("<think>a<b</think><answer>6>5</answer>", 1.0),             # anything that is no tag
    (" \n<think>a</think><answer>6</answer>", 1.0),              # white space may stand before,
    ("<think>a</think>\t\r\n<answer>6</answer>", 1.0),           # between,
    ("<think>a</think><answer>6</answer> \t", 1.0),              # and after
    ("<THINK>a</THINK><ANSWER>6</ANSWER>", 0.0),                 # another tag
    ("", 0.0),
])  # fmt: skip
def test_format_reward_by_hand(subject, completion, expected):
    assert subject("rewards.format_reward")(completion) == expected


def test_format_reward_of_a_prompt_that_opened_the_thinking(subject):
    reward = subject("rewards.format_reward")
    assert reward("a</think><answer>6</answer>", prefilled=True) == 1.0
    assert reward("<think>a</think><answer>6</answer>", prefilled=True) == 0.0
    assert type(reward("a")) is float


# rule_reward

HACKS = {  # what a policy may find that is paid by a rule, where the right answer is 42
    "counts": (" ".join(map(str, range(100))), 0.0),
    "thinks of it, answers another": ("<think>42</think><answer>41</answer>", 0.1),
    "answers twice": ("<think>a</think><answer>41</answer><answer>42</answer>", 0.0),
    "answers in its thoughts": ("<think><answer>42</answer></think>", 0.0),
    "lists": ("<think>a</think><answer>41, 42, 43</answer>", 0.1),
    "hides it in more digits": ("<think>a</think><answer>1423</answer>", 0.1),
    "has the form and no thought": ("<think> … </think><answer>41</answer>", 0.0),
    "leaves the sum to the verifier": ("<think>a</think><answer>6*7</answer>", 0.1),
    "never closes": ("<think>a</think><answer>42", 0.0),
    "goes on": ("<think>a</think><answer>42</answer> or 41 or 43", 0.0),
}


@pytest.mark.parametrize("name", HACKS)
def test_rule_reward_survives_ten_hacks(subject, name):
    completion, earned = HACKS[name]
    assert subject("rewards.rule_reward")(completion, "42") == earned


@pytest.mark.parametrize("thought, expected", [
    ("мысль", 1.0),
    ("7", 1.0),
    ("first\n\nthen", 1.0),
    ("_", 0.0),              # neither letter nor digit
    ("\n", 0.0),
])  # fmt: skip
def test_rule_reward_asks_for_a_letter_or_digit_of_any_alphabet(subject, thought, expected):
    completion = f"<think>{thought}</think><answer>42</answer>"
    assert subject("rewards.rule_reward")(completion, "42") == expected


@pytest.mark.parametrize("prediction, answer, expected", [
    ("42", "42", 1.0),
    (" +42.0 ", "42", 1.0),
    ("so \\boxed{42}", "42", 1.0),
    ("1,000", "1000", 1.0),
    ("-7", "-7", 1.0),
    ("7", "-7", 0.1),
    ("43", "42", 0.1),
    ("41.99999", "42", 0.1),
    ("", "42", 0.1),
    ("\\boxed{42", "42", 0.1),               # its box is not closed: no answer
    ("0.5", "1/2", 1.0),
    ("2x + 2", "2(x+1)", 1.0),               # not a number: a formula may be right
    ("-6*7", "-42", 0.1),                    # a number, whatever its sign, commas and point
    ("6*7", "42.0", 0.1),
    ("1001/2", "500.5", 0.1),
    ("10*100", "1,000", 0.1),
    ("4.2e1", "42", 0.1),                    # digits, commas, a point: nothing else
    ("9**9**9**9", "42", 0.1),
])  # fmt: skip
def test_rule_reward_of_good_form(subject, prediction, answer, expected):
    completion = f"<think>6*7=42</think>\n<answer>{prediction}</answer>"
    assert subject("rewards.rule_reward")(completion, answer) == expected


def test_rule_reward_pays_form_what_it_is_told(subject):
    rule_reward = subject("rewards.rule_reward")
    right, wrong = (f"<think>a</think><answer>{x}</answer>" for x in (42, 41))
    for form in (0.0, 0.5):
        assert rule_reward(right, "42", form=form) == 1.0
        assert rule_reward(wrong, "42", form=form) == form
        assert rule_reward("<answer>42</answer>", "42", form=form) == 0.0
    for form in (1.0, -0.1):
        refuses(rule_reward, right, "42", form=form, match=f"form is {form}, expected 0 to less")


# language_reward


@pytest.mark.parametrize("completion, expected", [
    ("one two three four five six seven eight раз два", 0.8),         # 8 of 10 words
    ("So the answer 答案 is", 4 / 6),                                  # each character is a word
    ("$x = \\alpha$ then \\frac{1}{2} and \\(π\\) or \\[π\\] 35", 1.0),  # then, and, or
    ("ответ $abc$ $$abc$$ \\(abc\\) \\[abc\\] \\frac \\cdot", 0.0),
    ("<think>да</think><answer>нет</answer>", 0.0),                   # tags are no words
    ("It’s a café: don't, 35 + 7_000", 1.0),
    ("cafe\u0301", 1.0),                                              # e and its accent in two
    ("mixеd word", 0.5),                                              # a Cyrillic е inside
    ("еxample word", 0.5),                                            # a Cyrillic е in front
    ("даxа word", 0.5),                                               # one Latin letter of four
    ("the$x$вот", 0.5),                                               # two words, not one
    ("cafe\u0301s да", 0.5),                                          # two words, not three
    ("12 + 3 = 15", 1.0),                                             # no word at all
    ("", 1.0),
])  # fmt: skip
def test_language_reward_by_hand(subject, completion, expected):
    assert subject("rewards.language_reward")(completion) == pytest.approx(expected)


def test_language_reward_of_another_alphabet(subject):
    reward = subject("rewards.language_reward")
    assert reward("раз два three", alphabet="CYRILLIC") == pytest.approx(2 / 3)
    assert reward("答案是ok", alphabet="CJK") == pytest.approx(3 / 4)


@given(latin=st.integers(0, 5), cyrillic=st.integers(0, 5))
def test_language_reward_is_a_share_whatever_the_order(subject, latin, cyrillic):
    text = ["word"] * latin + ["слово"] * cyrillic
    expected = latin / len(text) if text else 1.0
    assert subject("rewards.language_reward")(" ".join(text)) == pytest.approx(expected)
    assert subject("rewards.language_reward")(" 7 ".join(text[::-1])) == pytest.approx(expected)


@pytest.mark.parametrize("piece", ["\\(", "\\[", "$ ", "<a", "a'", "$$ $"])
def test_language_reward_of_what_is_never_closed_takes_linear_time(subject, piece):
    # Quadratic, these 100,000 characters would hang for minutes.
    assert 0 <= subject("rewards.language_reward")(piece * (100_000 // len(piece))) <= 1


def test_language_reward_refuses(subject):
    refuses(
        subject("rewards.language_reward"), "a", alphabet="english",
        match="alphabet is 'english', expected such as 'LATIN'",
    )  # fmt: skip


# repetition_penalty


@pytest.mark.parametrize("completion, options, expected", [
    ("a b c d", {}, 0.0),
    ("a a a a a", {}, -2 / 3),                 # 1 different of 3 three-grams
    ("a a a a a", {"n": 2}, -0.75),            # 1 of 4
    ("a b a b a", {}, -1 / 3),                 # aba, bab, aba
    ("a a a a a", {"n": 2, "maximum": 2.0}, -1.5),
    ("a a a a a", {"n": 1}, -0.8),
    ("a a", {}, 0.0),                          # too short to say anything three times
    ("a bc ab c", {"n": 2}, 0.0),              # a bc, bc ab, ab c: not abc, bcab, abc
    ("a\nb  a\tb", {"n": 2}, -1 / 3),          # ab, ba, ab, whatever the white space
    ("A a a, a.", {"n": 1}, 0.0),              # four different words
    ("", {}, 0.0),
])  # fmt: skip
def test_repetition_penalty_by_hand(subject, completion, options, expected):
    assert subject("rewards.repetition_penalty")(completion, **options) == pytest.approx(expected)


@given(ids=st.lists(st.integers(0, 2), max_size=12), n=st.integers(1, 4))
def test_repetition_penalty_agrees_with_trl_where_a_word_is_a_token(subject, ids, n):
    theirs = pytest.importorskip("trl.rewards").get_repetition_penalty_reward(n, -1.0)
    penalty = subject("rewards.repetition_penalty")(" ".join(map(str, ids)), n=n)
    assert penalty == pytest.approx(theirs(completion_ids=[ids])[0])


def test_repetition_penalty_refuses(subject):
    penalty = subject("rewards.repetition_penalty")
    refuses(penalty, "a", n=0, match="n is 0, expected at least 1")
    refuses(penalty, "a", maximum=-1.0, match="maximum is -1.0, expected at least 0")


# token_f1


@pytest.mark.parametrize("prediction, answer, expected", [
    ("the Eiffel Tower in Paris", "Eiffel Tower", 2 / 3),   # P 2/4, R 1
    ("Eiffel Tower", "the Eiffel Tower in Paris", 2 / 3),
    ("eiffel-tower!", "Eiffel_Tower", 1.0),
    ("Paris Paris", "Paris", 2 / 3),                        # a word counts as often as it stands
    ("Paris Paris", "Paris in Paris", 0.8),                 # P 1, R 2/3
    ("London", "Paris", 0.0),
    ("no idea", "no", 0.0),                                 # yes and no are all or nothing
    ("no", "no idea", 0.0),
    ("No.", "no", 1.0),
    ("True", "yes", 1.0),
    ("", "Paris", 0.0),
    ("the", "a", 0.0),                                      # nothing is left of either
])  # fmt: skip
def test_token_f1_by_hand(subject, prediction, answer, expected):
    assert subject("rewards.token_f1")(prediction, answer) == pytest.approx(expected)


def test_token_f1_answer_words_lose_case_articles_and_punctuation(subject):
    token_f1 = subject("rewards.token_f1")
    assert token_f1("The ANSWER, an end", "answer end") == 1
    assert token_f1("U.S.", "US") == 0 and token_f1("U.S.", "u s") == 1
    assert token_f1("U.S.", "US", punctuation="delete") == 1


@given(prediction=sentences, answer=sentences)
def test_token_f1_is_symmetric_and_the_harmonic_mean(subject, prediction, answer):
    result = subject("rewards.token_f1")(prediction, answer)
    assert subject("rewards.token_f1")(answer, prediction) == result
    ours, theirs = (
        Counter(w for w in text.lower().replace(".", " ").split() if w not in ("a", "an", "the"))
        for text in (prediction, answer)
    )
    shared = sum(min(ours[word], theirs[word]) for word in ours)
    closed = [Counter([word]) for word in ("yes", "no")]
    if not shared or (ours != theirs and (ours in closed or theirs in closed)):
        assert result == 0
        return
    precision, recall = shared / sum(ours.values()), shared / sum(theirs.values())
    assert result == pytest.approx(2 * precision * recall / (precision + recall))


def test_token_f1_refuses(subject):
    refuses(
        subject("rewards.token_f1"), "a", "b", punctuation="keep",
        match="punctuation is 'keep', expected 'space' or 'delete'",
    )  # fmt: skip


# combine and reward_parts


def test_combine_by_hand(subject):
    # R1: accuracy 1 and 8 of 10 words in the language, summed.
    combine = subject("rewards.combine")
    assert combine({"correct": 1, "language": 0.8}, {"correct": 1, "language": 1}) == pytest.approx(
        1.8
    )
    # Logic-RL: good form and a wrong answer.
    assert combine({"format": 1, "correct": -1.5}, {"format": 1, "correct": 1}) == -0.5
    assert combine({"correct": 1, "format": 1}, {"correct": 1, "format": 0.1}) == pytest.approx(1.1)


def test_combine_weighs_by_name_whatever_the_order(subject):
    total = subject("rewards.combine")({"a": 1, "b": 10}, {"b": 0.5, "a": 2})
    assert total == 7  # 2 · 1 + 0.5 · 10


def test_combine_refuses_names_that_do_not_match(subject):
    combine = subject("rewards.combine")
    message = r"weights has \['correct'\], expected \['correct', 'format'\]"
    refuses(combine, {"correct": 1, "format": 1}, {"correct": 1}, match=message)
    refuses(combine, {"correct": 1}, {"correct": 1, "format": 1}, match="expected .'correct'.$")


def test_reward_parts_scores_each_completion_of_its_own_problem(subject):
    functions = {
        "correct": lambda problem, text: float(text == problem.answer),
        "short": lambda problem, text: -len(text),
    }
    asked, texts = problems("6", "7", "8"), rollout("6", "7", "88")
    parts = subject("rewards.reward_parts")(functions)(asked, texts)
    assert parts == {"correct": [1.0, 1.0, 0.0], "short": [-1, -1, -2]}
    weights = {"correct": 2, "short": 0.5}
    parts = subject("rewards.reward_parts")(functions, weights)(asked, texts)
    assert parts == {"correct": [2.0, 2.0, 0.0], "short": [-0.5, -0.5, -1.0]}


def test_reward_parts_add_up_to_what_combine_gives(subject):
    functions = {"a": lambda problem, text: 0.25, "b": lambda problem, text: 3.0}
    weights = {"a": 2.0, "b": -0.5}
    parts = subject("rewards.reward_parts")(functions, weights)(problems("6"), rollout("6"))
    total = subject("rewards.combine")({"a": 0.25, "b": 3.0}, weights)
    assert sum(values[0] for values in parts.values()) == total == -1.0


def test_reward_parts_refuses(subject):
    refuses(
        subject("rewards.reward_parts"), {"correct": len}, {"right": 1.0},
        match=r"weights has \['right'\], expected \['correct'\]",
    )  # fmt: skip
    parts = subject("rewards.reward_parts")({"correct": lambda problem, text: 1.0})
    with pytest.raises(ValueError):
        parts(problems("6", "7"), rollout("6"))


# The controls


def coins(subject, count, probability=0.5, *, seed=0, texts=None, answer="6"):
    function = subject("rewards.random_reward")(probability, seed=seed)
    texts = rollout(*(texts or ["x"] * count))
    return function(problems(*[answer] * count), texts)["correct"]


def test_random_reward_falls_as_often_as_asked(subject):
    # Two standard errors of 2,000 coins: 2 · √(0.3 · 0.7 / 2000) = 0.02.
    assert set(coins(subject, 20, 0.0)) == {0.0}
    assert set(coins(subject, 20, 1.0)) == {1.0}
    assert sum(coins(subject, 2000, 0.3)) / 2000 == pytest.approx(0.3, abs=0.02)


def test_random_reward_does_not_see_what_was_written(subject):
    first = coins(subject, 64, texts=["6"] * 64)
    assert coins(subject, 64, texts=["nonsense"] * 64) == first
    assert coins(subject, 64, seed=1) != first
    assert coins(subject, 64, answer="7") != first  # another prompt
    assert 16 < sum(first) < 48  # equal completions of one prompt get coins of their own


def test_random_reward_is_stateless_and_named(subject):
    function = subject("rewards.random_reward")(0.5, seed=3, name="coin")
    first = function(problems(*"67" * 20), rollout(*"xy" * 20))
    assert first == function(problems(*"67" * 20), rollout(*"xy" * 20)) and list(first) == ["coin"]
    refuses(
        subject("rewards.random_reward"), 1.5, seed=0, match="probability is 1.5, expected 0 to 1"
    )


def test_inverted_reward_pays_for_what_is_wrong(subject):
    def score(problem, text):
        return float(text == problem.answer)

    parts = subject("rewards.inverted_reward")(score)(problems("6", "7", "8"), rollout(*"678"))
    assert parts == {"correct": [0.0, 0.0, 0.0]}
    function = subject("rewards.inverted_reward")(lambda problem, text: 0.25, name="wrong")
    assert function(problems("6"), rollout("6")) == {"wrong": [0.75]}


# TRL


def read_meta(problem, completion):
    """A score at the top of a module, so that it can be pickled."""
    return float(completion == problem.answer) * problem.meta.get("steps", 1)


def test_as_trl_reward_score_columns_may_be_texts_or_conversations(subject):
    reward = subject("rewards.as_trl_reward")(read_meta, name="stories")
    assert reward.__name__ == "stories"
    columns = {"answer": ["6", "7"], "completion_ids": [[1], [2]], "trainer_state": None}
    assert reward(prompts=["a", "b"], completions=["6", "6"], **columns) == [1.0, 0.0]
    chat = [[{"role": "assistant", "content": text}] for text in ("6", "7")]
    assert reward(prompts=["a", "b"], completions=chat, **columns) == [1.0, 1.0]
    calls = [{"role": "assistant", "content": None}, {"role": "tool", "content": "7"}, *chat[1]]
    assert reward(prompts=["a", "b"], completions=[chat[0], calls], **columns) == [1.0, 1.0]


def test_as_trl_reward_hands_on_the_prompt(subject):
    reward = subject("rewards.as_trl_reward")(lambda problem, text: len(problem.prompt))
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2"}]
    assert reward(prompts=["1+1=", chat], completions=["2", "4"], answer=["2", "4"]) == [4.0, 3.0]


def test_trl_columns_are_score_columns_that_bring_back_each_problem(subject):
    asked = problems("6", "7")
    columns = subject("rewards.trl_columns")(asked)
    prompts = columns.pop("prompt")
    assert prompts == ["6=", "7="] and columns["answer"] == ["6", "7"]
    reward = subject("rewards.as_trl_reward")(read_meta)
    assert reward(prompts=prompts, completions=["6", "6"], **columns) == [2.0, 0.0]
    columns["meta"] = [{"steps": 5}, {}]  # a data set may hold them as they are
    assert reward(prompts=prompts, completions=["6", "7"], **columns) == [5.0, 1.0]


def test_as_trl_reward_can_be_pickled():
    from reasoning_from_scratch.rewards import as_trl_reward

    reward = pickle.loads(pickle.dumps(as_trl_reward(read_meta, name="stories")))
    assert reward.__name__ == "stories"
    assert reward(prompts=["a"], completions=["6"], answer=["6"]) == [1.0]


def test_as_trl_reward_refuses(subject):
    reward = subject("rewards.as_trl_reward")(read_meta)
    with pytest.raises(ValueError, match="answer has 1 entries, expected 2: as prompts"):
        reward(prompts=["a", "b"], completions=["6", "7"], answer=["6"])
    with pytest.raises(ValueError, match="completions has 1 entries, expected 2"):
        reward(prompts=["a", "b"], completions=["6"], answer=["6", "7"])


def test_from_trl_reward_passes_what_trl_passes(subject):
    seen = {}

    def function(prompts, completions, completion_ids, answer, **columns):
        seen.update(columns, prompts=prompts, completions=completions, answer=answer)
        return [len(ids) if ids[0] == 7 else None for ids in completion_ids]

    parts = subject("rewards.from_trl_reward")(function, name="length")
    assert parts(problems("6", "7"), rollout("6", "777")) == {"length": [1.0, 3.0]}
    assert seen["prompts"] == ["6=", "7="] and seen["completions"] == ["6", "777"]
    assert seen["answer"] == seen["solution"] == ["6", "7"] and seen["meta"][0] == {"steps": 2}
    parts = subject("rewards.from_trl_reward")(function, name="length", messages="chat")
    parts(problems("6"), rollout("6"))
    assert seen["completions"] == [[{"role": "assistant", "content": "6"}]]
    assert seen["prompts"] == [[{"role": "user", "content": "6="}]]


def test_from_trl_reward_takes_the_functions_of_trl(subject):
    rewards = pytest.importorskip("trl.rewards")
    overlong = rewards.get_soft_overlong_punishment(10, 4)
    parts = subject("rewards.from_trl_reward")(overlong, name="overlong")
    texts = rollout("a" * 6, "a" * 8, "a" * 12)
    assert parts(problems("6", "6", "6"), texts) == {"overlong": [0.0, -0.5, -1.0]}
    form = subject("rewards.from_trl_reward")(
        rewards.think_format_reward, name="format", messages="chat"
    )
    texts = rollout("<think>a</think>6", "6")
    assert form(problems("6", "6"), texts) == {"format": [1.0, 0.0]}


def test_from_trl_reward_and_back_is_the_same_score(subject):
    there = subject("rewards.as_trl_reward")(read_meta)
    parts = subject("rewards.from_trl_reward")(there, name="correct")
    assert parts(problems("6", "7"), rollout("6", "6")) == {"correct": [2.0, 0.0]}


def test_from_trl_reward_counts_none_as_0_and_needs_no_tokens(subject):
    parts = subject("rewards.from_trl_reward")(lambda **columns: [None, 0.5], name="correct")
    assert parts(problems("6", "7"), SimpleNamespace(texts=["6", "7"])) == {"correct": [0.0, 0.5]}


def test_from_trl_reward_refuses(subject):
    function = subject("rewards.from_trl_reward")
    refuses(function, len, name="x", messages="both", match="messages is 'both', expected 'text'")
    parts = function(lambda **columns: [1.0], name="short")
    message = "short returned 1 rewards for 2 completions"
    refuses(parts, problems("6", "7"), rollout("6", "7"), match=message)
