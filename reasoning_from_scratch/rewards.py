"""Reward functions: is it right, well formed, in one language, free of loops.

A small one scores a text: `accuracy_reward(completion, answer)`, `format_reward(completion)`. What
a training loop takes is larger: it sees every completion's problem and the whole rollout, and
returns named parts, one number a completion, which the loop adds up. `reward_parts` makes the
large kind of small ones; `random_reward` and `inverted_reward` are controls; `from_trl_reward` and
`as_trl_reward` exchange reward functions with TRL. Rewards for length are in `lengths.py`.
"""

import functools
import json
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from types import SimpleNamespace
from typing import Protocol

from reasoning_from_scratch.verify import check_format, extract_answer, math_equal


class Question(Protocol):
    """What a reward may read of a problem; `tasks.Problem` is one."""

    prompt: str
    answer: str
    meta: Mapping[str, object]


class Completions(Protocol):
    """What a reward may read of a rollout; `sampling.Rollout` is one."""

    texts: Sequence[str]


_WIDE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # written without spaces
_WORD = re.compile(rf"[{_WIDE}]|(?:(?![{_WIDE}])[^\W\d_])+(?:['’](?:(?![{_WIDE}])[^\W\d_])+)*")
# Each alternative stops at what could open another one, so that unclosed ones cost linear time.
_NOT_WORDS = re.compile(
    r"\$\$[^$]*\$\$|\$[^$\n]*\$|\\\((?:(?!\\[()]).)*\\\)|\\\[(?:(?!\\[\[\]]).)*\\\]"
    r"|</?\w+>|\\[A-Za-z]+",
    re.DOTALL,
)

_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?")

TextReward = Callable[[Question, str], float]  # one completion of one problem; Task.score is one
RewardParts = Callable[[Sequence[Question], Completions], dict[str, list[float]]]


def accuracy_reward(completion: str, answer: str) -> float:
    """Return 1.0 if the completion's last answer equals `answer`, else 0.0.

    No answer, or one that cannot be read, is 0: a model's bad output is not an error.

    Source: DeepSeek-AI 2025 (R1), section 2.2.2.
    """
    prediction = extract_answer(completion)
    return float(prediction is not None and math_equal(prediction, answer))


def format_reward(completion: str, *, prefilled: bool = False) -> float:
    """Return 1.0 if the completion thinks and then answers, each in its tags once, else 0.0.

    Weigh it below being right, or perfect form with wrong answers becomes a place to rest.

    Args:
        prefilled: the prompt already ends with <think>, so the completion must not open it again.

    Source: DeepSeek-AI 2025 (R1), section 2.2.2; the tag rules are Logic-RL's (Xie et al. 2025).
    """
    return float(check_format(completion, prefilled=prefilled))


def rule_reward(completion: str, answer: str, *, form: float = 0.1) -> float:
    """Return 1.0 for a right answer in good form, `form` for a wrong one in good form, else 0.0.

    Good form is that of `format_reward`, with something thought: a letter or a digit. Where the
    right answer is a number, only a number is right: `3*2-1` is the question again, not its answer,
    though `accuracy_reward` takes it for 5.

    Raises:
        ValueError: form is not 0 or more and below 1: it would pay as well as being right.

    Source: three levels as in TinyZero (Pan et al. 2025).
    """
    if not 0 <= form < 1:
        raise ValueError(f"form is {form}, expected 0 to less than 1, what being right earns")
    thought = completion.partition("</think>")[0].partition("<think>")[2]
    if not check_format(completion) or not any(map(str.isalnum, thought)):
        return 0.0
    prediction = extract_answer(completion) or ""
    worked_out = _NUMBER.fullmatch(prediction) or not _NUMBER.fullmatch(answer)
    return 1.0 if worked_out and math_equal(prediction, answer) else form


def language_reward(completion: str, *, alphabet: str = "LATIN") -> float:
    """Return the share of words that are written in one alphabet.

    A word counts as such if all its letters do. Formulas ($…$, \\(…\\), \\[…\\], commands such as
    \\frac), tags and numbers are taken out first. Chinese and Japanese write no spaces: each of
    their characters is a word.

    Args:
        alphabet: as in Unicode's names of characters, such as "LATIN", "CJK", "CYRILLIC", "GREEK".

    Returns:
        0 to 1; 1 if there is no word at all, as nothing is in another language.

    Raises:
        ValueError: Unicode has no letter of that name.

    Source: DeepSeek-AI 2025 (R1), section 2.3.2, with the alphabet in place of a language detector.
    """
    if alphabet not in _known_alphabets():
        raise ValueError(f"alphabet is {alphabet!r}, expected such as 'LATIN', 'CJK', 'CYRILLIC'")
    text = unicodedata.normalize("NFC", completion)  # or an accent would split a word in two
    words = _WORD.findall(_NOT_WORDS.sub(" ", text))
    ours = sum(all(_alphabet(c) == alphabet for c in word if c.isalpha()) for word in words)
    return ours / len(words) if words else 1.0


def repetition_penalty(completion: str, *, n: int = 3, maximum: float = 1.0) -> float:
    """Return a penalty for saying the same n words again and again.

    Args:
        n:       words in a row that make one n-gram.
        maximum: what the penalty nears when everything is one n-gram; the paper scales it to the
                 other rewards.

    Returns:
        -maximum · (1 - different n-grams / all n-grams): 0 down to -maximum, and 0 where there are
        fewer than n words. To be added to the reward, in the authors' code of wrong answers alone.

    Raises:
        ValueError: n below 1 or a negative maximum.

    Source: Yeo et al. 2025, "Demystifying Long Chain-of-Thought Reasoning in LLMs"; on words
        where theirs is on tokens.
    """
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    if not maximum >= 0:
        raise ValueError(f"maximum is {maximum}, expected at least 0")
    words = completion.split()
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return -maximum * (1 - len(set(grams)) / len(grams)) if grams else 0.0


def token_f1(prediction: str, answer: str, *, punctuation: str = "space") -> float:
    """Return the F1 of the words that a free-form answer shares with the right one.

    Both are lower-cased and lose punctuation and the articles a, an and the. If either then is
    "yes", "no" or "noanswer", they must be equal: "no" shares nothing with "no idea".

    Args:
        punctuation: "space" puts a space in its place ("U.S." becomes "u s", R1-Searcher);
                     "delete" closes the gap ("us", ReSearch).

    Returns:
        2PR / (P + R) with P the share of the prediction's words that are shared, R that of the
        answer's; words count as often as they stand. 0 where nothing is shared.

    Raises:
        ValueError: another `punctuation`.

    Source: Song et al. 2025 (R1-Searcher) and Chen et al. 2025 (ReSearch), in their code.
    """
    if punctuation not in ("space", "delete"):
        raise ValueError(f"punctuation is {punctuation!r}, expected 'space' or 'delete'")
    ours, theirs = (_answer_words(text, punctuation) for text in (prediction, answer))
    closed = (["yes"], ["no"], ["noanswer"])
    if ours != theirs and (ours in closed or theirs in closed):
        return 0.0
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def combine(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the weighted sum of the named parts of one completion's reward.

    Raises:
        ValueError: the two do not have the same names; 0 leaves a part out on purpose.
    """
    _check_names(parts, weights)
    return float(sum(weights[name] * value for name, value in parts.items()))


def reward_parts(
    functions: Mapping[str, TextReward], weights: Mapping[str, float] | None = None
) -> RewardParts:
    """Make a training loop's reward of functions that score one completion of one problem.

    Args:
        functions: name -> function(problem, completion). One called "correct" tells the loop which
                   groups are mixed:
                   {"correct": task.score, "format": lambda problem, text: format_reward(text)}.
        weights:   name -> weight. None weighs each 1.

    Returns:
        function(problems, rollout) -> {name: [B] weighted scores}, to be added up.

    Raises:
        ValueError: the two do not have the same names.
    """
    functions = dict(functions)
    weights = dict.fromkeys(functions, 1.0) if weights is None else dict(weights)
    _check_names(functions, weights)

    def parts(problems: Sequence[Question], rollout: Completions) -> dict[str, list[float]]:
        pairs = list(zip(problems, rollout.texts, strict=True))
        return {
            name: [weights[name] * function(problem, text) for problem, text in pairs]
            for name, function in functions.items()
        }

    return parts


def random_reward(probability: float, *, seed: int, name: str = "correct") -> RewardParts:
    """Make the control that rewards a coin: whatever improves under it, no reward taught.

    The coin of a row depends on seed, prompt and place in the rollout, not on what was written, and
    not on what was drawn before, so a resumed run sees the same coins.

    Args:
        probability: of a reward of 1, else 0.
        name:        of the part. As "correct" it stands in the place of the right answer.

    Raises:
        ValueError: probability outside 0 to 1.

    Source: Shao et al. 2025, "Spurious Rewards".
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}, expected 0 to 1")

    def parts(problems: Sequence[Question], rollout: Completions) -> dict[str, list[float]]:
        coins = []
        for row, problem in enumerate(problems):
            digest = blake2b(f"{seed} {row} {problem.prompt}".encode(), digest_size=8).digest()
            coins.append(float(int.from_bytes(digest, "big") < probability * 2**64))
        return {name: coins}

    return parts


def inverted_reward(score: TextReward, *, name: str = "correct") -> RewardParts:
    """Make the control that rewards being wrong: 1 - score.

    Source: "incorrect labels" of Shao et al. 2025, "Spurious Rewards", taken to its end.
    """
    return reward_parts({name: lambda problem, text: 1.0 - score(problem, text)})


def trl_columns(problems: Sequence[Question]) -> dict[str, list[str]]:
    """Return the problems as columns of a data set that `as_trl_reward` can read back.

    `meta` goes as JSON, as a column must hold one type: a tuple in it comes back as a list.
    """
    return {
        "prompt": [problem.prompt for problem in problems],
        "answer": [problem.answer for problem in problems],
        "meta": [json.dumps(dict(problem.meta)) for problem in problems],
    }


def as_trl_reward(score: TextReward, *, name: str = "reward") -> Callable[..., list[float]]:
    """Make a reward function for TRL's trainers of `task.score` or any function like it.

    Args:
        score: function(problem, completion) -> float.
        name:  under which TRL logs it.

    Returns:
        function(prompts, completions, **columns) -> [B]. Prompts and completions are texts or
        conversations; the columns must hold `answer`, and may hold `meta` as in `trl_columns`.

    Raises:
        ValueError: when called with columns of different lengths.
    """
    reward = functools.partial(_score_columns, score)  # TRL may pickle it, which a closure forbids
    reward.__name__ = name
    return reward


def from_trl_reward(
    function: Callable[..., Sequence[float | None]], *, name: str, messages: str = "text"
) -> RewardParts:
    """Make one part of our reward of a function written for TRL.

    It is given prompts, completions, completion_ids and the columns answer and solution (both the
    problem's answer) and meta. None, which TRL leaves out of its sum, is 0.

    Args:
        name:     of the part.
        messages: "text" passes texts; "chat" conversations of one message, which most of TRL's own
                  functions want.

    Raises:
        ValueError: another `messages`; when called, not one reward for each completion.
    """
    if messages not in ("text", "chat"):
        raise ValueError(f"messages is {messages!r}, expected 'text' or 'chat'")

    def parts(problems: Sequence[Question], rollout: Completions) -> dict[str, list[float]]:
        prompts: list = [problem.prompt for problem in problems]
        completions: list = list(rollout.texts)
        if messages == "chat":
            prompts = [[{"role": "user", "content": text}] for text in prompts]
            completions = [[{"role": "assistant", "content": text}] for text in completions]
        answers = [problem.answer for problem in problems]
        rewards = function(
            prompts=prompts, completions=completions, completion_ids=_sampled_ids(rollout),
            answer=answers, solution=answers, meta=[problem.meta for problem in problems],
        )  # fmt: skip
        if len(rewards) != len(completions):
            raise ValueError(
                f"{name} returned {len(rewards)} rewards for {len(completions)} completions"
            )
        return {name: [0.0 if reward is None else float(reward) for reward in rewards]}

    return parts


def _score_columns(
    score: TextReward,
    prompts: Sequence[object],
    completions: Sequence[object],
    answer: Sequence[str],
    meta: Sequence[object] | None = None,
    **_: object,
) -> list[float]:
    """What `as_trl_reward` returns, but for the score."""
    meta = meta or [{}] * len(prompts)
    for name, column in (("completions", completions), ("answer", answer), ("meta", meta)):
        if len(column) != len(prompts):
            raise ValueError(
                f"{name} has {len(column)} entries, expected {len(prompts)}: as prompts"
            )
    rewards = []
    for prompt, completion, right, facts in zip(prompts, completions, answer, meta, strict=True):
        facts = json.loads(facts) if isinstance(facts, str) else facts
        problem = SimpleNamespace(prompt=_text(prompt, "user"), answer=right, meta=facts)
        rewards.append(float(score(problem, _text(completion, "assistant"))))
    return rewards


def _text(message: object, role: str) -> str:
    """Return a text, or what `role` says in a conversation."""
    if isinstance(message, str):
        return message
    return "".join(turn["content"] or "" for turn in message if turn["role"] == role)


def _sampled_ids(rollout: Completions) -> list[list[int]]:
    """Return the ids of each completion, where the rollout has tokens."""
    if not hasattr(rollout, "tokens"):
        return []
    pairs = zip(rollout.tokens, rollout.mask, strict=True)
    return [tokens[mask != 0].tolist() for tokens, mask in pairs]


def _alphabet(letter: str) -> str:
    """Return the first word of a character's name: "LATIN" of LATIN SMALL LETTER A."""
    return unicodedata.name(letter, "").partition(" ")[0]


@functools.cache
def _known_alphabets() -> frozenset[str]:
    return frozenset(_alphabet(chr(code)) for code in range(0x20000) if chr(code).isalpha())


def _answer_words(text: str, punctuation: str) -> list[str]:
    text = {"true": "yes", "false": "no"}.get(text.strip().lower(), text.lower())
    gap = " " if punctuation == "space" else None
    words = text.translate(str.maketrans(dict.fromkeys(string.punctuation, gap))).split()
    return [word for word in words if word not in ("a", "an", "the")]


def _check_names(named: Mapping[str, object], weights: Mapping[str, float]) -> None:
    if set(named) != set(weights):
        raise ValueError(f"weights has {sorted(weights)}, expected {sorted(named)}")
