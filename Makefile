# make demo   the main job on embedded data, with a report
# make test   lint, types, floors, tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEPENDENCIES := $(shell sed -n '/^dependencies/,/^\[tool/p' pyproject.toml | cksum | cut -d' ' -f1)
STAMP := $(VENV)/.dependencies-$(DEPENDENCIES)
SOURCES := invertune_plugin adapters configs benchmarks examples tests

.PHONY: demo test lint types floors fast slow install clean

demo: install
	$(BIN)/invertune run demo --out runs/demo --overwrite

test: install
	$(MAKE) --jobs=2 lint types floors fast
	$(MAKE) slow

lint: install
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

# Static tools cannot follow the folder mapping in the source tree: they run over an installed copy.
build/check: install $(shell find invertune_plugin adapters configs -name '*.py')
	rm -rf build
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/check .

types: build/check
	cd build/check && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml -p invertune_plugin

floors: build/check
	cd build/check && PYTHONPATH=. $(abspath $(BIN))/lint-imports --config ../../pyproject.toml --no-cache

fast: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses=2

# The demo and the commands of a user: they train, and take both cores.
slow: install
	$(BIN)/python -m pytest tests/test_end_to_end.py

install: $(STAMP)
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .

$(STAMP):
	$(PYTHON) -m venv $(VENV) || ($(PYTHON) -m pip install virtualenv && $(PYTHON) -m virtualenv $(VENV))
	$(BIN)/pip install --quiet 'setuptools>=77' wheel
	$(BIN)/pip install --no-build-isolation --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build runs
