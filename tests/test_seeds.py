"""Several runs together: means over seeds by hand, and what cannot be joined."""

import json

import pytest

from reasoning_from_scratch.seeds import over_seeds, record_seeds


def metric(mean):
    return {"mean": mean, "low": 0.0, "high": 1.0, "n": 100}


def test_over_seeds_by_hand():
    runs = [{"greedy": metric(x), "by_steps": {"2": metric(x / 2)}} for x in (0.8, 0.9, 1.0)]
    joined = over_seeds(runs)
    # deviation 0.1, standard error 0.1/√3 = 0.057735, t of two degrees of freedom 4.302653
    assert joined["greedy"]["mean"] == pytest.approx(0.9)
    assert joined["greedy"]["low"] == pytest.approx(0.9 - 4.302653 * 0.057735, abs=1e-5)
    assert joined["greedy"]["n"] == 3 and joined["greedy"]["runs"] == [0.8, 0.9, 1.0]
    assert joined["by_steps"]["2"]["mean"] == pytest.approx(0.45)


def test_the_interval_of_a_rate_ends_at_0_and_1_that_of_a_length_does_not():
    rates, lengths = (0.9, 1.0, 1.0), (0.0, 0.0, 9.0)
    pairs = zip(rates, lengths, strict=True)
    joined = over_seeds([{"greedy": metric(a), "length_greedy": metric(b)} for a, b in pairs])
    # 0.9667 + 4.302653 · 0.057735/√3 is 1.110; 3 - 4.302653 · 5.196152/√3 is -9.908
    assert joined["greedy"]["high"] == 1.0 and joined["greedy"]["low"] == pytest.approx(
        0.82324, abs=1e-4
    )
    assert joined["length_greedy"]["low"] == pytest.approx(-9.90796, abs=1e-4)


def test_over_seeds_keeps_only_what_every_run_has():
    joined = over_seeds([{"a": metric(1.0), "b": metric(1.0)}, {"a": metric(0.0)}])
    assert list(joined) == ["a"]


def job(folder, seed, *, recipe="r", accuracy=0.5, finished=True):
    (folder / "grpo").mkdir(parents=True)
    settings = {"name": recipe, "seed": seed, "model": None, "recipe": {"message": recipe}}
    (folder / "settings.json").write_text(json.dumps(settings))
    line = {"step": 0, "reward": accuracy, "seconds": 2.0, "eval": {"greedy": metric(accuracy)}}
    (folder / "grpo" / "log.jsonl").write_text(json.dumps(line) + "\n")
    metrics = {"greedy": metric(accuracy), "by_steps": {"2": metric(accuracy)}}
    (folder / "before.json").write_text(json.dumps(metrics))
    if finished:
        (folder / "after.json").write_text(json.dumps(metrics))
    return folder


def test_record_seeds_writes_the_data_and_the_figures(tmp_path):
    folders = [job(tmp_path / f"job{i}", i, accuracy=0.5 + i / 10) for i in range(3)]
    table = record_seeds(folders, "main", root=tmp_path)
    assert "60.0" in table  # the mean of 50, 60 and 70 %
    found = json.loads((tmp_path / "data" / "main.json").read_text())
    assert found["seeds"] == [0, 1, 2] and found["after"]["greedy"]["n"] == 3
    assert found["seconds"] == [{"grpo": 2.0}] * 3
    for name in ("main_curves.svg", "main_steps.svg"):
        assert "<svg" in (tmp_path / "figures" / name).read_text()


def test_what_cannot_be_joined_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folders is empty"):
        record_seeds([], "main", root=tmp_path)
    one, other = job(tmp_path / "a", 0), job(tmp_path / "b", 1, recipe="another")
    with pytest.raises(ValueError, match="different recipes"):
        record_seeds([one, other], "main", root=tmp_path)
    with pytest.raises(ValueError, match="c is not finished"):
        record_seeds([one, job(tmp_path / "c", 1, finished=False)], "main", root=tmp_path)
