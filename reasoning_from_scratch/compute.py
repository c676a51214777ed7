"""How much arithmetic a training costs, counted from its tokens.

Two methods are compared fairly at equal work, not at equal steps: a step of RL samples before it
learns, and most of a long step's work may be sampling. A token costs two operations a parameter
where the model only reads or writes it, six where it learns from it.

Left out: what attention adds with the length, less than a tenth for the models of this project;
the optimiser; and everything that costs time without being arithmetic (`bench_sides.py` counts
attention too, and measures the time).
"""

from collections.abc import Sequence

FORWARD_FLOPS = 2  # a multiplication and an addition for each parameter and token
TRAINING_FLOPS = 6  # the same forward, and for the gradients of inputs and of weights


def grpo_step_flops(
    parameters: int,
    prompt_lengths: Sequence[int],
    lengths: Sequence[Sequence[int]],
    rewards: Sequence[Sequence[float]],
    *,
    epochs: int = 1,
    reference: bool = False,
) -> int:
    """Return the floating-point operations of one step of GRPO, sampling and learning.

    A prompt is run once for the completions that share it, in sampling and in each pass of
    learning. A group whose rewards all agree teaches nothing and is not learned from, unless a KL
    to the reference is: that one has something to say of every token.

    Args:
        parameters:     of the policy; tied embeddings count once.
        prompt_lengths: [P] in tokens.
        lengths:        [P][G] of the completions, in tokens, the end token included.
        rewards:        [P][G].
        epochs:         passes of learning over the rollout.
        reference:      whether a KL to a reference model as large as the policy is in the loss. It
                        only reads, in every pass.

    Returns:
        Operations, a whole number.

    Raises:
        ValueError: no prompts, not one row a prompt or one reward a completion, a negative length,
            or parameters or epochs below 1.

    Source: Kaplan et al. 2020, section 2.1 (2N and 6N operations a token).
    """
    check_rollout(prompt_lengths, lengths, rewards)
    for name, value in (("parameters", parameters), ("epochs", epochs)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")

    sampled = learned = 0  # tokens
    for prompt, row, paid in zip(prompt_lengths, lengths, rewards, strict=True):
        # Python's own numbers: an int32 would overflow, and tensors are never one entry of a set.
        tokens = int(prompt) + sum(int(length) for length in row)
        sampled += tokens
        if reference or len({float(reward) for reward in paid}) > 1:
            learned += tokens
    each = TRAINING_FLOPS + (FORWARD_FLOPS if reference else 0)
    return parameters * (FORWARD_FLOPS * sampled + each * epochs * learned)


def at_budget(work: Sequence[float], values: Sequence[float], budget: float) -> float:
    """Return what was measured last before a budget of work was exceeded.

    The last, not the best: whoever takes the best of a run's measurements has chosen a checkpoint
    on the problems that he reports, and the run with more measurements wins.

    Args:
        work:   [N] that was done before each measurement, never falling.
        values: [N] measured then.
        budget: of work, in the same unit.

    Returns:
        One of `values`.

    Raises:
        ValueError: one of them is longer, the work falls, or nothing was measured within `budget`.
    """
    if len(work) != len(values):
        raise ValueError(f"values has {len(values)} entries, expected {len(work)}: as work")
    if not len(work):
        raise ValueError("work is empty, expected at least one measurement")
    if any(not before <= after for before, after in zip(work, work[1:], strict=False)):
        raise ValueError("work falls or holds NaN, expected each entry at least as large as before")
    within = [value for done, value in zip(work, values, strict=True) if done <= budget]
    if not within:
        raise ValueError(f"budget is {budget:g}, expected at least {work[0]:g}, what came first")
    return within[-1]


def check_rollout(
    prompt_lengths: Sequence[int],
    lengths: Sequence[Sequence[int]],
    rewards: Sequence[Sequence[float]],
) -> None:
    """Refuse columns that do not describe the same completions, and negative lengths."""
    if not len(prompt_lengths):
        raise ValueError("prompt_lengths is empty, expected at least one prompt")
    for name, rows in (("lengths", lengths), ("rewards", rewards)):
        if len(rows) != len(prompt_lengths):
            raise ValueError(
                f"{name} has {len(rows)} rows, expected {len(prompt_lengths)}: one a prompt"
            )
    for number, (row, paid) in enumerate(zip(lengths, rewards, strict=True)):
        if len(row) != len(paid):
            raise ValueError(
                f"rewards[{number}] has {len(paid)} entries, expected {len(row)}: one a completion"
            )
    for name, row in (("prompt_lengths", prompt_lengths), *(("lengths", row) for row in lengths)):
        for length in row:
            if not length >= 0:
                raise ValueError(f"{name} holds {length}, expected 0 or above")
