"""Story problems: the text decides the answer, and documents are right or wrong as asked."""

import re
from collections import Counter
from random import Random

import pytest

from reasoning_from_scratch.tasks import Problem, get_task
from reasoning_from_scratch.tasks.base import split_of
from reasoning_from_scratch.tasks.stories import (
    KINDS,
    NAMES,
    THINGS,
    Stories,
    judge_thinking,
    story_document,
)

# The meaning of each verb, written down here a second time.
MEANING = {
    "buys": lambda v, n: v + n, "finds": lambda v, n: v + n, "gets": lambda v, n: v + n,
    "sells": lambda v, n: v - n, "loses": lambda v, n: v - n, "gives": lambda v, n: v - n,
    "doubles": lambda v, n: v * 2, "triples": lambda v, n: v * 3, "halves": lambda v, n: v / 2,
}  # fmt: skip
OPTIONS = [{}, {"steps": (6, 7)}, {"steps": (2, 8), "limit": 999, "amount": 99}, {"limit": 20}]
STORY = "Cleo has 3 coins. doubles. sells 1. buys 14. how many?\n"


def story(*operations, start=3):
    """A problem with the operations given, such as "*2"."""
    value, entries = start, []
    for operation in operations:
        result = int(eval(f"{value}{operation}"))
        entries.append(f"{value}{operation}={result}")
        value = result
    meta = {"start": start, "operations": list(operations), "steps": len(operations), "limit": 150}
    return Problem(STORY, str(value), f"<think>{' '.join(entries)}</think>", meta)


def values(prompt):
    """Every value that the story's text goes through."""
    name, start, things, rest = re.fullmatch(
        r"([A-Z][a-z]+) has (\d+) ([a-z]+)\. (.*) how many\?\n", prompt
    ).groups()
    assert name in NAMES and things in THINGS
    values = [int(start)]
    for event in rest.removesuffix(".").split(". "):
        verb, _, number = event.partition(" ")
        values.append(MEANING[verb](values[-1], int(number or 0)))
    return values


def answer(completion):
    return re.search(r"<answer>(\d+)</answer>$", completion)[1]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_text_alone_gives_the_answer(options, split):
    task = get_task("stories", **options)
    for problem in task.generate(300, seed=0, split=split):
        told = values(problem.prompt)
        assert told[-1] == int(problem.answer)
        assert all(value == int(value) and 1 <= value <= task.limit for value in told)
        assert task.steps[0] <= len(told) - 1 == problem.meta["steps"] <= task.steps[1]
        assert max(map(int, re.findall(r"\d+", problem.prompt))) <= task.amount


@pytest.mark.parametrize("options", OPTIONS)
def test_demonstrations_write_down_every_value_of_the_text(options):
    for problem in get_task("stories", **options).generate(200, seed=1, split="train"):
        thinking = re.search("<think>(.*)</think>", problem.demonstration)[1]
        lefts, rights = zip(*(e.split("=") for e in thinking.split(" ")), strict=True)
        told = values(problem.prompt)
        assert list(map(int, rights)) == told[1:]
        assert [int(re.match(r"\d+", left)[0]) for left in lefts] == told[:-1]
        assert [eval(left) for left in lefts] == told[1:]
        assert answer(problem.demonstration) == problem.answer


def test_the_key_holds_numbers_and_operations_but_no_words():
    problems = get_task("stories", steps=(2, 2)).generate(4000, seed=0, split="train")
    texts = {}
    for problem in problems:
        key = problem.meta["key"]
        assert re.fullmatch(r"stories \d+( ([-+]\d+|\*2|\*3|/2)){2}", key)
        texts.setdefault(key, set()).add(problem.prompt)
    assert any(len(prompts) > 1 for prompts in texts.values())


def test_a_key_stays_in_its_split_when_the_options_change():
    # Otherwise a test problem of the long task could be a training problem of the short one.
    for options in OPTIONS:
        for problem in get_task("stories", **options).generate(50, seed=0, split="test"):
            assert split_of(problem.meta["key"]) == "test"


def test_no_answer_is_so_frequent_that_guessing_pays():
    problems = get_task("stories").generate(2000, seed=0, split="train")
    ((_, times),) = Counter(p.answer for p in problems).most_common(1)
    assert times / 2000 < 0.06
    for steps in range(2, 6):
        assert sum(p.meta["steps"] == steps for p in problems) > 400  # evenly spread: 500 each


# Targets


def test_the_prompt_asks_for_the_target_and_says_nothing_else_new(subject):
    stories, targets = subject("tasks.stories.Stories"), (16, 24, 96)
    plain = stories().generate(200, seed=3, split="tune")
    asked = stories(targets=targets).generate(200, seed=3, split="tune")
    for problem, other in zip(plain, asked, strict=True):
        target = other.meta["target_tokens"]
        assert other.prompt == problem.prompt.removesuffix("\n") + f" in {target} tokens\n"
        assert (other.answer, other.demonstration) == (problem.answer, problem.demonstration)
        assert "target_tokens" not in problem.meta and target in targets


def test_a_story_is_the_same_at_all_targets(subject):
    stories = subject("tasks.stories.Stories")
    short, long = (stories(targets=(n,)).generate(50, seed=0, split="train") for n in (16, 96))
    texts = [[p.prompt.partition("?")[0] for p in problems] for problems in (short, long)]
    assert texts[0] == texts[1] and repr(stories(targets=(16,))) == repr(stories())


def test_a_target_tells_nothing_about_its_story_or_its_document(subject):
    task = subject("tasks.stories.Stories")(targets=(16, 96))
    by_steps, lengths = Counter(), {16: [], 96: []}
    documents = task.documents(8000, seed=0, direct=0, slipped=0.5, right=0.5, checks=3)
    for prompt, completion in documents:
        story, _, rest = prompt.partition("?")
        target = int(rest.removeprefix(" in ").removesuffix(" tokens\n"))
        by_steps[story.count(".") - 1, target] += 1
        lengths[target].append(completion.count("="))
    for steps in range(2, 6):  # five standard deviations of a share of 2,000: 0.056
        assert abs(by_steps[steps, 16] / (by_steps[steps, 16] + by_steps[steps, 96]) - 0.5) < 0.056
    # Steps and checks: each has variance 1.25; five deviations of a difference of two means.
    means = [sum(row) / len(row) for row in lengths.values()]
    assert abs(means[0] - means[1]) < 5 * (2 * 2.5 / 4000) ** 0.5


@pytest.mark.parametrize(
    "targets, message",
    [
        ([16], r"targets is \[16\], expected a tuple of integers"),
        ((16, 0), "an entry of targets is 0, expected an integer of at least 1"),
    ],
)
def test_targets_that_are_no_lengths_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        Stories(targets=targets)


# Documents


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_document_is_right_unless_it_slipped(options, kind):
    task, random = get_task("stories", **options), Random(0)
    for problem in task.generate(200, seed=0, split="train"):
        text = story_document(problem, kind=kind, random=random, checks=3)
        assert (answer(text) == problem.answer) == (kind != "slipped")
        assert text.startswith("<think>") == (kind != "direct")


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["slipped", "corrected"])
def test_exactly_one_step_is_off_and_the_rest_goes_on_from_there(options, kind):
    task, random, slips = get_task("stories", **options), Random(1), Counter()
    for problem in task.generate(400, seed=0, split="train"):
        text = story_document(problem, kind=kind, random=random, largest_slip=4)
        body = re.search("<think>(.*)</think>", text)[1]
        entries = [entry.split("=") for entry in body.replace(" wait", "").split(" ")]
        off = [int(right) - eval(left) for left, right in entries if int(right) != eval(left)]
        assert len(off) == 1 and 1 <= abs(off[0]) <= 4
        assert all(0 <= int(right) <= task.limit for _, right in entries)
        first = int(entries[0][1]) != eval(entries[0][0])
        slips[first, off[0]] += 1
        operations = [re.match(r"\d+(.*)", left)[1] for left, _ in entries]
        if kind == "slipped":
            assert operations == problem.meta["operations"]
            rights = [problem.meta["start"], *(int(right) for _, right in entries)]
            assert [int(re.match(r"\d+", left)[0]) for left, _ in entries] == rights[:-1]
            assert answer(text) == str(rights[-1])
        else:
            (wrong,) = [i for i, (left, right) in enumerate(entries) if int(right) != eval(left)]
            assert entries[wrong][0] == entries[wrong + 1][0]
            assert body.split(" ")[wrong + 1] == "wait"
            del operations[wrong]
            assert operations == problem.meta["operations"]
    assert set(slips) == {(at, off) for at in (True, False) for off in range(-4, 5) if off}


def test_checks_repeat_the_last_step_or_add_nothing_and_never_change_the_value():
    random, lengths, forms = Random(2), Counter(), Counter()
    for problem in get_task("stories").generate(400, seed=0, split="train"):
        for kind in ("right", "slipped"):
            text = story_document(problem, kind=kind, random=random, checks=3)
            entries = re.search("<think>(.*)</think>", text)[1].split(" ")
            steps = problem.meta["steps"]
            value = entries[steps - 1].partition("=")[2]
            for check in entries[steps:]:
                assert check in (entries[steps - 1], f"{value}+0={value}")
                forms[check == entries[steps - 1]] += 1
            assert answer(text) == value
            lengths[len(entries) - steps] += 1
    assert set(lengths) == {0, 1, 2, 3} and set(forms) == {True, False}


def test_how_many_checks_tells_nothing_about_right_or_wrong():
    documents = Stories().documents(8000, seed=0, direct=0, slipped=0.5, right=0.5, checks=3)
    counts = {True: Counter(), False: Counter()}
    for prompt, completion in documents:
        told = values(prompt)
        entries = completion.count("=") - (len(told) - 1)
        counts[int(answer(completion)) == told[-1]][entries] += 1
    for number in range(4):
        shares = [counts[right][number] / counts[right].total() for right in (True, False)]
        # Five standard deviations of a difference: sqrt(2 * 0.25 * 0.75 / 4,000) = 0.0097.
        assert abs(shares[0] - shares[1]) < 5 * 0.0097
        assert abs(shares[0] - 0.25) < 5 * 0.0069


SHARES = [
    {"direct": 0.65, "slipped": 0.20, "right": 0.15, "corrected": 0.0},
    {"direct": 0.65, "slipped": 0.35, "right": 0.0, "corrected": 0.0},  # all thinking slips
    {"direct": 0.25, "slipped": 0.25, "right": 0.25, "corrected": 0.25},
]


@pytest.mark.parametrize("shares", SHARES)
def test_kinds_come_in_the_shares_asked_for(shares):
    counts = Counter()
    for prompt, completion in Stories().documents(4000, seed=0, **shares):
        right = int(answer(completion)) == values(prompt)[-1]
        if not completion.startswith("<think>"):
            assert right
            counts["direct"] += 1
        elif "wait" in completion:
            assert right
            counts["corrected"] += 1
        else:
            counts["right" if right else "slipped"] += 1
    for kind, share in shares.items():
        bound = 5 * (share * (1 - share) / 4000) ** 0.5  # five standard deviations
        assert abs(counts[kind] / 4000 - share) <= bound


def test_the_default_shares_are_the_main_jobs():
    assert Stories().documents(50, seed=4) == Stories().documents(50, seed=4, **SHARES[0])


def test_documents_keep_their_problems_when_shares_and_checks_change():
    # Two bases that differ in one share are then pretrained on the same problems.
    plain = Stories().documents(300, seed=0)
    other = Stories().documents(300, seed=0, direct=0.1, slipped=0.9, right=0.0, checks=3)
    assert [prompt for prompt, _ in plain] == [prompt for prompt, _ in other]
    assert plain[:20] == Stories().documents(20, seed=0)
    assert plain != Stories().documents(300, seed=1)


def test_documents_come_from_train_alone():
    task = Stories(steps=(2, 2))
    held_out = {
        (p.meta["start"], *p.meta["operations"])
        for split in ("tune", "test")
        for p in task.generate(1000, seed=0, split=split)
    }
    assert len(held_out) > 1000
    for prompt, completion in task.documents(2000, seed=0, direct=0, slipped=0, right=1):
        steps = re.findall(r"\d+([-+*/]\d+)=", completion)
        assert (int(re.search(r"\d+", prompt)[0]), *steps) not in held_out


@pytest.mark.parametrize(
    "options, message",
    [
        ({"direct": 0.7}, "expected none below 0 and sum 1"),
        ({"direct": 1.05, "slipped": -0.2}, "expected none below 0 and sum 1"),
        ({"checks": -1}, "checks is -1, expected an integer of at least 0"),
        ({"largest_slip": 0}, "largest_slip is 0, expected an integer of at least 1"),
    ],
)
def test_documents_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        Stories().documents(10, seed=0, **options)


def test_a_document_of_no_known_kind_or_of_no_story_is_refused():
    (sum_,) = get_task("addition").generate(1, seed=0, split="train")
    with pytest.raises(ValueError, match="kind is 'lucky', expected one of"):
        story_document(story("+1"), kind="lucky", random=Random(0))
    with pytest.raises(ValueError, match="is no story: its meta has no 'operations'"):
        story_document(sum_, kind="right", random=Random(0))


# Reading a completion


def test_apply_by_hand(subject):
    apply = subject("tasks.stories.apply")
    assert [apply(6, op) for op in ("+14", "-6", "-7", "*2", "*3", "/2")] == [
        20,
        0,
        None,
        12,
        18,
        3,
    ]
    assert apply(7, "/2") is None
    assert apply(7, "/0") is None  # a model may write that


@pytest.mark.parametrize(
    "completion, expected",
    [
        ("<think>3*2=6</think><answer>6</answer>", True),
        (" <think> 3*2", True),  # cut off
        ("<answer>6</answer>", False),
        ("<think></think><answer>6</answer>", False),
        ("<think> </think><answer>6</answer>", False),
        ("<answer>6</answer><think>3*2=6</think>", False),
        ("", False),
    ],
)
def test_thinks(subject, completion, expected):
    assert subject("tasks.stories.thinks")(completion) is expected


# The story of STORY is 3, *2, -1, +14: values 6, 5, 19.
@pytest.mark.parametrize(
    "thinking, right, wrong, checks, corrections, strays, complete, sound",
    [
        ("3*2=6 6-1=5 5+14=19", 3, 0, 0, 0, 0, True, True),
        ("3*2=6 6-1=4 4+14=18", 2, 1, 0, 0, 0, True, False),  # one slip, then consistent
        ("3*2=7 6-1=5 5+14=19", 0, 1, 0, 0, 2, False, False),  # goes on from what it did not say
        ("3*2=6 5+14=19", 1, 0, 0, 0, 1, False, False),  # a step left out
        ("6-1=5 3*2=6 5+14=19", 1, 0, 0, 0, 2, False, False),  # the wrong order
        ("3*3=9 9-1=8 8+14=22", 0, 0, 0, 0, 3, False, False),  # another story, rightly worked
        ("3*2=6 6-1=5", 2, 0, 0, 0, 0, False, False),
        ("3*2=6 6-1=5 5+14=19 19+0=19 5+14=19", 3, 0, 2, 0, 0, True, True),
        ("3*2=6 6-1=5 6-1=5 5+14=19", 3, 0, 1, 0, 0, True, True),  # a check on the way
        ("3*2=6 6-1=5 5+14=18 5+14=18", 2, 1, 1, 0, 0, True, False),  # the slip again
        ("3*2=8 wait 3*2=6 6-1=5 5+14=19", 2, 1, 0, 1, 0, True, True),
        ("3*2=8 3*2=6 6-1=5 5+14=19", 2, 1, 0, 1, 0, True, True),  # without saying so
        ("3*2=6 wait 3*2=8 8-1=7 7+14=21", 1, 0, 0, 0, 3, False, False),  # made worse
        ("3*2=6 6-1=5 5+14=19 19+0=20", 3, 0, 0, 0, 1, False, False),
        ("3*2=6 well 6-1=5 5+14=19", 3, 0, 0, 0, 1, False, False),
        ("3*2=6 6-1=5 5+14=", 2, 0, 0, 0, 1, False, False),
        ("", 0, 0, 0, 0, 0, False, False),
    ],
)
def test_judge_thinking_by_hand(
    subject, thinking, right, wrong, checks, corrections, strays, complete, sound
):
    problem = story("*2", "-1", "+14")
    judged = subject("tasks.stories.judge_thinking")(
        problem, f"<think>{thinking}</think><answer>19</answer>"
    )
    assert judged == (right, wrong, checks, corrections, strays, complete)
    assert judged.sound is sound


def test_judge_thinking_knows_a_step_done_again_from_the_next_one(subject):
    # 16/2 slipped to 16, so the correction looks just like the story's second step.
    judged = subject("tasks.stories.judge_thinking")(
        story("/2", "/2", start=16), "<think>16/2=16 wait 16/2=8 8/2=4</think>"
    )
    assert (judged.right, judged.wrong, judged.corrections, judged.sound) == (1, 1, 1, True)


@pytest.mark.parametrize("text", ["", "<think>3*2=6", "<answer>19</answer>", "<think>\0</think>"])
def test_judge_thinking_takes_any_text(text):
    judged = judge_thinking(story("*2"), text)
    assert not judged.complete and judged.right == 0


@pytest.mark.parametrize("checks", [0, 3])
def test_judge_thinking_agrees_with_how_documents_were_made(subject, checks):
    random = Random(3)
    for problem in get_task("stories").generate(400, seed=2, split="train"):
        steps = problem.meta["steps"]
        for kind, wrong in (("right", 0), ("slipped", 1), ("corrected", 1)):
            text = story_document(problem, kind=kind, random=random, checks=checks)
            judged = subject("tasks.stories.judge_thinking")(problem, text)
            assert judged.complete and judged.sound == (kind != "slipped")
            assert (judged.wrong, judged.corrections) == (wrong, kind == "corrected")
            assert judged.right == steps - wrong
