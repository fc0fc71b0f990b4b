# Fibflow's commands. `make help` lists them; every one sets the environment up first, once.
# Needs Python 3.11 and make. PYTHON=/path/to/python3.11 chooses an interpreter.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMPS := $(VENV)/stamps
PYTHON ?=

# Tests and benchmarks start many processes: each would compile every module anew.
export PYTHONDONTWRITEBYTECODE :=

# Targets that change what the others read never run beside them.
ifneq (,$(filter clean format lock,$(MAKECMDGOALS)))
.NOTPARALLEL:
endif

PIP := $(PY) -m pip --disable-pip-version-check --quiet
UV_VERSION := 0.13.9
# mypy does not follow an editable install whose package root is the repository's: it gets a folder that holds `fibflow`.
TYPED := $(VENV)/typed
# Coverage's own threshold mixes statements with branches: `make test` reads the branches' from here.
COVERAGE := .cache/coverage.json

.PHONY: help setup demo test lint format bench lock clean

help: ## list the commands
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 16

setup: $(STAMPS)/project ## create .venv, with the locked packages and this project in it

demo: setup ## run the whole batch job on real daily history into ./demo-lake; no server, no account
	@$(PY) -m pipelines.demo $(ARGS)

test: setup ## run every test; fails when the branch coverage of transforms/ is under 95 %
	@$(PY) -P -m pytest --cov --cov-report=term-missing:skip-covered --cov-report=json:$(COVERAGE) $(ARGS)
	@$(PY) -c 'import json, sys; b = json.load(open("$(COVERAGE)"))["totals"]["percent_branches_covered"]; \
	  sys.exit(f"make test: branch coverage of transforms/ is {b:.1f} %, below 95 %" if b < 95 else 0)'

lint: setup ## ruff, its formatter, mypy over the whole package, the rooms' import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@mkdir -p $(TYPED) && ln -sfn ../.. $(TYPED)/fibflow
	@cd $(TYPED) && ../bin/python -m mypy --config-file ../../pyproject.toml -p fibflow
	@$(BIN)/lint-imports --no-logo

format: setup ## let ruff fix and format what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## the full-size benchmark against DuckDB and Polars; takes long, and gigabytes of disk
	@$(PY) -m benchmarks.run --incremental $(ARGS)

lock: $(STAMPS)/venv ## remake requirements.lock from setup.py; ARGS=--upgrade takes newer versions
	@$(PIP) install uv==$(UV_VERSION)
	@$(BIN)/uv pip compile setup.py --extra dev --python-version 3.11 --python-platform linux --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet --output-file requirements.lock $(ARGS)

clean: ## remove .venv, caches and what the demo wrote
	@rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* \
	  htmlcov build dist target demo-lake fibflow.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ---------------------------------------------------------------------------------------------------

# An environment that works is kept; one that a failed run left half made is made anew.
$(STAMPS)/venv:
	@if ! { $(PY) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' && $(PY) -m pip --version; } >/dev/null 2>&1; then \
	  python=; \
	  for candidate in $(if $(PYTHON),'$(PYTHON)',python3.11 python3); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then \
	      python=$$candidate; break; \
	    fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "make setup: Fibflow needs Python 3.11, found $$(python3 --version 2>&1 || echo none). Install it, or name one: make PYTHON=/path/to/python3.11 setup" >&2; \
	    exit 1; \
	  fi; \
	  if ! "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	      echo 'make setup: installing python3.11-venv with apt-get' >&2; \
	      { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3.11-venv; } >/dev/null; \
	    else \
	      echo "make setup: $$python has no venv module. Install it (Debian: sudo apt-get install python3.11-venv) and run make again" >&2; \
	      exit 1; \
	    fi; \
	  fi; \
	  echo 'make setup: creating $(VENV)' >&2; \
	  "$$python" -m venv --clear $(VENV); \
	fi
	@mkdir -p $(@D) && touch $@

$(STAMPS)/packages: requirements.lock $(STAMPS)/venv
	@echo 'make setup: installing the locked packages (some minutes the first time)' >&2
	@$(PIP) install --require-hashes --only-binary :all: --requirement requirements.lock
	@touch $@

$(STAMPS)/project: setup.py pyproject.toml __init__.py $(STAMPS)/packages
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
