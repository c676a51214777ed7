"""The main job: its recipes, its stages and, marked end_to_end, whether accuracy really rises."""

import json

import pytest

from reasoning_from_scratch.main_job import RECIPES, MainJob, open_model
from reasoning_from_scratch.tasks import get_task


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_a_task_that_takes_its_options(name):
    recipe = RECIPES[name]
    for options in filter(None, (recipe.options, recipe.longer)):
        assert len(get_task(recipe.task, **options).generate(2, seed=0, split="test")) == 2


def test_a_longer_problem_is_longer_than_any_in_training():
    for recipe in RECIPES.values():
        if recipe.longer:
            assert recipe.longer["steps"][0] > recipe.options["steps"][1]


def test_what_cannot_be_run_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="recipe is 'five_minutes', expected one of ten_minutes"):
        MainJob(tmp_path, "five_minutes")
    with pytest.raises(ValueError, match="'addition' starts from a pretrained model: give one"):
        MainJob(tmp_path, "addition")
    with pytest.raises(ValueError, match="model is missing"):
        open_model(None, "cpu")


@pytest.mark.end_to_end
def test_accuracy_and_thinking_rise(tmp_path):
    before, after = MainJob(tmp_path / "run", "minute").run()
    assert after["greedy"]["low"] > before["greedy"]["high"]
    assert after["sampled"]["low"] > before["sampled"]["high"]
    assert before["thinks_greedy"]["mean"] < 0.5 < after["thinks_greedy"]["mean"]
    for name in ("report.html", "curves.svg", "comparison.jsonl", "model/model.safetensors"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    # A finished job is not trained again: its folder already holds every result.
    log = (tmp_path / "run" / "grpo" / "log.jsonl").read_text()
    assert MainJob(tmp_path / "run", "minute").run() == (before, after)
    assert (tmp_path / "run" / "grpo" / "log.jsonl").read_text() == log
    assert json.loads(log.splitlines()[-1])["step"] == RECIPES["minute"].grpo.steps - 1
