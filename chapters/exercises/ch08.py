"""Exercises of chapter 08: rewards that are rules, and what gets past them.

Write your lines where `raise NotImplementedError` stands; what is around it is given. Then

    make check CH=8        or one of them:  make check CH=8 ONLY=rule_reward

Hints stand at the end of the file. A completion is what a model under training wrote: anything.
"""

# ruff: noqa: F841  (what is prepared here waits for your lines)

import re
import unicodedata

from reasoning_from_scratch import rewards, verify


def repetition_penalty(completion: str, *, n: int = 3, maximum: float = 1.0) -> float:
    """Exercise 8.1 ★ (10 minutes, write the formula). What does saying it again cost?

    Take every n words in a row (split at white space; n-grams overlap). The penalty is the share of
    them that is *not* needed, because the same n words stand elsewhere too:
    1 - different n-grams / all n-grams.

    Args:
        n:       words in a row.
        maximum: what the penalty nears when everything is one n-gram.

    Returns:
        -maximum times that share: 0 or less, to be *added* to a reward. 0 where there are fewer
        than n words.

    >>> round(repetition_penalty("a b a b a"), 4)  # a b a, b a b, a b a: two different of three
    -0.3333

    Mirrors `rewards.repetition_penalty`; held by tests/test_rewards.py.
    """
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    if not maximum >= 0:
        raise ValueError(f"maximum is {maximum}, expected at least 0")
    raise NotImplementedError("exercise 8.1, repetition_penalty")


def language_reward(completion: str, *, alphabet: str = "LATIN") -> float:
    r"""Exercise 8.2 ★★ (15 minutes, write the formula). Which share is in the wanted alphabet?

    R1 was paid for the share of its words that were in the question's language. A word counts if
    *all* of its letters are of the alphabet: a single Cyrillic letter among Latin ones spoils it.

    Two patterns of the package are given. `rewards._NOT_WORDS` matches what is no language:
    formulas, commands, tags; put a *space* in its place, or its neighbours grow together.
    `rewards._WORD.findall` then finds the words, each Chinese or Japanese character as a word of
    its own. `rewards._alphabet(letter)` is such as "LATIN". An apostrophe in a word is no letter:
    ask `isalpha`.

    Args:
        alphabet: as in Unicode's names of characters.

    Returns:
        0 to 1. Without any word it is 1, as nothing is in another language.

    >>> language_reward("the answer is вот 42 $x$")  # three of four; numbers and $x$ are no words
    0.75

    Mirrors `rewards.language_reward`; held by tests/test_rewards.py.
    """
    if alphabet not in rewards._known_alphabets():
        raise ValueError(f"alphabet is {alphabet!r}, expected such as 'LATIN', 'CJK', 'CYRILLIC'")
    text = unicodedata.normalize("NFC", completion)  # or an accent would split a word in two
    raise NotImplementedError("exercise 8.2, language_reward")


def format_reward(completion: str, *, prefilled: bool = False) -> float:
    """Exercise 8.3 ★★ (15 minutes, write the formula). Does it think, and then answer?

    The format reward of R1-Zero. Each of the four tags must be there *exactly* once, in the order
    `<think>…</think><answer>…</answer>`, with only white space before, between and after the two
    blocks. A block may be empty, and may hold anything that is no tag, line ends included.
    (`verify.check_format` is that rule; write it yourself.)

    Args:
        prefilled: the prompt ends with `<think>`, so that the completion must not open it again.

    Returns:
        1.0 or 0.0.

    >>> format_reward("<think>so</think>  <answer>1</answer>")
    1.0
    >>> format_reward("so</think><answer>1</answer>", prefilled=True)
    1.0
    >>> format_reward("<think>so</think><answer>1</answer><answer>2</answer>")
    0.0

    Mirrors `rewards.format_reward`; held by tests/test_rewards.py.
    """
    raise NotImplementedError("exercise 8.3, format_reward")


def accuracy_reward(completion: str, answer: str) -> float:
    """Exercise 8.4 ★★ (10 minutes, find the bug). Paid for the right answer, and for nothing else?

    "A base model forgets the tags, so be kind." With this the reward rises from the first step on,
    and nobody looks at a completion. Delete the first line, think of what a policy would write
    that has found the kindness out, and mend it.

    Args:
        completion: what the model wrote.
        answer:     what is right, as text.

    Returns:
        1.0 if the completion's last answer equals `answer`, else 0.0.

    >>> accuracy_reward("<answer>5</answer> no: <answer>6.0</answer>", "6")
    1.0

    Mirrors `rewards.accuracy_reward`; held by tests/test_rewards.py.
    """
    raise NotImplementedError("exercise 8.4, accuracy_reward: delete this line, find the bug")
    prediction = verify.extract_answer(completion)
    if prediction is None:
        return float(answer in re.findall(r"\d+", completion))
    return float(verify.math_equal(prediction, answer))


def rule_reward(completion: str, answer: str, *, form: float = 0.1) -> float:
    r"""Exercise 8.5 ★★★ (30 minutes, design). A rule that survives ten hacks.

    Three levels: 1.0 for the right answer in good form, `form` for good form with a wrong answer,
    0.0 for all else. Good form is `verify.check_format`'s, and in the thinking stands at least one
    letter or digit of any alphabet. The answer is what `verify.extract_answer` reads, compared by
    `verify.math_equal`. But if the right answer is a number, only a number is right: a sign or
    none, digits, commas between them or not, a point and digits or not, and nothing else.

    With the right answer 42, these earn as much as is said here, and your rule must agree:

        0 1 2 3 … 99                                   0     counts
        <think>42</think><answer>41</answer>           0.1   thinks of it, answers another
        <think>a</think><answer>41</answer><answer>42</answer>   0   answers twice
        <think><answer>42</answer></think>             0     answers in its thoughts
        <think>a</think><answer>41, 42, 43</answer>    0.1   lists
        <think>a</think><answer>1423</answer>          0.1   hides it in more digits
        <think> … </think><answer>41</answer>          0     has the form and no thought
        <think>a</think><answer>6*7</answer>           0.1   leaves the sum to the verifier
        <think>a</think><answer>42                     0     never closes
        <think>a</think><answer>42</answer> or 41      0     goes on

    Args:
        form: what good form alone earns, 0 to less than 1.

    >>> rule_reward("<think>6*7</think><answer>42</answer>", "42")
    1.0
    >>> rule_reward("<think>6*7</think><answer>6*7</answer>", "42")
    0.1

    Mirrors `rewards.rule_reward`; held by tests/test_rewards.py.
    """
    if not 0 <= form < 1:
        raise ValueError(f"form is {form}, expected 0 to less than 1, what being right earns")
    raise NotImplementedError("exercise 8.5, rule_reward")


# region Hints: open one at a time
#
# 8.1  `words[i : i + n]` is a list, which a set refuses; a tuple it takes.
#
# 8.2  `all(… for letter in word if letter.isalpha())`, summed over the words.
#
# 8.3  Counting says how often, a pattern says in which order: it takes both. `re.fullmatch`, and a
#      dot that matches line ends. With `prefilled`, where could you put the missing tag?
#
# 8.4  What is a completion paid that holds no answer tag, and a hundred numbers?
#
# 8.5  Refuse first what is no good form, then read. `extract_answer` may return None. `fullmatch`
#      both the prediction and the answer; what if the right answer is no number?
#
# endregion
