# What there is to do here. `make` alone lists the targets.
#
# The environment is .venv, made from the locks in requirements/ (versions and hashes, nothing
# else), so that what runs here today is what runs for you next year.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
# Hashes for everything, and no build isolation: a build may only use what build.lock pins.
LOCKED := $(PIP) --no-build-isolation --require-hashes

# Two workers: what two cores bear while system tests start virtual machines of their own.
WORKERS ?= 2
# A file stays with one worker, which starts its server, browser or guest once; in the order of their
# names, so that the many small files of unit tests come last and no worker waits for the other.
SPREAD := --dist loadfile --no-loadscope-reorder
# Seed of `make faults` and of every test that draws at random.
SEED ?= 1
# More options for pytest: make test ARGS="-k repository"
ARGS ?=

# Every input of the environment; when its digest changes, the environment is brought up to date.
SETUP_INPUTS := Makefile pyproject.toml requirements/build.lock requirements/dev.lock
SETUP_STAMP := $(VENV)/setup.sha256
BENCH_STAMP := $(VENV)/bench.sha256

.PHONY: help setup demo run test faults long cover lint check bench bench-streams bench-control bench-console screenshots lock clean vm-packages judges

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install missing system packages, make .venv from the locks
	@scripts/system-packages core
	@if ! sha256sum --check --status $(SETUP_STAMP) 2>/dev/null || ! $(BIN)/python -c '' 2>/dev/null; then \
	    python=; \
	    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do \
	        if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	            python=$$candidate; break; \
	        fi; \
	    done; \
	    if [ -z "$$python" ]; then echo 'Ruchu needs Python 3.11 or later.' >&2; exit 1; fi; \
	    echo "Preparing $(VENV) with $$($$python --version)."; \
	    rm -f $(SETUP_STAMP) $(BENCH_STAMP); \
	    $(BIN)/python -c '' 2>/dev/null || $$python -m venv --clear $(VENV); \
	    $(LOCKED) -r requirements/build.lock; \
	    $(LOCKED) -r requirements/dev.lock; \
	    $(PIP) --no-deps --no-build-isolation --editable .; \
	    sha256sum $(SETUP_INPUTS) > $(SETUP_STAMP); \
	fi
	@# Each task and command is a process; where Python keeps no bytecode, each would compile anew.
	@$(BIN)/python -m compileall -q -j 0 src

vm-packages:
	@scripts/system-packages vm

judges:
	@scripts/system-packages vm judges

demo: setup vm-packages ## show Ruchu at work on this machine
	@$(BIN)/python scripts/demo

run: setup ## run the command ruchu: make run ARGS="backup --help"
	@$(BIN)/ruchu $(or $(ARGS),--help)

test: setup judges ## run every test, the system tests on real virtual machines too
	@$(BIN)/python -m pytest -n $(WORKERS) $(SPREAD) $(ARGS)

faults: setup judges ## search for failures under injected faults: make faults SEED=7
	@RUCHU_SEED=$(SEED) RUCHU_PROFILE=faults \
	    $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS) \
	    $$(ls -d tests/faults tests/property 2>/dev/null)

# The tests that are short forms of themselves in `make test`, at full length; hours.
LONG := tests/system/test_guest_kernel_files.py tests/system/test_machine_killed.py \
    tests/system/test_server_chaos.py tests/system/test_export_time.py tests/system/test_scale.py \
    tests/system/test_rebuild_time.py tests/system/test_console_walk.py \
    tests/system/test_console_pages.py tests/unit/repository/test_verifying.py
long: setup judges ## run the longest tests at full length: 20,000 files, 10,000 points, 50 kills, all looks
	@RUCHU_PROFILE=faults RUCHU_KILLS=50 \
	    $(BIN)/python -m pytest -n $(WORKERS) $(SPREAD) $(ARGS) $(LONG)

cover: setup judges ## run every test and show which lines and branches it misses
	@$(BIN)/python -m pytest -n $(WORKERS) $(SPREAD) --cov --cov-report=term-missing $(ARGS)

# Every linter has its say, so that one run shows everything there is to mend.
LINTERS := 'ruff check' 'ruff format --check' 'mypy' 'lint-imports --no-logo' \
    'vulture $(wildcard src tests benchmarks)' 'deptry .' 'codespell'

lint: setup ## check style, types, layers, dependencies and spelling
	@failed=; \
	for linter in $(LINTERS); do \
	    echo "== $$linter"; \
	    $(BIN)/$$linter || failed="$$failed [$$linter]"; \
	done; \
	if [ -n "$$failed" ]; then echo "Failed:$$failed" >&2; exit 1; fi

check: lint test ## everything that must pass before a commit

bench: setup ## measure Ruchu against its peers: make bench ARGS="--help"
	@scripts/system-packages vm bench
	@if ! sha256sum --check --status $(BENCH_STAMP) 2>/dev/null; then \
	    $(LOCKED) -r requirements/bench-build.lock; \
	    $(LOCKED) -r requirements/bench.lock; \
	    sha256sum requirements/bench.lock requirements/bench-build.lock > $(BENCH_STAMP); \
	fi
	@$(BIN)/python -m benchmarks $(ARGS)

bench-streams: setup ## measure bulk streams beside a plain TLS socket copy
	@$(BIN)/python -m benchmarks.streams $(ARGS)

bench-control: setup ## measure one server with 50 simulated nodes, 300 policies, 2,000 machines
	@$(BIN)/python -m benchmarks.control $(ARGS)

bench-console: setup ## measure the console with 20 browsers, 20,000 machines, 100,000 runs
	@$(BIN)/python -m benchmarks.console $(ARGS)

# Writes versions and hashes, no addresses: whoever installs decides where from. A release younger
# than a week is left alone, since most bad uploads are found within days.
COMPILE = uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
    --no-annotate --no-header --no-strip-extras --no-emit-index-url --no-emit-find-links --exclude-newer '1 week' \
    $(ARGS)

screenshots: setup judges ## pictures of every page of the console: make screenshots ARGS=policies
	@$(BIN)/python -m ruchu.testing.console_pictures screenshots $(ARGS)

lock: ## resolve the locks anew (needs uv): make lock ARGS=--upgrade
	$(COMPILE) --all-extras --group build --group test --group lint \
	    --output-file requirements/dev.lock pyproject.toml
	$(COMPILE) --all-extras --constraint requirements/dev.lock \
	    --output-file requirements/runtime.lock pyproject.toml
	$(COMPILE) --group pyproject.toml:build --constraint requirements/dev.lock \
	    --output-file requirements/build.lock
	$(COMPILE) --group pyproject.toml:bench --constraint requirements/dev.lock \
	    --output-file requirements/bench.lock
	$(COMPILE) --group pyproject.toml:bench-build --constraint requirements/dev.lock \
	    --constraint requirements/bench.lock --output-file requirements/bench-build.lock

clean: ## remove what the other targets made
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* \
	    .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
