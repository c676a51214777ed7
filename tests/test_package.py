"""The package as a whole: its public names, its layers, and that importing it does nothing."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import reasoning_from_scratch

ROOT = Path(reasoning_from_scratch.__file__).parent

# A module imports only from its own layer or those above it in this list.
LAYERS = [
    ("checks",),
    ("model", "tokenizer", "tokenizer_files", "gguf_files", "pretrained", "merging", "sampling"),
    (
        "verify", "verify_text", "verify_grammar", "verify_trees", "verify_worker", "sandbox",
        "sandbox_supervisor", "rewards", "lengths",
    ),
    ("tasks",),
    ("advantages", "losses", "exact"),
    ("compute", "evaluate", "stats", "reward_quality"),
    ("training", "runs"),
    (
        "problem_streams", "rollouts", "groups", "sft", "imitation", "grpo", "preferences",
        "reward_model", "reward_model_files", "dpo", "credit", "ppo",
    ),
    (
        "report_page", "report", "seeds", "main_job", "bench_sides", "bench_tables", "bench",
        "terminal", "exercises", "training_commands", "__main__",
    ),
]  # fmt: skip
LAYER = {module: depth for depth, layer in enumerate(LAYERS) for module in layer}

# Every name that design promises to those who write `from reasoning_from_scratch import …`.
PROMISED = """
group_advantages gae whiten token_logprobs token_entropy masked_mean sft_loss bradley_terry_loss
kl_estimate policy_loss value_loss dpo_loss lcpo_exact lcpo_max kimi_length_reward cosine_reward
overlong_penalty extract_answer math_equal run_python RunResult pass_at_k bootstrap_interval
majority_vote GPT GPTConfig KVCache ScalarHead Tokenizer load_pretrained save_pretrained sample
Rollout get_task Problem Task
""".split()


def imports_of(path):
    """Yield the package's modules that a file imports when it is imported itself."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "reasoning_from_scratch"
        ):
            inside = node.module.split(".")[1:]
            yield from inside[:1] or [alias.name for alias in node.names]


def module_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("name", PROMISED)
def test_every_promised_name_can_be_imported_from_the_top(name):
    assert name in reasoning_from_scratch.__all__
    assert getattr(reasoning_from_scratch, name).__name__ == name


def test_every_name_of_the_table_exists():
    for name, module in reasoning_from_scratch._HOME.items():
        assert hasattr(importlib.import_module(f"reasoning_from_scratch.{module}"), name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'policy_los'"):
        reasoning_from_scratch.policy_los  # noqa: B018


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.name)
def test_a_module_imports_only_from_its_own_layer_or_above(path):
    module = module_of(path)
    if module == "__init__":
        return
    for imported in imports_of(path):
        if imported == "tasks" and module in ("rewards", "evaluate"):
            continue  # for the type of a problem alone
        assert LAYER[imported] <= LAYER[module], f"{module} imports {imported}"


def test_there_are_no_cycles():
    edges = {m: set() for m in LAYER}
    for path in ROOT.rglob("*.py"):
        if module_of(path) in edges:
            edges[module_of(path)] |= set(imports_of(path)) - {module_of(path)}
    while edges:
        leaves = {m for m, needs in edges.items() if not needs & set(edges)}
        assert leaves, f"a cycle among {sorted(edges)}"
        edges = {m: needs for m, needs in edges.items() if m not in leaves}


def test_who_needs_only_tasks_and_verifiers_does_not_load_torch():
    code = (
        "import sys; from reasoning_from_scratch import get_task, math_equal, run_python;"
        "get_task('stories').generate(3, seed=0, split='train'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_a_module_prints_and_seeds_nothing():
    code = (
        "import torch; before = torch.random.get_rng_state(); import reasoning_from_scratch as r;"
        "[getattr(r, name) for name in r.__all__];"
        "assert torch.equal(before, torch.random.get_rng_state())"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == found.stderr == ""
