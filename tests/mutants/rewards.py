"""Plausible mistakes in rewards.py."""

MUTANTS = {
    "accuracy_reward": {
        "the answer anywhere in the text is enough": (
            "prediction is not None and math_equal(prediction, answer)",
            "answer in completion",
        ),
        "compares texts, so that 6.0 is not 6": (
            "math_equal(prediction, answer)",
            "prediction == answer",
        ),
        "the whole completion is taken for its answer": (
            "extract_answer(completion)",
            "completion",
        ),
        "any answer is right": (" and math_equal(prediction, answer)", ""),
        "without an answer in its place, the text is searched for it": (
            "prediction is not None and math_equal(prediction, answer)",
            "answer in (re.findall(r'\\d+', completion) if prediction is None else ())"
            " or math_equal(prediction, answer)",
        ),
        "without an answer in its place, the bare text is compared": (
            "prediction is not None and math_equal(prediction, answer)",
            "completion.strip() == answer if prediction is None"
            " else math_equal(prediction, answer)",
        ),
    },
    "format_reward": {
        "prefilled is not passed on": ("prefilled=prefilled", "prefilled=False"),
        "prefilled is always assumed": ("prefilled=prefilled", "prefilled=True"),
        "the tags anywhere, in any order": (
            "check_format(completion, prefilled=prefilled)",
            "all(t in completion for t in ('</think>', '<answer>', '</answer>'))",
        ),
        "a tag may be there twice": (
            "check_format(completion, prefilled=prefilled)",
            "re.fullmatch(r'\\s*<think>.*</think>\\s*<answer>.*</answer>\\s*', "
            "'<think>' * prefilled + completion, re.DOTALL) is not None",
        ),
        "closing tags are not counted": (
            "check_format(completion, prefilled=prefilled)",
            "completion.count('<think>') + prefilled == completion.count('<answer>') == 1 and "
            "re.fullmatch(r'\\s*<think>.*</think>\\s*<answer>.*</answer>\\s*', "
            "'<think>' * prefilled + completion, re.DOTALL) is not None",
        ),
        "a block may not hold <": (
            "check_format(completion, prefilled=prefilled)",
            "re.fullmatch(r'\\s*<think>[^<]*</think>\\s*<answer>[^<]*</answer>\\s*', "
            "'<think>' * prefilled + completion) is not None",
        ),
        "white space before the first block is refused": (
            "check_format(completion, prefilled=prefilled)",
            "check_format(completion, prefilled=prefilled) and not completion[0].isspace()",
        ),
        "white space after the last block is refused": (
            "check_format(completion, prefilled=prefilled)",
            "check_format(completion, prefilled=prefilled) and not completion[-1].isspace()",
        ),
        "between the blocks only spaces and line ends may stand": (
            "check_format(completion, prefilled=prefilled)",
            "check_format(completion, prefilled=prefilled) and "
            "re.search('</think>[ \\n]*<answer>', completion) is not None",
        ),
        "tags may be written in capitals": (
            "check_format(completion,",
            "check_format(completion.lower(),",
        ),
        "what follows the answer does not count": (
            "check_format(completion,",
            "check_format(''.join(completion.partition('</answer>')[:2]),",
        ),
    },
    "rule_reward": {
        "the answer anywhere in the text is enough": (
            "math_equal(prediction, answer)",
            "answer in completion",
        ),
        "right is enough, in whatever form": ("return 0.0", "form = 0.0"),
        "nothing need be thought": (" or not any(map(str.isalnum, thought))", ""),
        "only Latin letters and digits are a thought": (
            "any(map(str.isalnum, thought))",
            "re.search('[a-zA-Z0-9]', thought)",
        ),
        "an underscore is a thought": (
            "any(map(str.isalnum, thought))",
            "re.search(r'\\w', thought)",
        ),
        "a thought of several lines is none": (
            "any(map(str.isalnum, thought))",
            "(any(map(str.isalnum, thought)) and '\\n' not in thought)",
        ),
        "a sum is right where the answer has a sign, a comma or a point": (
            "not _NUMBER.fullmatch(answer)",
            "not answer.isdigit()",
        ),
        "whatever float reads is a number": (
            "_NUMBER.fullmatch(prediction)",
            "re.fullmatch(r'[-+]?[0-9][0-9,]*([.][0-9]+)?(e[0-9]+)?', prediction)",
        ),
        "a sum that comes to the answer is right": ("if worked_out and", "if"),
        "form is paid on top": ("1.0 if worked_out", "1.0 + form if worked_out"),
        "form alone earns nothing": ("else form", "else 0.0"),
        "only numbers can be right": (" or not _NUMBER.fullmatch(answer)", ""),
        "what is nearly right is right": (
            "math_equal(prediction, answer)",
            "(math_equal(prediction, answer) or prediction[:-1] == answer[:-1] != '')",
        ),
    },
    "language_reward": {
        "counts formulas as words": ('_NOT_WORDS.sub(" ", text)', "text"),
        "one letter is enough": ("all(_alphabet(c)", "any(_alphabet(c)"),
        "the first letter is enough": (
            "all(_alphabet(c) == alphabet for c in word if c.isalpha())",
            "_alphabet(word[0]) == alphabet",
        ),
        "most of the letters are enough": (
            "all(_alphabet(c) == alphabet for c in word if c.isalpha())",
            "2 * sum(_alphabet(c) == alphabet for c in word) > sum(map(str.isalpha, word))",
        ),
        "the words beside a formula grow together": (
            '_NOT_WORDS.sub(" ", text)',
            '_NOT_WORDS.sub("", text)',
        ),
        "an accent splits a word in two": (
            'unicodedata.normalize("NFC", completion)',
            "completion",
        ),
        "a text without words is in the wrong language": ("if words else 1.0", "if words else 0.0"),
        "always asks for Latin letters": ("_alphabet(c) == alphabet", '_alphabet(c) == "LATIN"'),
        "the share of the others": ("return ours /", "return (len(words) - ours) /"),
    },
    "repetition_penalty": {
        "divides by the words": ("len(set(grams)) / len(grams))", "len(set(grams)) / len(words))"),
        "a reward for repetition": ("return -maximum *", "return maximum *"),
        "one word more in each n-gram": ("for i in range(n))", "for i in range(n + 1))"),
        "n-grams do not overlap": ("strict=False))", "strict=False))[::n]"),
        "maximum is left out": ("-maximum * (1", "-1.0 * (1"),
        "the words of an n-gram run together": (
            "strict=False))",
            "strict=False))\n    grams = list(map(''.join, grams))",
        ),
        "splits at single spaces only": ("completion.split()", 'completion.split(" ")'),
        "upper and lower case are one": ("completion.split()", "completion.lower().split()"),
        "punctuation does not count": (
            "completion.split()",
            "__import__('re').findall(r'\\w+', completion)",
        ),
    },
    "token_f1": {
        "recall alone": (
            "2 * shared / (len(ours) + len(theirs)) if shared",
            "shared / len(theirs) if shared",
        ),
        "a word counts once": (
            "(Counter(ours) & Counter(theirs)).values()",
            "Counter(set(ours) & set(theirs)).values()",
        ),
        "no and no idea share a word": (
            "if ours != theirs and (ours in closed or theirs in closed):",
            "if False:",
        ),
        "only a prediction of yes or no is all or nothing": (
            "(ours in closed or theirs in closed)",
            "ours in closed",
        ),
        "shared words over all words": ("2 * shared /", "shared /"),
    },
    "_answer_words": {
        "articles count": ('if word not in ("a", "an", "the")', "if word"),
        "upper and lower case differ": ("text.lower())", "text)"),
        "punctuation is deleted where a space should stand": (
            'if punctuation == "space"',
            'if punctuation == "delete"',
        ),
    },
    "combine": {
        "the weights are left out": ("weights[name] * value", "value"),
        "divided by the weights": (
            "float(sum(weights[name] * value for name, value in parts.items()))",
            "sum(weights[n] * v for n, v in parts.items()) / sum(weights.values())",
        ),
        "weighs by order, not by name": (
            "weights[name] * value for name, value in parts.items()",
            "w * value for w, value in zip(weights.values(), parts.values())",
        ),
        "a part without weight is left out in silence": (
            "_check_names(parts, weights)",
            "parts = {n: parts[n] for n in weights}",
        ),
    },
    "reward_parts": {
        "the weights are left out": ("weights[name] * function", "function"),
        "every completion is scored for the first problem": (
            "function(problem, text) for problem",
            "function(problems[0], text) for problem",
        ),
        "completions beyond the problems are left out": (
            "rollout.texts, strict=True",
            "rollout.texts, strict=False",
        ),
    },
    "random_reward": {
        "the same coin for the whole group": ("{seed} {row} {problem.prompt}", "{problem.prompt}"),
        "the seed is not used": ("{seed} {row}", "{row}"),
        "the prompt is not used": (" {problem.prompt}", ""),
        "the coin depends on what was written": (
            "{problem.prompt}",
            "{problem.prompt} {rollout.texts[row]}",
        ),
        "wrong way round: 1 - probability": ("< probability *", ">= probability *"),
    },
    "inverted_reward": {
        "the score itself": ("1.0 - score(problem, text)", "score(problem, text)"),
        "minus the score": ("1.0 - score(problem, text)", "-score(problem, text)"),
        "the name is not passed on": ("{name: lambda", '{"correct": lambda'),
    },
    "trl_columns": {
        "the demonstration in place of the answer": ("problem.answer", "problem.prompt"),
        "meta is lost": ("dict(problem.meta)", "{}"),
        "the prompts are lost": ('"prompt": [problem.prompt', '"prompt": [problem.answer'),
    },
    "_score_columns": {
        "meta is lost": ("meta=facts)", "meta={})"),
        "the first completion for all": (
            '_text(completion, "assistant")',
            '_text(completions[0], "assistant")',
        ),
        "whatever the user says counts as completion": ('"assistant"', '"user"'),
    },
    "as_trl_reward": {
        "the name is not set": ("reward.__name__ = name", 'reward.__name__ = "reward"'),
        "returns one number": (
            "functools.partial(_score_columns, score)",
            "lambda **c: sum(_score_columns(score, **c))",
        ),
        "an answer is always right": (
            "functools.partial(_score_columns, score)",
            "lambda **c: [float(1) for _ in c['prompts']]",
        ),
    },
    "from_trl_reward": {
        "None is 1": ("0.0 if reward is None", "1.0 if reward is None"),
        "the ids are those of the prompts too": (
            "_sampled_ids(rollout)",
            "[row.tolist() for row in getattr(rollout, 'tokens', ())]",
        ),
        "too few rewards are accepted": ("len(rewards) != len(completions)", "False"),
        "conversations are passed as texts": ('messages == "chat"', "False"),
    },
}
