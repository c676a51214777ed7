"""What all tests share: `subject`, and the rule that CUDA tests are skipped without a device."""

import importlib
import os

import pytest
import torch
from hypothesis import settings

import reasoning_from_scratch
from tests.mutants import REPLACED_MODULES

torch.set_num_threads(1)  # pytest-xdist already runs one worker a core
if "PYTEST_XDIST_WORKER" in os.environ:  # and so for the notebooks and commands that tests start
    os.environ["OMP_NUM_THREADS"] = "1"

# The same examples every time, and no verdict from a clock: the machine may be busy.
settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")  # Hypothesis refuses a fixture that is made anew for each test
def subject():
    """Return a function that resolves a public name to the implementation under test.

    A name that the package does not list says where it lives: "losses.aggregate_share".
    """

    def resolve(name):
        home, _, name = name.rpartition(".")
        home = home or reasoning_from_scratch._HOME[name]
        if home in REPLACED_MODULES:
            return getattr(REPLACED_MODULES[home], name)
        return getattr(importlib.import_module(f"reasoning_from_scratch.{home}"), name)

    return resolve
