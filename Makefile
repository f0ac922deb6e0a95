# `make demo` and `make test` do all the set-up on a machine that has Python 3.10+ with venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Most tests wait: three at a time, and the other Pythons' beside them, keep two cores busy.
BESIDE ?= -n 3 --dist loadgroup --no-loadscope-reorder

.PHONY: demo test check fix types lint format-check pytest bench completions soak verdicts
.DEFAULT_GOAL := check

# torch is named with its exact version, before everything else: a range could fetch a much larger build.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -e ".[dev]"
	touch $@

# A real 4-rank job with a stuck rank, what torchctl says of it, and the end of the job.
demo: $(READY)
	$(BIN)/python -m tests.demo.run

# Everything that checks the project, on every supported Python that is installed here.
test: format-check lint types
	$(BIN)/python -m tests.every_python $(BESIDE)

# The same on this Python alone.
check: format-check lint types pytest

format-check: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

pytest: $(READY)
	$(BIN)/pytest $(BESIDE)

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Speed, beside torch's own server and the bare imports, in one run; asserts nothing.
bench: $(READY)
	for bench in tests/bench/bench_*.py; do PYTHONPATH=. $(BIN)/python $$bench || exit 1; done

# The long run: 20 minutes, a request every 50 ms; fails where worker or sentinel grow by more than 2 MB.
soak: $(READY)
	$(BIN)/python -m tests.soak
	$(BIN)/python -m tests.server.churn

# How right diagnoses are: a table of some 29,000 simulated jobs by kind and result; 13 minutes on two busy cores,
# and it fails where a goal is missed. VERDICTS="--kind late --show 3" looks into one kind.
verdicts: $(READY)
	$(BIN)/python -m tests.diagnosis.physics.verdicts $(VERDICTS)

completions: $(READY)
	$(BIN)/python -m tests.completions
