r"""From the tokens of a maths answer to the tree of what it means.

No name of the text is ever looked up in Python: the grammar knows numbers, letters and the lists
below. What it does not know, or could read in two ways (`2 3`, `1/2x`), is unreadable, and so is
what is too long, nests too deeply or is too large.
"""

import functools
import re
from fractions import Fraction

from reasoning_from_scratch.verify_text import FUNCTIONS, tokenize
from reasoning_from_scratch.verify_trees import (
    MAX_EXPONENT,
    Tree,
    Unreadable,
    add,
    collection,
    count_signs,
    divide,
    factorial,
    multiply,
    number,
    power,
)

MAX_CHARACTERS = 2000
MAX_DEPTH = 30

GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi"
    " rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi"
    " Omega ell".split()
)
CONSTANTS = {"pi": "pi", "infty": "infinity", "infinity": "infinity", "inf": "infinity"}
COMMANDS = GREEK | FUNCTIONS | CONSTANTS.keys() | {"frac", "binom", "dbinom"}
RELATIONS = {
    "=": "=", "<": "<", r"\lt": "<", ">": ">", r"\gt": ">", "<=": "<=", r"\le": "<=", r"\leq": "<=",
    r"\leqslant": "<=", ">=": ">=", r"\ge": ">=", r"\geq": ">=", r"\geqslant": ">=", "!=": "ne",
    r"\ne": "ne", r"\neq": "ne", r"\in": "in",
}  # fmt: skip
TIMES = ("*", r"\cdot", r"\times")
DIVIDED = ("/", r"\div")
PLUS_MINUS = (r"\pm", r"\mp", "+/-")
POWER = ("^", "**")
CLOSINGS = {
    "(": ")]", "[": ")]", "{": "}", r"\{": (r"\}",), r"\langle": (r"\rangle",),
}  # fmt: skip
ENDS = (",", ")", "]", "}", r"\}", r"\rangle", r"\cup", "&", "row", "end")
# Abbreviations of two and three letters that would otherwise be products of variables.
UNITS = frozenset(
    "mm cm km kg mg ml ft in yd mi lb lbs oz hr hrs min sec mph kph sq per day men box deg".split()
)
# Words after a number that change it.
NO_UNITS = frozenset(
    "hundred thousand million billion trillion dozen half halves third thirds quarter quarters"
    " tenth tenths hundredths thousandths squared cubed factorial times plus minus mod modulo base"
    " choose over divided not if when where for except unless more less fewer least most than"
    " greater remainder am pm a.m p.m a.m. p.m. pi infinity wrong none".split()
)


@functools.lru_cache(maxsize=4096)  # a group's completions share their reference
def parse(text: str) -> Tree | None:
    """Return the tree of an answer that `clean` has passed, or None if it is unreadable."""
    try:
        return _Parser(tokenize(text)).answer() if len(text) <= MAX_CHARACTERS else None
    except (Unreadable, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


class _Parser:
    """Recursive descent: each method reads what its name says and moves past it."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens, self.at = tokens, 0
        self.depth, self.bars = 0, 0  # brackets and functions; whether the next | closes

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0]

    @property
    def next(self) -> str:
        return self.tokens[self.at][1]

    def take(self, *values: str) -> str | None:
        """Move past the next token if it is a sign or command among `values`, and return it."""
        if self.next not in values or self.kind in ("text", "letters"):
            return None
        self.at += 1
        return self.tokens[self.at - 1][1]

    def expect(self, *values: str) -> None:
        if not self.take(*values):
            raise Unreadable(f"{values[0]} is missing")

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")

    # Lists, relations, unions, text.

    def answer(self) -> Tree:
        items = self.items()
        self.expect("end")
        return collection(items) if len(items) > 1 or count_signs(items[0]) else items[0]

    def items(self) -> list[Tree]:
        items = [self.item()]
        while self.take(","):
            items.append(self.item())
        return items

    def item(self) -> Tree:
        sides, relations = [self.side()], []
        while self.next in RELATIONS and self.kind != "text":
            relations.append(RELATIONS[self.next])
            self.at += 1
            sides.append(self.side())
        if not relations:
            return sides[0]
        if relations in (["="], ["ne"]):
            return ("eq" if relations == ["="] else "ne", *sides)
        if relations == ["in"] and sides[0][0] == "sym":
            return sides[1]
        if set(relations) <= {">", ">="}:
            sides = sides[::-1]
            relations = [relation.replace(">", "<") for relation in reversed(relations)]
        if set(relations) <= {"<", "<="}:
            return ("chain", " ".join(relations), *sides)
        raise Unreadable("a chain of relations")

    def side(self) -> Tree:
        word = self.word()
        if word:
            return word
        parts = [self.sum()]
        self.skip_unit()
        while self.take(r"\cup"):
            parts.append(self.sum())
        if len(parts) > 1 and any(part[0] not in ("tuple", "set") for part in parts):
            raise Unreadable("a union of other things than sets")
        return ("union", *parts) if len(parts) > 1 else parts[0]

    def word(self) -> Tree | None:
        """Text that stands alone, or None if mathematics comes next."""
        end = self.at
        while self.tokens[end][0] in ("text", "letters"):
            end += 1
        phrase = self.tokens[self.at : end]
        if not phrase or self.tokens[end][1] not in (*ENDS, *RELATIONS):
            return None
        runs = [value for kind, value in phrase if kind == "letters"]
        longest = max(map(len, runs), default=0)
        product = None
        if len(runs) == len(phrase):  # nothing says that it is text: cot x and pi r are not
            known = any(run in FUNCTIONS or run in CONSTANTS for run in runs)
            if longest < 2 or (known and (longest < 4 or len(runs) == 1)):
                return None
            if len(runs) == 1 and longest < 4:
                product = multiply(*(("sym", letter) for letter in runs[0]))
        self.at = end
        text = re.sub(r"[^\w'+-]+", " ", " ".join(value for _, value in phrase))
        return ("word", text.strip().casefold(), product)

    def skip_unit(self) -> None:
        start = self.at
        while self.kind == "text" or (self.kind == "letters" and _is_word(self.next)):
            self.at += 1
        if self.at == start:
            return
        phrase = " ".join(value for _, value in self.tokens[start : self.at]).lower()
        if not re.fullmatch(r"[a-z /.-]*(?:\^ ?\{?[23]\}?)?[ .]*", phrase):
            raise Unreadable("text after a number that is no unit")
        if NO_UNITS.intersection(re.split(r"[ /-]+", phrase)):
            raise Unreadable("a word that changes the number before it")
        if self.take("^") and self.argument() not in (("num", 2), ("num", 3)):
            raise Unreadable("a unit to a power")
        if self.take("/"):
            if self.kind not in ("letters", "text"):
                raise Unreadable("a unit over something else")
            self.at += 1

    # Sums, products, powers.

    def sum(self) -> Tree:
        node = number(0) if self.next in PLUS_MINUS else self.product()
        while True:
            if self.take("+"):
                node = add(node, self.product())
            elif self.take("-"):
                node = add(node, multiply(number(-1), self.product()))
            elif self.take(*PLUS_MINUS):
                node = ("pm", add(node), add(self.product()))
            else:
                return node

    def product(self) -> Tree:
        node, divided = self.signed(), False
        while True:
            if self.take(*TIMES):
                node, divided = multiply(node, self.signed()), False
            elif self.take(*DIVIDED):
                node, divided = divide(node, self.signed()), True
            elif not self.starts_factor():
                return node
            elif divided:
                raise Unreadable("1/2x: is x above or below the line?")
            else:
                node = multiply(node, self.powered())

    def starts_factor(self) -> bool:
        """Whether what comes next, without a sign before it, is multiplied."""
        if self.kind == "letters":
            return not _is_word(self.next)
        if self.kind == "command":
            return self.next[1:] in COMMANDS or (self.next == r"\lvert")
        return self.kind == "symbol" and (
            self.next in ("(", "[", "{") or (self.next == "|" and not self.bars)
        )

    def signed(self) -> Tree:
        negative = False
        while sign := self.take("-", "+"):
            negative ^= sign == "-"
        node = self.powered()
        return multiply(number(-1), node) if negative else node

    def powered(self) -> Tree:
        node = self.atom()
        if self.take("!"):
            node = factorial(node)
        return power(node, self.exponent()) if self.take(*POWER) else node

    def exponent(self) -> Tree:
        self.deeper()
        negative = False
        while sign := self.take("-", "+"):
            negative ^= sign == "-"
        node = self.argument(digits=None)
        if self.take(*POWER):  # 2^3^2 is 2^9
            node = power(node, self.exponent())
        self.depth -= 1
        return multiply(number(-1), node) if negative else node

    def argument(self, digits: int | None = 1) -> Tree:
        """What LaTeX takes as an argument: a group, a command, or one letter or digit.

        Plain notation takes the whole number: digits=None.
        """
        kind, value = self.tokens[self.at]
        if digits and kind == "number" and "e" in value.lower():
            raise Unreadable(r"\sqrt2e-3: a root of 0.002, or 3 less than √2·e?")
        if kind != "number" or not value.isdigit():
            return self.atom()
        rest = value[digits:] if digits else ""
        if rest:
            self.tokens[self.at] = ("number", rest)
        else:
            self.at += 1
        return number(int(value[:digits]))

    # What stands between signs.

    def atom(self) -> Tree:
        self.deeper()
        kind, value = self.tokens[self.at]
        self.at += 1
        read = {
            "number": self.numeral, "repeating": self.repeating, "letters": self.letters,
            "command": self.command, "matrix": self.matrix, "symbol": self.bracket,
        }.get(kind)  # fmt: skip
        if not read:
            raise Unreadable("something is missing")
        node = read(value)
        self.depth -= 1
        return node

    def numeral(self, value: str) -> Tree:
        before = self.tokens[self.at - 2][1] if self.at > 1 else ""
        if self.take("_"):
            return ("sym", f"{value} in base {_index(self.argument(digits=None))}")
        _, _, exponent = value.lower().partition("e")
        if exponent and abs(int(exponent)) > MAX_EXPONENT:  # before 10**exponent is worked out
            raise Unreadable("an exponent too large")
        whole = number(Fraction(value))
        fraction = self.proper_fraction() if value.isdigit() else None
        if fraction is None:
            return whole
        if before in DIVIDED or self.next in (*POWER, *DIVIDED, "!", "_"):
            raise Unreadable("part of a mixed number")
        return add(whole, number(fraction))

    def proper_fraction(self) -> Fraction | None:
        r"""The fraction that makes a mixed number, as `1/2` or `\frac12`, if it comes next."""
        start = self.at, list(self.tokens)
        if self.kind == "number":
            above = self.argument(digits=None)
            self.expect("/")  # else two numbers stand side by side
            below = self.argument(digits=None)
        elif self.take(r"\frac"):
            above, below = self.argument(), self.argument()
        else:
            return None
        if all(part[0] == "num" and part[1].denominator == 1 for part in (above, below)):
            if 0 < above[1] < below[1]:
                return above[1] / below[1]
            raise Unreadable("a number beside an improper fraction")
        self.at, self.tokens = start
        return None

    def repeating(self, value: str) -> Tree:
        fixed, repeated = re.fullmatch(r"(\d*\.\d*)\\overline ?\{(\d+)\}", value).groups()
        places = len(fixed) - fixed.index(".") - 1
        tail = Fraction(int(repeated), (10 ** len(repeated) - 1) * 10**places)
        return number(Fraction(f"0{fixed}0") + tail)

    def letters(self, value: str) -> Tree:
        if value in FUNCTIONS:
            return self.function(value, digits=None)
        if value in CONSTANTS:
            return ("sym", CONSTANTS[value])
        if len(value) > 3:
            raise Unreadable("a word in a formula")
        if len(value) > 1:  # a product: leave the rest for later
            self.at -= 1
            self.tokens[self.at] = ("letters", value[1:])
        return self.symbol(value[0])

    def symbol(self, name: str) -> Tree:
        index = self.argument(digits=None) if self.take("_") else None
        return ("sym", f"{name}_{_index(index)}" if index else name)

    def command(self, value: str) -> Tree:
        name = value[1:]
        if name in FUNCTIONS:
            return self.function(name, digits=1)
        if name in CONSTANTS:
            return ("sym", CONSTANTS[name])
        if name in GREEK:
            return self.symbol(name)
        if name == "frac":
            return divide(self.argument(), self.argument())
        if name in ("binom", "dbinom"):
            above, below = self.argument(), self.argument()
            difference = add(above, multiply(number(-1), below))
            return divide(factorial(above), multiply(factorial(below), factorial(difference)))
        if name in ("emptyset", "varnothing"):
            return ("set",)
        return self.bracket(value)

    def function(self, name: str, digits: int | None) -> Tree:
        if name == "sqrt":
            return self.root(digits)
        base = [add(self.argument())] if name == "log" and self.take("_") else []
        to = self.exponent() if self.take(*POWER) else number(1)
        if to[0] == "num" and to[1] < 0:
            raise Unreadable("an inverse function or a reciprocal")
        if self.kind != "text" and self.next in ("(", "[", "{", "|", r"\lvert"):
            inner = self.atom()
        else:  # sin 2x cos x is sin(2x) cos(x)
            inner = self.powered()
            while self.starts_factor() and self.next.lstrip("\\") not in (*FUNCTIONS, "(", "["):
                inner = multiply(inner, self.powered())
        if name == "exp":
            return power(power(("sym", "e"), inner), to)
        return power(("call", name, add(inner), *base), to)

    def root(self, digits: int | None) -> Tree:
        order = number(2)
        if self.take("["):
            order = self.sum()
            self.expect("]")
        if order[0] != "num" or order[1] not in range(2, 100):
            raise Unreadable("a root of no whole order")
        inner, to = self.argument(digits), number(1 / order[1])
        if order[1] % 2 and inner[0] == "num" and inner[1] < 0:  # the real root, not the principal
            return multiply(number(-1), power(number(-inner[1]), to))
        return power(inner, to)

    def matrix(self, _: str) -> Tree:
        rows = [[self.item()]]
        while self.kind != "end_matrix":
            if self.take("&"):
                rows[-1].append(self.item())
            else:
                self.expect("row")
                if self.kind != "end_matrix":
                    rows.append([self.item()])
        self.at += 1
        return ("matrix", *(("row", *row) for row in rows))

    def bracket(self, opening: str) -> Tree:
        if opening in ("|", r"\lvert"):
            self.bars += 1
            inner = add(self.sum())
            self.bars -= 1
            self.expect("|", r"\rvert")
            return number(abs(inner[1])) if inner[0] == "num" else ("call", "abs", inner)
        if opening not in CLOSINGS:
            raise Unreadable(f"{opening} is not known")
        if opening == r"\{" and self.take(r"\}"):
            return ("set",)
        bars, self.bars = self.bars, 0
        items = self.items()
        self.bars, closing = bars, self.next
        self.expect(*CLOSINGS[opening])
        if opening == r"\{" or (opening == "{" and len(items) > 1):
            return collection(items)
        if len(items) == 1:
            if opening + closing in ("(]", "[)"):
                raise Unreadable("an interval of one value")
            return items[0]
        if opening == r"\langle":
            opening, closing = "()"
        return ("tuple", opening, closing, *items)


def _is_word(letters: str) -> bool:
    """Whether letters after a value are a unit, not a product of variables."""
    if letters in FUNCTIONS or letters in CONSTANTS:
        return False
    return len(letters) > 3 or letters.lower() in UNITS


def _index(tree: Tree) -> str:
    """The text of a subscript: a number or a letter."""
    if tree[0] not in ("num", "sym"):
        raise Unreadable("a subscript that is a formula")
    return str(tree[1])
