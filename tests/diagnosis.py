"""What to say of a function that fails its tests: where it shows, and which mistakes it has.

The calls that the tests made are made again with the student's function, with the package's, and
with the mutants of it in tests/mutants, whose sentences name the mistakes.
"""

import ast
import functools
import importlib
import inspect
import time
from typing import NamedTuple

from torch import Tensor

from tests.behaviour import behaviour, named_arguments, same, same_result
from tests.examples import Case, example, finite, tamed, wild
from tests.mutants import mutated_module

BUDGET = 20.0  # seconds for making calls again; after that only the first of each test
EXPLAINED = 3  # failing tests that are shown with input, got and expected
MISTAKES = 3  # that are named of several made at once
ROUGH = 1e-3  # how alike results must be to show one of several mistakes
SHARE = 0.1  # of the wrong calls: a mistake that explains fewer may do so by chance


class Ran(NamedTuple):
    """A test that was run, with some parameters if it has any."""

    test: str
    sentence: str
    place: str
    failed: bool
    calls: list
    error: BaseException | None


def diagnose(exercise, right, made_again, ran, source):
    """Show failing tests by their most readable calls, and name the mistakes that are known.

    Args:
        right:      the package's function.
        made_again: call -> the behaviour of the student's function.
        ran:        each `Ran`; one of them failed.
        source:     the student's file, as tracebacks name it.

    Returns:
        A dict of: failures; mistakes, sentences any one of which explains everything; and if there
        is none perhaps, of each mistake (sentences, in how many failing tests it shows).
    """

    start = time.monotonic()

    def compare(calls):
        for i, call in enumerate(calls):
            if i and time.monotonic() - start > BUDGET:
                return
            case = Case(call, made_again(call), behaviour(right, call))
            yield case
            tame = None if case.same() else tamed(call)
            if tame is not None and (theirs := behaviour(right, tame)).error is None:
                yield Case(tame, made_again(tame), theirs)

    runs, cases, rest = {}, {}, []  # failing tests, and their calls; calls of the others
    for run in ran:
        if run.failed:
            runs.setdefault(run.test, []).append(run)
            cases.setdefault(run.test, []).extend(compare(run.calls))
    for run in ran:
        if not run.failed:  # where a call differs all the same, the test allows it
            rest += compare(run.calls if run.test in runs else run.calls[-1:])
    every = [(test, case) for test, found in cases.items() for case in found]
    wrong = [(test, case) for test, case in every if not case.same()]
    rest = [case for case in rest + [case for _, case in every] if case.same()]

    known = mistakes(exercise, [case for _, case in wrong] + rest) if wrong else []
    several = [] if known else several_mistakes(exercise, right, wrong, rest)

    shown, told = [], set()
    for test, failing in runs.items():
        found = example(right, cases[test], failing[0].error, told, source)
        if found is None:
            continue
        hardness, case, lines = found
        if len(several) > 1:
            names = [said for said, explained in several if any(case is c for _, c in explained)]
            lines += [("as if", ", or: ".join(said)) for said in names]
        told.add(dict(lines)["got"])
        about = {"test": failing[0].sentence, "where": failing[0].place}
        about |= {"failed": len(failing), "of": sum(run.test == test for run in ran)}
        shown.append((hardness, about | {"lines": lines}))
    shown.sort(key=lambda pair: pair[0])  # and as in the file, which begins with those by hand
    return {
        "failures": [failure for _, failure in shown[:EXPLAINED]],
        "mistakes": known,
        "perhaps": [(said, len({test for test, _ in explained})) for said, explained in several],
    }


def mistakes(exercise, cases):
    """Return the sentences of the mutants that behave as the student's function in every case.

    Those of the function itself, or if there is none of what it calls in its module. The cases
    where it is wrong come first: most mutants part from it there.
    """
    for known in mutants_of(exercise):
        found = [
            said for said, mutant in known.items()
            if all(same(behaviour(mutant, case.call), case.ours) for case in cases)
        ]  # fmt: skip
        if found:
            return found
    return []


def several_mistakes(exercise, right, wrong, good):
    """Return of each of several mistakes (sentences, the (test, case) pairs that it explains).

    Each roughly gives what the student's function gives in some calls that go wrong, and none goes
    wrong in a call that is good. Together they explain half or more.
    """
    wrong = [(test, case) for test, case in wrong if not case.same(ROUGH)]
    good = [case for case in good if case.same(ROUGH)]
    own, called = mutants_of(exercise)
    hits = {said: explained(mutant, wrong, good) for said, mutant in (called | own).items()}
    named = set().union(*hits.values())
    for i, (_, case) in enumerate(wrong):
        if i not in named and (said := slip_with_mask(right, case)):
            hits.setdefault(said, set()).add(i)
    found, left = [], set(range(len(wrong)))
    while len(found) < MISTAKES:
        most = max((len(places & left) for places in hits.values()), default=0)
        if most < max(1, SHARE * len(wrong)):
            break
        alike = [said for said, places in hits.items() if len(places & left) == most]
        first = hits[alike[0]] & left
        alike = [said for said in alike if hits[said] & left == first]
        if len(alike) <= 2:  # otherwise it may be anything
            found.append((alike, [wrong[i] for i in sorted(hits[alike[0]])]))
        left -= first
    explains = {id(case) for _, pairs in found for _, case in pairs}
    return found if 2 * len(explains) >= len(wrong) else []


def explained(mutant, wrong, good):
    """The places in `wrong` of the calls with which a mutant does what the student's does.

    None if it does so by chance: it goes wrong in a call that is good, or mostly in another way.
    """
    for case in good:
        if not same_result(behaviour(mutant, case.call), case.theirs, ROUGH):
            return set()
    places, unlike = set(), 0
    for i, (_, case) in enumerate(wrong):
        # Where the result is wrong, so is its gradient, maybe by another mistake.
        alike = same if case.same_result(ROUGH) else same_result
        found = behaviour(mutant, case.call)
        if alike(found, case.ours, ROUGH):
            places.add(i)
        elif finite(case.ours._replace(gradients={})) and not alike(found, case.theirs, ROUGH):
            unlike += 1
    return places if unlike < len(places) else set()


def slip_with_mask(right, case):
    """Name what any formula with a mask may get wrong, whatever else it does."""
    mask = named_arguments(right, *case.call).get("mask")
    if not isinstance(mask, Tensor) or finite(case.ours) or not finite(case.theirs):
        return None
    if case.ours.error is not None or wild(case.call) != bool(mask.any()):
        return None
    if mask.any():
        return "NaN gets in from where the mask is 0 (0 · NaN is NaN)"
    return "0 / 0 where nothing counts"


@functools.cache
def mutants_of(exercise):
    """({sentence: mutant} of the function, the same of the functions that it calls)."""
    home, _, name = exercise.rpartition(".")
    try:
        table = importlib.import_module(f"tests.mutants.{home.replace('.', '__')}").MUTANTS
    except ModuleNotFoundError:
        return {}, {}
    own, called = {}, {}
    for function, changes in table.items():
        if function.partition(".")[0] not in reached_from(home, name):
            continue
        for said, (old, new) in changes.items():
            mutant = getattr(mutated_module(home, function, old, new), name)
            (own if function == name else called)[said] = mutant
    return own, called


def reached_from(home, name):
    """The names in a module that a function of it uses, directly or through others."""
    source = inspect.getsource(importlib.import_module(f"reasoning_from_scratch.{home}"))
    nodes = {getattr(node, "name", None): node for node in ast.parse(source).body}
    found, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        if current in nodes and current not in found:
            found.add(current)
            waiting += [n.id for n in ast.walk(nodes[current]) if isinstance(n, ast.Name)]
    return found
