"""One line a run on disk, what is refused, and the arms of a seed side by side.

    data/claims/C04.jsonl          a line a run: settings, revision, evaluations, final numbers
    data/claims/C4/true-3.npz      what was measured on each held-out problem, [..., N]
    runs/claims/C04/true-3/        checkpoints and logs, to go on from; not in git

Nothing here is rewritten: a run that is recorded stays, and a test seed has one set of settings.
Another kind of processor rounds otherwise, and after hundreds of steps the same seed has made
another model. So a run's machine is part of what it is, and the arms of a seed are compared only
where one machine has made them all: the first to have them all counts.
"""

import contextlib
import fcntl
import hashlib
import json
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import reasoning_from_scratch
from ledger.verdict import (
    DRAWS,
    UNDECIDED,
    Criteria,
    Estimate,
    estimate,
    precondition_holds,
    seeds_of,
    verdict,
)
from reasoning_from_scratch.runs import write_atomically

HOME = Path(__file__).resolve().parents[1]  # chapters/claims
ROOT = HOME.parents[1]
CRITERIA = HOME / "criteria.json"
TUNING = range(100, 105)
LOOKED_AT = ("test", "reserve")  # roles of seeds that count, and that run once
_CHUNK = 100  # draws of the problems at once: [T,100,512] stays in cache


@dataclass(frozen=True)
class Places:
    """Where records and runs lie."""

    data: Path = ROOT / "data" / "claims"
    runs: Path = ROOT / "runs" / "claims"

    def records(self, key: str) -> Path:
        """Return the file of a claim's records; the bases' is one list, for chapters to read."""
        return self.data / ("bases.json" if key == "bases" else f"{stem(key)}.jsonl")


def stem(key: str) -> str:
    """Return "C04" for "C4": files are listed in the order of the claims."""
    return f"{key[0]}{int(key[1:]):02d}" if key[1:].isdigit() else key


def role_of(seed: int) -> str:
    """Return what a seed is for: test 0-9, reserve 10-19 (after amendments), tune 100-104.

    Raises:
        ValueError: any other seed.
    """
    for role, seeds in (("test", range(10)), ("reserve", range(10, 20)), ("tune", TUNING)):
        if seed in seeds:
            return role
    raise ValueError(f"seed is {seed}, expected 0-9, 10-19 or 100-104")


def sha(value: object) -> str:
    """Return a short hash of a plain value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def criteria_sha(key: str) -> str | None:
    """Return a hash of what decides a claim's verdict; None for what is no claim."""
    row = json.loads(CRITERIA.read_text(encoding="utf-8"))["claims"].get(key)
    decisive = ("parts", "opposite", "preconditions", "looks", "p_times", "first_seed", "budget")
    return row and sha({name: row.get(name) for name in decisive})


def provenance() -> dict[str, object]:
    """Return the code and the machine that a run is made with.

    `dirty` looks at what a run depends on, not at the records that it leaves.
    """
    watched = ["reasoning_from_scratch", "chapters/claims/*.py", "chapters/claims/criteria.json"]
    revision, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *watched)
    package = Path(reasoning_from_scratch.__file__).resolve().parents[1]
    page = json.loads(CRITERIA.read_text(encoding="utf-8"))
    return {
        "revision": revision or "unknown",
        "dirty": revision is None or bool(changed) or package != ROOT,
        "claims_md_sha": page["claims_md_sha"],
        "machine": machine() | {"threads": torch.get_num_threads()},
    }


def machine() -> dict[str, str]:
    """Return what the last bits of a run depend on."""
    return {"cpu": _cpu(), "torch": torch.__version__}


def read_records(path: Path) -> list[dict]:
    """Return the records in a file, [] where there is none."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [*map(json.loads, text.splitlines())]


def identity(record: Mapping[str, object]) -> tuple:
    """Return what makes a run one: its settings too, but where they are frozen."""
    settings = None if record["role"] in LOOKED_AT else record["settings_sha"]
    return record["claim"], record["arm"], record["seed"], record["role"], settings


def made_on(record: Mapping[str, object]) -> tuple[str, str]:
    """Return the kind of machine that a run was made on."""
    return record["machine"]["cpu"], record["machine"]["torch"]


def find(records: Sequence[Mapping], wanted: Mapping[str, object]) -> dict | None:
    """Return the record of a run, if it was made on the machine that `wanted` names.

    Raises:
        ValueError: a seed that was looked at would run again with other settings.
    """
    check_frozen(records, wanted)
    key = identity(wanted), made_on(wanted)
    return next((r for r in records if (identity(r), made_on(r)) == key), None)


def side_by_side(records: Sequence[Mapping], wanted: Sequence[Mapping]) -> list[dict] | None:
    """Return the records of several runs from the first machine that has made them all, if any.

    Raises:
        ValueError: as `find`.
    """
    for one in wanted:
        check_frozen(records, one)
    keys, found = [identity(one) for one in wanted], {}
    for record in records:
        if identity(record) in keys:
            here = found.setdefault(made_on(record), {})
            here[identity(record)] = record
            if len(here) == len(set(keys)):
                return [here[key] for key in keys]
    return None


def check_frozen(records: Sequence[Mapping], wanted: Mapping[str, object]) -> None:
    """Refuse other settings than those of a seed that was looked at."""
    for record in records:
        frozen = (record["arm"], record["role"]) == (wanted["arm"], wanted["role"])
        if (
            frozen
            and record["role"] in LOOKED_AT
            and record["settings_sha"] != wanted["settings_sha"]
        ):
            raise ValueError(
                f"{wanted['claim']}, arm {wanted['arm']}: settings differ from those of seed "
                f"{record['seed']}, which is recorded as {record['role']}; they are frozen, and a "
                "change of mind is an amendment on seeds 10-19"
            )


def add_record(places: Places, record: dict, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a run's record and what was measured on each problem.

    Raises:
        ValueError: the run is recorded already, or its arm with other settings.
    """
    path = places.records(record["claim"])
    for folder in (path.parent, places.runs):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(places.runs / "lock"):
        _add(places, path, record, arrays)


def _add(places: Places, path: Path, record: dict, arrays: Mapping[str, np.ndarray]) -> None:
    records = read_records(path)
    if find(records, record):
        raise ValueError(f"{path.name} holds {identity(record)} already: a record is not rewritten")
    if arrays:
        beside = places.data / record["final"]["per_problem"]
        if beside.exists():  # another machine's
            beside = beside.with_name(f"{beside.stem}-{sha(made_on(record))[:6]}.npz")
            record["final"]["per_problem"] = f"{beside.parent.name}/{beside.name}"
        beside.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(beside, **arrays)
    records.append(record)
    lines = [json.dumps(r, ensure_ascii=False) for r in records]
    listed = "[\n" + ",\n".join(lines) + "\n]\n" if path.suffix == ".json" else ""
    write_atomically(path, listed or "".join(f"{line}\n" for line in lines))


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Keep other processes out while the block runs; a killed process lets go by itself.

    Raises:
        ValueError: another process is in, and `wait` is False.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ValueError(f"another process is at work on {path.parent}") from None
        yield


def tuned(key: str, arm: str, places: Places) -> list[tuple[float, int, str]]:
    """Return (mean accuracy, seeds, settings' hash) of each configuration tried, best first."""
    tried: dict[str, list[float]] = {}
    for record in read_records(places.records(key)):
        if (record["role"], record["arm"]) == ("tune", arm):
            tried.setdefault(record["settings_sha"], []).append(record["final"]["accuracy"])
    return sorted(((sum(a) / len(a), len(a), found) for found, a in tried.items()), reverse=True)


class Arrays(Mapping[str, np.ndarray]):
    """One arm's measurements, [..., N] over problems; with `draws`, [..., draws, N]."""

    def __init__(self, arrays: Mapping[str, np.ndarray], draws: Mapping | None = None) -> None:
        self.arrays, self.draws, self.found = arrays, draws, {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.found:
            array = np.asarray(self.arrays[name], dtype=float)
            if self.draws is not None:
                array = array[..., self.draws[array.shape[-1]]]
            self.found[name] = array
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


@dataclass(frozen=True)
class Seed:
    """The arms of one seed, and its bases by their family: `seed["true"]["accuracy"]` is [..., N].

    A statistic is a function of a `Seed` that reduces the last axis, so that it serves as well
    where the problems are drawn again.
    """

    number: int
    records: Mapping[str, dict]  # by arm
    arrays: Mapping[str, Arrays]

    def __getitem__(self, arm: str) -> Arrays:
        return self.arrays[arm]

    def curve(self, arm: str, key: str) -> list[float]:
        """Return one number of each evaluation along a run."""
        return [line[key] for line in self.records[arm]["evaluations"]]

    def drawn(self, start: int, count: int) -> "Seed":
        """Return the seed with its problems drawn again, the same ones for all arms."""
        draws = _Draws(self.number, start, count)
        arrays = {arm: Arrays(found.arrays, draws) for arm, found in self.arrays.items()}
        return Seed(self.number, self.records, arrays)


class _Draws(dict):
    def __init__(self, *key: int) -> None:
        super().__init__()
        self.key = key

    def __missing__(self, problems: int) -> np.ndarray:
        generator = np.random.default_rng([*self.key, problems])
        index = generator.integers(problems, size=(self.key[-1], problems))
        return self.setdefault(problems, index)


Statistic = Callable[[Seed], float | np.ndarray]


def read_seed(places: Places, key: str, seed: int, records: Mapping[str, dict]) -> Seed:
    """Load a seed's arms, and the bases that they started from."""
    arrays, known = {}, read_records(places.records("bases"))
    for arm, record in records.items():
        arrays[arm] = _load(places, record)
        for base in known:
            if record.get("base") and base["final"]["sha256"] == record["base"]["sha256"]:
                arrays[base["arm"]] = _load(places, base)
    return Seed(seed, records, arrays)


def usable(
    places: Places, claim: Criteria, arms: Sequence[str]
) -> tuple[dict[int, dict[str, dict]], list[str]]:
    """Return {seed: {arm: record}} of the seeds whose arms all count, and why a record may not.

    Of a seed that several machines have made, the first to have all arms counts.
    """
    found: dict[int, dict[str, dict]] = {}
    machines: dict[tuple, dict[str, dict]] = {}
    refused, decisive = [], criteria_sha(claim.key)
    for record in read_records(places.records(claim.key)):
        name = f"{record['arm']}-{record['seed']}"
        if record["role"] not in LOOKED_AT:
            continue
        if record["dirty"]:
            refused.append(f"{name}: made from a changed working tree")
        elif record["criteria_sha"] != decisive:
            refused.append(f"{name}: made under other criteria")
        elif record["arm"] in arms:
            here = machines.setdefault((record["seed"], made_on(record)), {})
            here[record["arm"]] = record
            if len(here) == len(arms):
                found.setdefault(record["seed"], here)
    return found, refused


def numbers(statistics: Mapping[str, Statistic], seed: Seed) -> dict[str, tuple[float, float]]:
    """Return each statistic of one seed, and its variance when the problems are drawn again."""
    values = {name: float(statistic(seed)) for name, statistic in statistics.items()}
    drawn: dict[str, list] = {name: [] for name in statistics}
    for start in range(0, DRAWS, _CHUNK):
        again = seed.drawn(start, _CHUNK)
        for name, statistic in statistics.items():
            drawn[name].append(np.broadcast_to(statistic(again), _CHUNK))
    return {name: (values[name], float(np.var(np.concatenate(drawn[name])))) for name in values}


@dataclass(frozen=True)
class Assessment:
    """What a claim's records say, before the correction over the ledger."""

    verdict: str | None  # None: not enough records for a first look
    look: int
    seeds: list[Seed]
    estimates: dict[str, Estimate]
    preconditions: dict[str, list[float]]  # one value a seed, of the worst arm
    untested: int  # seeds in which a precondition failed
    refused: list[str]


def assess(
    claim: Criteria, statistics: Mapping[str, Statistic], arms: Sequence[str], places: Places
) -> Assessment:
    """Compute a claim's verdict from its records: at look 1, or at look 2 if that was undecided.

    Raises:
        ValueError: the arms of a seed had different budgets.
    """
    found, refused = usable(places, claim, arms)
    done = Assessment(None, 0, [], {}, {}, 0, refused)
    known: dict[int, tuple[Seed, dict]] = {}
    for look in range(len(claim.looks)):
        wanted = seeds_of(claim, look)
        if not set(wanted) <= set(found):
            break
        for s in wanted:
            if s not in known:
                check_budget(claim, found[s])
                seed = read_seed(places, claim.key, s, found[s])
                known[s] = seed, numbers(statistics, seed)
        seeds = [known[s][0] for s in wanted]
        estimates = {
            name: estimate(*zip(*(known[s][1][name] for s in wanted), strict=True))
            for name in statistics
        }
        values, untested = preconditions(claim, seeds)
        printed = verdict(claim, estimates, untested=untested)
        done = Assessment(printed, look + 1, seeds, estimates, values, untested, refused)
        if printed != UNDECIDED:
            break
    return done


def preconditions(claim: Criteria, seeds: Sequence[Seed]) -> tuple[dict[str, list[float]], int]:
    """Return each precondition's value in each seed, and in how many seeds one failed.

    Raises:
        ValueError: no arm of a seed has measured a precondition.
    """
    values: dict[str, list[float]] = {row["name"]: [] for row in claim.preconditions}
    failed = 0
    for seed in seeds:
        held = []
        for row in claim.preconditions:
            measured = [
                record["precondition"][row["name"]]
                for record in seed.records.values()
                if row["name"] in record["precondition"]
            ]
            if not measured:
                raise ValueError(f"{claim.key}: no arm of seed {seed.number} has {row['name']!r}")
            bad = [value for value in measured if not precondition_holds(row, value)]
            values[row["name"]].append((bad or measured)[0])
            held.append(not bad)
        failed += not all(held)
    return values, failed


def check_budget(claim: Criteria, records: Mapping[str, dict]) -> None:
    """Refuse to compare arms of one seed that had different budgets; a failed run is exempt."""
    spent = {a: r[claim.budget] for a, r in records.items() if claim.budget and not r["failed"]}
    if len(set(spent.values())) > 1:
        raise ValueError(f"{claim.key}: {claim.budget} is {spent}, expected the same in every arm")


def _load(places: Places, record: Mapping[str, object]) -> Arrays:
    name = record["final"].get("per_problem")
    if name is None:
        return Arrays({})
    with np.load(places.data / name) as file:
        return Arrays({key: file[key] for key in file.files})


def _git(*arguments: str) -> str | None:
    found = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    if "model name" not in found:
        return platform.processor() or platform.machine()
    # A virtual machine may call processors of many years by one name.
    return f"{found['model name']} {found.get('cpu family', '')}/{found.get('model', '')}"
