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
# Processes that run tests; 0: one, in sight of a debugger. A file's tests stay together: they share what they started.
TEST_PROCESSES ?= 2
# Coverage's own threshold mixes statements with branches: `make test` reads the branches' from here.
COVERAGE := .cache/coverage.json
# PyPI has this version as a source archive only: it stands apart from the lock, with its hash.
FLINK := apache-flink-libraries==1.19.3 --hash=sha256:4a58e3a1fb7d83340bc96b6c080624c6d792d69fae5d294b96224775204a9c60
# The lake that `make demo` makes and `make serve` serves. SERVE=0: the demo ends without a server.
LAKE ?= demo-lake
SERVE ?= 1
PAGE := serving/page

.PHONY: help setup demo serve test lint format bench bench-stream bench-serving bench-backfill bench-ingest bench-postgres bench-alerts bench-news drills faults up down lock clean

help: ## list the commands
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 16

setup: $(STAMPS)/project $(STAMPS)/flink $(STAMPS)/jobserver $(STAMPS)/page ## create .venv, with the locked packages, Flink and this project in it

demo: setup ## real daily history through the whole job into ./demo-lake, then live bars of its last day (Java 17), then the page
	@$(PY) -m pipelines.demo --lake $(LAKE) $(if $(filter-out 0,$(SERVE)),--serve) $(ARGS)

serve: setup ## the server and its page on a lake: make serve LAKE=folder-or-s3; open to this machine only
	@$(PY) -m serving --lake $(LAKE) --open $(ARGS)

test: setup $(STAMPS)/chromium $(STAMPS)/promtool ## run every test; fails when the branch coverage of transforms/ is under 95 %
	@$(PY) -P -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered --cov-report=json:$(COVERAGE) $(ARGS)
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

up: setup ## start the local stack: Redis, PostgreSQL, AWS emulator, Flink, Beam's job server and workers
	@$(PY) -m runners.local up $(ARGS)

down: setup ## stop the local stack; its data and logs stay in .local
	@$(PY) -m runners.local down $(ARGS)

bench-stream: setup ## the live pipeline on the local stack: catching up, latency, growth; takes long
	@$(PY) -m benchmarks.stream $(ARGS)

bench-serving: setup ## the server at full size, its users on the same two cores: latency, saturation, WebSockets
	@$(PY) -m benchmarks.serving.run $(ARGS)

bench-backfill: setup ## two years of 500 symbols from the vendor's stand-in, with faults and kills: what is there, and the calls it took
	@$(PY) -m benchmarks.backfill $(ARGS)

bench-ingest: setup ## the live feed: ten minutes with cuts and without Kinesis for a while, then the highest rate
	@$(PY) -m benchmarks.ingest $(ARGS)

bench-postgres: setup ## a million rows into PostgreSQL, twice, beside plain COPY
	@$(PY) -m benchmarks.postgres $(ARGS)

bench-alerts: setup ## a million alerts beside 20,000 trades a second: how soon they fire, what they cost the bars; takes long
	@$(PY) -m benchmarks.alerts $(ARGS)

drills: setup ## upgrade, refusal and restore on a live job of the local stack; writes docs/drills.md; a quarter of an hour
	@$(PY) -m benchmarks.drills $(ARGS)

bench-news: setup ## a million articles of news: landed, and read back
	@$(PY) -m benchmarks.news $(ARGS)

faults: setup ## break a live job on the local stack in every known way; writes docs/reliability.md; half an hour
	@$(PY) -m benchmarks.faults.run $(ARGS)

lock: $(STAMPS)/venv ## remake requirements.lock from setup.py; ARGS=--upgrade takes newer versions
	@$(PIP) install uv==$(UV_VERSION)
	@$(BIN)/uv pip compile setup.py --extra dev --python-version 3.11 --python-platform linux --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet --output-file requirements.lock $(ARGS)
	@deploy/images/lock.sh

clean: ## remove .venv, caches and what the demo wrote
	@rm -rf $(VENV) $(PAGE)/node_modules .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* \
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
	@$(PIP) install --no-deps --require-hashes --only-binary :all: --requirement requirements.lock
	@$(PIP) check
	@touch $@

$(STAMPS)/project: setup.py pyproject.toml __init__.py $(STAMPS)/packages
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMPS)/flink: Makefile $(STAMPS)/packages
	@echo 'make setup: installing Flink' >&2
	@echo '$(FLINK)' > $@.txt
	@$(PIP) install --require-hashes --no-deps --no-build-isolation --no-binary apache-flink-libraries --requirement $@.txt
	@touch $@

# Live bars run on Flink, which is Java's. Without it setup goes on: history needs none, and the demo says what it left out.
$(STAMPS)/jobserver: $(shell find runners/flink -path runners/flink/target -prune -o -type f -print 2>/dev/null) $(STAMPS)/project
	@if ! { command -v java && command -v mvn; } >/dev/null 2>&1 && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo 'make setup: installing Java 17 and Maven with apt-get' >&2; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openjdk-17-jdk-headless maven; } >/dev/null; \
	fi; \
	if command -v java >/dev/null && command -v mvn >/dev/null; then \
	  echo 'make setup: building the Flink job server' >&2; \
	  $(PY) -P -c 'from fibflow.runners import jobserver; jobserver.build()' && touch $@; \
	else \
	  echo 'make setup: no Java 17 or no Maven: live bars are left out (Debian: sudo apt-get install openjdk-17-jdk-headless maven)' >&2; \
	fi

# The page's chart library. Without it the server goes on: the API needs none, and the page's address says what is missing.
$(STAMPS)/page: $(PAGE)/package.json $(PAGE)/package-lock.json | $(STAMPS)/jobserver
	@if ! command -v npm >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo 'make setup: installing npm with apt-get' >&2; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm; } >/dev/null; \
	fi; \
	if command -v npm >/dev/null; then \
	  echo "make setup: installing the page's chart library" >&2; \
	  npm ci --prefix $(PAGE) --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null && touch $@; \
	else \
	  echo 'make setup: no npm: the page is left out (Debian: sudo apt-get install npm)' >&2; \
	fi

# The page's tests drive the system's Chromium: no browser is downloaded.
$(STAMPS)/chromium: | setup
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo 'make test: installing chromium with apt-get' >&2; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null; \
	fi; \
	if command -v chromium >/dev/null; then touch $@; else \
	  echo "make test: no chromium: the page's tests will fail (Debian: sudo apt-get install chromium)" >&2; \
	fi

# The alarms' tests run Prometheus' own tool. It is taken out of Debian's package: nothing is installed, no service starts.
$(STAMPS)/promtool: | setup
	@if ! { [ -x $(BIN)/promtool ] || command -v promtool; } >/dev/null && command -v apt-get >/dev/null; then \
	  echo 'make test: fetching promtool with apt-get' >&2; \
	  folder=$$(mktemp -d); \
	  { if [ "$$(id -u)" = 0 ]; then apt-get update -qq; fi; \
	    (cd "$$folder" && apt-get download -qq prometheus) && \
	    dpkg-deb --fsys-tarfile "$$folder"/prometheus_*.deb | tar -x -C "$$folder" ./usr/bin/promtool && \
	    mv "$$folder/usr/bin/promtool" $(BIN)/promtool; } >/dev/null 2>&1 || true; \
	  rm -rf "$$folder"; \
	fi; \
	if [ -x $(BIN)/promtool ] || command -v promtool >/dev/null; then mkdir -p $(@D); touch $@; else \
	  echo "make test: no promtool: the alarms' tests will fail (Debian: it is in the package prometheus)" >&2; \
	fi
