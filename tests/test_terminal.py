"""What the command line shows while it trains."""

from reasoning_from_scratch.terminal import Bar


def shown(capsys, *lines):
    """What is said of these log lines, one for each of a run's steps."""
    bar = Bar("ppo", len(lines))
    for step, line in enumerate(lines):
        bar({"step": step, **line})
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_a_learned_reward_stands_beside_the_true_one_and_the_distance(capsys):
    line = {"reward": 1.25, "reward_correct": 0.5, "kl_completion": 2.0}
    said = shown(capsys, line)
    assert "reward=1.25 reward_correct=0.5" in said and "kl_completion=2" in said


def test_a_reward_for_being_right_is_shown_once(capsys):
    said = shown(capsys, {"reward": 0.5, "reward_correct": 0.5})
    assert "reward=0.5" in said and "reward_correct" not in said


def test_a_warning_is_given_once_whatever_its_numbers(capsys):
    said = shown(capsys, {"entropy": 0.004}, {"entropy": 0.003}, {"entropy": 0.2, "finished": 0.1})
    assert said.count("are the same") == 1 and "step 1: entropy is 0.0040" in said
    assert said.count("step 3: 90% of the completions were cut off") == 1
