# make quickstart   raw text -> tokenizer -> model -> report, on this machine (ACCELERATOR=cuda or tpu to use one)
# make test         the test suite
# make lint         style and import order; `make format` repairs what it can
# make parity       the tests that compare with other implementations, with those installed
# make clean        removes the virtual environment and all caches; runs are kept
#
# PYTHON=python3.12 names another interpreter, VENV=DIR another place for the virtual environment, ARGS=... is passed on.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# An empty file per finished installation: a second `make test` starts at once, a changed requirements file installs anew.
ENVIRONMENT := $(VENV)/.environment
BASE := $(VENV)/.base
TEST := $(VENV)/.test
TOPOLOGIES := $(VENV)/.topologies
LINT := $(VENV)/.lint
PARITY := $(VENV)/.parity
ifdef ACCELERATOR
ACCELERATED := $(VENV)/.accelerator-$(ACCELERATOR)
endif

.PHONY: quickstart test lint format parity clean

quickstart: $(BASE) $(ACCELERATED)
	$(BIN)/jaxllm quickstart $(ARGS)

test: $(TEST) $(TOPOLOGIES)
	$(BIN)/python -m pytest -n 2 $(ARGS)

# Where tests are that skip themselves, or a part of themselves, without the others; --comparisons runs only these.
PARITY_TESTS = $(shell grep -rlE 'importorskip|requirements/parity' tests --include='test_*.py')

parity: $(PARITY) $(TOPOLOGIES)
	$(BIN)/python -m pytest -n 2 --comparisons $(PARITY_TESTS) $(ARGS)

lint: $(LINT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck launch/*.sh

format: $(LINT)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .cache .hypothesis .pytest_cache .ruff_cache build dist *.egg-info
	find jaxllm tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +

$(ENVIRONMENT):
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not on the path; name an interpreter: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: jaxllm needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) comes without venv or ensurepip; Debian and Ubuntu have them in the package python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(BASE): $(ENVIRONMENT) requirements/base.txt requirements/build.txt setup.cfg pyproject.toml
	$(PIP) install -r requirements/base.txt -r requirements/build.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(TEST): $(BASE) requirements/test.txt
	$(PIP) install -r requirements/base.txt -r requirements/test.txt
	@touch $@

$(TOPOLOGIES): $(ENVIRONMENT) requirements/topologies.txt
	$(PIP) install --upgrade --no-deps --target $(VENV)/topologies -r requirements/topologies.txt
	@touch $@

$(LINT): $(ENVIRONMENT) requirements/lint.txt
	$(PIP) install -r requirements/lint.txt
	@touch $@

$(PARITY): $(TEST) requirements/parity.txt
	$(PIP) install -r requirements/base.txt -r requirements/test.txt -r requirements/build.txt -r requirements/parity.txt
	@touch $@

$(VENV)/.accelerator-%: $(BASE)
	$(PIP) install --constraint requirements/base.txt --no-build-isolation --editable '.[$*]'
	@touch $@
