# `make demo` and `make test` set everything up in .venv; a second run reuses it.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/ready

.PHONY: setup demo check test test-s3 format constraints

setup: $(READY)

# pip also compiles the modules, which uv leaves out: without that, each process of a run would
# compile torch anew where PYTHONDONTWRITEBYTECODE is set.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python -m jobs.demo --output=demo

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(READY)
	$(BIN)/pytest

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Newest versions that pyproject.toml allows, from the registry that pip is set up with.
constraints:
	rm -rf .venv-new && $(PYTHON) -m venv .venv-new
	.venv-new/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	(head -n 1 constraints.txt; .venv-new/bin/python -m pip freeze --exclude-editable) > constraints.new
	mv constraints.new constraints.txt && rm -rf .venv-new
