"""What the check of the exercises says of a wrong function: mistakes, examples, counts."""

import math
import operator
import re
import textwrap

import pytest
import torch

from reasoning_from_scratch import GPTConfig, losses
from reasoning_from_scratch.exercises import describe
from tests import diagnosis
from tests.behaviour import Behaviour, behaviour, difference, snapshot
from tests.diagnosis import mutants_of
from tests.examples import Case, clear, large, lines_of, tamed, wild
from tests.showing import show, show_both
from tests.solutions import SOLUTIONS
from tests.student import Watched
from tests.test_exercises import filled_in, judged, no_plugins_from_elsewhere  # noqa: F401


def judge(name, function):
    (verdict,) = judged([(name, function)])
    return verdict


def shown(verdict):
    """The examples by the sentence of their test, each a dict of label and text."""
    return {failure["test"]: dict(failure["lines"]) for failure in verdict["failures"]}


# Which mistakes are named.


def test_a_mistake_in_what_a_function_calls_is_named_too():
    said = "the tokens are shifted once more"
    mutant = mutants_of("losses.sft_loss")[1][said]  # of token_logprobs
    assert judge("losses.sft_loss", mutant)["mistakes"] == [said]


LINES = {
    "runs over the mask": """
        with torch.no_grad():
            after = value = torch.zeros_like(advantages[:, 0])
            for t in reversed(range(rewards.shape[1])):
                surprise = rewards[:, t] + gamma * value - values[:, t]
                advantages[:, t] = after = surprise + gamma * lam * after
                value = values[:, t]
            return advantages, advantages + values
    """,
    "the wrong way": """
        log_ratio = policy - reference
        if kind == "k1":
            estimate = -log_ratio
        elif kind == "k2":
            estimate = log_ratio**2 / 2
        else:
            estimate = EXP - 1 - log_ratio
    """,
    "counts": """
        counts = {}
        for answer in answers:
            counts[answer] = counts.get(answer, 0) + 1
        return max(counts, key=counts.get) if counts else None
    """,
}


@pytest.mark.parametrize("chapter, name, lines, said", [
    (6, "advantages.gae", LINES["runs over the mask"], "the mask is ignored"),
    (6, "losses.kl_estimate", LINES["the wrong way"].replace("EXP - 1", "bounded_expm1(log_ratio)"),
     "the KL runs the wrong way: log(policy/reference)"),
    (3, "stats.majority_vote", "return max(answers, key=lambda a: sum(equal(a, b) for b in "
     "answers), default=None)", "None may win"),
    (3, "stats.pass_at_k", "return 1 - math.comb(n, k) / math.comb(n - c, k)",
     "numerator and denominator are exchanged"),
    (3, "stats.pass_at_k", "return math.comb(n, k) / math.comb(n - c, k)",
     "the probability that all are wrong, upside down"),
    (3, "stats.pass_at_k", "return math.comb(c, k) / math.comb(n, k)",
     "returns the probability that all are right"),
    (3, "stats.pass_at_k", "return 1 - math.comb(n, c) / math.comb(n, k)",
     "chooses c of the n, not k of the wrong ones"),
    (1, "stats.wilson_interval", """
        z = NormalDist().inv_cdf((1 + level) / 2)
        reach = z * math.sqrt(p * (1 - p) / n)
        return max(0.0, p - reach), min(1.0, p + reach)
     """, "Wald's interval, p ∓ z · standard error"),
])  # fmt: skip
def test_a_students_own_way_to_a_known_mistake_is_named(chapter, name, lines, said, tmp_path):
    function = filled_in(chapter, name, textwrap.dedent(lines), tmp_path / "mine.py")
    assert judge(name, function)["mistakes"] == [said]


def test_of_several_mistakes_at_once_each_is_named_with_the_tests_in_which_it_shows(tmp_path):
    lines = textwrap.dedent(LINES["counts"])
    function = filled_in(3, "stats.majority_vote", lines, tmp_path / "mine.py")
    verdict = judge("stats.majority_vote", function)
    assert verdict["mistakes"] == [] and verdict["failed"] == 3
    assert verdict["perhaps"] == [(["None may win"], 2), (["equality is not passed on"], 1)]
    examples = shown(verdict)
    assert examples["majority vote equals a slow count"]["as if"] == "None may win"
    by_equality = "majority vote counts equal answers together and returns the first"
    assert examples[by_equality]["as if"] == "equality is not passed on"


def test_a_mistake_is_named_beside_one_that_nobody_has_listed(tmp_path):
    lines = textwrap.dedent(LINES["the wrong way"].replace("EXP", "log_ratio.exp()"))  # overflows
    verdict = judge(
        "losses.kl_estimate", filled_in(6, "losses.kl_estimate", lines, tmp_path / "mine.py")
    )
    ((said, tests),) = verdict["perhaps"]
    assert verdict["mistakes"] == [] and 3 <= tests < verdict["failed"]
    assert said == ["the KL runs the wrong way: log(policy/reference)"]


@pytest.mark.filterwarnings("ignore:std")  # of one number
def test_a_mistake_is_named_that_gives_nearly_the_same(tmp_path):
    lines = textwrap.dedent("""
        kept = x[mask != 0]
        white = (x - kept.mean()) / (kept.std() + 1e-8)  # not the root of variance + 1e-8
        return torch.where(mask != 0, white if shift_mean else white + kept.mean(), 0)
    """)
    verdict = judge(
        "advantages.whiten", filled_in(6, "advantages.whiten", lines, tmp_path / "mine.py")
    )
    assert (["the variance divides by n - 1"], 2) in verdict["perhaps"]


def test_what_fits_only_a_few_calls_by_chance_is_not_named():
    def value_loss(values, old_values, returns, mask, *, clip=0.2):
        held = values.clamp(1 - clip, 1 + clip)  # around 1: a value_loss with a ratio's clip
        worse = torch.maximum((values - returns) ** 2, (held - returns) ** 2)
        return losses.masked_mean(worse, mask) / 2

    verdict = judge("losses.value_loss", value_loss)
    said = [sentence for sentences, _ in verdict["perhaps"] for sentence in sentences]
    assert verdict["status"] == "wrong" and verdict["mistakes"] == []
    assert not {"does not clip", "clips around the returns"} & set(said)


def test_masked_nan_and_a_mask_of_zeros_are_named_whatever_else_is_wrong():
    def masked(values, old_values, returns, mask, *, clip=0.2):
        held = old_values + (values - old_values).clamp(-clip, clip)
        worse = torch.maximum((values - returns) ** 2, (held - returns) ** 2)
        return (worse * mask).sum() / mask.sum()  # neither is the half there

    said = dict((said[0], tests) for said, tests in judge("losses.value_loss", masked)["perhaps"])
    assert said == {
        "without the half": 3,
        "NaN gets in from where the mask is 0 (0 · NaN is NaN)": 1,
        "0 / 0 where nothing counts": 1,
    }


# How it is shown.


def test_a_wrong_result_is_shown_with_input_got_and_expected():
    def whiten(x, mask, *, shift_mean=True):
        return x * mask

    verdict = judge("advantages.whiten", whiten)
    first = verdict["failures"][0]
    assert verdict["failed"] == verdict["tests"] == 4 and len(verdict["failures"]) == 3
    assert first["test"] == "whiten by hand" and (first["failed"], first["of"]) == (2, 2)
    assert re.fullmatch(r"tests/test_advantages.py:\d+", first["where"])
    lines = dict(first["lines"])
    by_hand = {
        "True": "[[-1.34164, -0.447214, 0], [0.447214, 1.34164, 0]]",
        "False": "[[1.15836, 2.05279, 0], [2.94721, 3.84164, 0]]",
    }
    assert lines.pop("expected") == by_hand[lines.pop("shift_mean")]
    assert lines == {
        "x": "[[1, 2, 50], [3, 4, 60]]",
        "mask": "[[1, 1, 0], [1, 1, 0]]",
        "got": "[[1, 2, 0], [3, 4, 0]]",
    }


def test_the_numbers_of_failed_tests_add_up_for_a_reader():
    mutant = mutants_of("losses.policy_loss")[0]["takes the larger of raw and clipped"]
    verdict = judge("losses.policy_loss", mutant)
    head, *lines = describe("policy_loss", verdict)
    failed, passed = map(int, re.fullmatch(
        r"not yet      (\d+) tests failed, (\d+) passed", head
    ).groups())  # fmt: skip
    assert failed + passed == verdict["tests"]
    examples = [line for line in lines if "(tests/test_losses_policy.py:" in line]
    (more,) = (re.fullmatch(r"and (\d+) more tests failed", line) for line in lines[-1:])
    assert len(examples) == 3 and len(examples) + int(more[1]) == failed
    assert examples[0].endswith("), 4 of 5 cases")  # one has ratio 1, where nothing is cut
    for some, said in ((1, "and 1 more test failed"), (0, None)):
        last = describe("f", verdict | {"failed": 3 + some})[-1]
        assert last == said if said else "more" not in last


def test_the_example_is_small_finite_and_clear_where_one_call_is():
    mutant = mutants_of("advantages.gae")[0]["the mask is ignored"]  # fails with NaN in the mask
    (example,) = shown(judge("advantages.gae", mutant)).values()
    assert not re.search("nan|inf|e[+-]", "".join(example.values())) and "0" in example["mask"]
    assert "1" in example["mask"]  # a mask of zeros would not show what comes next

    def whiten(x, mask, *, shift_mean=True):  # right but for the rounding of equal numbers
        mean = losses.masked_mean(x, mask)
        centred = torch.where(mask != 0, x - mean, 0)
        white = centred * torch.rsqrt(losses.masked_mean(centred**2, mask) + 1e-8)
        return torch.where(mask != 0, white if shift_mean else white + mean, 0)

    example = shown(judge("advantages.whiten", whiten))["whiten makes nothing of equal numbers"]
    assert abs(float(example["got"].split()[0])) > 1e-3 and example["expected"].startswith("0 at [")
    assert re.fullmatch(r"shape \[7, 1001\]: \S+ everywhere", example["x"])


def test_of_a_large_tensor_the_row_is_shown_that_decides():
    mutant = mutants_of("sampling.choose")[0]["top-p leaves out the token that reaches it"]
    lines = shown(judge("sampling.choose", mutant))["top p by hand"]
    found = re.fullmatch(r"result\[0\]: (\d) at \[(\d+)\] of \[20000\]", lines["got"])
    assert lines["expected"] == f"result[0]: 3 at [{found[2]}] of [20000]" and found[1] != "3"
    logits = "[-2.30259, -0.693147, -2.99573, -1.04982] of shape [20000, 4]"
    assert lines[f"logits[{found[2]}]"] == logits
    assert lines[f"uniform[{found[2]}]"].endswith(" of shape [20000]")


def test_a_slow_function_is_called_again_only_for_so_long(monkeypatch):
    mutant, made = mutants_of("stats.pass_at_k")[0]["the biased estimate 1 - (1 - c/n)^k"], []

    def slow(n, c, k):
        made.append((n, c, k))
        return mutant(n, c, k)

    before = judge("stats.pass_at_k", slow), len(made)
    monkeypatch.setattr(diagnosis, "BUDGET", 0.0)
    made.clear()
    after = judge("stats.pass_at_k", slow), len(made)
    assert after[0]["failed"] == before[0]["failed"] and after[1] < before[1]
    assert len(after[0]["failures"]) == len(before[0]["failures"]) == 3


def test_which_calls_are_hard_to_read():
    nan, mask = torch.tensor([1.0, math.nan, math.inf]), torch.tensor([True, False, False])
    impossible = torch.tensor([0.0, -math.inf])  # of a logit: meant so
    assert wild(((nan, mask), {})) and wild(((), {"x": [nan]})) and not wild(((impossible,), {}))
    (x, counted), _ = tamed(((nan, mask), {}))
    assert x.tolist() == [1, 7, 7] and counted is mask or counted.equal(mask)
    assert tamed(((impossible, mask), {})) is None
    assert large(((torch.zeros(13),), {})) and not large(((torch.zeros(12),), {}))

    def case(got, expected):
        return Case(None, *(Behaviour(torch.tensor(x), {}, (), None) for x in (got, expected)))

    assert clear(case(1.0, 2.0)) and clear(case(math.nan, 2.0)) and clear(case([1.0], 1.0))
    assert not clear(case(-7e-5, 0.0)) and not clear(case(100.0, 100.1))


def changes_tensor(parts, x):
    x.sub_(x.mean())
    return x


def changes_dict(parts, x):
    return {name: parts.pop(name) for name in sorted(parts)}


@pytest.mark.parametrize("wrong, name", [(changes_tensor, "x"), (changes_dict, "parts")])
def test_a_function_that_changes_its_arguments_is_wrong_whatever_it_returns(wrong, name):
    call = (({"a": 1, "b": [2]}, torch.tensor([1.0, math.nan, 3.0])), {})
    with pytest.raises(AssertionError, match="an argument is changed"):
        Watched(wrong)(*snapshot(call)[0])
    assert Watched(lambda parts, x: (parts, x))(*call[0]) == call[0]
    assert behaviour(wrong, call).changed == (name,)


def test_arguments_that_are_changed_are_named_where_the_results_are_right(tmp_path):
    lines = "return float(sum(weights[name] * parts.pop(name) for name in list(parts)))"
    verdict = judge("rewards.combine", filled_in(9, "rewards.combine", lines, tmp_path / "mine.py"))
    assert verdict["status"] == "wrong" and verdict["mistakes"] == []
    for example in shown(verdict).values():
        assert example["got"] == "the argument parts is changed" and example["parts"] != "{}"


def test_a_whole_number_may_stand_for_a_float(tmp_path):
    name = "lengths.overlong_penalty"
    lines = textwrap.dedent(SOLUTIONS[name]).replace("0.0", "0").replace("-1.0", "-1")
    assert judge(name, filled_in(10, name, lines, tmp_path / "mine.py"))["status"] == "right"


@pytest.mark.parametrize("wrong, what, got, expected", [
    (lambda x: (x * 2).detach(), "", "no gradient reaches x",
     "gradient by x (entries of the result weighted from 1 to 2): [2, 4]"),
    (lambda x: x * 2 + x.detach(), "", "[3, 6]", "[2, 4]"),
    (lambda x: x + x.detach(), "gradient by x (entries of the result weighted from 1 to 2)",
     "[1, 2]", "[2, 4]"),
    (lambda x: (x * 2).sum() if x.is_leaf else x, "", "6", "[2, 4]"),
    (lambda x: x * 2 + 0 * x.square() * x, "", None, None),
    (lambda x: (x * 2)[None], "", "[[2, 4]]", "[2, 4]"),
    (lambda x: x.data.add_(1) * 0 + 2 * (x - 1), "", "the argument x is changed",
     "it stays as it was"),
    (lambda x: (x * 2).double(), "type", "torch.float64", "torch.float32"),
    (lambda x: None, "", "None", "[2, 4]"),
    (lambda x: x.nothing, "", "AttributeError: 'Tensor' object has no attribute 'nothing' here",
     "[2, 4]"),
])  # fmt: skip
def test_two_functions_differ_in_result_gradient_shape_kind_or_in_what_they_change(
    wrong, what, got, expected
):
    def right(x):
        return x * 2

    call = ((torch.tensor([1.0, 2.0], requires_grad=True),), {})
    found = difference(behaviour(wrong, call), behaviour(right, call), lambda error: " here")
    assert (found and found[:3]) == (None if got is None else (what, got, expected))
    assert call[0][0].tolist() == [1, 2]  # the call itself stays as it was


def test_the_wording_of_a_refusal_is_shown_only_where_nothing_else_differs():
    def refuses(said):
        raise ValueError(said)

    ours, theirs = (behaviour(lambda x, said=said: refuses(said), ((1,), {})) for said in "ab")
    assert difference(ours, theirs, lambda error: "") is None
    exact = difference(ours, theirs, lambda error: "", exact=True)
    assert exact[:3] == ("", "ValueError: a", "ValueError: b")


def test_values_are_shown_in_a_line():
    assert show(torch.tensor([[1, 0]])) == "[[1, 0]]"
    assert show(torch.arange(100.0).view(10, 10)) == "shape [10, 10]: [0, 1, 2, 3, 4, 5, …"
    assert show(torch.zeros(0, 3)) == "shape [0, 3]"
    assert show((0.1 + 0.2, None, "a", True)) == "(0.3, None, 'a', True)"
    assert show(list(range(30))).endswith("11, … (30 in all)]")
    assert show(torch.full((20, 2), 0.5)) == "shape [20, 2]: 0.5 everywhere"
    assert show(torch.nn.Linear(1, 1)).endswith("bias=True)")
    assert show(torch.tensor([-0.0, 1e-9])) == "[0, 1e-09]" and show((1,)) == "(1,)"
    config = GPTConfig(vocab_size=2, width=4, layers=1, heads=1)
    assert show(config).startswith("GPTConfig(vocab_size=2, width=4, layers=1, heads=1, ")
    assert "rope_scaling" not in show(config)  # as by default


def test_what_is_printed_alike_is_told_apart_by_its_kind():
    numbers, tensor = [[3, 1]], torch.tensor([[3, 1]])
    assert show_both(numbers, tensor) == (
        "[[3, 1]] (list of list of int)", "[[3, 1]] (tensor of int64)",
    )  # fmt: skip
    assert show_both([(0, 1)], [(0, 1)]) == ("[(0, 1)]", "[(0, 1)]")
    assert show_both(1.0, 1 + 1e-8) == ("1", "1.00000001")


class Repeats:
    """A function that says what it is."""

    def __call__(self):
        return 3

    def __repr__(self):
        return "three, again and again"


def test_a_function_is_shown_by_what_it_does():
    assert show(Repeats()) == "three, again and again"

    def equal(a, b):
        return float(a) == float(b)

    def several(a):
        """Does a lot."""
        a += 1
        return a

    assert show(equal) == "equal(a, b) returns float(a) == float(b)"
    assert show(lambda a, b: a < b) == "lambda a, b: a < b"
    assert show(operator.eq) == "the function eq: Same as a == b."
    assert show(several) == "the function several: Does a lot."


def test_what_a_call_leaves_out_is_shown_too():
    def right(x, *, gamma=1.0, pattern="." * 60, mask=None):
        return x

    found = difference(behaviour(lambda x: x + 1, ((2,), {})), behaviour(right, ((2,), {})), str)
    assert lines_of(right, ((2,), {}), found) == [
        ("x", "2"),
        ("by default", f"gamma=1, pattern='{'.' * 41}…, mask=None"),
        ("got", "3"), ("expected", "2"),
    ]  # fmt: skip
