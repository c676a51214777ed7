"""The command line: every command on a toy model, what it leaves, and its exit codes."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from reasoning_from_scratch.__main__ import main
from reasoning_from_scratch.bench import tiny_folder
from reasoning_from_scratch.ppo import PPO_PRESETS, PPOSettings, ppo_preset
from reasoning_from_scratch.pretrained import load_pretrained, save_pretrained
from reasoning_from_scratch.reward_model import score
from reasoning_from_scratch.reward_model_files import load_reward_model
from reasoning_from_scratch.training_commands import parse
from tests.toys import weights

BASE = Path(__file__).parents[1] / "data" / "models" / "base"
TRAIN = ("--steps", "2", "--prompts", "2", "--group-size", "4", "--max-new-tokens", "8")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The folder of an exported toy model."""
    return tiny_folder(tmp_path_factory.mktemp("toy") / "model", width=32, layers=1)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Runs land in an empty folder."""
    monkeypatch.chdir(tmp_path)


def settings(folder):
    return json.loads((folder / "settings.json").read_text())["settings"]


@pytest.mark.parametrize("command", ["grpo", "ppo"])
def test_a_policy_is_trained_saved_and_resumed(toy, tmp_path, capsys, monkeypatch, command):
    out = tmp_path / "run"
    monkeypatch.chdir(toy.parent)
    assert main([command, "--model", toy.name, *TRAIN, "--out", str(out)]) == 0
    monkeypatch.chdir(tmp_path)  # a run goes on from any folder
    assert (out / "report.html").exists() and len((out / "log.jsonl").read_text().split("\n")) == 3
    trained, _ = load_pretrained(out / "model")
    start, _ = load_pretrained(toy)
    assert trained.config == start.config
    capsys.readouterr()
    assert main([command, "--resume", str(out)]) == 0  # nothing is left to do, and nothing is lost
    assert "its 2 steps are done" in capsys.readouterr().out
    assert len((out / "log.jsonl").read_text().split("\n")) == 3
    assert main([command, "--resume", str(out), "--steps", "5", "--lr=1"]) == 2
    assert "the run's own settings: leave out --steps, --lr" in capsys.readouterr().err
    assert main([command, "--model", str(toy), *TRAIN, "--out", str(out)]) == 2
    assert "FileExistsError" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["grpo", "ppo"])
def test_a_run_that_is_refused_leaves_no_folder_in_the_way(toy, tmp_path, capsys, command):
    out = tmp_path / "run"
    refused = [command, "--model", str(toy), *TRAIN[:-1], "60000", "--out", str(out)]
    assert main(refused) == 2
    assert "ValueError" in capsys.readouterr().err and not out.exists()
    assert main([command, "--model", str(toy), *TRAIN, "--out", str(out)]) == 0


def test_a_reward_model_is_trained_and_then_pays(tmp_path, capsys):
    out, run, base = tmp_path / "judge", tmp_path / "run", ("--model", str(BASE))
    pairs = ("--pairs", "8", "--held-out", "8", "--steps", "2")
    assert main(["reward-model", *base, *pairs, "--out", str(out)]) == 0
    assert "of 8 held-out pairs" in capsys.readouterr().out
    judge, tokenizer = load_reward_model(out / "model")
    texts = ["<answer>3</answer>", "<think>3+1=4</think><answer>4</answer>"]
    thought = score(judge, tokenizer, ["Cleo has 3 coins. finds 1. how many?\n"] * 2, texts)
    assert thought.diff().abs() > 0.5  # in deviations; two steps alone make it a hundredth of that
    paid = ("ppo", *base, "--reward-model", str(out), *TRAIN)  # the run's folder, or its model
    assert main([*paid, "--out", str(run)]) == 0
    line = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    assert line["reward"] == pytest.approx(line["reward_correct"] + line["reward_beyond"])
    assert line["reward"] != line["reward_correct"]


def test_a_model_is_trained_on_pairs_of_its_own_saved_and_resumed(tmp_path, capsys):
    out = tmp_path / "run"
    how = ("--pairs", "6", "--group-size", "16", "--max-new-tokens", "48")
    steps = ("--steps", "2", "--batch", "3", "--lr", "1e-3", "--prefer", "shortest")
    assert main(["dpo", "--model", str(BASE), *how, *steps, "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "log.jsonl").open()]
    assert [line["accuracy"] for line in lines][0] == 0.5 and lines[1]["chosen_reward"] != 0
    assert settings(out)["batch"] == 3
    trained, start = (load_pretrained(path)[0] for path in (out / "model", BASE))
    assert not torch.equal(weights(trained), weights(start))
    capsys.readouterr()
    assert main(["dpo", "--resume", str(out)]) == 0
    assert "its 2 steps are done" in capsys.readouterr().out


def test_models_are_merged(toy, tmp_path, capsys):
    other = tiny_folder(tmp_path / "other", width=32, layers=1)
    policy, tokenizer = load_pretrained(other)
    torch.nn.init.constant_(policy.embedding.weight, 0.5)
    save_pretrained(policy, tokenizer, other)
    how = ("--weights", "0.25", "0.75", "--out", str(tmp_path / "merged"))
    assert main(["merge", str(toy), str(other), *how]) == 0
    merged, first = (load_pretrained(path)[0] for path in (tmp_path / "merged", toy))
    expected = 0.25 * first.embedding.weight + 0.375
    assert_close(merged.embedding.weight, expected, rtol=0, atol=1e-7)
    assert main(["merge", str(toy), str(BASE), "--out", str(tmp_path / "no")]) == 2
    assert "models[1] has vocab_size 352, expected" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert main(["merge", str(toy), "--out", str(tmp_path / "no")]) == 2
    assert "models has 1 entries, expected at least 2" in capsys.readouterr().err


def test_a_preset_gives_a_command_its_defaults_and_options_change_them(toy, tmp_path):
    for name in PPO_PRESETS:  # vanilla updates its critic on twelve shares of a rollout
        out = tmp_path / name
        how = ("--preset", name, "--kl-horizon", "64", "--prompts", "12", "--out", str(out))
        assert main(["ppo", "--model", str(toy), *TRAIN, *how]) == 0
        changes = dict(steps=2, prompts=12, group_size=4, max_new_tokens=8, kl_horizon=64)
        assert PPOSettings(**{k: tuple(v) if isinstance(v, list) else v
                              for k, v in settings(out).items()}) == ppo_preset(name, **changes)  # fmt: skip  # noqa: E501


def test_a_model_is_pretrained_then_fine_tuned_measured_and_exported(tmp_path, capsys):
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    small = ("--width", "16", "--layers", "1", "--heads", "1", "--batch", "4", "--steps", "2")
    assert main(["pretrain", *small, "--out", str(base)]) == 0
    model = ("--model", str(base / "model"))
    how = ("--examples", "8", "--steps", "2", "--batch", "2", "--out", str(tuned))
    assert main(["sft", *model, *how]) == 0
    capsys.readouterr()
    sizes = ("--problems", "3", "--samples", "2", "--max-new-tokens", "4")
    assert main(["evaluate", "--model", str(tuned / "model"), *sizes]) == 0
    assert json.loads(capsys.readouterr().out)["greedy"]["n"] == 3
    assert main(["sample", "hello", *model, "--count", "2", "--max-new-tokens", "3"]) == 0
    assert main(["export", str(tuned), str(tmp_path / "exported")]) == 0
    assert load_pretrained(tmp_path / "exported")[0].config.width == 16


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["grpo", "--task", "storeys"], "task is 'storeys', expected 'gym:NAME' or one of"),
        (["grpo", "--option", "steps"], "option is 'steps', expected name=value"),
        (["ppo", "--resume", "nowhere"], "nowhere"),
        (["evaluate", "--model", "nowhere"], "nowhere"),
        (["run", "--recipe", "addition"], "starts from a pretrained model: give one"),
        (["check", "99"], "chapter is 99, expected one that has exercises"),
        (["reward-model", "--pairs", "0"], "pairs is 0, expected"),
        (["reward-model", "--held-out", "0"], "held_out is 0, expected"),
        (["dpo", "--pairs", "0"], "pairs is 0, expected"),
        (["grpo", "--lr", "-1"], "ValueError: lr is -1.0, expected a positive number\n"),
        (["dpo", "--steps", "0"], "ValueError: steps is 0, expected at least 1\n"),
        (["dpo", "--final-lr", "-5"], "final_lr is -5.0, expected a finite number, at least 0"),
        (["grpo", "--kl-coef", "inf"], "kl_coef is inf, expected a finite number, at least 0"),
        (["dpo", "--evaluate-every", "2"], "but dpo looks at nothing on the way: use 0"),
        (
            ["grpo", "--task", "countdown", "--length-reward", "lcpo_max", "--length-coef", "0.01"],
            "length_reward is 'lcpo_max', but the problems ask for no length",
        ),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(toy, capsys, arguments, said):
    if arguments[0] in ("grpo", "reward-model", "dpo"):
        arguments = [*arguments, "--model", str(toy)]
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["grpo", "ppo"])
def test_a_policy_is_looked_at_along_its_run_if_asked(toy, tmp_path, command):
    out, how = tmp_path / "run", ("--evaluate-every", "2", "--checkpoint-every", "1")
    assert main([command, "--model", str(toy), *TRAIN, *how, "--out", str(out)]) == 0
    first, second = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    assert "eval" not in first and second["eval"]["greedy"]["n"] == 128


def test_a_model_is_never_written_over_another(toy, tmp_path, capsys):
    before = (toy / "model.safetensors").read_bytes()
    for arguments in (["merge", str(BASE), str(BASE), "--out"], ["export", str(BASE)]):
        assert main([*arguments, str(toy)]) == 2
        assert "is there already: choose another folder" in capsys.readouterr().err
    assert (toy / "model.safetensors").read_bytes() == before


def test_help_names_every_command_and_every_choice(capsys):
    for arguments, words in (
        ([], ("run", "pretrain", "sft", "reward-model", "dpo", "ppo", "grpo", "merge", "check")),
        (["grpo", "--preset", "dapo"], ("{sequence_mean,token_mean,constant}", "0.28", "gsm8k")),
        (["dpo"], ("{right,shortest}", "--nll-coef", "--beta")),
        (["ppo", "--preset", "vanilla"], ("--lam", "--reward-model", "{rlhf,vanilla}")),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--help"])
        shown = capsys.readouterr().out
        assert ended.value.code == 0 and all(word in shown for word in words)


def test_options_of_a_task_are_read_as_python_values_or_text():
    assert parse(("steps=2,6", "limit=200", "style=plain")) == {
        "steps": (2, 6), "limit": 200, "style": "plain"
    }  # fmt: skip
