# Everything from nothing but Python 3.11, make and pip:
#   make demo    set up and run the demo        make test    set up and run the tests
#   make lint    style, formatting and types    make clean   remove what this file made
# Another interpreter: make PYTHON=/path/to/python3.11 test

VENV := .venv
BIN := $(VENV)/bin
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# Each candidate is run, not only looked up: a name on the path may be a shim without an interpreter behind it.
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && { echo $$p; break; }; done)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Empty is off: the live tests start processes by the hundred, and without byte code each would compile all that it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test lint clean
.DELETE_ON_ERROR:

help:
	@sed -n '2,4s/^# \{0,1\}//p' Makefile

setup: $(VENV)/.test $(VENV)/.dev

demo: $(VENV)/.run
	$(BIN)/python -m bci_align_sim.demo

test: $(VENV)/.test
	# What only computes runs on two workers; what runs processes and clocks of its own comes after it, alone. Both always run.
	$(BIN)/python -m pytest -m "not live" -n 2 --dist loadscope --no-loadscope-reorder; computed=$$?; \
	$(BIN)/python -m pytest -m live && exit $$computed

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

# The stamps come last in each recipe, so that an interrupted set-up is done again. --clear: never build on half a venv.
$(VENV)/.venv:
	@test -n "$(PYTHON)" || { echo "bci_align needs Python 3.11 or later, found none: install it or say make PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' || { echo "bci_align needs Python 3.11 or later, $(PYTHON) is not" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.venv pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@
