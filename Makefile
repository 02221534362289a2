# The developer's menu. Every target sets up what it needs in .venv and says what it does; nothing else is touched.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help quickstart test integration faults gpu lint format figures clean

help: ## show this menu
	@grep -E '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/ready-run: pyproject.toml
	@echo "== creating .venv and installing distjet with the simulation (about two minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) -e '.[simulation]'
	@touch $@

.venv/ready-dev: pyproject.toml
	@echo "== creating .venv and installing distjet with its tests and linters (about two minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) -e '.[dev]'
	@touch $@ .venv/ready-run

.venv/ready-bench: .venv/ready-dev
	@echo "== installing what the benchmarks compare with (weaver-core, Ray Data)" >&2
	@$(PIP) -e '.[dev,bench]'
	@touch $@

quickstart: .venv/ready-run ## simulate, prepare, train and evaluate on this machine; the report is in outputs/quickstart/evaluate
	@echo "== running distjet quickstart"
	@$(BIN)/distjet quickstart

test: .venv/ready-dev ## fast tests, then those with a local Ray or Dask cluster
	@echo "== fast tests"
	@$(BIN)/python -m pytest -n auto --dist loadscope
	@echo "== tests with real workers and the slow physics checks"
	@$(BIN)/python -m pytest -m "(integration or slow) and not faults and not gpu"

integration: .venv/ready-dev ## only the tests that start a local Ray or Dask cluster
	@$(BIN)/python -m pytest -m "integration and not faults and not gpu"

faults: .venv/ready-dev ## tests that kill processes again and again; bench-faults kills at random
	@$(BIN)/python -m pytest -m faults

gpu: .venv/ready-dev ## tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu

lint: .venv/ready-dev ## ruff, mypy, import-linter, codespell
	@echo "== ruff" && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy" && $(BIN)/mypy
	@echo "== import-linter" && PATH="$(CURDIR)/$(BIN):$$PATH" lint-imports --no-cache
	@echo "== codespell" && $(BIN)/codespell

format: .venv/ready-dev ## let ruff mend what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

figures: quickstart ## renew the figures of the README from the quickstart's report
	@mkdir -p docs/figures
	@cp outputs/quickstart/evaluate/plots/energy_scale.png outputs/quickstart/evaluate/plots/energy_resolution.png docs/figures/

bench-%: .venv/ready-bench ## bench-NAME: run benchmarks/NAME.py; its last line is one JSON object
	@$(BIN)/python -m benchmarks.$(subst -,_,$*)

page-%: .venv/ready-dev ## page-NAME: run what conf/benchmark/NAME.yaml lists, and renew its page in docs/
	@$(BIN)/python -m benchmarks.page conf/benchmark/$*.yaml --write

clean: ## remove .venv and caches; outputs stay
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
