"""What a maths answer means: small trees of exact values, and of compounds of values.

A tree is a tuple whose first entry names its kind.

    a value:    ("num", Fraction), ("sym", name), ("add", …), ("mul", …), ("pow", base, exponent),
                ("call", function, …), and ("pm", a, b) for a ± b
    a compound: ("tuple", opening, closing, …), ("set", …) in any order, ("union", …),
                ("matrix", ("row", …), …), ("eq", a, b), ("ne", a, b), ("chain", "< <=", a, b, c)
    a text:     ("word", lower case, the product that its letters may be, or None)

Whatever is rational is folded to one fraction as it is built, below a fixed size, so that two
rational values are equal exactly if their trees are. What is too large is refused.
"""

import functools
import itertools
import math
import zlib
from collections.abc import Callable
from fractions import Fraction

Tree = tuple  # nested as above

MAX_BITS = 20_000  # of a numerator or denominator
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 300
SORTED = 12  # longer sums and products keep the order of the text
MAX_PRODUCTS = 5000  # of terms when multiplying out
MAX_EXPANDED = 20  # the highest power of a sum that is multiplied out
SMALL_PRIMES = [n for n in range(2, 200) if all(n % divisor for divisor in range(2, n))]

VALUES = ("num", "sym", "add", "mul", "pow", "call", "pm")


class Unreadable(Exception):
    """The text is no answer that the grammar knows."""


def as_value(tree: Tree) -> Tree:
    """The tree, if one can calculate with it; of the word `xy` the product."""
    tree = tree[2] if tree[0] == "word" and tree[2] else tree
    if tree[0] not in VALUES:
        raise Unreadable(f"arithmetic with a {tree[0]}")
    return tree


def number(value: Fraction | int) -> Tree:
    """The tree of a number of bounded size."""
    value = Fraction(value)
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise Unreadable("a number too large")
    return ("num", value)


def add(*terms: Tree) -> Tree:
    """The sum of values, its rational part first."""
    return _gather("add", terms, Fraction(0), lambda a, b: a + b)


def multiply(*factors: Tree) -> Tree:
    """The product of values, its rational part first."""
    product = _gather("mul", factors, Fraction(1), lambda a, b: a * b)
    return number(0) if product[0] == "mul" and product[1] == ("num", 0) else product


def _gather(kind: str, parts: tuple, neutral: Fraction, combine: Callable) -> Tree:
    total, others = neutral, []
    for part in map(as_value, parts):
        for inner in part[1:] if part[0] == kind else (part,):
            if inner[0] == "num":
                total = number(combine(total, inner[1]))[1]
            else:
                others.append(inner)
    if not others:
        return number(total)
    if len(others) <= SORTED:
        others.sort(key=repr)  # so that a + b and b + a are one tree
    if total == neutral:
        return others[0] if len(others) == 1 else (kind, *others)
    return (kind, ("num", total), *others)


def divide(above: Tree, below: Tree) -> Tree:
    """A value over another."""
    return multiply(above, power(below, number(-1)))


def power(base: Tree, exponent: Tree) -> Tree:
    """A value to the power of another, computed where that is cheap and exact."""
    base, exponent = as_value(base), as_value(exponent)
    if exponent[0] != "num":
        return ("pow", base, exponent)
    to = exponent[1]
    if max(abs(to.numerator), to.denominator) > MAX_EXPONENT:
        raise Unreadable("an exponent too large")
    if base[0] != "num":
        return base if to == 1 else ("pow", base, exponent)
    value = base[1]
    if value == 0 and to <= 0:
        raise Unreadable("a division by zero")
    if abs(to) * max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise Unreadable("a power too large")
    root = Fraction(math.isqrt(abs(value.numerator)), math.isqrt(value.denominator))
    if to.denominator == 2 and root**2 == value:
        value, to = root, Fraction(to.numerator)
    return number(value ** int(to)) if to.denominator == 1 else ("pow", base, exponent)


def factorial(value: Tree) -> Tree:
    """The factorial of a small whole number."""
    if value[0] != "num" or value[1] not in range(MAX_FACTORIAL + 1):
        raise Unreadable("a factorial of too much")
    return number(math.factorial(int(value[1])))


def collection(items: list[Tree]) -> Tree:
    """The set of the items, each a ± b in place of its two values."""
    members = []
    for item in items:
        signs = count_signs(item)
        if signs > 1:
            raise Unreadable("two ± in one value")  # do their signs go together?
        members += [choose_sign(item, 1), choose_sign(item, -1)] if signs else [item]
    return ("set", *members)


def count_signs(tree: Tree) -> int:
    """How many ± a tree holds."""
    return (tree[0] == "pm") + sum(count_signs(part) for part in tree if isinstance(part, tuple))


def choose_sign(tree: Tree, sign: int) -> Tree:
    """The tree with each a ± b replaced by a + sign · b."""
    if tree[0] == "pm":
        return add(choose_sign(tree[1], sign), multiply(number(sign), choose_sign(tree[2], sign)))
    parts = [choose_sign(part, sign) if isinstance(part, tuple) else part for part in tree[1:]]
    build = {"add": add, "mul": multiply, "pow": power}.get(tree[0])
    return build(*parts) if build else (tree[0], *parts)


def surely_different(left: Tree, right: Tree) -> bool:
    """Whether floating point already shows that two values differ, rounding allowed for.

    Letters get numbers of their own, for formulas that differ at one point are not equal. False
    means nothing: they may be too close, or hold what is not looked at here.
    """
    try:
        a, size_a = _approximate(left)
        b, size_b = _approximate(right)
    except (Unreadable, ArithmeticError):
        return False
    return abs(a - b) > 1e-9 * (size_a + size_b)


def _approximate(tree: Tree) -> tuple[complex, float]:
    """A value, and the size of what was added up to it: its error is a tiny part of that."""
    kind, *parts = tree
    if kind == "num":
        return float(parts[0]), abs(float(parts[0]))
    if kind == "sym" and parts[0] != "infinity":
        known = {"pi": math.pi, "e": math.e, "i": 1j}
        value = known.get(parts[0], 1 + zlib.crc32(parts[0].encode()) / 2**32)
        return value, abs(value)
    if kind == "add":
        values, sizes = zip(*map(_approximate, parts), strict=True)
        return sum(values), sum(sizes)
    if kind == "mul":
        values, sizes = zip(*map(_approximate, parts), strict=True)
        return math.prod(values), math.prod(sizes)
    if kind == "pow" and parts[1][0] == "num":
        (value, size), to = _approximate(parts[0]), float(parts[1][1])
        if to.is_integer() or complex(value).real > 1e-6 * size:  # else which side of the cut?
            power = value**to
            return power, abs(power) * (size / abs(value)) * max(1.0, abs(to))
    raise Unreadable("not looked at")


def surely_equal(left: Tree, right: Tree) -> bool:
    """Whether multiplying out already shows that two values are equal. False means nothing."""
    try:
        expansion = _Expansion()
        return expansion.of(left) == expansion.of(right)
    except (Unreadable, ArithmeticError):
        return False


Sum = dict[frozenset, Fraction]  # what stands in front of each product
ONE = frozenset()


class _Expansion:
    """Values as sums of products, with a bound on the work.

    A product is a frozenset of (atom, exponent). Atoms are letters, primes to a power between 0 and
    1, functions, and sums under a root or below a line. Only rules that hold for all complex
    numbers are used: x^a x^b = x^(a+b), (x^a)^n = x^(an) for whole n, (cx)^a = c^a x^a for c > 0.
    """

    def __init__(self) -> None:
        self.work_left = MAX_PRODUCTS

    def of(self, tree: Tree) -> Sum:
        kind, *parts = tree
        if kind == "num":
            return {ONE: parts[0]} if parts[0] else {}
        if kind == "add":
            terms = [term for part in parts for term in self.of(part).items()]
            return _total(terms)
        if kind == "mul":
            return functools.reduce(self.times, map(self.of, parts))
        if kind == "pow" and parts[1][0] == "num":
            return self.power(self.of(parts[0]), parts[1][1])
        if kind in ("pow", "call"):
            parts = [_freeze(self.of(part)) if isinstance(part, tuple) else part for part in parts]
            return {frozenset([((kind, *parts), 1)]): Fraction(1)}
        if tree == ("sym", "infinity"):
            raise Unreadable("not a number")
        return {frozenset([(tree, 1)]): Fraction(1)}

    def times(self, left: Sum, right: Sum) -> Sum:
        self.work_left -= len(left) * len(right)
        if self.work_left < 0:
            raise Unreadable("too much to multiply out")
        terms = []
        for (a, x), (b, y) in itertools.product(left.items(), right.items()):
            product, factor = _merge(a, b)
            terms.append((product, number(x * y * factor)[1]))
        return _total(terms)

    def power(self, base: Sum, to: Fraction) -> Sum:
        if not base and to <= 0:
            raise Unreadable("a division by zero")
        if to.denominator == 1 and 0 < to <= MAX_EXPANDED:
            return functools.reduce(self.times, [base] * int(to))
        if len(base) != 1:
            return {frozenset([(_freeze(base), to)]): Fraction(1)}
        ((product, coefficient),) = base.items()
        if to.denominator == 1:
            result = {ONE: power(number(coefficient), number(to))[1]}
            factors = [{frozenset([(atom, e * to)]): Fraction(1)} for atom, e in product]
            return functools.reduce(self.times, factors, result)
        if coefficient < 0 or len(product) > 1 or any(_is_power(*factor) for factor in product):
            return {frozenset([(_freeze(base), to)]): Fraction(1)}
        result = {frozenset((atom, to) for atom, _ in product): Fraction(1)}
        primes = [*_primes(coefficient.numerator, to), *_primes(coefficient.denominator, -to)]
        return functools.reduce(self.times, primes, result)


def _is_power(atom: Tree, exponent: Fraction) -> bool:
    return exponent != 1 or atom == ("sym", "i")


def _freeze(terms: Sum) -> Tree:
    return ("sum", frozenset(terms.items()))


def _total(terms: list[tuple[frozenset, Fraction]]) -> Sum:
    total = {}
    for product, coefficient in terms:
        total[product] = total.get(product, 0) + coefficient
    return {product: coefficient for product, coefficient in total.items() if coefficient}


def _merge(left: frozenset, right: frozenset) -> tuple[frozenset, Fraction]:
    """The product of two products, and the number that comes out of roots and of i²."""
    exponents, number_out = dict(left), Fraction(1)
    for atom, exponent in right:
        exponents[atom] = exponents.get(atom, 0) + exponent
        whole = math.floor(exponents[atom])
        if atom[0] == "num":
            exponents[atom] -= whole
            number_out *= atom[1] ** whole
        elif atom == ("sym", "i"):
            exponents[atom] = whole % 2
            number_out *= -1 if whole // 2 % 2 else 1
    return frozenset((atom, e) for atom, e in exponents.items() if e), number_out


def _primes(value: int, to: Fraction) -> list[Sum]:
    """A whole number to a broken power: its small primes, and what is left of it, to powers."""
    if value.bit_length() > 64:
        raise Unreadable("too large to take apart")
    factors = []
    for prime in SMALL_PRIMES:
        while value % prime == 0:
            value //= prime
            factors.append(prime)
    factors += [value] if value > 1 else []
    return [{frozenset([(("num", Fraction(factor)), to)]): Fraction(1)} for factor in factors]
