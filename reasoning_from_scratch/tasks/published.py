"""Published problem sets: GSM8K (grade-school word problems) and MATH-500 (competition problems).

A file is read from `path`, else from a cache folder ($REASONING_FROM_SCRATCH_CACHE, or
~/.cache/reasoning_from_scratch), else downloaded there once. What the cache holds must have the
checksum below; a file that you name yourself is read as it is. JSON lists and JSON lines both do.

Nothing is downloaded before problems are asked for.
"""

import hashlib
import http.client
import json
import os
import re
import tempfile
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from reasoning_from_scratch.tasks.base import (
    INSTRUCTION,
    Problem,
    Task,
    check_request,
    split_of,
    stable_hash,
    tagged,
)

_GSM8K = (
    "https://raw.githubusercontent.com/openai/grade-school-math/"
    "3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/"
)
# File in the cache -> where it is published, and the SHA-256 of its bytes.
SOURCES = {
    "gsm8k_train.jsonl": (
        _GSM8K + "train.jsonl",
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    ),
    "gsm8k_test.jsonl": (
        _GSM8K + "test.jsonl",
        "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    ),
    "math500_test.json": (
        "https://raw.githubusercontent.com/rasbt/reasoning-from-scratch/main/"
        "ch03/01_main-chapter-code/math500_test.json",
        "a9eccff7e25ecaf3952614e5b92fe081b4f0549c68ae6a387b96e131df9ddf41",
    ),
}


@dataclass(frozen=True)
class _Published(Task):
    """Problems of a file.

    Args:
        path:        the file, or the folder in which it lies under its published name or that
                     of the cache; a file serves the splits of its own part only.
        instruction: follows each question in the prompt.
    """

    path: str | Path | None = field(default=None, repr=False)
    instruction: str = field(default=INSTRUCTION, repr=False)

    def generate(self, n: int, *, seed: int, split: str) -> list[Problem]:
        """Return `n` problems of a split, in an order that `seed` decides.

        Training problems start over, in another order, when all have been seen.

        Raises:
            ValueError: `n` is negative or, for "tune" and "test", more than there are; `split`
                is none of this set's; a file is not the published one, or cannot be read.
            FileNotFoundError: the file is neither there nor could it be downloaded.
        """
        check_request(n, split)
        found = self._problems(split)
        if n > len(found) and (split != "train" or not found):
            raise ValueError(f"n is {n}, but split {split!r} holds {len(found)} problems")
        problems: list[Problem] = []
        while len(problems) < n:
            random = Random(stable_hash(f"{self!r} {split} {seed} {len(problems)}"))
            problems += random.sample(found, len(found))
        return problems[:n]

    def _problems(self, split: str) -> list[Problem]:
        raise NotImplementedError(f"{type(self).__name__}._problems")

    def _prompt(self, question: str) -> str:
        return f"{question}\n{self.instruction}\n" if self.instruction else f"{question}\n"


@dataclass(frozen=True)
class GSM8K(_Published):
    """GSM8K: 7,473 training problems, of which one in ten tunes, and 1,319 test problems.

    Args:
        path, instruction: as for every published set, see `_Published`.

    Source: Cobbe et al. 2021, "Training verifiers to solve math word problems".
    """

    def _problems(self, split: str) -> list[Problem]:
        part = "test" if split == "test" else "train"
        records = _read(_find(self.path, f"gsm8k_{part}.jsonl"), ("question", "answer"))
        problems = [self._problem(record) for record in records]
        if part == "test":
            return problems
        # The published test set is test whole, so the hash only parts tune from train.
        tune = split == "tune"
        return [p for p in problems if (split_of(p.meta["key"]) == "tune") == tune]

    def _problem(self, record: dict[str, str]) -> Problem:
        solution, _, answer = record["answer"].rpartition("####")
        answer = answer.strip().replace(",", "")
        worked = re.sub(r"<<[^<>]*>>", "", solution).strip()  # notes for a calculator
        return Problem(
            prompt=self._prompt(record["question"]),
            answer=answer,
            demonstration=tagged(worked, answer),
            meta={"key": "gsm8k " + " ".join(record["question"].split())},
        )


@dataclass(frozen=True)
class MATH500(_Published):
    """MATH-500: five hundred test problems, and no others.

    Args:
        path, instruction: as for every published set, see `_Published`.

    Source: Hendrycks et al. 2021 (MATH); the selection is that of Lightman et al. 2023.
    """

    def _problems(self, split: str) -> list[Problem]:
        if split != "test":
            raise ValueError(f"split is {split!r}, expected 'test': math500 has no other problems")
        needed = ("problem", "solution", "answer")
        records = _read(_find(self.path, "math500_test.json"), needed)
        return [self._problem(record) for record in records]

    def _problem(self, record: dict[str, str]) -> Problem:
        about = {name: record[name] for name in ("subject", "level", "unique_id") if name in record}
        return Problem(
            prompt=self._prompt(record["problem"]),
            answer=record["answer"],
            demonstration=tagged(record["solution"], record["answer"]),
            meta={"key": "math500 " + " ".join(record["problem"].split()), **about},
        )


def _find(path: str | Path | None, name: str) -> Path:
    """Return the file called `name`, or its published name, where `path` says or in the cache."""
    stem = Path(name).stem  # such as gsm8k_test
    part = stem.rpartition("_")[2]
    if path is None:
        return _cached(name)
    path = Path(path).expanduser()
    if path.is_file():
        if part not in path.name:
            raise ValueError(f"path is {path.name!r}, expected a name with {part!r} in it")
        return path
    for candidate in (name, f"{stem}.jsonl", f"{stem}.json", f"{part}.jsonl", f"{part}.json"):
        if (path / candidate).is_file():
            return path / candidate
    raise FileNotFoundError(f"no {name} in {path}: it is published at {SOURCES[name][0]}")


def _cached(name: str) -> Path:
    """Return the file from the cache folder; download it first if it is not there."""
    folder = os.environ.get("REASONING_FROM_SCRATCH_CACHE", "~/.cache/reasoning_from_scratch")
    path = Path(folder).expanduser() / name
    url, checksum = SOURCES[name]
    try:
        content = path.read_bytes() if path.exists() else None
        if content is None:
            with urllib.request.urlopen(url, timeout=30) as response:
                content = response.read()
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise FileNotFoundError(
            f"no {name} in {path.parent}, and {url} cannot be reached ({error}): download it on "
            "another machine and pass path="
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != checksum:
        where, remedy = (path, "delete it, or") if path.exists() else (url, "it has changed;")
        raise ValueError(
            f"{where} has SHA-256 {found}, expected {checksum}: {remedy} pass path= to read a file "
            "of your own"
        )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        os.replace(file.name, path)  # so that no other process ever reads half a file
    return path


def _read(path: Path, fields: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the records of a JSON list or of JSON lines."""
    text = path.read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("["):
            records = json.loads(text)
        else:
            # Not splitlines: a JSON string may hold U+2028, at which that would cut.
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is neither a JSON list nor JSON lines: {error}") from error
    for i, record in enumerate(records):
        missing = [name for name in fields if name not in record]
        if missing:
            raise ValueError(f"record {i} of {path} has no {missing[0]!r}")
    return records
