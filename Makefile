# Two commands on a fresh machine: `make demo` and `make test`. Each sets up what it needs in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

$(VENV)/.base: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install -e .
	@touch $@

$(VENV)/.demo: $(VENV)/.base
	$(PIP) install -e '.[demo]'
	@touch $@

$(VENV)/.lint: $(VENV)/.base
	$(PIP) install --group lint
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(PIP) install --group test --group compat
	@touch $@

.PHONY: demo
demo: $(VENV)/.demo  ## train on two nodes of two workers, kill a worker in the middle, recover
	$(BIN)/python examples/demo.py

.PHONY: test
test: $(VENV)/.test  ## all tests, the peers of the compatibility tests included
	$(BIN)/python -m pytest

.PHONY: lint
lint: $(VENV)/.lint  ## style, types, import contracts, mirror of src in tests/unit, the native table
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_mirror.py
	$(BIN)/python tools/generate_spec.py --check

.PHONY: format
format: $(VENV)/.lint  ## rewrite the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: scenarios
scenarios: $(VENV)/.test  ## write the expected lines of tests/scenarios anew; review them as a diff
	$(BIN)/python -m tests.support.scenarios --rewrite

.PHONY: bench
bench: $(VENV)/.test  ## latency and throughput beside torch, as ratios
	$(BIN)/python benchmarks/store.py

.PHONY: clean
clean:  ## remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
