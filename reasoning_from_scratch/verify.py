r"""Read the answer out of a completion and judge it: the rule behind a verifiable reward.

Nearly every question is settled here, in microseconds, by exact fractions; only where a formula
must be rewritten does `math_equal` ask sympy, in a process that can be killed. The text of a model
is never evaluated: `verify_text` and `verify_grammar` read it by a grammar of their own.

Not here: partial credit, and deciding what an unreadable reference should earn. It equals its own
text and nothing else.
"""

import re
from collections import Counter
from numbers import Number

from reasoning_from_scratch.verify_grammar import MAX_CHARACTERS, parse
from reasoning_from_scratch.verify_text import clean, text_key
from reasoning_from_scratch.verify_trees import Tree, number, surely_different, surely_equal
from reasoning_from_scratch.verify_worker import prove_equal

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
LONGEST_SECONDS = 3600.0
MAX_MATCHED = 30  # members of a set that are written differently on the two sides

_FORMAT = re.compile(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", re.DOTALL)
_BOX_OR_BRACE = re.compile(r"(?P<box>\\boxed\s*\{)|\\[\\{}]|[{}]")


def check_format(text: str, *, prefilled: bool = False) -> bool:
    """Say whether a completion is one block of thinking, then one answer, and nothing else.

    Args:
        text:      the completion.
        prefilled: whether the prompt ends with `<think>`, so that the completion does not hold it.

    Returns:
        True if each of `<think>`, `</think>`, `<answer>`, `</answer>` is there exactly once, in
        this order, with only white space before, between and after the two blocks. A block may be
        empty.

    Source: DeepSeek-AI 2025 (R1), format reward; each tag once: Xie et al. 2025 (Logic-RL).
    """
    text = "<think>" + text if prefilled else text
    return all(text.count(tag) == 1 for tag in TAGS) and bool(_FORMAT.fullmatch(text))


def extract_answer(text: str) -> str | None:
    r"""Return what a completion gives as its answer: the last one that it finished.

    Args:
        text: the completion, of any length.

    Returns:
        What the last closed `<answer>…</answer>` holds, or the last `\boxed{…}` within it; without
        such a tag, what the last `\boxed{…}` with balanced braces holds. Without white space at its
        ends. None if there is neither (`#### 42`, as GSM8K's solutions end, is not read), if the
        answer's box is not closed, and for what is no text.
    """
    if not isinstance(text, str):
        return None
    start = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if start < 0:
        return _last_box(text)
    answer = text[start + len("<answer>") : text.index("</answer>", start)]
    return _last_box(answer) if "\\boxed" in answer else answer.strip()


def _last_box(text: str) -> str | None:
    """What stands in the last box that is closed, found in one pass."""
    opened, last = [], None  # where each open brace's content starts; None if it opens no box
    for match in _BOX_OR_BRACE.finditer(text, max(text.find("\\boxed"), 0)):
        if match["box"]:
            opened.append(match.end())
        elif match[0] == "{":
            opened.append(None)
        elif match[0] == "}" and opened:
            start = opened.pop()
            if start is not None and (last is None or start > last[0]):
                last = start, match.start()
    return text[slice(*last)].strip() if last else None


def math_equal(prediction: object, reference: object, *, timeout: float = 1.0) -> bool:
    r"""Say whether two answers mean the same. Where unsure, say no.

    Args:
        prediction: what a model answered, in LaTeX or plain notation. Any text is safe.
        reference:  the right answer. Of either, a number stands for its text: Python's and numpy's,
                    a `Fraction`, a tensor or array without dimensions. 0.1 in any precision is
                    "0.1". Anything else is no answer and equals nothing.
        timeout:    seconds for comparing formulas with sympy, all parts of an answer together. Not
                    counted: starting sympy's process, once, when the first formula comes (a second
                    on an idle machine), and up to 0.7 · timeout while many compare at once. What is
                    not proved in time is not equal.

    Returns:
        Whether they are equal under these rules. Values are exact: 0.333 is not 1/3. Units, \$, \%
        and degrees don't count: `50\%` is 50, not 0.5. `1.5e3` and `1.5E3` are 1500 and `2e-3` is
        0.002; in `2e`, `2e^3` and `2 e - 3` stands the constant. `1\frac45` and `1 1/2` are mixed
        numbers, `2 3` is none, `1,000` is a thousand. `1,-2`, `\{1,-2\}` and `a\pm b` are
        unordered, tuples ordered, and the brackets of an interval count; those of a matrix don't.
        `x=5` is 5 and `x>5` is (5,∞); an equation may swap its sides. Words and `\text{…}` ignore
        case; a bare letter is a variable, so `C` is not `c`, but it is `\text{c}`. `52_8` is
        neither 52 nor 42. A letter may stand for any complex number, so that √(x²) is not x.

    Any thread may call it, several at once; it sets no signal and never raises.
    """
    try:
        prediction, reference = _as_text(prediction), _as_text(reference)
        if max(len(prediction), len(reference)) > MAX_CHARACTERS:
            return prediction.strip() == reference.strip()
        left, right = clean(prediction), clean(reference)
        if left == right:
            return left != ""
        trees = parse(left), parse(right)
        if None in trees:
            return text_key(left) == text_key(right) != ""
        return _Comparison(timeout).equal(*map(_without_name, trees, reversed(trees)))
    except Exception:  # a reward function that raises ends a training run
        return False


def _as_text(answer: object) -> str:
    if getattr(answer, "shape", None) == () and not isinstance(answer, Number):
        return _tensor_text(answer) if hasattr(answer, "new_tensor") else str(answer)
    if isinstance(answer, Number):
        return str(answer).replace("j", "i")
    if not isinstance(answer, str):
        raise TypeError(f"an answer is a {type(answer).__name__}, expected a text or a number")
    return answer


def _tensor_text(tensor: object) -> str:
    """The shortest text of a tensor's one number that is read back as the same."""
    value = tensor.item()
    texts = (f"{value:.{digits}g}" for digits in range(1, 17)) if isinstance(value, float) else ()
    return next((t for t in texts if tensor.new_tensor(float(t)) == tensor), str(value))


def _without_name(tree: Tree, other: Tree) -> Tree:
    """`x=5` as 5 and `x>5` as an interval, unless the other names another variable."""
    names, bare = _named(tree)
    others, _ = _named(other)
    return bare if len(names) == 1 and others <= names else tree


def _named(tree: Tree) -> tuple[set[str], Tree]:
    """The variables that an answer gives values to, and the answer without them."""
    if tree[0] == "set":
        members = [_named(member) for member in tree[1:]]
        names = set().union(*(names for names, _ in members))
        return names, ("set", *(bare for _, bare in members))
    if tree[0] == "chain":
        return _interval(tree)
    if tree[0] == "eq":
        for side, value in (tree[1:], tree[:0:-1]):
            if side[0] == "sym" and side[1] not in ("pi", "e", "i") and not _holds(value, side):
                return {side[1]}, value
    return set(), tree


def _holds(tree: Tree, part: Tree) -> bool:
    return tree == part or any(_holds(inner, part) for inner in tree if isinstance(inner, tuple))


def _interval(chain: Tree) -> tuple[set[str], Tree]:
    """The interval of `a < x`, `x <= b` or `a < x <= b`."""
    _, signs, *sides = chain
    signs, infinity = signs.split(), ("sym", "infinity")
    minus_infinity = ("mul", number(-1), infinity)
    if len(sides) == 2 and sides[0][0] == "sym":
        signs, sides = ["<", *signs], [minus_infinity, *sides]
    elif len(sides) == 2:
        signs, sides = [*signs, "<"], [*sides, infinity]
    if len(sides) != 3 or sides[1][0] != "sym" or _holds((sides[0], sides[2]), sides[1]):
        return set(), chain
    low, variable, high = sides
    brackets = "(" if signs[0] == "<" else "[", ")" if signs[1] == "<" else "]"
    return {variable[1]}, ("tuple", *brackets, low, high)


class _Comparison:
    """One comparison of two answers, with the seconds that are left for asking sympy."""

    def __init__(self, timeout: float) -> None:
        self.seconds = min(timeout, LONGEST_SECONDS)

    def equal(self, left: Tree, right: Tree) -> bool:
        if left == right:
            return True
        kinds = {left[0], right[0]}
        if "word" in kinds:
            return self.equal_words(left, right)
        if "set" in kinds:  # a set of one is its member
            members = [tree[1:] if tree[0] == "set" else (tree,) for tree in (left, right)]
            return self.match(*members)
        if kinds & {"tuple", "matrix", "row", "chain"}:
            return self.equal_parts(left, right)
        if kinds & {"union", "eq", "ne"}:
            return left[0] == right[0] and self.match(left[1:], right[1:])
        if kinds <= {"num", "sym"} or surely_different(left, right):
            return False
        if surely_equal(left, right):
            return True
        if not self.seconds > 0:
            return False
        proved, seconds = prove_equal(left, right, timeout=self.seconds)
        self.seconds -= seconds
        return proved

    def equal_words(self, left: Tree, right: Tree) -> bool:
        if left[0] == right[0] and left[1] == right[1]:
            return True
        # The two letters of `xy` may also be a product, and \text{C} the letter C.
        meanings = []
        for tree, other in ((left, right), (right, left)):
            if tree[0] == "word" and other[0] == "sym":
                return tree[1] == other[1].casefold()
            meanings.append(tree[2] if tree[0] == "word" else tree)
        return None not in meanings and self.equal(*meanings)

    def equal_parts(self, left: Tree, right: Tree) -> bool:
        """In order; signs and brackets are texts and must be the same."""
        if len(left) != len(right):
            return False
        pairs = list(zip(left, right, strict=True))
        texts = [pair for pair in pairs if not all(isinstance(part, tuple) for part in pair)]
        return all(a == b for a, b in texts) and all(
            self.equal(a, b) for a, b in pairs if isinstance(a, tuple)
        )

    def match(self, left: tuple, right: tuple) -> bool:
        """In any order: each of one side is some other of the other side."""
        if len(left) != len(right):
            return False
        same = Counter(left) & Counter(right)
        left, right = (list((Counter(side) - same).elements()) for side in (left, right))
        if len(left) > MAX_MATCHED:
            return False
        for member in left:
            found = next((i for i, other in enumerate(right) if self.equal(member, other)), None)
            if found is None:
                return False
            right.pop(found)
        return True
