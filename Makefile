# `make demo` and `make test` are all that a fresh machine needs: Python 3.11+ with venv, make, git.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# One thread per test process: a test's small tensors gain nothing from more, and processes share the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all lint format docs guide bench accuracy claims wheel clean

demo: $(STAMP)
	$(BIN)/iceprobe demo

# Without the long ones, which continuous integration runs as well.
test: $(STAMP)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: $(STAMP)
	$(PYTEST) $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Output of commands and measured tables shown in docs/.
docs: $(STAMP)
	$(BIN)/python tools/refresh_docs.py
	$(BIN)/python benchmarks/table.py

# The guide as pages that work from disk: build/guide/index.html. A warning is an error.
guide: $(STAMP)
	$(BIN)/zensical build --strict

# Every figure of docs/speed.md, on a quiet machine; never part of the tests.
bench: $(STAMP)
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

# The figures of docs/measurements.md.
accuracy: $(STAMP)
	$(BIN)/iceprobe run examples/clutter.yaml
	$(BIN)/iceprobe compare runs/clutter --against ep12 --margin 1.5
	$(BIN)/python benchmarks/scikit_learn.py runs/clutter

# Verdicts on the paper's claims: docs/claims.md. Claim 7 trains the backbone, most of the time.
claims: $(STAMP)
	$(BIN)/python -m benchmarks.claims.run $(CLAIMS_ARGS)

wheel: $(STAMP)
	$(BIN)/pip wheel . --no-deps --no-build-isolation --wheel-dir dist

clean:
	rm -rf .venv dist

# Installs once, and again when what is to be installed changes.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[dev]' --constraint constraints.txt
	touch $@
