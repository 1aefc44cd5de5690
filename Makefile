# Each target does all its own set-up. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint types unit contract integration e2e brokers equipment build clean
.PHONY: bench bench-full

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(STAMP) ## virtual environment, dependencies, and Kafka for the demo and the tests
	@$(BIN)/python -m replicator.embedded

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "replicator needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + " (set PYTHON=...)")'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "replicator needs Python's venv module (Debian: the package python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: setup ## two clusters, 336,776 real records, a worker killed, a consumer group moved there and back, all of it checked
	@$(BIN)/replicator demo $(ARGS)

test: $(STAMP) ## all that a change has to pass: lint, types, and every tier of tests
	@$(MAKE) --no-print-directory -j3 setup lint types unit
	@$(MAKE) --no-print-directory brokers

test-all: $(STAMP) ## that, with each data plane and many seeds, and the tests of the equipment: before a release
	@HYPOTHESIS_PROFILE=long $(MAKE) --no-print-directory test ARGS='--thorough $(ARGS)'
	@$(MAKE) --no-print-directory equipment

lint: $(STAMP) ## style, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(STAMP)
	$(BIN)/mypy

# Tests mostly wait for brokers, so several processes run side by side; they share a pair of clusters. Tests of one
# group (tests/support/brokers.py) run in one of them. What is timed wants a machine that is not too busy: JOBS=1 there.
JOBS ?= 4
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

unit: JOBS := 2
unit contract integration e2e equipment: $(STAMP)
	$(PYTEST) tests/$@ $(ARGS)

brokers: $(STAMP) ## contract, integration and e2e, in one run
	$(PYTEST) tests/e2e tests/integration tests/contract $(ARGS)

bench: setup ## measured next to MirrorMaker 2, in short: some minutes (one part: python -m bench --help)
	$(BIN)/python -m bench all $(ARGS)

bench-full: setup ## the same as it is published: hours, on a machine that does nothing else
	$(BIN)/python -m bench all --full $(ARGS)

build: $(STAMP) ## the wheel, in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove what the targets made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/out
