# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
DATA ?= ../shared/data
BIN := .venv/bin

.PHONY: demo test chaos audit default-scorer schema clean
.DELETE_ON_ERROR:

demo: .venv/installed  ## install, run the main job on the bundled shards, print what it found
	@$(BIN)/mdmf demo

test: .venv/installed-dev  ## install, check style and types, run the tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/pytest

chaos: .venv/installed-dev  ## kill, race and starve real runs; the table in docs/reliability.md
	@PYTHONPATH=tests:tests/chaos $(BIN)/python tests/chaos/run.py

audit: .venv/installed-dev  ## look up what is installed among the known vulnerabilities
	@$(BIN)/python .ci/audit.py

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Run: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

.venv/installed: pyproject.toml | .venv/bin/pip
	@echo "installing into .venv (some minutes and about 6 GB the first time: torch)"
	@$(BIN)/pip install --quiet --editable . || { echo "the install failed: is the package index reachable, is the disk full?"; exit 1; }
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/pip
	@echo "installing into .venv, with the tools for tests (some minutes the first time)"
	@$(BIN)/pip install --quiet --editable '.[dev]' || { echo "the install failed: is the package index reachable, is the disk full?"; exit 1; }
	@touch $@ .venv/installed

default-scorer: .venv/installed  ## train the bundled scorer again: make default-scorer DATA=../shared/data
	@$(BIN)/python scorers/build_default.py $(DATA) scorers/default

schema: .venv/installed  ## write docs/schema.md anew from the warehouse's own comments
	@$(BIN)/python docs/schema.py

clean:  ## remove what demo and test made, but not the environment
	rm -rf .mdmf warehouse.duckdb warehouse.duckdb.parts warehouse.duckdb.report .pytest_cache .mypy_cache .ruff_cache
