# kaggle-hw4. `make help` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
# The active virtual environment, or else one here.
VENV := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),$(CURDIR)/.venv)
BIN := $(VENV)/bin
PIP = "$(BIN)/python" -m pip install --quiet --disable-pip-version-check
# For every system and Python at once, with markers where they differ; no address of an index is written.
COMPILE = "$(BIN)/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
STAMP := $(VENV)/.kaggle-hw4-installed
INPUTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
# The other one of the two versions of Kaggle's client that are supported, in a folder of its own.
CLIENT := $(shell sed -n 's/^kaggle==\([0-9.]*\).*/\1/p' constraints-client.txt)
CLIENT_PATH := $(VENV)/kaggle-$(CLIENT)
# A process for each core, and no more than 4: each takes 1 GB.
PYTEST = "$(BIN)/python" -m pytest -n auto --maxprocesses 4 --dist worksteal
CLIENT_TESTS := $(addprefix tests/test_,kaggle_client.py failure_table.py at_most_once.py submit.py secrets.py editions.py server.py doctor.py odd_answers.py)

.PHONY: help install demo data test test-all test-browser test-client test-wheel example-report lint types bench docs docs-cli constraints

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:  ## install into the active virtual environment, or else into .venv
	@fingerprint=$$(cat $(INPUTS) | cksum; echo "$(CURDIR)"); \
	if [ "$$(cat "$(STAMP)" 2>/dev/null)" = "$$fingerprint" ] && "$(BIN)/python" -c '' 2>/dev/null; then exit 0; fi; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: kaggle-hw4 needs Python 3.11 or newer; name one with PYTHON=python3.11")' && \
	{ [ -n "$(VIRTUAL_ENV)" ] || [ -L "$(VENV)" ] || [ ! -e "$(VENV)/pyvenv.cfg" ] || \
		{ grep -qsF "$(VENV)" "$(BIN)/activate" && "$(BIN)/python" -c '' 2>/dev/null; } || \
		$(PYTHON) -m venv --clear "$(VENV)"; } && \
	{ "$(BIN)/python" -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv "$(VENV)"; } && \
	"$(BIN)/python" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: %s has Python %d.%d: rm -r it, or deactivate" % (sys.argv[1], *sys.version_info[:2]))' "$(VENV)" && \
	echo "Installing into $(VENV) (PyTorch is large: some minutes) ..." && \
	$(PIP) --only-binary :all: --require-hashes -r constraints.txt && $(PIP) --no-deps --no-build-isolation -e . && \
	echo "$$fingerprint" > "$(STAMP)" && \
	{ [ -n "$(VIRTUAL_ENV)" ] || printf 'Installed. Next: source %q\n' "$(VENV)/bin/activate"; }

demo: install  ## the whole way on synthetic voices: no account, no GPU
	@"$(BIN)/python" -m kaggle_hw4.rehearsal.demo

example-report: demo  ## the demo, and its report as docs/example-report.html
	@cp demo/report.html docs/example-report.html && ls -l docs/example-report.html

data: install  ## kaggle-hw4 data: download, verify, pack
	@"$(BIN)/kaggle-hw4" data

test: install  ## the tests (about 10 minutes on 2 cores)
	@$(PYTEST) -m "not slow"

test-all: install  ## also the long ones
	@$(PYTEST)

test-browser: install  ## the report in a real browser: Debian's Chromium, installed by root where it is missing
	@command -v chromium > /dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && echo "Installing Debian's chromium ..." && \
		apt-get update -qq > /dev/null && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium > /dev/null; \
	} || { echo "error: there is no chromium here, and only root can install it: apt-get install chromium" >&2; exit 1; }
	@"$(BIN)/python" -m pytest tests/browser/report_seen.py

test-client: install  ## the tests of the Kaggle side with the other version of its client
	@[ -d "$(CLIENT_PATH)" ] || { rm -rf "$(CLIENT_PATH).part" && $(PIP) --target "$(CLIENT_PATH).part" --no-deps --only-binary :all: --require-hashes -r constraints-client.txt && \
		mv "$(CLIENT_PATH).part" "$(CLIENT_PATH)"; }
	@PYTHONPATH="$(CLIENT_PATH)" "$(BIN)/python" -c 'import sys; from importlib.metadata import version; \
		print("kaggle", version("kaggle")); sys.exit(version("kaggle") != "$(CLIENT)")'
	@PYTHONPATH="$(CLIENT_PATH)" $(PYTEST) -m "not slow" $(CLIENT_TESTS)

test-wheel: install  ## build wheel and sdist, and try both outside the checkout
	@"$(BIN)/python" -m pytest tests/test_wheel.py

lint: install  ## ruff (rules and format), and the layers
	@"$(BIN)/ruff" check . && "$(BIN)/ruff" format --check . && "$(BIN)/lint-imports" --no-logo

types: install  ## mypy
	@"$(BIN)/mypy"

bench: install  ## ours against the course's way, and against the floor (minutes)
	@"$(BIN)/python" -m benchmarks

docs: install  ## the pages of docs/ as HTML: docs/_build/index.html
	@"$(BIN)/sphinx-build" -W --keep-going --quiet docs docs/_build && echo "docs/_build/index.html"

docs-cli: install  ## write docs/cli.md anew from the commands
	@"$(BIN)/python" -m typer kaggle_hw4.cli utils docs --name kaggle-hw4 --title Commands --output docs/cli.md

constraints:  ## pin what pyproject.toml asks for, with hashes; what is pinned stays unless UPGRADE=--upgrade
	@$(COMPILE) $(UPGRADE) --extra dev pyproject.toml --output-file constraints.txt
	@echo kaggle==$(CLIENT) | $(COMPILE) --no-deps - --output-file constraints-client.txt
