# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
DATA ?= ../shared/data
BIN := .venv/bin
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile
# The oldest DuckDB that is supported, with the extensions for lakes, which PyPI has for it alone; in a folder of its own.
OLDEST_DUCKDB := .venv/duckdb-1.5
WITH_OLDEST_DUCKDB := $(addprefix tests/,$(addprefix tasks/warehouse/test_,lake.py lake_s3.py many_writers.py landing.py decisions.py migrations.py) \
  $(addprefix tasks/maintenance/test_,content.py backup.py) flows/test_lake.py docs/test_scale_out.py docs/test_sql_page.py)

.PHONY: demo test test-long chaos chaos-engines bench bench-compare bench-peers audit default-scorer schema clean
.DELETE_ON_ERROR:

demo: .venv/installed  ## install, run the main job on the bundled shards, print what it found
	@$(BIN)/mdmf weights fetch
	@$(BIN)/mdmf demo

# Every test is in one of the next two. A test is long by nature if it is marked @pytest.mark.long: soaks, kills at random moments,
# clusters of Ray and Dask, deployed servers, pages walked from top to bottom, millions of rows. All others are quick.
# One test by name, whichever it is: .venv/bin/pytest tests/core/mmd/test_mmd.py -k biased
test: .venv/installed-dev  ## install, check style and types, run the quick tests: a quarter of an hour on two cores
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/mdmf weights fetch
	@$(PYTEST) -m "not long"

test-long: .venv/installed-dev $(OLDEST_DUCKDB)/installed  ## the long tests, then those of warehouses again on the oldest DuckDB
	@$(PYTEST) -m long
	@PYTHONPATH=$(CURDIR)/$(OLDEST_DUCKDB) $(PYTEST) $(WITH_OLDEST_DUCKDB)

chaos: .venv/installed-dev  ## kill, race and starve real runs; the table in docs/reliability.md
	@PYTHONPATH=tests/helpers:tests/chaos $(BIN)/python tests/chaos/run.py

chaos-engines: .venv/installed-dev  ## kill workers of Ray, Dask and a process pool; the table in docs/engines.md
	@PYTHONPATH=tests/helpers:tests/chaos $(BIN)/python tests/chaos/engines.py

# Real weights for the benchmarks of the timm path; another file: make bench WEIGHTS=...
WEIGHTS ?= .mdmf/clip-vit-b16.safetensors
BENCH = $(BIN)/python -m benchmarks.run --weights $(WEIGHTS) $(if $(wildcard $(DATA)),--data $(DATA)) $(ONLY)

bench: .venv/installed-dev $(WEIGHTS)  ## measure against the targets; results and the table in docs/performance.md; ONLY="end_to_end growth"
	@$(BENCH)

bench-compare: .venv/installed-dev $(WEIGHTS)  ## measure again and compare each ratio with the committed one
	@$(BENCH) --compare

bench-peers: .venv/installed-dev $(WEIGHTS) .mdmf/peers/installed  ## the same shards through webdataset, clip-retrieval, Ray Data and Daft
	@$(BIN)/python -m benchmarks.run --weights $(WEIGHTS) $(if $(wildcard $(DATA)),--data $(DATA)) peer_settings side_by_side

# Ray and Daft see this project's torch and timm; clip-retrieval wants older numpy, pyarrow and webdataset, so it gets all its own.
.mdmf/peers/installed: benchmarks/peers/programs/requirements.txt benchmarks/peers/programs/clip-retrieval.txt .venv/installed-dev
	@echo "installing the peers into .mdmf/peers (some minutes and about 7 GB)"
	@$(BIN)/python -m venv .mdmf/peers/main && $(BIN)/python -m venv .mdmf/peers/clip-retrieval
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.mdmf/peers/main/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@.mdmf/peers/main/bin/pip install --quiet -r benchmarks/peers/programs/requirements.txt
	@.mdmf/peers/clip-retrieval/bin/pip install --quiet -r benchmarks/peers/programs/clip-retrieval.txt
	@touch $@

.mdmf/clip-vit-b16.safetensors: .venv/installed
	@MDMF_WEIGHTS=$@ $(BIN)/mdmf weights fetch

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

$(OLDEST_DUCKDB)/installed: pyproject.toml .venv/installed-dev
	@rm -rf $(OLDEST_DUCKDB) && $(BIN)/pip install --quiet --no-deps --target $(OLDEST_DUCKDB) duckdb==1.5.5 \
	  $(foreach part,ducklake sqlite-scanner postgres-scanner httpfs,duckdb-extension-$(part)==1.5.5) \
	  || { echo "the install failed: is the package index reachable?"; exit 1; }
	@touch $@

default-scorer: .venv/installed  ## train the bundled scorer again: make default-scorer DATA=../shared/data
	@$(BIN)/python scorers/build_default.py $(DATA) scorers/default

schema: .venv/installed  ## write docs/schema.md anew from the warehouse's own comments
	@$(BIN)/python docs/schema.py

clean:  ## remove what demo and test made, but not the environment
	rm -rf .mdmf warehouse.duckdb warehouse.duckdb.parts warehouse.duckdb.report .pytest_cache .mypy_cache .ruff_cache
