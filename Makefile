# Each target sets itself up on a fresh machine: Python 3.11 or newer with venv is all it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# One thread for each small model: more fight over two cores.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo demo-tune test test-lowest test-newest lint bench clean help

help: ## list the targets
	@grep -E '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/'

$(VENV)/local: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable ".[local]"
	touch $@

$(VENV)/dev: $(VENV)/local
	$(PIP) --editable ".[local,dev]"
	touch $@

demo: $(VENV)/local ## serve the embedded model and let it regulate itself, on this machine
	$(BIN)/selfreg demo

demo-tune: $(VENV)/local ## tune one of the embedded model's tasks, and check the winner on prompts nobody searched on
	$(BIN)/selfreg demo tune

test: lint ## lint, types, import contracts, and all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-lowest test-newest: test-%: $(VENV)-%/sdk ## the SDK's tests on the lowest or the newest versions that pyproject.toml allows
	$(VENV)-$*/bin/python -m pytest -n 2 --dist loadfile tests/policies tests/sdk tests/contracts tests/faults

$(VENV)-%/sdk: pyproject.toml constraints-%.txt
	test -x $(VENV)-$*/bin/python || $(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/pip install --quiet --disable-pip-version-check \
		--constraint constraints-$*.txt --editable ".[agents,fast,dev]"
	touch $@

lint: $(VENV)/dev ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/dev ## side-by-side measurements, and the sweep of the embedded model
	$(BIN)/python -m bench all
	$(BIN)/python -m local_backend.tiny sweep

clean: ## remove everything that make has made
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
