"""The ledger: verdicts by hand, how often they are wrong on synthetic arms, records, the page."""

import dataclasses
import json
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

CLAIMS = Path(__file__).parents[1] / "chapters" / "claims"
sys.path.insert(0, str(CLAIMS))  # as for a script that lies there

from ledger import command, records, runner, table  # noqa: E402
from ledger.records import Places, assess, read_records, role_of  # noqa: E402
from ledger.runner import Claim, Outcome, execute, make_job  # noqa: E402
from ledger.verdict import (  # noqa: E402
    ABSENT,
    IN_PART,
    NOT_TESTED,
    OPPOSITE,
    SEEN,
    SHARPER,
    TOO_SMALL,
    UNDECIDED,
    Criteria,
    Estimate,
    Part,
    benjamini_hochberg,
    claim_p,
    estimate,
    holm,
    load_criteria,
    verdict,
)

CRITERIA = load_criteria(CLAIMS / "criteria.json")


def criteria(*parts, key="C4", **options):
    return Criteria(key, "a title", 1, tuple(parts), **options)


def effect(delta=3.0, **options):
    return Part("effect", "effect", "what is asked", delta=delta, dagger=True, **options)


def found(mean, half, n=5):
    """An estimate whose interval reaches `half` to both sides."""
    return Estimate(mean, mean - half, mean + half, half / 3.495406, n)


# The interval.


def test_estimate_by_hand():
    # deviation √2.5, standard error √(2.5/5) = 0.7071; t of four degrees at 0.9875 is 3.4954
    e = estimate([1, 2, 3, 4, 5])
    assert e.mean == 3 and e.high == pytest.approx(3 + 3.495406 * 0.707107, abs=1e-5)
    assert e.low == pytest.approx(3 - 3.495406 * 0.707107, abs=1e-5)


def test_seeds_that_agree_by_luck_are_not_certain():
    # the problems' variance 0.2 is above the seeds' 0: standard error √(0.2/5) = 0.2
    e = estimate([2.0] * 5, [0.1, 0.3, 0.2, 0.2, 0.2])
    assert e.high - e.mean == pytest.approx(3.495406 * 0.2, abs=1e-5)
    # and is no more than a floor: added to a larger spread it changes nothing
    assert estimate([1, 2, 3, 4, 5], [0.2] * 5) == estimate([1, 2, 3, 4, 5])


def test_the_interval_covers_what_it_says_and_little_more():
    # Every seed has problems of its own: a recipe's deviation of 2 points, and 256 problems' noise
    # of 32 points each, which the bootstrap of each seed estimates as its own variance / 256.
    generator, inside = np.random.default_rng(0), 0
    for _ in range(3000):
        problems = 5 + generator.normal(0, 2, (5, 1)) + generator.normal(0, 32, (5, 256))
        e = estimate(problems.mean(1), problems.var(1) / 256)
        inside += e.low < 5 < e.high
    assert 0.970 < inside / 3000 < 0.999


@pytest.mark.parametrize("values", [[1.0], [1.0, math.nan], [[1.0, 2.0]]])
def test_an_estimate_of_nothing_is_refused(values):
    with pytest.raises(ValueError, match="values"):
        estimate(values)


# Parts and verdicts, at numbers worked by hand. δ = 3 throughout.


@pytest.mark.parametrize(
    "mean, half, printed",
    [
        (5.0, 4.0, SEEN),  # 1 to 9, estimate above 3
        (2.9, 2.0, TOO_SMALL),  # 0.9 to 4.9: above 0, estimate below 3
        (2.0, 0.9, ABSENT),  # 1.1 to 2.9: inside ±3 comes before "too small"
        (0.5, 2.0, ABSENT),  # -1.5 to 2.5
        (5.0, 5.5, UNDECIDED),  # -0.5 to 10.5
        (-3.0, 2.5, OPPOSITE),  # -5.5 to -0.5, estimate at -3
        (-2.9, 2.5, UNDECIDED),  # -5.4 to -0.4, estimate above -3, not inside ±3
    ],
)
def test_the_verdict_on_one_effect(mean, half, printed):
    assert verdict(criteria(effect()), {"effect": found(mean, half)}, untested=0) == printed
    falls = criteria(effect(down=True))
    assert verdict(falls, {"effect": found(-mean, half)}, untested=0) == printed


@pytest.mark.parametrize(
    "mean, half, printed",
    [
        (1.0, 2.0, SEEN),  # -1 to 3, inside ±4
        (3.0, 2.0, UNDECIDED),  # 1 to 5
        (0.0, 5.0, UNDECIDED),  # too wide: never "equal"
        (6.0, 1.0, OPPOSITE),  # 5 to 7: beyond the margin
        (-6.0, 1.0, OPPOSITE),
    ],
)
def test_the_verdict_on_an_equality(mean, half, printed):
    claim = criteria(Part("effect", "equal", "", delta=4.0, dagger=True))
    assert verdict(claim, {"effect": found(mean, half)}, untested=0) == printed


@pytest.mark.parametrize(
    "mean, half, printed",
    [(0.0, 3.9, SEEN), (8.0, 5.0, SEEN), (0.0, 4.1, UNDECIDED), (-6, 1, OPPOSITE)],
)
def test_the_verdict_on_no_worse(mean, half, printed):
    claim = criteria(Part("effect", "no_worse", "", delta=4.0, dagger=True))
    assert verdict(claim, {"effect": found(mean, half)}, untested=0) == printed


@pytest.mark.parametrize(
    "failed, seeds, tested", [(1, 5, True), (2, 5, False), (2, 10, True), (3, 10, False)]
)
def test_a_precondition_may_fail_in_one_of_five_seeds(failed, seeds, tested):
    printed = verdict(criteria(effect()), {"effect": found(9, 1, seeds)}, untested=failed)
    assert printed == (SEEN if tested else NOT_TESTED)


def test_all_parts_must_hold():
    second = Part("second", "equal", "the second part", delta=1.0)
    claim, good = criteria(effect(), second), found(9, 1)
    assert verdict(claim, {"effect": good, "second": found(0, 0.5)}, untested=0) == SEEN
    assert verdict(claim, {"effect": good, "second": found(5, 1)}, untested=0) == IN_PART
    # a part that is not clear is not excluded: the whole is undecided
    assert verdict(claim, {"effect": good, "second": found(0, 2)}, untested=0) == UNDECIDED


def test_what_holds_at_temperature_one_alone_is_sharpening():
    claim = criteria(effect(at_best_t="best"))
    at = {"effect": found(9, 1)}
    assert verdict(claim, at | {"best": found(5, 1)}, untested=0) == SEEN
    assert verdict(claim, at | {"best": found(1, 2)}, untested=0) == SHARPER


def test_a_claim_that_does_not_survive_is_undecided():
    assert (
        verdict(criteria(effect()), {"effect": found(9, 1)}, untested=0, survives=False)
        == UNDECIDED
    )


def test_a_number_of_its_own_may_decide_the_opposite():
    claim = criteria(effect(), opposite=Part("late", "effect", "", delta=3.0))
    at = {"effect": found(-9, 1)}
    assert verdict(claim, at | {"late": found(0, 1)}, untested=0) == UNDECIDED
    assert verdict(claim, at | {"late": found(5, 1)}, untested=0) == OPPOSITE


def test_a_ratio_is_asked_as_a_log():
    part = Part.of({"name": "x", "kind": "effect", "ratio": 0.8, "down": True, "text": ""})
    assert part.delta == pytest.approx(math.log(1.25))
    assert part.holds(found(math.log(0.75), 0.1)) and not part.holds(found(math.log(0.85), 0.1))


def test_p_by_hand():
    # t = 2.776 is the 97.5 % point of Student's distribution with four degrees of freedom
    e = Estimate(2.776445, 0, 0, 1.0, 5)
    assert effect(0.0).p(e) == pytest.approx(0.05, abs=1e-6)
    assert effect(0.0, above=2.776445).p(e) == pytest.approx(1.0)
    # an equality within m: twice the larger one-sided p, here at the nearer margin
    equal = Part("x", "equal", "", delta=2.776445 + 1)
    assert equal.p(Estimate(1.0, 0, 0, 1.0, 5)) == pytest.approx(0.05, abs=1e-6)
    assert equal.p(Estimate(9.0, 0, 0, 1.0, 5)) > 1
    two = criteria(effect(0.0), Part("second", "estimate", ""))
    assert claim_p(two, {"effect": e, "second": e}) == pytest.approx(0.10, abs=1e-6)  # two looks


@pytest.mark.parametrize("kind", ["effect", "equal", "no_worse"])
def test_p_is_below_one_fortieth_exactly_where_the_interval_decides(kind):
    generator = np.random.default_rng(1)
    part = Part("x", kind, "", delta=0.0 if kind == "effect" else 1.0)
    for _ in range(200):
        e = estimate(generator.normal(generator.normal(0, 1), 0.5, 5))
        decided = part.holds(e) or (kind == "effect" and e.high < 0)
        assert (part.p(e) < 0.025) == decided


def test_corrections_by_hand():
    p = {"a": 0.001, "b": 0.012, "c": 0.03, "d": 0.9}
    # Benjamini and Hochberg at 0.05 of four: 0.0125, 0.025, 0.0375, 0.05, so three pass
    assert benjamini_hochberg(p, 4) == {"a": True, "b": True, "c": True, "d": False}
    # of ten, with six not in: 0.005, 0.010, 0.015, so one does
    assert [k for k, ok in benjamini_hochberg(p, 10).items() if ok] == ["a"]
    adjusted = holm(p, 4)
    assert adjusted == pytest.approx({"a": 0.004, "b": 0.036, "c": 0.06, "d": 0.9})


# How often a verdict is wrong, and how often an effect is seen.


def two_looks(effects, deviation=1.0, delta=0.0):
    """The verdict of the protocol for each row [10] of differences: five seeds, then all ten."""
    claim = criteria(effect(delta))
    for row in effects * deviation:
        printed = verdict(claim, {"effect": estimate(row[:5])}, untested=0)
        yield printed if printed != UNDECIDED else verdict(
            claim, {"effect": estimate(row)}, untested=0
        )  # fmt: skip


def test_no_effect_is_seldom_seen():
    printed = list(two_looks(np.random.default_rng(0).normal(0, 1, (12_000, 10))))
    # 2.25 % each, standard error 0.14 %: the protocol states at most 5 % for both together
    assert printed.count(SEEN) / 12_000 == pytest.approx(0.0225, abs=0.004)
    assert printed.count(OPPOSITE) / 12_000 == pytest.approx(0.0225, abs=0.004)
    assert printed.count(SEEN) + printed.count(OPPOSITE) < 0.05 * 12_000


@pytest.mark.parametrize(
    "effect_in_s, power", [(1.0, 0.70), (1.25, 0.88), (1.5, 0.97), (2.0, 0.999)]
)
def test_a_true_effect_is_seen_with_the_stated_power(effect_in_s, power):
    draws = np.random.default_rng(2).normal(effect_in_s, 1, (6000, 10))
    seen = list(two_looks(draws)).count(SEEN) / 6000
    assert seen == pytest.approx(power, abs=0.015)  # two standard errors and the rounding


def test_one_look_at_five_seeds_finds_two_deviations_with_power_80():
    claim, rows = criteria(effect(0.0)), np.random.default_rng(3).normal(2.05, 1, (6000, 5))
    seen = [verdict(claim, {"effect": estimate(row)}, untested=0) == SEEN for row in rows]
    assert np.mean(seen) == pytest.approx(0.80, abs=0.015)


def test_an_effect_that_is_not_worth_having_is_ruled_out_not_seen():
    # true effect 0, margin 2.32 s: shown to be absent with power 80 at five seeds
    claim, rows = criteria(effect(2.32)), np.random.default_rng(4).normal(0, 1, (6000, 5))
    printed = [verdict(claim, {"effect": estimate(row)}, untested=0) for row in rows]
    assert printed.count(ABSENT) / 6000 == pytest.approx(0.80, abs=0.02)
    assert printed.count(SEEN) / 6000 < 0.0125 + 0.004


# The table of criteria.


def test_every_claim_has_its_criteria():
    assert list(CRITERIA) == [f"C{i}" for i in range(1, 26)] + [f"N{i}" for i in range(1, 6)]
    assert [k for k, c in CRITERIA.items() if c.family == "new"] == [f"N{i}" for i in range(1, 6)]
    assert [k for k, c in CRITERIA.items() if c.p_times == 1] == ["C3", "C7", "C25"]
    for row in CRITERIA.values():
        names = [part.name for part in (*row.parts, *row.controls)]
        assert len(names) == len(set(names)) and row.main.delta >= 0


@pytest.mark.parametrize("key, claim", table.scripts(CRITERIA).items())
def test_a_script_has_every_number_that_its_criteria_name(key, claim):
    row = CRITERIA[key]
    wanted = {part.name for part in (*row.parts, *row.controls)} | set(row.secondary)
    wanted |= {part.at_best_t for part in row.parts if part.at_best_t}
    wanted |= {row.opposite.name} if row.opposite else set()
    assert wanted == set(claim.statistics) | set(claim.pooled)
    assert claim.key == key and set(claim.minutes) == set(claim.arms)
    assert all(len(c) == runner.CONFIGURATIONS for c in claim.tuning.values())
    assert json.loads(json.dumps(claim.arms)) != {}  # every setting can be recorded


def test_the_dagger_must_be_one():
    row = {
        "title": "",
        "chapter": 1,
        "parts": [],
        "controls": [],
        "preconditions": [],
        "looks": [5],
    }
    with pytest.raises(ValueError, match="C0 has not one part with the dagger"):
        Criteria.of("C0", row)


# Synthetic arms on the real machinery. "C22" is borrowed for its criteria and budget.

SHIFT = {"story": 0.0, "corrected": 0.3, "none": 0.0}


def synthetic(job):
    """An arm whose accuracy is known: its settings say by how much it is right more often."""
    if (job.folder / "killed").exists():
        (job.folder / "killed").unlink()
        raise KeyboardInterrupt
    generator = np.random.default_rng(job.seed)  # the same problems and luck in every arm
    hard = generator.uniform(0, 0.6, 64)
    right = np.clip(hard + job.settings["shift"] + generator.normal(0, 0.01), 0, 1)
    job.report(1, 1)
    return Outcome(
        {"right": right}, {"accuracy": float(right.mean())}, optimiser_steps=job.settings["steps"]
    )


def difference(seed):
    return 100 * (seed["corrected"]["right"].mean(-1) - seed["none"]["right"].mean(-1))


def synthetic_claim(**changes):
    arms = {arm: {"shift": SHIFT[arm], "steps": 100} for arm in ("corrected", "none")}
    row = CRITERIA["C22"]
    names = [part.name for part in (*row.parts, *row.controls)] + list(row.secondary)
    statistics = {name: difference for name in names}
    statistics["plain_slope"] = lambda seed: 0 * difference(seed)
    minutes = dict.fromkeys(arms, 1.0)
    claim = Claim("C22", synthetic, arms, statistics, minutes=minutes)
    return dataclasses.replace(claim, **changes)


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """Records and runs in a folder of their own, with a working tree that counts as committed."""
    state = {"revision": "abc", "dirty": False, "claims_md_sha": "page"}
    monkeypatch.setattr(runner, "provenance", lambda: state | {"machine": runner.machine()})

    def in_this_process(run, jobs, total, workers):
        for job in jobs:
            execute(run, job)
            runner.collect(job)

    monkeypatch.setattr(runner, "work_off", in_this_process)
    places = Places(tmp_path / "data", tmp_path / "runs")
    return places, state


def test_a_claim_runs_its_first_look_and_stops_when_that_decides(clean, capsys):
    places, _ = clean
    command.run_claim(synthetic_claim(), places, 1)
    lines = read_records(places.data / "C22.jsonl")
    assert sorted({r["seed"] for r in lines}) == [0, 1, 2, 3, 4] and len(lines) == 10
    assert "look 1: seen" in capsys.readouterr().out
    first = lines[0]
    assert first["role"] == "test" and first["settings"] == {"shift": 0.3, "steps": 100}
    assert first["final"]["per_problem"] == "C22/corrected-0.npz"
    with np.load(places.data / "C22" / "corrected-0.npz") as file:
        assert file["right"].mean() == pytest.approx(first["final"]["accuracy"])
    again = places.data / "C22.jsonl"
    before = again.read_bytes()
    command.run_claim(synthetic_claim(run=None), places, 1)  # what is recorded is not run again
    assert again.read_bytes() == before


def test_an_undecided_claim_gets_five_more_seeds_and_no_third_look(clean, capsys):
    places, _ = clean
    wide = {"slope": lambda seed: 2.5 + 40 * (-1) ** seed.number + 0 * difference(seed)}
    claim = synthetic_claim()
    command.run_claim(synthetic_claim(statistics={**claim.statistics, **wide}), places, 1)
    assert {r["seed"] for r in read_records(places.data / "C22.jsonl")} == set(range(10))
    assert f"look 2: {UNDECIDED}" in capsys.readouterr().out


def test_seeds_beyond_a_decided_look_change_nothing(clean):
    places, _ = clean
    claim = synthetic_claim()
    runner.run_jobs(claim, range(10), places, 1)
    found = assess(CRITERIA["C22"], claim.statistics, list(claim.arms), places)
    assert (found.verdict, found.look, len(found.seeds)) == (SEEN, 1, 5)


def test_paired_arms_cancel_what_they_share_and_problems_are_drawn_together(clean):
    places, _ = clean
    runner.run_jobs(synthetic_claim(), range(5), places, 1)
    claim = synthetic_claim()
    found = assess(CRITERIA["C22"], claim.statistics, list(claim.arms), places)
    seed = found.seeds[0]
    value, variance = records.numbers({"d": difference}, seed)["d"]
    d = 100 * (seed["corrected"]["right"] - seed["none"]["right"])
    assert value == pytest.approx(d.mean())
    # the bootstrap of a mean has the variance of its terms / N; the arms' own are far larger
    assert variance == pytest.approx(d.var() / len(d), rel=0.15, abs=1e-4)
    assert variance < (100 * seed["none"]["right"]).var() / len(d) / 10


def test_a_killed_run_goes_on_and_the_others_are_not_lost(clean):
    places, _ = clean
    claim = synthetic_claim()
    job = make_job("C22", "none", claim.arms["none"], 1, places, None)
    job.folder.mkdir(parents=True)
    (job.folder / "killed").touch()
    with pytest.raises(KeyboardInterrupt):
        command.run_claim(claim, places, 1)
    done = read_records(places.data / "C22.jsonl")
    assert 0 < len(done) < 10 and not (job.folder / "record.json").exists()
    command.run_claim(claim, places, 1)
    lines = read_records(places.data / "C22.jsonl")
    assert lines[: len(done)] == done and len(lines) == 10


def test_a_resumed_run_counts_the_time_of_its_attempts(clean):
    places, _ = clean
    job = make_job("C22", "none", {"shift": 0.0, "steps": 1}, 0, places, None)
    job.folder.mkdir(parents=True)
    (job.folder / "clock.json").write_text(json.dumps([20.0, 1000.0]))  # begun at 1000
    job.report(3, 9)
    os.utime(job.folder / "progress", (1030.0, 1030.0))  # last seen 30 s later
    execute(synthetic, job)
    assert 50 <= json.loads((job.folder / "record.json").read_text())["wall_s"] < 60


def test_a_run_finished_but_not_recorded_is_read(clean):
    places, _ = clean
    claim = synthetic_claim()
    job = make_job("C22", "none", claim.arms["none"], 0, places, None)
    execute(claim.run, job)
    execute(None, job)  # not run again
    runner.collect(job)
    assert len(read_records(places.data / "C22.jsonl")) == 1


def test_a_test_seed_does_not_run_with_other_settings(clean):
    places, _ = clean
    runner.run_jobs(synthetic_claim(), [0], places, 1)
    other = {arm: {"shift": 0.1, "steps": 100} for arm in ("corrected", "none")}
    for seeds in ([0], [1]):  # neither that seed nor another
        with pytest.raises(ValueError, match="settings differ from those of seed 0"):
            runner.run_jobs(synthetic_claim(arms=other), seeds, places, 1)
    runner.run_jobs(synthetic_claim(arms=other), [100], places, 1)  # tuning seeds may
    runner.run_jobs(synthetic_claim(), [100], places, 1)
    assert len(read_records(places.data / "C22.jsonl")) == 2 + 4


def test_what_a_claim_starts_from_is_made_first_and_only_where_it_is_missing(clean):
    places, _ = clean
    arms = {"story": {"shift": 0.0, "steps": 1}}
    needed = Claim("bases", synthetic, arms, minutes={"story": 1.0}, leaves="record.json")
    claim = synthetic_claim(needs=(needed,))
    runner.run_jobs(claim, [0], places, 1)
    assert [r["seed"] for r in read_records(places.data / "bases.json")] == [0]
    shutil.rmtree(places.runs)  # as in a fresh clone: the claim is recorded, nothing is needed
    runner.run_jobs(claim, [0], places, 1)
    assert not places.runs.exists()
    runner.run_jobs(claim, [0, 1], places, 1)  # a new seed needs its own alone
    assert not (places.runs / "bases" / "story-0").exists()
    runner.run_jobs(needed, [0], places, 1)  # made again, the same as recorded
    assert len(read_records(places.data / "bases.json")) == 2
    shutil.rmtree(places.runs)
    other = dataclasses.replace(needed, run=another_result)
    with pytest.raises(ValueError, match="story-0 made here is not the recorded one"):
        runner.run_jobs(other, [0], places, 1)


def another_result(job):
    return Outcome(final={"accuracy": 0.123})


def move_to(cpu, places, monkeypatch):
    """Go on with the records alone, on a machine with another processor."""
    shutil.rmtree(places.runs, ignore_errors=True)
    monkeypatch.setattr(runner, "machine", lambda: {"cpu": cpu, "torch": "2.13.0"})


def test_a_seed_that_one_machine_has_begun_is_made_whole_on_another(clean, monkeypatch):
    places, _ = clean
    claim, arms = synthetic_claim(), synthetic_claim().arms
    move_to("one", places, monkeypatch)
    runner.run_jobs(claim, [0], places, 1)
    runner.run_jobs(dataclasses.replace(claim, arms={"none": arms["none"]}), [1], places, 1)
    move_to("two", places, monkeypatch)
    runner.run_jobs(claim, [0, 1], places, 1)
    lines = read_records(places.data / "C22.jsonl")
    made = [(r["arm"], r["seed"], r["machine"]["cpu"]) for r in lines]
    assert made == [
        ("corrected", 0, "one"), ("none", 0, "one"), ("none", 1, "one"), ("corrected", 1, "two"),
        ("none", 1, "two"),
    ]  # fmt: skip
    files = [r["final"]["per_problem"] for r in lines]
    assert len(set(files)) == 5 and all((places.data / name).exists() for name in files)
    assert files[2] == "C22/none-1.npz"  # the earlier machine's measurements are not overwritten
    assert command.estimate_minutes(claim, places, 1, [0, 1]) == 0


def test_arms_of_two_machines_are_not_compared_and_the_first_complete_one_counts(
    clean, monkeypatch
):
    places, _ = clean
    claim = synthetic_claim()

    def made(cpu, *arms):
        move_to(cpu, places, monkeypatch)
        jobs = [make_job("C22", a, claim.arms[a], s, places, None) for s in range(5) for a in arms]
        runner.work_off(synthetic, jobs, len(jobs), 1)
        found = assess(CRITERIA["C22"], claim.statistics, list(claim.arms), places)
        return {r["machine"]["cpu"] for s in found.seeds for r in s.records.values()}

    assert made("one", "none") == made("two", "corrected") == set()  # no seed is whole
    assert made("three", "none", "corrected") == {"three"}
    assert made("two", "none") == {"three"}
    assert made("one", "corrected") == {"three"}
    lines = read_records(places.data / "C22.jsonl")
    wanted = [make_job("C22", a, claim.arms[a], 0, places, None).wanted for a in claim.arms]
    found = records.side_by_side(lines, wanted)
    assert [(r["arm"], r["machine"]["cpu"]) for r in found] == [(a, "three") for a in claim.arms]


def test_what_is_left_for_others_is_made_again_on_another_machine(clean, monkeypatch):
    places, _ = clean
    arms = {"story": {"shift": 0.0, "steps": 1}}
    needed = Claim("bases", synthetic, arms, minutes={"story": 1.0}, leaves="record.json")
    for cpu in ("one", "two", "one"):
        move_to(cpu, places, monkeypatch)
        runner.run_jobs(needed, [0], places, 1)
        assert (places.runs / "bases" / "story-0" / "record.json").exists()
    lines = read_records(places.data / "bases.json")
    assert [r["machine"]["cpu"] for r in lines] == ["one", "two"]
    wanted = make_job("bases", "story", arms["story"], 0, places, None).wanted
    assert records.find(lines, wanted)["machine"]["cpu"] == "one"


def test_a_killed_run_does_not_go_on_on_another_machine(clean, monkeypatch):
    places, _ = clean
    job = make_job("C22", "none", {"shift": 0.3, "steps": 100}, 0, places, None)
    job.folder.mkdir(parents=True)
    (job.folder / "killed").touch()
    with pytest.raises(KeyboardInterrupt):
        execute(synthetic, job)
    monkeypatch.setattr(runner, "machine", lambda: {"cpu": "other", "torch": "2.13.0"})
    with pytest.raises(ValueError, match="started with other settings or on another machine"):
        execute(synthetic, job)


def test_two_processes_are_not_at_one_run(clean):
    places, _ = clean
    job = make_job("C22", "none", {"shift": 0.0, "steps": 1}, 0, places, None)
    job.folder.mkdir(parents=True)
    with records.locked(job.folder / "lock"):
        with pytest.raises(ValueError, match="another process is at work on .*none-0"):
            execute(synthetic, job)
    execute(synthetic, job)


def test_a_killed_run_does_not_go_on_with_other_settings(clean):
    places, _ = clean
    for shift in (0.3, 0.1):
        job = make_job("C22", "none", {"shift": shift, "steps": 100}, 0, places, None)
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "killed").touch()
        if shift == 0.3:
            with pytest.raises(KeyboardInterrupt):
                execute(synthetic, job)
    with pytest.raises(ValueError, match="started with other settings"):
        execute(synthetic, job)


def test_a_record_is_not_rewritten(clean):
    places, _ = clean
    runner.run_jobs(synthetic_claim(), [0], places, 1)
    record = read_records(places.data / "C22.jsonl")[0]
    with pytest.raises(ValueError, match="a record is not rewritten"):
        records.add_record(places, record, {})


def test_a_changed_working_tree_runs_no_test_seed(clean):
    places, state = clean
    state["dirty"] = True
    with pytest.raises(ValueError, match="changes that are not committed"):
        runner.run_jobs(synthetic_claim(), [0], places, 1)
    runner.run_jobs(synthetic_claim(), [100], places, 1)  # a tuning seed may


def test_what_may_not_count_is_refused_in_a_verdict(clean):
    places, _ = clean
    claim = synthetic_claim()
    runner.run_jobs(claim, [*range(5), 100], places, 1)
    path = places.data / "C22.jsonl"
    lines = read_records(path)
    lines[0]["dirty"], lines[1]["criteria_sha"] = True, "other"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = assess(CRITERIA["C22"], claim.statistics, list(claim.arms), places)
    assert found.verdict is None and len(found.refused) == 2
    assert "changed working tree" in found.refused[0] and "other criteria" in found.refused[1]


def test_arms_of_other_budgets_are_not_compared(clean):
    places, _ = clean
    arms = {"corrected": {"shift": 0.3, "steps": 100}, "none": {"shift": 0.0, "steps": 50}}
    with pytest.raises(ValueError, match="optimiser_steps is .*expected the same in every arm"):
        command.run_claim(synthetic_claim(arms=arms), places, 1)


def test_frozen_settings_must_be_those_that_tuning_chose(clean, capsys):
    places, _ = clean
    shifts = [{"shift": s} for s in (0.0, 0.1, 0.2, 0.25, 0.3, 0.35)]
    claim = synthetic_claim(tuning={"corrected": shifts})
    command.tune(claim, places, 1)
    assert len(read_records(places.data / "C22.jsonl")) == 6 * 5
    assert capsys.readouterr().out.count("frozen in the script") == 1
    with pytest.raises(ValueError, match="arm corrected: tuning chose"):
        command.run_claim(claim, places, 1)
    best = {"corrected": {"shift": 0.35, "steps": 100}, "none": claim.arms["none"]}
    command.run_claim(dataclasses.replace(claim, arms=best), places, 1)
    with pytest.raises(ValueError, match="2 configurations, expected 6"):
        command.tune(synthetic_claim(tuning={"none": shifts[:2]}), places, 1)


def test_an_estimate_counts_what_is_missing(clean):
    places, _ = clean
    claim = synthetic_claim()
    assert command.estimate_minutes(claim, places, 2, range(5)) == 5.0  # ten runs of a minute
    runner.run_jobs(claim, range(5), places, 1)
    assert command.estimate_minutes(claim, places, 2, range(5)) == 0.0


def test_seeds_have_roles_and_problems_of_their_own():
    assert [role_of(s) for s in (0, 9, 10, 19, 100, 104)] == [
        "test", "test", "reserve", "reserve", "tune", "tune",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="seed is 20"):
        role_of(20)
    jobs = {s: make_job("C22", "none", {"steps": 1}, s, Places(), None) for s in (3, 12, 101)}
    assert [job.split for job in jobs.values()] == ["test", "test", "tune"]


def test_rehearsals_are_small_and_their_task_is_not():
    settings = {"task": {"steps": [2, 5]}, "grpo": {"steps": 150, "lr": 0.1}, "problems": 512}
    pilot = make_job("C4", "true", settings, 100, Places(), "pilot").settings
    assert pilot["grpo"]["steps"] == 15 and pilot["problems"] == 512
    smoke = make_job("C4", "true", settings, 100, Places(), "smoke").settings
    assert smoke["grpo"]["steps"] == 8 and smoke["task"] == {"steps": [2, 5]}


def test_a_setting_that_does_not_exist_is_not_tuned():
    with pytest.raises(ValueError, match="no 'lrr', expected one of"):
        runner.merged({"grpo": {"lr": 1.0}}, {"grpo": {"lrr": 2.0}})


def test_processes_run_side_by_side_and_a_failure_is_named(tmp_path, monkeypatch):
    places = Places(tmp_path / "data", tmp_path / "runs")
    (tmp_path / "runs").mkdir()
    job = make_job("C22", "none", {"shift": 0.0, "steps": 1}, 100, places, None)
    broken = make_job("C22", "none", {"steps": 1}, 101, places, None)  # has no shift
    with pytest.raises(RuntimeError, match=r"not finished: none-101-\w+ \(exit code 1\)"):
        runner.work_off(synthetic, [job, broken], 2, 2)
    lines = read_records(places.data / "C22.jsonl")
    assert [line["seed"] for line in lines] == [100] and lines[0]["machine"]["threads"] == 1


# The page.


def rendered(claims, places, tmp_path, keys=("C21", "C22")):
    rows = {key: CRITERIA[key] for key in keys}
    return table.page(rows, claims, places, tmp_path / "figures")


def row_of(text, key):
    return next(line for line in text.splitlines() if line.startswith(f"| {key} "))


def test_without_records_every_claim_is_open(tmp_path):
    places = Places(tmp_path / "data", tmp_path / "runs")
    text = rendered(table.scripts(CRITERIA), places, tmp_path, list(CRITERIA))
    assert all(row_of(text, key).split(" | ")[1] == "open" for key in CRITERIA)
    assert "make claims ONLY=C4" in row_of(text, "C4") and "###" not in text
    assert not (tmp_path / "figures").exists()


def test_the_page_says_what_the_records_say(clean, tmp_path):
    places, _ = clean
    runner.run_jobs(synthetic_claim(), range(5), places, 1)
    path = places.data / "C22.jsonl"
    claim = synthetic_claim(figure=lambda seeds, path: path.write_text(f"<svg>{len(seeds)}"))
    text = rendered({"C22": claim}, places, tmp_path)
    row = row_of(text, "C22")
    final = {(r["arm"], r["seed"]): r["final"]["accuracy"] for r in read_records(path)}
    d = [100 * (final["corrected", s] - final["none", s]) for s in range(5)]
    e = estimate(d, 0.0)
    assert "🟩 ✓ seen" in row and "5, look 1" in row and "figures/C22.svg" in row
    assert table.shown(e, "points") in row and f"{e.mean:.1f} points" in row
    # of two claims one is in: its p is far below 0.025, so it passes whatever the other brings
    assert "| passes |" in row and row_of(text, "C21").split(" | ")[1] == "open"
    assert (tmp_path / "figures" / "C22.svg").read_text() == "<svg>5"
    assert "control: in a corpus without corrections nothing grows | 0.0 points [0.0, 0.0]" in text
    assert "- corrected: 5 runs, 0 collapsed, 0 failed; not tuned" in text

    shifts = [{"corrected": claim.arms["corrected"] | {"shift": shift}} for shift in (0.1, 0.2)]
    runner.run_jobs(claim, [100, 101, 102], places, 1, variants=shifts)
    tuned = dataclasses.replace(claim, tuning={"corrected": [{"shift": 0.1}, {"shift": 0.2}]})
    text = rendered({"C22": tuned}, places, tmp_path)
    assert "0 failed; settings chosen among 2 on 3 of the 5 tuning seeds" in text
    assert "- none: 5 runs, 0 collapsed, 0 failed; not tuned" in text

    lines = read_records(path)
    lines[0]["dirty"], lines[1]["collapsed"] = True, True
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = rendered({"C22": claim}, places, tmp_path)
    assert row_of(text, "C22").split(" | ")[1] == "open"
    assert "- corrected-0: made from a changed working tree: not counted" in text


def assessed(mean, half, seeds=5, look=1):
    claim = criteria(effect())
    estimates = {"effect": found(mean, half, seeds)}
    printed = verdict(claim, estimates, untested=0)
    return claim, records.Assessment(printed, look, [], estimates, {}, 0, [])


def test_the_correction_waits_for_all_and_then_decides():
    row, strong = assessed(9, 1)
    _, weak = assessed(9, 8.9)  # its own interval excludes 0, p is near 0.05
    _, unsure = assessed(0, 9)
    rows = dict.fromkeys(("a", "b", "c"), row)
    some = table.correction(rows, {"a": strong, "b": weak, "c": unsure})
    assert some["a"][1] is True and some["b"][1] is None and "c" not in some
    _, unsure = assessed(0, 9, 10, look=2)
    final = table.correction(rows, {"a": strong, "b": weak, "c": unsure})
    assert [final[key][1] for key in rows] == [True, False, False]
    # b's p is near .05: as the second of four at best it would have to be below .0375
    four = table.correction(rows | {"d": row}, {"a": strong, "b": weak, "c": unsure})
    assert [four[key][1] for key in rows] == [True, False, False] and "d" not in four
    assert table.correction(rows | {"d": row}, {"a": strong, "b": weak})["b"][1] is None


def test_a_claim_that_fails_the_correction_says_so(monkeypatch, tmp_path):
    row, weak = assessed(9, 8.9)
    corrected = {"C4": (0.049, False, 0.3)}
    claim = Claim("C4", None, {}, {"effect": None})
    places = Places(tmp_path, tmp_path)
    cells = table.claim_cells(row, claim, weak, corrected, places, tmp_path)
    assert cells["verdict"] == f"⬜ · {UNDECIDED}: fails the correction" and cells["BH"] == "fails"
    corrected = {"C4": (0.049, None, 0.3)}
    cells = table.claim_cells(row, claim, weak, corrected, places, tmp_path)
    assert cells["verdict"] == "🟩 ✓ seen, correction open"


def test_a_sentence_names_what_is_missing_and_chooses_its_words():
    second = Part("second", "equal", "the second part", delta=1.0)
    row = criteria(
        effect(), second, sentence="It rose by {effect}: {why}.",
        words={"why": {"of": "second", "above": "and more", "else": "no more"}},
    )  # fmt: skip
    estimates = {"effect": found(9, 1), "second": found(5, 1)}
    done = records.Assessment(IN_PART, 1, [None] * 5, estimates, {}, 0, [])
    text = table.sentence(row, Claim("C4", None, {}), done)
    assert text == (
        "It rose by 9.0 points [8.0, 10.0]: and more. 5 seeds. "
        "Missing: the second part (5.0 points [4.0, 6.0])."
    )
    lower = estimates | {"second": found(0, 1)}
    text = table.sentence(row, Claim("C4", None, {}), dataclasses.replace(done, estimates=lower))
    assert "no more" in text


def test_a_table_is_not_broken_by_what_stands_in_it():
    assert table.cell("a|b\n<script>&") == "a\\|b &lt;script&gt;&amp;"
    line = table.table_line(["p | q", "x\ny"])
    assert line == "| p \\| q | x y |"


def test_numbers_are_shown_in_their_unit():
    log = Estimate(math.log(1.2), math.log(0.9), math.log(1.5), 0.1, 5)
    assert table.shown(log, "%") == "+20.0 % [-10.0, +50.0]"
    assert table.shown(found(1, 0.5), "sd") == "1.00 sd [0.50, 1.50]"
    assert table.shown(found(0.9, 0.3), "ρ") == "0.90 ρ [0.60, 1.00]"
    assert table.shown(found(-0.9, 0.3), "r") == "-0.90 r [-1.00, -0.60]"
    assert table.asked(Part.of({"name": "x", "kind": "effect", "ratio": 0.8, "down": True,
                                "unit": "%", "text": ""})) == "≤ -20.0 %"  # fmt: skip
    assert table.asked(Part("x", "no_worse", "", delta=4.0)) == "above -4.0 points"
    assert table.asked(Part("x", "equal", "", delta=4.0)) == "within ±4.0 points"


def test_preconditions_of_the_tuning_seeds_stand_in_one_table(tmp_path):
    places = Places(tmp_path, tmp_path)
    lines = [
        {"role": "tune", "seed": seed, "precondition": {"C4 thinking_rate": rate, "ok": True}}
        for seed, rate in ((100, 0.4), (101, 0.7))
    ]
    path = places.records("preconditions")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = table.precondition_cells(CRITERIA, {}, places)
    row = next(r for r in rows if r["claim"] == "C4")
    assert row["measured (seed)"] == "0.4 (100), 0.7 (101)" and row["holds in"] == "1 of 2"
    assert row["asked"] == "≥ 0.1, ≤ 0.6"
    assert next(r for r in rows if r["claim"] == "C20")["measured (seed)"].startswith("open")


def test_a_precondition_is_that_of_the_settings_the_script_has_now(tmp_path):
    places, claim = Places(tmp_path, tmp_path), synthetic_claim()
    lines = [
        {"role": "tune", "seed": 100, "precondition": {"base_pass_64": rate, "ok": True},
         "settings_sha": records.sha(settings)}
        for settings, rate in (({"task": "given up"}, 0.2), (claim.arms["none"], 0.5))
    ]  # fmt: skip
    places.records("C6").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = table.precondition_cells(CRITERIA, {"C6": claim}, places)
    assert next(r for r in rows if r["claim"] == "C6")["measured (seed)"] == "0.5 (100)"


def test_the_committed_page_is_that_of_the_committed_records(tmp_path):
    text = table.page(CRITERIA, table.scripts(CRITERIA), Places(), tmp_path / "figures")
    assert (CLAIMS / "README.md").read_text(encoding="utf-8") == text


# The scripts: their numbers on curves that are known, and one arm of GRPO, killed and resumed.


def made(number, records_, **arrays):
    wrapped = {arm: records.Arrays(found) for arm, found in arrays.items()}
    return records.Seed(number, records_, wrapped)


def test_c4_by_hand():
    import c04_r1_zero

    def rates(accuracy, thinking, length):
        found = {"accuracy": accuracy, "thinking": thinking, "length": length, "greedy": accuracy}
        found |= {"accuracy_best_t": accuracy + 0.1, "thinking_tokens": 24 * thinking}
        return {name: np.full(4, value) for name, value in found.items()}

    lines = [{"accuracy": a, "thinks": a, "length": -a} for a in (0.1, 0.2, 0.4)]
    seed = made(
        0, {"true": {"evaluations": lines}}, story=rates(0.2, 0.4, 20.0),
        true=rates(0.7, 0.9, 30.0), random=rates(0.25, 0.4, 20.0),
        mirror=rates(0.1, 0.4, 20.0), true_on_mirror=rates(0.2, 0.1, 15.0),
    )  # fmt: skip
    values = {name: float(f(seed)) for name, f in c04_r1_zero.STATISTICS.items()}
    assert values["accuracy"] == pytest.approx(50) and values["thinking"] == pytest.approx(50)
    assert values["length"] == pytest.approx(math.log(1.5))
    assert values["accuracy_over_random"] == pytest.approx(45)
    assert values["length_given_thinking"] == pytest.approx(0)  # chosen more often, not longer
    assert values["mirror_thinking"] == pytest.approx(-30)
    assert values["rank_accuracy_thinking"] == pytest.approx(1)
    assert values["rank_accuracy_length"] == pytest.approx(-1)


def test_c1_reads_the_best_step_on_one_half_and_accuracy_on_the_other():
    import c01_reward_model

    a = np.array([[0.2] * 3, [0.5] * 3, [0.9] * 3, [0.1] * 3, [0.1] * 3])  # best at index 2
    b = np.array([[0.2] * 3, [0.9] * 3, [0.6] * 3, [0.3] * 3, [0.4] * 3])
    proxy = np.arange(5.0)[:, None] * np.ones(3)
    model = {"curve_a": a, "curve_b": b, "curve_proxy_a": proxy, "curve_proxy_b": proxy}
    line = {"evaluations": [{"proxy_sd": 2.0}], "final": {"length_correlation": 0.1}}
    seed = made(
        0, {"model": line, "shuffled": line}, model=model, verifier=model, shuffled=model
    )  # fmt: skip
    f = c01_reward_model.CLAIM.statistics
    assert float(f["rise"](seed)) == pytest.approx(40)  # 0.2 to 0.6, not to 0.9
    assert float(f["fall"](seed)) == pytest.approx(20)  # 0.6 to 0.4
    assert float(f["late_rise"](seed)) == pytest.approx(-20)  # 0.6 half way, 0.4 at the end
    assert float(f["proxy_gain"](seed)) == pytest.approx(1.0)  # two more, in deviations of 2
    assert float(f["shuffled_proxy_rise"](seed)) == pytest.approx(2.0)
    drawn = f["fall"](seed.drawn(0, 7))
    assert drawn.shape == (7,) and drawn == pytest.approx(20)


def test_c22_slope_by_hand():
    import c22_self_correction

    plain, recovery = np.full((4, 6), 0.1), np.array([[0.1], [0.15], [0.2], [0.25]]) * np.ones(6)
    arrays = dict.fromkeys(("slip", "step, wait", "new slip, wait", "explicit"), plain)
    arrays |= {"nothing": plain, "slip, wait": recovery}
    seed = made(0, {}, corrected=arrays, none=arrays | {"slip, wait": plain})
    f = c22_self_correction.CLAIM.statistics
    assert float(f["slope"](seed)) == pytest.approx(5) and float(f["plain_slope"](seed)) == 0
    assert float(f["excess"](seed)) == pytest.approx(15)
    assert f["slope"](seed.drawn(0, 3)).shape == (3,)


def test_c22_probes_are_beginnings_of_documents():
    import random

    import c22_self_correction

    from reasoning_from_scratch.tasks import get_task
    from reasoning_from_scratch.tasks.stories import judge_thinking

    for i, problem in enumerate(get_task("stories").generate(40, seed=0, split="tune")):
        given = c22_self_correction.starts(problem, random.Random(i))
        if given is None:
            continue
        for name, off in (("slip, wait", True), ("new slip, wait", True), ("step, wait", False)):
            judged = judge_thinking(problem, given[name] + "</think>")
            assert given[name].endswith(" wait") and (judged.wrong == 1) is off
        assert given["slip, wait"] == given["slip"] + " wait" and given["nothing"] == ""


def test_c23_deviation_has_its_interval():
    import c23_seed_spread

    # ten values of deviation 2; χ² of nine degrees at 0.9875 and 0.0125 is 21.034 and 2.2199
    values = [2 * x * math.sqrt(0.9) for x in (-1, 1) * 5]
    e = c23_seed_spread.deviation(values)
    assert e.mean == pytest.approx(2.0)
    assert e.low == pytest.approx(2 * math.sqrt(9 / 21.034), abs=1e-3)
    assert e.high == pytest.approx(2 * math.sqrt(9 / 2.2199), abs=1e-3)


# A level, settled in tuning, and where a curve passes it.


def test_a_level_is_four_fifths_of_the_way():
    from ledger.levels import own_level

    lines = [{"accuracy": a} for a in (0.2, 0.9, 0.6, 0.7, 0.8)]  # the last three: 0.7
    assert own_level(lines) == pytest.approx(0.2 + 0.8 * 0.5)


def test_a_curve_is_smoothed_before_it_passes():
    from ledger.levels import at_place, passing

    # each with its neighbours: 0.1, 0.2, 0.4, 0.6, 0.7; 0.5 lies half way from the third to the
    # fourth, though the second point alone is above it
    curve = np.array([-0.4, 0.6, 0.4, 0.2, 1.2])
    place = passing(curve, 0.5)
    assert place == pytest.approx(2.5)
    assert at_place(np.array([0.0, 10, 20, 30, 40]), place) == pytest.approx(25)
    assert passing(curve, 0.0) == 0 and passing(curve, 0.8) == 4  # at once, and never
    many = passing(np.stack([curve, curve + 1], 1), 0.5)  # two draws of the problems
    assert many.tolist() == pytest.approx([2.5, 0])
    values = np.stack([np.arange(5.0), np.arange(5.0) + 7], 1)
    assert at_place(values, many).tolist() == pytest.approx([2.5, 7])
    assert passing(np.array([0.3]), 0.5) == 0 and at_place(np.array([4.0]), np.array(0.0)) == 4


def test_what_tuning_settles_is_its_mean_for_the_same_settings(clean, monkeypatch):
    from ledger import levels

    places, _ = clean
    monkeypatch.setattr(levels, "Places", lambda: places)
    settings = {"steps": 1}
    job = make_job("C10", "plain", settings, 3, places, None)
    with pytest.raises(
        ValueError, match=r"level is settled on seeds 100 to 104, of which \[\] have"
    ):
        levels.settled(job, "level")
    for seed in records.TUNING:
        for more, level in ((settings, seed / 1000), ({"steps": 2}, 9.0)):
            made_ = make_job("C10", "plain", more, seed, places, None)
            assert levels.settled(made_, "level") is None
            execute(lambda _, level=level: Outcome(final={"level": level}), made_)
            runner.collect(made_)
    assert levels.settled(job, "level") == pytest.approx(0.102)


# The scripts of issue 5.


def test_c6_counts_what_is_sound_and_what_a_guesser_would_hit():
    import c06_pass_at_k as c6

    from reasoning_from_scratch.evaluate import Evaluation
    from reasoning_from_scratch.tasks import get_task

    first, second = (
        next(p for p in get_task("stories").generate(200, seed=0, split="tune") if p.answer == a)
        for a in ("12", "20")
    )
    texts = [
        [first.demonstration, "<answer>12</answer>", "<answer>20</answer>", "no answer"],
        ["<answer>12</answer>"] * 3 + [second.demonstration],
    ]
    correct = np.array([[1, 1, 0, 0], [0, 0, 0, 1]], float)
    found = Evaluation([first, second], texts, correct, correct, correct > 0, correct > 0)
    right = c6.sound(found)
    assert right.tolist() == [[True, False, False, False], [False, False, False, True]]
    # one right of four: pass@1 1/4, pass@2 1/2, pass@4 1
    assert c6.passes(right) == pytest.approx(np.array([[0.25] * 2, [0.5] * 2, [1.0] * 2]))
    # blindly from the other's four answers: 12 in three of them, 20 in one
    assert c6.guesser(found)[:2] == pytest.approx(np.array([[0.75, 0.25], [0.9375, 0.4375]]))
    base = {"sound": np.array([[0.1], [0.6]]), "answer": np.array([[0.2], [0.7]])}
    true = {"sound": np.array([[0.5], [0.7]]), "answer": np.array([[0.5], [0.7]])}
    seed = made(0, {}, base=base | {"guesser": base["sound"]}, true=true, sharpened=true)
    values = {name: float(f(seed)) for name, f in c6.CLAIM.statistics.items()}
    assert values == pytest.approx({
        "pass_1": 40, "pass_64": 10, "difference": 30, "guesser_pass_64": 60,
        "sharpened_pass_1": 40, "answer_only_pass_1": 30, "answer_only_pass_64": 0,
    })  # fmt: skip


def test_c6_finds_the_temperature_of_an_entropy(monkeypatch):
    import c06_pass_at_k as c6

    def entropy(policy, tokenizer, problems, job, temperature):
        return policy * temperature**2

    monkeypatch.setattr(c6, "entropy", entropy)
    job = make_job("C6", "sharpened", {"halvings": 12}, 100, Places(), None)
    # 4 T² is 1 at a half; 0.1 T² never reaches 2 below the highest temperature that is tried
    assert c6.matched_temperature(4.0, 1.0, None, [], job) == pytest.approx(0.5, abs=1e-3)
    assert c6.matched_temperature(0.1, 2.0, None, [], job) == pytest.approx(2.0, abs=1e-3)


def test_c7_measures_length_against_what_the_problem_needs():
    import c07_length_bias as c7

    need = np.array([10.0, 40.0])
    # in the base half of all answers are wrong, as long as needed; then one tenth, twice as long
    base = {"wrong": np.array([0.5, 0.5]), "wrong_tokens": np.array([5.0, 20.0])}
    twice = {"wrong": np.array([0.0, 0.2]), "wrong_tokens": np.array([0.0, 16.0]), "need": need}
    same = base | {"need": need}
    twice["accuracy"], same["accuracy"] = np.array([0.9, 0.8]), np.array([0.8, 0.8])
    seed = made(
        0, {}, long=base, grpo=twice, dr_grpo=same, random_grpo=same, random_dr_grpo=same
    )  # fmt: skip
    values = {name: float(f(seed)) for name, f in c7.CLAIM.statistics.items()}
    assert values.pop("accuracy") == pytest.approx(5)
    assert values.pop("wrong_length") == values.pop("grpo_length") == pytest.approx(math.log(2))
    assert set(values.values()) == {0.0}  # though the answers that are wrong are the long ones


def test_c7_follows_finished_answers_alone():
    import c07_length_bias as c7

    from reasoning_from_scratch.sampling import Rollout
    from reasoning_from_scratch.tasks import get_task
    from reasoning_from_scratch.tokenizer import Tokenizer

    task = get_task("stories", steps=[2, 2])
    problem = task.generate(1, seed=0, split="tune")[0]
    tokenizer = Tokenizer.train([problem.prompt], vocab_size=280)
    mask = torch.ones(3, 2 * c7.need(tokenizer, problem))
    texts = [problem.demonstration, "<answer>-1</answer>", "<answer>-1</answer>"]
    ended = torch.tensor([True, True, False])
    rollout = Rollout(mask.long(), mask, mask, torch.zeros(3), texts, ended)
    found = c7.over_need(task, tokenizer)(None, [problem] * 3, rollout)
    assert found["right"].tolist() == [1, 0, 0] and found["wrong"].tolist() == [0, 1, 0]
    assert found["right_ratio"].tolist() == [2, 0, 0] and found["wrong_ratio"].tolist() == [0, 2, 0]


def test_c24_tells_harder_problems_from_longer_answers():
    import c24_wrong_is_longer as c24

    from reasoning_from_scratch.evaluate import Evaluation

    # an easy problem, short and mostly right; a hard one, long and mostly wrong: within each, right
    # and wrong are as long, and a cut-off answer is none
    correct = np.array([[1, 1, 1, 0], [0, 0, 0, 1]], float)
    lengths = np.array([[10, 10, 10, 10], [40, 40, 128, 40]])
    ended = np.array([[True] * 4, [True, True, False, True]])
    found = Evaluation([None, None], [], correct, lengths, ended, ended)
    arrays = {name: np.array(a) for name, a in c24.per_problem(found).items()}
    arrays["within"], arrays["both"] = c24.within(found)
    seed = made(0, {}, grpo=arrays, base=arrays)
    assert c24.within(found, np.random.default_rng(0))[0].tolist() == [0, 0]
    # wrong: 10, 40, 40; right: 10, 10, 10, 40
    assert float(c24.longer("grpo")(seed)) == pytest.approx(math.log(30 / 17.5))
    assert float(c24.inside("grpo")(seed)) == 0
    lengths[0] = (10, 10, 10, 20)  # now the wrong one is longer than the right ones beside it
    logs, both = c24.within(found)
    assert logs.tolist() == pytest.approx([math.log(2), 0]) and both.tolist() == [1, 1]
    shuffled = [c24.within(found, np.random.default_rng(i))[0][0] for i in range(400)]
    # the long one is wrong in a quarter: log 2, else log(10 / 13.33): mean -0.042, not log 2
    assert np.mean(shuffled) == pytest.approx((math.log(2) + 3 * math.log(0.75)) / 4, abs=0.12)


def test_c9_measures_the_entropy_of_every_token():
    import c09_clip_higher as c9

    from reasoning_from_scratch.sampling import Rollout

    def policy(tokens):  # certain of everything but of what follows token 1: four ways alike
        logits = torch.full((*tokens.shape, 4), -math.inf)
        logits[..., 0] = 0.0
        logits[tokens == 1] = 0.0
        return logits

    tokens = torch.tensor([[2, 1, 3, 1], [1, 1, 1, 3]])
    mask = torch.tensor([[0.0, 1, 1, 1], [0, 0, 1, 0]])  # the second has one sampled token
    found = c9.entropies(policy, [], Rollout(tokens, mask, mask, mask, [], mask))
    assert found["surprise"].tolist() == pytest.approx([math.log(4), math.log(4)])
    assert found["tokens"].tolist() == [3, 1]


def test_c9_by_hand():
    import c09_clip_higher as c9

    def arm(*ends):
        entropy = np.array(ends)[:, None] * np.ones(4)
        found = {"curve_surprise": 5 * entropy, "curve_tokens": 5 * np.ones_like(entropy)}
        return found | {"curve": np.array([0.2, 0.4, 0.6])[:, None] * np.ones(4)}

    arms = {"clip_20": arm(1.0, 0.5, 0.2), "clip_28": arm(1.0, 0.5, 0.4), "low_28": arm(1, 1, 0.1)}
    record = {"final": {"level": 0.35}}  # smoothed 0.3, 0.4, 0.5: half way to the second
    values = {
        name: float(f(made(0, {"clip_20": record}, **arms)))
        for name, f in c9.CLAIM.statistics.items()
    }
    assert values["entropy"] == pytest.approx(math.log(2))
    assert values["over_low_clip"] == pytest.approx(math.log(4))
    assert values["entropy_at_level"] == pytest.approx(0)  # 0.75 in both: only at the end they part


def test_c10_drops_as_many_groups_as_are_not_mixed_but_blindly():
    import c10_dynamic_sampling as c10

    from reasoning_from_scratch.rollouts import fill_with_mixed
    from reasoning_from_scratch.sampling import Rollout
    from reasoning_from_scratch.tasks import get_task

    task, chosen = get_task("stories"), []
    for seed in range(60):
        problems = task.generate(4, seed=seed, split="train")
        wrong = "<answer>-1</answer>"
        # of four groups of two, the first two are mixed
        texts = [problems[0].demonstration, wrong, problems[1].demonstration, wrong, *[wrong] * 4]
        rollout = Rollout(*[None] * 4, texts, None)
        owners = [problem for problem in problems for _ in range(2)]
        parts = c10.blind_reward(task, 2, 0)(owners, rollout)
        assert parts == c10.blind_reward(task, 2, 0)(owners, rollout)  # a resumed run's too
        told = torch.tensor(parts["correct"]).view(4, 2)
        assert [a + b for a, b in zip(*parts.values(), strict=True)] == [1, 0, 1, 0] + [0] * 4
        kept = fill_with_mixed(lambda _, told=told: told, 4, rounds=1)
        chosen += [group for _, group in kept[:2]]  # what counts as mixed comes first
    counts = np.bincount(chosen, minlength=4)
    assert counts.sum() == 120 and (counts > 30 - 5 * 4.1).all()  # 60 draws at 1/2: deviation 3.9


def test_c10_by_hand():
    import c10_dynamic_sampling as c10

    def lines(completions):
        found = [
            {"step": 50 * i, "completions": completions * i, "seconds": 3.0 * i} for i in range(4)
        ]
        settings = {"grpo": {"steps": 150}}
        return {"evaluations": found, "settings": settings, "final": {"level": 0.5}}

    ones = np.ones(5)
    slow, fast = (np.array(a)[:, None] * ones for a in ((0, 0.2, 0.4, 0.9), (0, 0.6, 0.9, 0.9)))
    never = 0.1 * np.ones((2, 5))  # broke off at the first evaluation
    arrays = {
        "plain": {"curve": slow, "accuracy": 0.8 * ones},
        "dynamic": {"curve": fast, "accuracy": 0.9 * ones},
        "random_drop": {"curve": never},
    }
    found = {"plain": lines(100), "dynamic": lines(300), "random_drop": lines(300)}
    found["random_drop"]["evaluations"] = found["random_drop"]["evaluations"][:2]
    values = {name: float(f(made(0, found, **arrays))) for name, f in c10.CLAIM.statistics.items()}
    # plain, smoothed 0.1, 0.2, 0.5, 0.65: at step 100; dynamic 0.3, 0.5, 0.8, 0.9: at step 50
    assert values["steps"] == pytest.approx(math.log(0.5))
    assert values["completions"] == pytest.approx(math.log(300 / 200))
    assert values["seconds"] == pytest.approx(math.log(0.5)) and values["accuracy"] == (
        pytest.approx(10)
    )
    assert values["over_random_drop"] == pytest.approx(math.log(50 / 150))
    assert c10.lowest([1.0] * 30 + [0.0] * 10) == pytest.approx(15 / 25)


def test_c14_rewards_the_prompts_own_target_or_the_next_ones():
    import c14_lcpo as c14

    from reasoning_from_scratch.sampling import Rollout
    from reasoning_from_scratch.tasks import get_task

    task = get_task("stories", targets=(16, 96))
    problems = task.generate(40, seed=0, split="train")
    pair = [next(p for p in problems if p.meta["target_tokens"] == target) for target in (16, 96)]
    mask = torch.zeros(4, 100)
    for row, length in enumerate((16, 26, 96, 16)):
        mask[row, :length] = 1
    texts = [pair[0].demonstration, "", pair[1].demonstration, ""]
    rollout, owners = Rollout(None, None, mask, None, texts, None), [p for p in pair for _ in "ab"]
    settings = c14.SETTINGS | {"grpo": {"group_size": 2, "max_new_tokens": 128}}
    own = c14.lcpo(task, settings)(owners, rollout)
    assert own["correct"] == [1, 0, 1, 0]
    assert own["length"] == pytest.approx([0, -0.15, 0, -1.2])
    other = c14.lcpo(task, settings | {"target": "next"})(owners, rollout)
    assert other["length"] == pytest.approx([-1.2, -1.05, -1.2, 0])


def test_c14_by_hand():
    import c14_lcpo as c14

    targets = np.array(c14.TARGETS, float)[:, None] * np.ones(4)
    need = np.array([20.0, 30.0, 50.0, 80.0])
    right = np.where(targets >= need, 0.9, 0.1)
    right[-1] += 0.02
    asked = {"asked_length": 0.8 * targets, "asked_accuracy": right, "error": 0 * targets + 0.15}
    asked |= {"base_asked_length": 0 * targets + 45, "need": need}
    asked |= {"checks": targets / 16, "entries": targets / 4}
    shuffled = {"asked_length": 40 - 0.05 * targets}
    seed = made(0, {}, lcpo=asked, shuffled=shuffled)
    values = {name: float(f(seed)) for name, f in c14.CLAIM.statistics.items()}
    assert values == pytest.approx({
        "slope": 0.8, "shuffled_slope": -0.05, "base_slope": 0, "error_under_20": 5,
        "long_over_short": 42, "neighbours": 0, "long_over_short_beyond_need": 2,
        "check_lines": 25,
    })  # fmt: skip
    drawn = seed.drawn(0, 7)
    assert all(np.shape(f(drawn)) in ((), (7,)) for f in c14.CLAIM.statistics.values())
    enough = c14.accuracies(seed, enough=True)
    assert np.isnan(enough[0]) and enough[1:-1] == pytest.approx(90)


def test_n2_the_reward_loses_what_the_estimator_says_and_the_exact_kl_is_its_mean():
    import n02_kl_as_loss as n2

    from reasoning_from_scratch.sampling import Rollout

    torch.manual_seed(0)
    ours, theirs = (torch.randn(4, 4).log_softmax(-1) for _ in range(2))
    policy, base = (lambda tokens, table=table: table[tokens] for table in (ours, theirs))
    start, size = 2, 4
    # every pair of tokens after the start, weighted by its probability, gives the expectation
    tokens = torch.tensor([[start, a, b] for a in range(size) for b in range(size)])
    logprobs = torch.stack([torch.zeros(16), ours[start][tokens[:, 1]],
                            ours[tokens[:, 1], tokens[:, 2]]], 1)  # fmt: skip
    mask = torch.tensor([[0.0, 1, 1]]).expand(16, 3)
    texts = ["<answer>1</answer>", "<think>"] * 8
    rollout = Rollout(tokens, logprobs, mask, None, texts, None)
    chance = logprobs.sum(1).exp()
    assert chance.sum().item() == pytest.approx(1)
    k1, found = n2.summed_kl(base, rollout), n2.exact_kl(base)(policy, [], rollout)
    mean = float((chance * k1).sum())
    assert mean == pytest.approx(float((chance.numpy() * found["exact_kl"]).sum()), rel=1e-5)
    assert found["at_once"].tolist() == [1, 0] * 8

    class Right:
        def score(self, problem, text):
            return 1.0

    parts = n2.less_kl(Right(), base, 0.5)([None] * 16, rollout)
    assert parts["correct"] == [1.0] * 16
    assert parts["kl"] == pytest.approx((-0.5 * k1).tolist())


def test_n2_by_hand():
    import n02_kl_as_loss as n2

    def arm(kl, at_once):
        ones = np.ones(3)
        curves = {"curve_exact_kl": kl, "curve_at_once": at_once}
        return {name: np.array(values)[:, None] * ones for name, values in curves.items()}

    arms = {
        "none": arm((0, 2, 4), (0.6, 0.1, 0.0)), "k1": arm((0, 2, 4.4), (0.6, 0.1, 0.0)),
        "k2": arm((0, 1, 2), (0.6, 0.2, 0.1)), "k1_reward": arm((0, 1, 2), (0.6, 0.2, 0.1)),
        "k3": arm((0, 1, 3), (0.6, 0.5, 0.3)),
    }  # fmt: skip
    seed = made(0, {}, **arms)
    values = {name: float(f(seed)) for name, f in n2.CLAIM.statistics.items()}
    assert values["k1_none"] == pytest.approx(math.log(1.1)) and values["k2_k1_reward"] == 0
    # at a KL of 2: k3 half way from 0.5 to 0.3, k2 at its end, 0.1
    assert values["rare_mode"] == pytest.approx(30)
    assert n2.rare_mode(seed.drawn(0, 5)) == pytest.approx([30] * 5)


def drawn_seeds():
    """Two seeds with all that the figures read, whatever the claim."""
    rates = np.linspace(0.1, 0.4, 4)
    for number in (0, 1):
        lines = [
            {"step": i, "accuracy": rate, "thinks": rate, "length": 20.0 + i, "proxy": float(i),
             "kl": i * (1.0 + number), "wrong_over_need": 1 + rate, "right_over_need": 1.0,
             "completions": 100.0 * i, "seconds": 3.0 * i}
            for i, rate in enumerate(rates)
        ]  # fmt: skip
        final = {"flops": [1e9, 2e9, 4e9, 8e9], "accuracy": 0.5 + 0.1 * number}
        final |= {f"sd_{n}": 50 / n**0.5 for n in (30, 100, 500, 4096)} | {"level": 0.3}
        record = {"evaluations": lines, "final": final, "collapsed": number == 1}
        curve = rates[:, None] + number + np.zeros(6)
        curves = ("nothing", "slip, wait", "slip", "sound", "guesser", "curve", "curve_surprise")
        curves += ("curve_tokens", "curve_exact_kl", "curve_at_once")
        arrays = dict.fromkeys(curves, curve)
        asked = np.linspace(0.1, 0.9, 11)[:, None] + np.zeros(6)
        names = ("asked_length", "base_asked_length", "asked_accuracy")
        arrays |= dict.fromkeys(names, asked) | {"need": np.array([20, 20, 30, 40, 50, 60])}
        ones = np.ones(6)
        arrays |= {"steps": np.array([2, 3, 4, 5, 2, 3]), "right": ones, "right_tokens": 9 * ones}
        arrays |= {"wrong": 0 * ones, "wrong_tokens": 0 * ones}  # a line that has no point
        arms = ("true", "random", "true_on_mirror", "model", "corrected", "none", "base", "grpo")
        arms += ("dr_grpo", "clip_20", "clip_28", "clip_50", "clip_none", "low_28", "plain")
        arms += ("dynamic", "plain_24", "random_drop", "lcpo", "shuffled", "k1", "k2", "k3")
        arms += ("k1_reward",)
        yield made(number, dict.fromkeys(arms, record), **dict.fromkeys(arms, arrays))


@pytest.mark.parametrize("key, claim", table.scripts(CRITERIA).items())
def test_every_script_draws_its_figure(key, claim, tmp_path):
    claim.figure(list(drawn_seeds()), tmp_path / f"{key}.svg")
    drawn = (tmp_path / f"{key}.svg").read_text()
    assert "<svg" in drawn and "n = " in drawn
    if key == "C4":  # an arm that collapsed shows each seed
        assert "true reward, seed 1" in drawn


TASK = {"steps": [1, 2], "limit": 9, "amount": 4}
MEASURED = {
    "task": TASK, "max_new_tokens": 24, "problems": 8, "samples": 2, "choose_problems": 4,
    "choose_samples": 2, "temperatures": [0.0, 1.0], "curve_problems": 8, "curve_samples": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny base that is now and then right, in a ledger of its own."""
    from ledger import models

    folder = tmp_path_factory.mktemp("ledger")
    sft = models.plain(models.SFTSettings(steps=120, batch=16, warmup=5))
    model = {"width": 32, "layers": 1, "heads": 2, "sft": sft, "shares": {"direct": 1.0}}
    model["shares"] |= {"slipped": 0.0, "right": 0.0}
    patch = pytest.MonkeyPatch()
    patch.setitem(models.BASES, "story", MEASURED | model)
    places = Places(folder / "data", folder / "runs")
    job = make_job("bases", "story", models.BASES["story"], 100, places, None)
    execute(models.make_base, job)
    runner.collect(job)
    yield places
    patch.undo()


def grpo_job(places, **changes):
    from ledger import models

    short = models.GRPOSettings(
        steps=6, prompts=4, group_size=4, max_new_tokens=24, checkpoint_every=2, evaluate_every=2
    )
    settings = {"base": "story", "reward": "true", "grpo": models.plain(short), **MEASURED}
    return make_job("C4", "true", settings | changes, 100, places, None)


def finished(job):
    record = json.loads((job.folder / "record.json").read_text())
    with np.load(job.folder / "per_problem.npz") as file:
        return record, {name: file[name] for name in file.files}


def test_a_killed_arm_ends_as_one_that_never_stopped(base, monkeypatch, tmp_path):
    import c04_r1_zero

    whole = grpo_job(base)
    execute(c04_r1_zero.run, whole)
    first, _ = finished(whole)
    whole.folder.rename(tmp_path / "whole")

    report, job = runner.Job.report, grpo_job(base)

    def killed(self, step, steps):
        report(self, step, steps)
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner.Job, "report", killed)
    with pytest.raises(KeyboardInterrupt):
        execute(c04_r1_zero.run, job)
    monkeypatch.setattr(runner.Job, "report", report)
    execute(c04_r1_zero.run, job)
    second, _ = finished(job)
    for name in ("final", "evaluations", "precondition", "completions_sampled", "tokens_sampled"):
        assert first[name] == second[name]
    assert [line["step"] for line in second["evaluations"]] == [0, 2, 4, 6]
    assert second["completions_sampled"] == 6 * 16 and second["optimiser_steps"] == 6
    assert second["evaluations"][0]["kl"] == pytest.approx(0, abs=1e-4)
    assert second["base"]["sha256"] == read_records(base.records("bases"))[0]["final"]["sha256"]


@pytest.mark.parametrize("calls, lost", [(0, True), (3, False)])
def test_a_run_that_breaks_counts_with_its_last_checkpoint(base, calls, lost):
    from ledger import models

    job = grpo_job(base, curve_samples=1 + calls)  # a name of its own
    left = iter(range(calls))

    def breaks(problems, rollout):
        if next(left, None) is None:
            raise ValueError("the model's logits hold NaN")
        return {"correct": [float(i % 2) for i in range(len(problems))]}

    execute(lambda j: models.reinforce(j, reward=breaks), job)
    record, _ = finished(job)
    assert record["failed"] == "ValueError: the model's logits hold NaN"
    # three of six steps are done and the checkpoint of the second counts, or there is none
    assert record["optimiser_steps"] == (0 if lost else 2)
    assert [line["step"] for line in record["evaluations"]] == ([0] if lost else [0, 2])
    assert record["final"]["length"] > 0
    if lost:
        assert record["final"]["accuracy"] == record["final"]["accuracy_best_t"] == 0


def test_further_numbers_come_along_a_run_of_several_passes(base):
    from ledger import models

    def also(policy, problems, rollout):
        assert policy.embedding is not None and len(problems) == len(rollout.texts)
        return {"tokens": rollout.lengths.numpy()}

    grpo = grpo_job(base).settings["grpo"] | {"epochs": 3, "updates": 2}
    job = grpo_job(base, grpo=grpo)
    outcomes = []
    execute(lambda j: outcomes.append(models.reinforce(j, also=also)) or outcomes[-1], job)
    record, _ = finished(job)
    arrays = outcomes[0].arrays
    assert record["optimiser_steps"] == 6 * 3 * 2
    assert [line["tokens"] for line in record["evaluations"]] == pytest.approx(
        [line["length"] for line in record["evaluations"]]
    )
    assert "curve_tokens" not in record["evaluations"][0] and arrays["curve_tokens"].shape == (4, 8)
    means = [line["tokens"] for line in record["evaluations"]]
    assert arrays["curve_tokens"].mean(1) == pytest.approx(means, rel=1e-5)


def test_collapse_by_hand():
    from ledger.models import collapsed

    def lines(*pairs):
        return [{"accuracy": a, "finished": f} for a, f in pairs]

    assert not collapsed(lines((0.4, 1), (0.1, 1), (0.3, 1)))  # one of the last two is low
    assert collapsed(lines((0.4, 1), (0.4, 1), (0.19, 1), (0.1, 1)))
    assert collapsed(lines((0.4, 1), (0.5, 0.4), (0.5, 0.4)))
    assert not collapsed(lines((0.4, 1)))
