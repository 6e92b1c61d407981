# Every target does its own set-up: a virtual environment in .venv, made once and again when pyproject.toml changes.
PYTHON ?= python3
# Versions that the tests ran with; CONSTRAINTS= takes the newest that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest
export FLWR_TELEMETRY_ENABLED ?= 0
export FLWR_DISABLE_UPDATE_CHECK ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup simulate reproduce test coverage test-docker docs lint format clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## Make the virtual environment and install everything into it

simulate: $(READY) ## Run the main job on embedded data and write its report (CONFIG=..., ARGS=...)
	$(BIN)/fedfmd simulate $(CONFIG) $(ARGS)

reproduce: $(READY) ## List the runs that answer published figures, or make one (RUN=..., ARGS=...)
	$(BIN)/python benchmarks/reproduce.py $(RUN) $(ARGS)

test: export OMP_NUM_THREADS = 1
test: $(READY) ## Run the tests, two files at a time (ARGS=... goes to pytest); one that fails is tried once more, alone
	@$(PYTEST) --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS) || { \
	  [ $$? -eq 1 ] || exit; \
	  echo "Once more, one at a time: a test that passes now depends on what else the machine does, and should be mended."; \
	  $(PYTEST) --last-failed --last-failed-no-failures none $(ARGS); }

coverage: export OMP_NUM_THREADS = 1
coverage: $(READY) ## Measure which lines the tests reach, in subprocesses too (ARGS=... goes to pytest)
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-docker: $(READY) ## Run the tests with real containers; installs Docker where it is missing (Debian, root)
	PYTHON=$(BIN)/python bash docker/test.sh $(ARGS)

docs: $(READY) ## Build the documentation into site/
	$(BIN)/python -m typer fedfmd.cli.app utils docs --name fedfmd --title "Command line" --output docs/reference/commands.md
	$(BIN)/python -m fedfmd.config.reference docs/reference/config.md
	$(BIN)/python -m fedfmd.records docs/reference/run-directory.md
	$(BIN)/python -m fedfmd.algorithms docs/reference/combinations.md
	$(BIN)/python -m fedfmd.config.outlines
	$(BIN)/zensical build --strict

lint: $(READY) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Put the code into its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment and caches; runs and data stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fedfmd needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=--constraint %) --editable '.[dev]'
	@touch $@
