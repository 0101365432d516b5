# `make help` lists what there is. Everything happens inside .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
TOKENIZER_ARGS ?=

RUST_SOURCES := Cargo.toml Cargo.lock rust/Cargo.toml $(shell find rust/src -name '*.rs')
export VIRTUAL_ENV := $(CURDIR)/$(VENV)

.DEFAULT_GOAL := help
.PHONY: help build train ladder test lint bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(VENV)/.built  ## make .venv: pinned dependencies and the Rust extension

$(VENV)/bin/maturin: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) is older than Python 3.10: give a newer one, make PYTHON=python3.12" >&2; exit 2; }
	@command -v cargo >/dev/null || \
	  { echo "error: no cargo on the PATH: install a Rust toolchain (https://rustup.rs)" >&2; exit 2; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt maturin
	@touch $@

# maturin installs the dependencies as well, by pip, which PIP_CONSTRAINT holds to the pins. Made
# anew when a Rust source or a dependency changes; Python sources are used in place.
$(VENV)/.built: $(VENV)/bin/maturin pyproject.toml $(RUST_SOURCES)
	@echo "building the Rust extension, installing what is missing (PyTorch takes a minute or two)"
	PIP_QUIET=1 PIP_CONSTRAINT=constraints.txt $(BIN)/maturin develop --release --quiet --extras dev
	@touch $@

train: build  ## train a GPT on Shakespeare and let it write (ARGS="--n-layer 6 ...")
	$(BIN)/python -m gptfast.train --resume $(ARGS)

ladder: build  ## train every rung from bigram to GPT and compare them
	$(BIN)/python -m gptfast.ladder --resume $(ARGS)

# The tests that need these are skipped without them.
$(VENV)/ranks: $(VENV)/.built
	-test -e $@ || $(BIN)/python tests/tokenizer/fetch_ranks.py $@

# Tests marked `alone` come last, one by one (tests/conftest.py). Status 5: ARGS leaves none.
test: build $(VENV)/ranks  ## run every test, Rust and Python
	cargo test --quiet --workspace
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS) || [ $$? -eq 5 ]
	$(BIN)/python -m pytest --alone $(ARGS) || [ $$? -eq 5 ]

lint: build  ## ruff, mypy --strict, cargo fmt, clippy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cargo fmt --check
	cargo clippy --quiet --all-targets --all-features -- -D warnings

# TOKENIZER_ARGS="--corpus my.txt --repeats 1", for instance; as it is, it takes half an hour.
bench: build  ## measure tokens/s (results are printed)
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only $(ARGS)
	$(BIN)/python benchmarks/tokenizer.py $(TOKENIZER_ARGS)

clean:  ## delete what was built; runs/ stays
	rm -rf $(VENV) target .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
