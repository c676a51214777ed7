"""Exercises of chapter 09: what is paid for, what is imitated, and what it costs.

Write your lines where `raise NotImplementedError` stands; what is around it is given. Then

    make check CH=9        or one of them:  make check CH=9 ONLY=select_samples

Hints stand at the end of the file. Shapes: P prompts, G completions of each.
"""

from collections.abc import Mapping, Sequence

from reasoning_from_scratch.checks import check_choice
from reasoning_from_scratch.compute import check_rollout
from reasoning_from_scratch.imitation import check_samples


def combine(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Exercise 9.1 ★ (5 minutes, write the formula). One number of several rewards.

    R1's second stage adds being right and writing in one language; what a language is worth beside
    an answer is the weight's business.

    Args:
        parts:   name -> what this completion earned under that name.
        weights: name -> what that is worth; they need not add up to 1.

    >>> combine({"correct": 1.0, "language": 0.75}, {"correct": 1.0, "language": 0.5})
    1.375

    Mirrors `rewards.combine`; held by tests/test_rewards.py.
    """
    if set(parts) != set(weights):
        raise ValueError(f"weights has {sorted(weights)}, expected {sorted(parts)}")
    raise NotImplementedError("exercise 9.1, combine")


def grpo_step_flops(
    parameters: int,
    prompt_lengths: Sequence[int],
    lengths: Sequence[Sequence[int]],
    rewards: Sequence[Sequence[float]],
    *,
    epochs: int = 1,
    reference: bool = False,
) -> int:
    """Exercise 9.2 ★★ (20 minutes, write the formula). What did this step of GRPO cost?

    A token that a model only reads or writes costs two operations a parameter, one that it learns
    from six, the forward pass among them. Completions of a group share their prompt: it is run once
    for all of them, in sampling and in each pass of learning. A group whose rewards all agree is
    sampled, but not learned from.

    With a KL to a reference (a model as large as the policy), every group is learned from in each
    pass, and in each pass the reference reads each token of it once.

    Args:
        parameters:     of the policy.
        prompt_lengths: [P] in tokens.
        lengths:        [P][G] of the completions, in tokens.
        rewards:        [P][G].
        epochs:         passes of learning over the rollout, which is sampled once.
        reference:      whether there is such a KL.

    >>> grpo_step_flops(10, [3, 2], [[4, 5], [6, 1]], [[1, 0], [0, 0]])  # sampled 21, learned 12
    1140

    Mirrors `compute.grpo_step_flops`; held by tests/test_compute.py.
    """
    check_rollout(prompt_lengths, lengths, rewards)
    for name, value in (("parameters", parameters), ("epochs", epochs)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    raise NotImplementedError("exercise 9.2, grpo_step_flops")


def at_budget(work: Sequence[float], values: Sequence[float], budget: float) -> float:
    """Exercise 9.3 ★★ (10 minutes, find the bug). What had this run reached for so much work?

    Two methods are to be compared at equal work, and neither was measured at exactly that point. So
    each is taken as it was when it was last measured within the budget. By this code methods that
    do nothing at all improve with their budget, the more so the more often they are measured.
    Delete the first line, find out how, and mend it.

    Args:
        work:   [N] that was done before each measurement, never falling.
        values: [N] measured then, such as accuracies.
        budget: of work.

    >>> at_budget([0, 5, 10], [0.125, 0.25, 0.5], 9)
    0.25

    Mirrors `compute.at_budget`; held by tests/test_compute.py.
    """
    raise NotImplementedError("exercise 9.3, at_budget: delete this line, find the bug")
    if len(work) != len(values):
        raise ValueError(f"values has {len(values)} entries, expected {len(work)}: as work")
    if not len(work):
        raise ValueError("work is empty, expected at least one measurement")
    if any(not before <= after for before, after in zip(work, work[1:], strict=False)):
        raise ValueError("work falls or holds NaN, expected each entry at least as large as before")
    within = [value for done, value in zip(work, values, strict=True) if done <= budget]
    if not within:
        raise ValueError(f"budget is {budget:g}, expected at least {work[0]:g}, what came first")
    return max(within)


def select_samples(
    texts: Sequence[str],
    correct: Sequence[float],
    lengths: Sequence[float],
    finished: Sequence[bool],
    *,
    keep: str = "first",
    per_prompt: int = 4,
    duplicates: str = "drop",
    all_right: str = "keep",
) -> list[int]:
    """Exercise 9.4 ★★★ (30 minutes, design). Which samples of one prompt are worth imitating?

    Only what scores 1 and ended by itself. What else is asked for may pull against each other, and
    the order in which you see to it decides: a text that came twice must not use up two of a
    prompt's places, and of equal texts the one that is preferred stays. Nothing that is not right
    may change what is chosen among the right ones.

    Args:
        texts, correct, lengths, finished: [G] of each completion: the text, its score from 0 to 1,
                    its tokens (the same text may have come in other tokens, too), whether it ended
                    by itself.
        keep:       which right ones go before others: "first" as they stand, or "shortest", equal
                    lengths as they stand.
        per_prompt: the most to return; 0 returns all.
        duplicates: "drop" returns equal texts once, "keep" as often as they come.
        all_right:  "drop" returns nothing where *every* sample is right and ended; "keep" does not
                    mind.

    Returns:
        Rows in the order of their preference.

    >>> texts, correct = ["long way", "way", "slip", "long way"], [1, 1, 0, 1]
    >>> select_samples(texts, correct, [5, 3, 2, 5], [True] * 4)
    [0, 1]
    >>> select_samples(texts, correct, [5, 3, 2, 5], [True] * 4, keep="shortest", per_prompt=1)
    [1]

    Mirrors `imitation.select_samples`; held by tests/test_imitation_samples.py.
    """
    check_samples(texts, correct, lengths, finished)
    check_choice("keep", keep, ("first", "shortest"))
    check_choice("duplicates", duplicates, ("drop", "keep"))
    check_choice("all_right", all_right, ("keep", "drop"))
    if per_prompt < 0:
        raise ValueError(f"per_prompt is {per_prompt}, expected at least 0")
    raise NotImplementedError("exercise 9.4, select_samples")


# region Hints: open one at a time
#
# 9.1  A part without a weight was refused above: go over the one, look up in the other.
#
# 9.2  Count tokens first, parameters last. Two counts: sampled and learned. Which of them do
#      `epochs` multiply? Rewards agree if `set` makes one of them.
#
# 9.3  Measure a coin ten times: how many heads in a hundred throws? Which of the ten numbers would
#      this report?
#
# 9.4  Drop what is not right, then ask whether that was nothing, then sort, then drop duplicates,
#      then cut: what goes wrong if two of these change places? `list.sort` leaves equals in order.
#
# endregion
