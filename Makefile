# Two commands matter: `make run` and `make test`.  Neither needs root.
# Prerequisites: Python >= 3.11 with venv (Debian: python3-venv), git, make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BOX ?= xfs-aio-4k-tuned
SOAK_S ?= 3600
PYTEST_ARGS ?= -n auto
LOCK_HEADER := \# Every package of a checkout, pinned by hash: CPython 3.11-3.13, Linux x86_64. Written by `make lock`.

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONNOUSERSITE := 1
# Runs are short processes, of which the suite starts hundreds: none is to compile the sources again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help run test check format bench validate schema completions soak chaos lock wheel prerequisites clean

help:
	@echo "make run       run config/boxes/$(BOX).yaml (BOX=name for another one)"
	@echo "make test      the whole test suite"
	@echo "make check     format, lint, types, rooms, schema drift"
	@echo "make bench     speed of the shipped boxes"
	@echo "make validate  compare with the figures of a real kernel"
	@echo "make schema    write again what is generated: box.schema.json, config/README.md, tables"
	@echo "make completions  run every completion policy under every load for the table in config/completions.md"
	@echo "make soak      a box of 8 CPUs for an hour (SOAK_S=seconds): does a process grow, or lose descriptors?"
	@echo "make chaos     strike boxes from all sides (500 faults), for the table in config/faults.md"
	@echo "make clean     remove .venv, caches and build products (runs/ stays)"

run: $(STAMP)
	$(BIN)/python launch.py run $(BOX)

test: $(STAMP)
	$(BIN)/pytest -p no:cacheprovider $(PYTEST_ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check --no-cache .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m emulator.config schema | diff -u config/box.schema.json -
	$(BIN)/python -m emulator.config reference | diff -u config/README.md -
	$(BIN)/check-jsonschema --no-cache --schemafile config/box.schema.json config/boxes/*.yaml config/oracle/[A-Z]*.yaml

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python launch.py bench

validate: $(STAMP)
	$(BIN)/python launch.py validate

schema: $(STAMP)
	$(BIN)/python -m emulator.config schema > config/.new && mv config/.new config/box.schema.json
	$(BIN)/python -m emulator.config reference > config/.new && mv config/.new config/README.md
	$(BIN)/python -m tests.readme_tables

soak: $(STAMP)
	$(BIN)/python -m tests.soak $(SOAK_S)

completions: $(STAMP)
	$(BIN)/python -m tests.completion_table

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# Resolve the newest versions for the oldest Python served; needs uv, which users of the lock do not.
lock:
	uv pip compile --quiet pyproject.toml --extra dev --generate-hashes \
	  --python-version 3.11 --python-platform x86_64-unknown-linux-gnu \
	  --no-header --no-annotate --no-emit-index-url --upgrade --output-file requirements.lock
	sed -i '1i $(LOCK_HEADER)' requirements.lock

prerequisites:
	@command -v git >/dev/null || { echo "git is missing: install it first (Debian: apt install git)" >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or newer (Debian: apt install python3 python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: name a newer one, as in make PYTHON=python3.12 run" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing: install it first (Debian: apt install python3-venv)" >&2; exit 1; }

# The stamp is written last, so an interrupted installation is simply done again.
$(STAMP): requirements.lock | prerequisites
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find emulator tests -name __pycache__ -type d -prune -exec rm -rf {} +
