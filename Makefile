# `make demo` and `make test` do all the set-up on a machine that has Python 3.10+ with venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: check test fix types lint format-check pytest
.DEFAULT_GOAL := check

# torch is named with its exact version, before everything else: a range could fetch a much larger build.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -e ".[dev]"
	touch $@

check: format-check lint types pytest

format-check: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

pytest: $(READY)
	$(BIN)/pytest

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: check
