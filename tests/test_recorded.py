"""The recorded runs of the chapters: what the files hold is what their scripts would run."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from reasoning_from_scratch import ppo_preset

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "chapters/recorded").glob("ch*.py"))


def script(name):
    spec = importlib.util.spec_from_file_location(
        f"recorded_{name}", SCRIPTS[0].parent / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(name):
    return json.loads((ROOT / "data/recorded" / f"{name}.json").read_text())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_each_script_has_its_file_and_its_chapter(path):
    assert (ROOT / "data/recorded" / f"{path.stem}.json").exists()
    assert list((ROOT / "chapters").glob(f"{path.stem}_*.ipynb"))


def test_ch05_holds_every_arm_at_every_seed_with_the_scripts_settings():
    ch05, runs = script("ch05"), record("ch05")["runs"]
    assert [(r["arm"], r["seed"]) for r in runs] == [(a, s) for a in ch05.ARMS for s in range(3)]
    assert all(r["settings"] == ch05.settings_of(r["arm"]) for r in runs)


def test_ch06_holds_every_run_with_the_scripts_settings():
    ch06, runs = script("ch06"), record("ch06")["runs"]
    wanted = ch06.every_run()
    assert list(runs) == list(wanted)
    for name, (settings, reward, rule) in wanted.items():
        found = runs[name]
        assert (found["settings"], found["reward"], found["rule"]) == (settings, reward, rule)
        assert len(found["curves"]["reward"]) == ppo_preset("vanilla", **settings).steps


def test_the_mistake_of_ch06_is_the_one_that_the_chapter_describes():
    generator = torch.Generator().manual_seed(0)
    new, old = torch.randn(2, 4, 5, generator=generator) / 2
    advantages = torch.randn(4, 5, generator=generator)
    mask = (torch.rand(4, 5, generator=generator) < 0.7).float()
    loss, stats = script("ch06").larger_of_the_two(
        new, old, advantages, mask, clip_low=0.2, clip_high=0.3
    )
    scores = []
    for n, o, a, m in zip(
        *(x.flatten().tolist() for x in (new, old, advantages, mask)), strict=True
    ):
        if m:
            ratio = torch.tensor(n - o).exp().item()
            raw, clipped = ratio * a, min(max(ratio, 0.8), 1.3) * a
            scores.append(max(raw, clipped) if a < 0 else min(raw, clipped))
    assert loss.item() == pytest.approx(-sum(scores) / len(scores), rel=1e-5)
    assert 0 < stats["clip_low_fraction"] < 1
