"""Plausible mistakes in verify.py."""

MUTANTS = {
    "extract_answer": {
        "the first tag wins": ('text.rfind("<answer>", 0,', 'text.find("<answer>", 0,'),
        "an open tag counts": ('max(text.rfind("</answer>"), 0))', "len(text))"),
        "up to the last closing tag, not the next": (
            'text.index("</answer>", start)',
            'text.rindex("</answer>")',
        ),
        "a box within the tag stays": (
            '_last_box(answer) if "\\\\boxed" in answer else answer.strip()',
            "answer.strip()",
        ),
        "white space stays": ("else answer.strip()", "else answer"),
        "the box wins over the tag": (
            "    if start < 0:",
            '    if start < 0 or "\\\\boxed{" in text:',
        ),
        "an empty answer is none": ("else answer.strip()", "else answer.strip() or None"),
    },
    "_last_box": {
        "the first box wins": ("start > last[0]", "start < last[0]"),
        "ends at the first closing brace": ('elif match[0] == "{":', 'elif match[0] == "[":'),
        "what an open box holds": (
            "if last else None",
            "if last else (text[opened[-1] :] if opened and opened[-1] else None)",
        ),
        "white space stays": ("].strip() if", "] if"),
    },
    "check_format": {
        "only the order counts": ("all(text.count(tag) == 1 for tag in TAGS) and ", ""),
        "only the counts count": (" and bool(_FORMAT.fullmatch(text))", ""),
        "text may follow": ("_FORMAT.fullmatch(text)", "_FORMAT.match(text)"),
        "text may come before": ("_FORMAT.fullmatch(text)", "_FORMAT.search(text)"),
        "a tag may be there twice": ("text.count(tag) == 1", "text.count(tag) >= 1"),
        "with the prompt's tag, one more is welcome": (
            '"<think>" + text if prefilled else text',
            '"<think>" + text if prefilled and "<think>" not in text else text',
        ),
        "the tag is always put before": (" if prefilled else text", ""),
    },
    "math_equal": {
        "nothing equals nothing": ('return left != ""', "return True"),
        "what can't be read is compared letter by letter": (
            'return text_key(left) == text_key(right) != ""',
            "return left == right",
        ),
        "what can't be read equals the rest": (
            'return text_key(left) == text_key(right) != ""',
            "return True",
        ),
        "variables keep their names": ("*map(_without_name, trees, reversed(trees))", "*trees"),
        "the right side has nothing to say": (
            "*map(_without_name, trees, reversed(trees))",
            "*map(_without_name, trees, trees)",
        ),
        "raises for what is no text": ("except Exception:", "except ValueError:"),
        "compares text alone": ("if None in trees:", "if True:"),
    },
    "_as_text": {
        "what has numbers but no dimensions is no number": (
            '"shape", None) == ()',
            '"shape", 0) == 1',
        ),
        "Python's own numbers alone": (
            "if isinstance(answer, Number):",
            "if isinstance(answer, int | float):",
        ),
        "bytes are text": (
            "if not isinstance(answer, str):",
            "if not isinstance(answer, str | bytes):",
        ),
    },
    "_tensor_text": {
        "float32 with the digits of float64": (
            " if isinstance(value, float) else ()",
            " if 0 else ()",
        ),
        "three digits are enough": ("range(1, 17)", "range(3, 4)"),
        "any text is near enough": ("if tensor.new_tensor(float(t)) == tensor", "if t"),
    },
    "_without_name": {
        "any variable is as good": ("len(names) == 1 and others <= names", "len(names) == 1"),
        "several variables are dropped": ("len(names) == 1 and ", ""),
    },
    "_named": {
        "only the left side may be the variable": ("(tree[1:], tree[:0:-1])", "(tree[1:],)"),
        "an unknown may stand for itself": (" and not _holds(value, side)", ""),
        "any equation is its right side": ('if side[0] == "sym" and', "if"),
        "an equation in a list is left alone": ('if tree[0] == "set":', 'if tree[0] == "":'),
    },
    "_interval": {
        "open and closed are swapped": (
            '"(" if signs[0] == "<" else "["',
            '"[" if signs[0] == "<" else "("',
        ),
        "the upper end is always open": ('")" if signs[1] == "<" else "]"', '")"'),
        "upwards is downwards": (
            'signs, sides = ["<", *signs], [minus_infinity, *sides]',
            'signs, sides = ["<", *signs], [infinity, *sides]',
        ),
    },
    "_Comparison.equal": {
        "the order counts in a set": (
            "return self.match(*members)",
            "return self.equal_parts(*members)",
        ),
        "the order does not count in a tuple": (
            'if "set" in kinds:',
            'if kinds & {"set", "tuple"}:',
        ),
        "an equation may not swap its sides": (
            'if kinds & {"tuple", "matrix",',
            'if kinds & {"eq", "tuple", "matrix",',
        ),
        "≠ is as good as =": ("left[0] == right[0] and self.match", "self.match"),
        "rounding is equality": (
            "if surely_equal(left, right):",
            "if surely_equal(left, right) or not surely_different(left, right):",
        ),
        "without sympy, equal": (
            "            return False\n        proved,",
            "            return True\n        proved,",
        ),
        "nothing is multiplied out": ("if surely_equal(left, right):", "if left is right:"),
        "sympy is not asked": ("return proved", "return False"),
    },
    "_Comparison.equal_words": {
        "case counts": ("tree[1] == other[1].casefold()", "tree[1] == other[1]"),
        "any word is any other": (
            "left[0] == right[0] and left[1] == right[1]",
            "left[0] == right[0]",
        ),
        "letters side by side are never a product": (
            "return None not in meanings and self.equal(*meanings)",
            "return False",
        ),
    },
    "_Comparison.equal_parts": {
        "brackets don't count": ("all(a == b for a, b in texts) and ", ""),
        "one part in common is enough": ("texts) and all(", "texts) and any("),
    },
    "_Comparison.match": {
        "one side may have more": ("if len(left) != len(right):", "if len(left) > len(right):"),
        "a member may be matched twice": ("            right.pop(found)\n", ""),
        "only what is written alike matches": (
            "if self.equal(member, other)), None)",
            "if member is other), None)",
        ),
    },
}
