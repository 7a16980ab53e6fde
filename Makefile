# make quickstart: a plain and a balanced detector on an embedded data set, compared per class
# make test:       lint, types and tests
# make docs:       the documentation site, in site/
# All install what they need into .venv first; a second run finds it there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test docs install clean

quickstart: $(VENV)/.quickstart
	$(BIN)/python tools/quickstart.py

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

install: $(VENV)/.dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 14) else f"error: {sys.executable} is Python {v[0]}.{v[1]}. Python 3.10 to 3.13 is needed. Name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.quickstart: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[quickstart,fast]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.quickstart

clean:
	rm -rf $(VENV) runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis
