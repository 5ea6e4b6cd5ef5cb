# Everything here needs Python 3.11 or newer, make and access to PyPI; nothing has to be installed before.
comma  := ,
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
# Extras to install beside those that the tests need, such as ",jax,torch,grain": what is missing is skipped, and pytest says so.
EXTRAS ?=
PINS   ?=
STAMP  := $(VENV)/.installed$(subst $(comma),-,$(EXTRAS))
KILLS  ?= 200
MINUTES ?= 20
HOURS  ?=
SEED   ?= 1
JOBS   ?= 2

export TF_CPP_MIN_LOG_LEVEL ?= 3

.DEFAULT_GOAL := help
.PHONY: help venv demo test check pytest format chaos storm soak inputs bench clean

help:  ## what can be done here
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## .venv with the package and everything its tests need

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "No python3.11 and no python3 on PATH: install Python 3.11 or newer."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11: set PYTHON=/path/to/python3.11."; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, apt install python3-venv."; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[tensorflow-cpu,dev$(EXTRAS)]" $(PINS)
	@touch $(STAMP)

demo: $(STAMP)  ## train, then train again while being killed, and compare
	$(BIN)/python -m chaos.demo

test: check pytest  ## lint, types and every test (what .ci/run runs)

check: $(STAMP)  ## lint and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

pytest: $(STAMP)  ## every test, two at a time
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chaos: $(STAMP)  ## kills and faults of all kinds, 20 minutes, one table: make chaos MINUTES=20 SEED=1 JOBS=2, or HOURS=8
	$(BIN)/python -m chaos.all --minutes $(MINUTES) $(if $(HOURS),--hours $(HOURS)) --seed $(SEED) --jobs $(JOBS)

storm: $(STAMP)  ## one program, many kills: make storm KILLS=200 SEED=1 JOBS=2
	$(BIN)/python -m chaos.storm --kills $(KILLS) --seed $(SEED) --jobs $(JOBS)

soak: $(STAMP)  ## what grows in a long run: make soak HOURS=8
	$(BIN)/python -m chaos.soak $(if $(HOURS),--hours $(HOURS)) --seed $(SEED)

inputs: $(STAMP)  ## the kill storm over every kind of input, which makes the table in docs/exactness.md
	$(BIN)/python -m chaos.inputs --kills 25 --seed $(SEED) --jobs $(JOBS) --write docs/exactness.md

bench:  ## measure what saving costs, ours and the peers (50 minutes): results, plots and docs/performance.md
	@$(MAKE) --no-print-directory venv EXTRAS=$(EXTRAS),bench
	$(BIN)/python -m benchmarks

clean:  ## remove what make made
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
