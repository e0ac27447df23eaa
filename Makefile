# Everything runs from here; `make test` and `make demo` set themselves up in .venv with pip alone.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# With what builds the documentation and looks at the code, too.
TOOLS := .venv/.tools

.PHONY: test test-long test-oldest soak demo bench bench-more docs lint types format check clean

test: $(READY)
	$(BIN)/python -m pytest -m "not long" -n 2

test-long: $(READY)
	$(BIN)/python -m pytest -m long -n 2

# Kills writers, workers, Redis and PostgreSQL for an hour, or SOAK_SECONDS, and prints what was survived.
SOAK_SECONDS ?= 3600
soak: $(READY)
	KILL_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest tests/test_kill.py -m long -n 0

# redis-py 5.0 leaves sockets that it could not connect to the garbage collector.
FORGIVEN := -W ignore::ResourceWarning -W ignore::pytest.PytestUnraisableExceptionWarning

# The same tests with the oldest supported release of each dependency that others pin.
test-oldest: .venv-oldest/.ready
	.venv-oldest/bin/python -m pytest -m "not long" -n 2 $(FORGIVEN)

# Builds the site of docs/ into build/site, any warning an error; runs every Python example, and sees that what is named exists.
# The variable quiets a notice of the theme about its successor. With --quiet warnings would not count.
docs: $(TOOLS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python -m pytest tests/test_docs.py -n 0

demo: $(READY)
	$(BIN)/sessioncache demo

# Measures sessioncache, the bare limits and the peers side by side, in a few minutes; BENCH=--quick takes less than one, and
# BENCH="reading --json figures.json" measures reading alone and keeps what it measured. The peers have an environment of their own.
BENCH ?=
bench: .venv-bench/.ready
	PYTHONPATH=tests .venv-bench/bin/python benchmarks/bench.py $(BENCH)

# What else has a price: a window, the functions for redis-cli, moving in, being looked at. BENCH_POSTGRES=postgresql://… measures
# moving in there too, BENCH_OUTAGE=60 an outage of SQL of so many seconds.
bench-more: $(READY)
	$(BIN)/python benchmarks/window.py
	PYTHONPATH=tests $(BIN)/python benchmarks/functions.py
	$(BIN)/python benchmarks/moving.py $(if $(BENCH_POSTGRES),--postgres $(BENCH_POSTGRES))
	PYTHONPATH=tests $(BIN)/python benchmarks/looking.py
	$(if $(BENCH_OUTAGE),PYTHONPATH=tests $(BIN)/python benchmarks/outage.py --seconds $(BENCH_OUTAGE))

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TOOLS)
	$(BIN)/mypy

format: $(TOOLS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types test

clean:
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build

.venv-oldest/.ready: pyproject.toml .ci/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]' -c .ci/oldest.txt
	touch $@

.venv-bench/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

$(TOOLS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
