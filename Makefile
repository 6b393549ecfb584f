# Two commands on a fresh machine: `make demo` and `make test`. Each sets up what it needs in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

NATIVE := src/rallypoint/_native.abi3.so
NATIVE_SOURCES := $(wildcard native/*.cpp native/*.hpp native/*.inc) native/build.py

.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-17s %s\n", $$1, $$2}'

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

$(VENV)/.bench: $(VENV)/.base
	$(PIP) install --group bench --group compat
	@touch $@

# Where it cannot be built this says why in one line, every time, and the Python twin serves.
$(NATIVE): $(NATIVE_SOURCES) | $(VENV)/.base
	@$(BIN)/python native/build.py --optional

.PHONY: native
native: $(NATIVE)  ## build the native twin anew if its sources changed

.PHONY: demo
demo: $(VENV)/.demo $(NATIVE)  ## train on two nodes of two workers, kill a worker in the middle, recover
	$(BIN)/python examples/demo.py

# Most tests wait for processes, so three at a time keep two cores busy; TESTS_AT_ONCE=0 runs one after the other.
TESTS_AT_ONCE ?= 3

.PHONY: test
test: $(VENV)/.test $(NATIVE)  ## all tests, the peers of the compatibility tests included
	$(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist worksteal

SEEDS ?= 2000

.PHONY: sim
sim: $(VENV)/.test $(NATIVE)  ## many nodes in one thread, whatever goes wrong, for SEEDS courses of events (2000)
	$(BIN)/python -m tests.sim --seeds $(SEEDS)

# A sanitized run shares no cache with one beside it; nothing of the stores on etcd is native.
WATCHED := $(BIN)/python tools/sanitized.py
WATCHED_TESTS := -m pytest -p no:cacheprovider -o timeout=600 --ignore-glob='tests/unit/store/test_etcd*'
# What drives the native engine, reactor, relay, client, lane and codec. The other tests run no other part of them: what these add
# is Python's, or torch's, where sanitizers find nothing of ours.
WATCHED_UNITS := tests/unit/protocol tests/unit/server tests/unit/store tests/unit/gateway tests/model/test_relay.py tests/unit/test_twin.py
WATCHED_COMPAT := $(wildcard tests/compat/test_store_*.py) tests/compat/test_engine_beside_torch.py \
	tests/compat/test_primitives_torch.py tests/compat/test_relay_torch.py tests/compat/test_status_torch.py

.PHONY: sanitize
sanitize: sanitize-address fuzz sanitize-thread  ## the native twin under ASan and UBSan, a minute of fuzzing, TSan

.PHONY: sanitize-address
sanitize-address: $(VENV)/.test  ## the tests of the native twin, torch among its peers, under ASan and UBSan
	$(WATCHED) address,undefined $(WATCHED_TESTS) $(WATCHED_UNITS) $(WATCHED_COMPAT)

.PHONY: sanitize-thread
sanitize-thread: $(VENV)/.test  ## server, relay and client tests under TSan
	$(WATCHED) thread $(WATCHED_TESTS) tests/unit/server tests/unit/store tests/unit/gateway/test_native.py tests/unit/gateway/test_relay.py

.PHONY: fuzz
fuzz: $(VENV)/.test  ## a minute of wild requests to the native engine, under ASan and UBSan
	$(WATCHED) address,undefined tools/fuzz.py --seconds 60

.PHONY: wheel
wheel: $(VENV)/.base  ## a wheel in dist/, with the native twin where it can be built
	rm -rf dist
	$(PIP) wheel --no-deps --wheel-dir dist .

.PHONY: lint
lint: $(VENV)/.lint  ## style, types, import contracts, mirror of src in tests/unit, what is made from tables
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_mirror.py
	$(BIN)/python tools/generate_spec.py --check
	$(BIN)/python tools/generate_wire.py --check
	$(BIN)/python tools/generate_limits.py --check

.PHONY: wire
wire: $(VENV)/.base  ## write docs/reference/wire.md anew from the tables
	$(BIN)/python tools/generate_wire.py

.PHONY: limits
limits: $(VENV)/.base  ## write docs/reference/limits.md anew from the limits
	$(BIN)/python tools/generate_limits.py

.PHONY: format
format: $(VENV)/.lint  ## rewrite the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: scenarios
scenarios: $(VENV)/.test $(NATIVE)  ## write the expected lines of tests/scenarios anew; review them as a diff
	$(BIN)/python -m tests.support.scenarios --rewrite

.PHONY: bench
bench: $(VENV)/.bench $(NATIVE)  ## speed beside torch, Redis and a floor: benchmarks/RESULTS.md (BENCH=--quick: less of it)
	$(BIN)/python -m benchmarks $(BENCH)

.PHONY: clean
clean:  ## remove what the other targets made
	rm -f $(NATIVE) src/rallypoint/_native.txt
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
