# Everything runs from here; `make test` and `make demo` set themselves up in .venv with pip alone.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: test test-long demo lint types format check clean

test: $(READY)
	$(BIN)/python -m pytest -m "not long" -n 2

test-long: $(READY)
	$(BIN)/python -m pytest -m long

demo: $(READY)
	$(BIN)/sessioncache demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types test

clean:
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(READY)
