"""GSM8K and MATH-500 from files, the cache and its checksums; reasoning-gym's adapter."""

import hashlib
import json
import sys
import types
from random import Random

import pytest

from reasoning_from_scratch.tasks import get_task, published
from reasoning_from_scratch.tasks.base import INSTRUCTION

GSM8K = {
    "question": "Mia packs 12 boxes of 125 pens and sells 300 pens. How many are left?",
    "answer": "There are 12*125 = <<12*125=1500>>1,500 pens.\n"
    "Left: 1500-300 = $<<1500-300=1200>>1,200\n#### 1,200",
}
MATH = {
    "problem": "What is $\\frac{1}{2}+\\frac{1}{4}$?",
    "solution": "It is $\\boxed{\\frac{3}{4}}.$",
    "answer": "\\frac{3}{4}",
    "subject": "Prealgebra",
    "level": 1,
    "unique_id": "test/prealgebra/1.json",
}


def records(count, part):
    return [
        {"question": f"{part} {i}:\u2028 what is {i}+1?", "answer": f"{i}+1={i + 1}\n#### {i + 1}"}
        for i in range(count)
    ]


def write_lines(path, items):
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), "utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    write_lines(tmp_path / "gsm8k_train.jsonl", records(300, "train"))
    write_lines(tmp_path / "gsm8k_test.jsonl", records(50, "test"))
    (tmp_path / "math500_test.json").write_text(json.dumps([MATH] * 3, indent=2))
    return tmp_path


def test_a_gsm8k_record_becomes_a_problem(tmp_path):
    path = write_lines(tmp_path / "test.jsonl", [GSM8K])
    task = get_task("gsm8k", path=path)
    (problem,) = task.generate(1, seed=0, split="test")
    assert problem.prompt == f"{GSM8K['question']}\n{INSTRUCTION}\n"
    assert problem.answer == "1200"
    assert problem.demonstration == (
        "<think>There are 12*125 = 1,500 pens.\nLeft: 1500-300 = $1,200</think>"
        "<answer>1200</answer>"
    )
    assert task.score(problem, problem.demonstration) == 1.0
    assert task.score(problem, "<answer>1,200</answer>") == 1.0
    assert task.score(problem, "<answer>1500</answer>") == 0.0


def test_a_math500_record_becomes_a_problem(tmp_path):
    for name, text in (("a_test.json", json.dumps([MATH])), ("test.jsonl", json.dumps(MATH))):
        (tmp_path / name).write_text(text)
        task = get_task("math500", path=str(tmp_path / name), instruction="")
        (problem,) = task.generate(1, seed=0, split="test")
        assert problem.prompt == f"{MATH['problem']}\n"
        assert problem.answer == MATH["answer"]
        assert (problem.meta["subject"], problem.meta["level"]) == ("Prealgebra", 1)
        assert task.score(problem, problem.demonstration) == 1.0
        assert task.score(problem, "<answer>\\boxed{\\frac{6}{8}}</answer>") == 1.0
        assert task.score(problem, "<answer>\\frac{1}{4}</answer>") == 0.0


def test_gsm8k_splits_are_disjoint_and_whole(folder):
    task = get_task("gsm8k", path=folder)
    tune = [f"train {i}" for i in range(300)]
    (sizes, seen) = ({}, {})
    for split in ("train", "tune", "test"):
        with pytest.raises(ValueError, match=r"n is 999, but split 'tune' holds (\d+) problems"):
            task.generate(999, seed=0, split="tune")
        problems = task._problems(split)
        sizes[split] = len(problems)
        seen[split] = {p.prompt.split(":")[0] for p in problems}
    assert seen["train"] | seen["tune"] == set(tune) and not seen["train"] & seen["tune"]
    assert seen["test"] == {f"test {i}" for i in range(50)}
    # Five standard deviations around one in ten: sqrt(300 * 0.1 * 0.9) = 5.2.
    assert abs(sizes["tune"] - 30) < 5 * 5.2


def test_a_seed_decides_the_order_and_nothing_is_drawn_twice(folder):
    task = get_task("gsm8k", path=folder)
    everything = task.generate(50, seed=0, split="test")
    assert len({p.prompt for p in everything}) == 50
    assert task.generate(9, seed=0, split="test") == everything[:9]
    assert task.generate(50, seed=1, split="test") != everything
    assert sorted(p.prompt for p in task.generate(50, seed=1, split="test")) == sorted(
        p.prompt for p in everything
    )


def test_the_instruction_does_not_change_which_problems_come(folder):
    answers = [
        [p.answer for p in get_task("gsm8k", path=folder, **o).generate(20, seed=0, split="train")]
        for o in ({}, {"instruction": "Answer:"})
    ]
    assert answers[0] == answers[1]


def test_training_problems_start_over_in_another_order(folder):
    task = get_task("gsm8k", path=folder)
    size = len(task._problems("train"))
    twice = [p.prompt for p in task.generate(2 * size, seed=0, split="train")]
    assert sorted(twice[:size]) == sorted(twice[size:]) and twice[:size] != twice[size:]
    assert len(set(twice[:size])) == size
    assert twice[: size + 5] == [p.prompt for p in task.generate(size + 5, seed=0, split="train")]


@pytest.mark.parametrize("split", ["train", "tune"])
def test_math500_is_for_testing_only(folder, split):
    with pytest.raises(ValueError, match=f"split is '{split}', expected 'test'"):
        get_task("math500", path=folder).generate(1, seed=0, split=split)


def test_a_wrong_path_is_refused(folder):
    with pytest.raises(FileNotFoundError, match="no gsm8k_test.jsonl in .*nowhere: it is publish"):
        get_task("gsm8k", path=folder / "nowhere").generate(1, seed=0, split="test")
    with pytest.raises(ValueError, match="'gsm8k_test.jsonl', expected a name with 'train'"):
        # The test file must never serve training.
        get_task("gsm8k", path=folder / "gsm8k_test.jsonl").generate(1, seed=0, split="train")


def test_a_broken_file_is_refused(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"question": "1+1?"}\n')
    with pytest.raises(ValueError, match="record 0 of .*test.jsonl has no 'answer'"):
        get_task("gsm8k", path=path).generate(1, seed=0, split="test")
    path.write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="neither a JSON list nor JSON lines"):
        get_task("gsm8k", path=path).generate(1, seed=0, split="test")


# The cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and a stand-in for the published file at a file:// address."""
    source = write_lines(tmp_path / "source.jsonl", records(5, "test"))
    checksum = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setitem(published.SOURCES, "gsm8k_test.jsonl", (source.as_uri(), checksum))
    monkeypatch.setenv("REASONING_FROM_SCRATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_file_is_downloaded_once_and_then_read_from_the_cache(cache):
    first = get_task("gsm8k").generate(5, seed=0, split="test")
    assert [path.name for path in (cache / "cache").iterdir()] == ["gsm8k_test.jsonl"]
    (cache / "source.jsonl").unlink()
    assert get_task("gsm8k").generate(5, seed=0, split="test") == first


def test_a_download_with_another_checksum_is_refused_and_not_kept(cache):
    (cache / "source.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="source.jsonl has SHA-256 .*expected .*pass path="):
        get_task("gsm8k").generate(1, seed=0, split="test")
    assert not (cache / "cache").exists()


def test_a_cached_file_that_changed_is_refused(cache):
    get_task("gsm8k").generate(1, seed=0, split="test")
    (cache / "cache" / "gsm8k_test.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="gsm8k_test.jsonl has SHA-256 .*delete it"):
        get_task("gsm8k").generate(1, seed=0, split="test")


def test_without_network_and_file_the_error_says_what_to_do(cache):
    (cache / "source.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="no gsm8k_test.jsonl in .*source.*pass path="):
        get_task("gsm8k").generate(1, seed=0, split="test")


def test_making_a_task_reads_and_downloads_nothing(cache):
    (cache / "source.jsonl").unlink()
    assert get_task("gsm8k") and get_task("math500")


# reasoning-gym


class FakeData:
    """What reasoning-gym's data sets look like: item i of seed s is drawn from Random(s + i)."""

    def __init__(self, size, seed, largest=50):
        assert largest > 0, "largest must be positive"
        self.size, self.seed, self.largest = size, seed, largest

    def __getitem__(self, i):
        if i >= self.size:
            raise IndexError(i)
        random = Random(self.seed + i)
        a, b = random.randint(1, self.largest), random.randint(1, self.largest)
        return {"question": f"What is {a} + {b}?", "answer": str(a + b), "metadata": {}}

    def score_answer(self, answer, entry):
        if answer == "crash":
            raise RuntimeError("as some scorers do")
        return 1.5 if answer == entry["answer"] else 0.01


def create_dataset(name, size, seed, **options):
    if name != "sums":
        raise ValueError(f"Dataset '{name}' not registered")
    return FakeData(size, seed, **options)


@pytest.fixture
def gym(monkeypatch):
    fake = types.SimpleNamespace(create_dataset=create_dataset)
    monkeypatch.setitem(sys.modules, "reasoning_gym", fake)


def test_gym_splits_never_share_a_question(gym):
    task = get_task("gym:sums")
    seen = {}
    for split in ("train", "tune", "test"):
        problems = [p for seed in range(3) for p in task.generate(200, seed=seed, split=split)]
        seen[split] = {p.prompt for p in problems}
        assert all(task.score(p, p.demonstration) == 1.0 for p in problems)
    assert min(map(len, seen.values())) > 100
    assert not seen["train"] & seen["tune"]
    assert not (seen["train"] | seen["tune"]) & seen["test"]


def test_gym_item_i_does_not_depend_on_how_many_are_drawn_and_seeds_differ(gym):
    task = get_task("gym:sums", largest=1000)
    many = task.generate(900, seed=0, split="train")  # more than one block
    assert many[:40] == task.generate(40, seed=0, split="train")
    other = task.generate(900, seed=1, split="train")
    assert len({p.prompt for p in many} & {p.prompt for p in other}) < 20
    assert len({p.prompt for p in many}) > 880


def test_gym_scores_with_the_data_sets_own_scorer(gym):
    task = get_task("gym:sums")
    (problem,) = task.generate(1, seed=0, split="test")
    assert problem.prompt == f"{problem.meta['entry']['question']}\n{INSTRUCTION}\n"
    assert task.score(problem, f"<answer>{problem.answer}</answer>") == 1.0  # 1.5 is cut to 1
    assert task.score(problem, "<answer>no</answer>") == 0.01
    assert task.score(problem, "<answer>crash</answer>") == 0.0
    assert task.score(problem, problem.answer) == 0.0


def test_gym_refuses_what_reasoning_gym_refuses(gym):
    with pytest.raises(ValueError, match="gym:sum refuses {}: Dataset 'sum' not registered"):
        get_task("gym:sum")
    with pytest.raises(ValueError, match="gym:sums refuses .*largest must be positive"):
        get_task("gym:sums", largest=0)
    with pytest.raises(ValueError, match="gym:sums refuses .*unexpected keyword"):
        get_task("gym:sums", biggest=3)
    with pytest.raises(ValueError, match="leaves no problem in split"):
        for split in ("train", "tune", "test"):  # one question alone is in one split only
            get_task("gym:sums", largest=1).generate(1, seed=0, split=split)


def test_gym_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)  # as if it were not installed
    with pytest.raises(ImportError, match="gym:sums needs reasoning-gym: pip install"):
        get_task("gym:sums")
