r"""From the text of a maths answer, in LaTeX or plain notation, to a list of tokens.

Here falls away what carries no meaning (`\left`, `\,`, `\$`, `\%`, degrees), and here `1,000`
becomes one number. Everything takes time in proportion to the text.
"""

import re

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp sqrt".split()
)
_TEXT = r"\\(?:text(?:bf|it|rm|sf|normal)?|mbox|hbox|mathrm|operatorname)\s*"
_ROW = "\x02"  # stands for \\, so that its second half starts no command

_CHARACTERS = str.maketrans({
    "−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "π": r"\pi ", "∞": r"\infty ",
    "√": " sqrt ", "±": r"\pm ", "∓": r"\mp ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "∪": r"\cup ", "∈": r"\in ", "∅": r"\emptyset ", "θ": r"\theta ", "°": r"\degree ",
    "²": "^2 ", "³": "^3 ", "½": r"\frac12 ", "¼": r"\frac14 ", "¾": r"\frac34 ", "€": "", "£": "",
})  # fmt: skip

_REWRITES = [(re.compile(pattern), new) for pattern, new in [
    (r"\\\\", f" {_ROW} "),
    (r"(?<=\d)(?:,\\!\s*|\{,\}|\\,)(?=\d{3}(?!\d))", ""),  # 10,\!080
    (r"\\?[$%]|\\[()[\]]", ""),
    (r"(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree)(?![A-Za-z])(?:\s*[CF](?![A-Za-z]))?", ""),
    (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|mathbf|mathit|mathbb|bm|vec"
     r"|boldsymbol|rm|bf|it)(?![A-Za-z])", " "),
    (r"\\[!,;: ]|\\q?quad(?![A-Za-z])|~", " "),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (_TEXT + r"\{([\s\d.,/+-]*)\}", r"\1"),  # a number set as text
    (r"\s+", " "),
    (r"^ ?([A-Za-z]) ?\( ?[A-Za-z] ?\) ?=", r"\1="),  # f(x) = … names its value as y = … does
    (r"^[ =]+|[ .,;:]+$", ""),
]]  # fmt: skip

_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<repeating>\d*\.\d*\\overline ?\{\d+\})"
    r"|(?P<number>(?:\d+\.\d*|\.?\d+)(?:[eE][+-]?\d+)?)"  # 2e3 and 2e-3, not 2e, 2e^3, 2 e-3
    r"|" + _TEXT + r"\{(?P<text>[^{}]*)\}"
    r"|(?P<matrix>\\begin ?\{(?:[pbB]?matrix|array\} ?\{[clr| ]*)\})"
    r"|(?P<end_matrix>\\end ?\{(?:[pbB]?matrix|array)\})"
    r"|(?P<command>\\(?:[A-Za-z]+|.))"
    r"|(?P<letters>[A-Za-z]+)"
    r"|(?P<symbol>\*\*|<=|>=|!=|\+/-|.)",
    re.DOTALL,
)
_RENAMED = {_ROW: "row", ";": ","}


def clean(text: str) -> str:
    """Drop what carries no meaning: spacing, sizes of brackets, currency, percent, degrees."""
    text = text.strip().translate(_CHARACTERS)
    box = re.fullmatch(r"\$*\\boxed ?\{(.*)\}\$*", text, re.DOTALL)
    text = box.group(1) if box else text
    for pattern, new in _REWRITES:
        text = pattern.sub(new, text)
    return text


def text_key(text: str) -> str:
    """What two unreadable answers must share to be equal. Words ignore case, formulas do not."""
    key = re.sub(_TEXT + r"\{([^{}]*)\}", r" \1 ", text)
    wordy = key != text or re.search(r"(?<![\\\w])[^\W\d_]{4,}", text)
    return " ".join(key.casefold().split() if wordy else key.split())


def tokenize(text: str) -> list[tuple[str, str]]:
    """Cut a cleaned answer into tokens.

    Returns:
        (kind, text) pairs, ("end", "end") last. Kinds: "number", "repeating" (0.1\\overline{6}),
        "letters", "text" (what \\text{…} holds), "command", "matrix", "end_matrix", "symbol".
    """
    tokens, at, depth = [], 0, 0
    while at < len(text):
        # In brackets (100,200) is a pair. Outside of them 100,200 is a number.
        match = _THOUSANDS.match(text, at) if depth == 0 else None
        if match:
            kind, value = "number", match.group().replace(",", "")
        else:
            match = _TOKEN.match(text, at)
            kind, value = match.lastgroup, match.group(match.lastgroup)
        at = match.end()
        if kind == "space":
            continue
        if kind == "text" and (value.strip() in FUNCTIONS or value.strip() in ("e", "i", "d")):
            kind, value = "letters", value.strip()
        elif kind in ("text", "letters") and value.strip().lower() in ("and", "or"):
            if tokens and tokens[-1][1] == ",":  # "3, 5, and 7"
                continue
            kind, value = "symbol", ","
        elif kind in ("symbol", "command"):
            depth += (value in ("(", "[", "{", r"\{")) - (value in (")", "]", "}", r"\}"))
            value = _RENAMED.get(value, value)
        tokens.append((kind, value))
    return [*tokens, ("end", "end")]
