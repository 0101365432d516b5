# `make help` lists what there is. Everything happens inside .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
TOKENIZER_ARGS ?=
PARALLEL := -n auto --maxprocesses 8 --dist worksteal

RUST_SOURCES := Cargo.toml Cargo.lock rust/Cargo.toml $(shell find rust/src -name '*.rs')
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export UV_CONSTRAINT := $(CURDIR)/constraints.txt
# Images of Python often set it. Each process would then compile the sources of PyTorch anew.
unexport PYTHONDONTWRITEBYTECODE
# uv does not read pip's settings: hand on the index that they name, if any.
PIP_INDEX = $(shell $(BIN)/python -m pip config list | sed -n "s/.*\.index-url='\(.*\)'/\1/p")
INSTALL = $(BIN)/uv pip install --quiet $(addprefix --default-index ,$(lastword $(PIP_INDEX)))

.DEFAULT_GOAL := help
.PHONY: help build train ladder check test test-rust test-python test-alone lint lint-python \
	lint-rust docs bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(VENV)/.built  ## make .venv: pinned dependencies and the Rust extension

$(VENV)/bin/maturin: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) is older than Python 3.10: give a newer one, make PYTHON=python3.12" >&2; exit 2; }
	@command -v cargo >/dev/null || \
	  { echo "error: no cargo on the PATH: install a Rust toolchain (https://rustup.rs)" >&2; exit 2; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt maturin uv
	@touch $@

# Made anew when a Rust source or a dependency changes; Python sources are used in place.
$(VENV)/.built: $(VENV)/bin/maturin pyproject.toml $(RUST_SOURCES)
	@echo "installing what is missing (PyTorch takes a minute or two), building the Rust extension"
	$(INSTALL) --requirement pyproject.toml
	$(BIN)/maturin develop --release --quiet --uv
	@touch $@

# What developers need besides.
$(VENV)/.dev: $(VENV)/.built
	$(INSTALL) --requirement pyproject.toml --extra dev
	@touch $@

$(VENV)/.docs: $(VENV)/.built
	$(INSTALL) --requirement pyproject.toml --extra docs
	@touch $@

train: build  ## train a GPT on Shakespeare and let it write (ARGS="--n-layer 6 ...")
	$(BIN)/python -m gptfast.train --resume $(ARGS)

ladder: build  ## train every rung from bigram to GPT and compare them
	$(BIN)/python -m gptfast.ladder --resume $(ARGS)

# The tests that need these are skipped without them.
$(VENV)/.vocabularies: $(VENV)/.dev tests/families/fetch.py
	-$(BIN)/python tests/families/fetch.py $(VENV)/vocabularies && touch $@

check: lint  ## what to run before every commit: lint, unit and property tests
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not integration" $(ARGS)

test: test-rust test-python test-alone  ## run every test, Rust and Python

test-rust:
	MAKEFLAGS= cargo test --quiet --package gptfast

# Status 5: ARGS leaves none.
test-python: $(VENV)/.vocabularies
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS) || [ $$? -eq 5 ]

# Tests marked `alone` come last, one by one (tests/conftest.py).
test-alone: $(VENV)/.vocabularies
	$(BIN)/python -m pytest --alone $(or $(ARGS),$$(grep --recursive --files-with-matches \
	  --include='*.py' pytest.mark.alone tests)) || [ $$? -eq 5 ]

lint: lint-python lint-rust  ## ruff, mypy --strict, cargo fmt, clippy

lint-python: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lint-rust:
	cargo fmt --check
	cargo clippy --quiet --all-targets --all-features -- -D warnings

docs: $(VENV)/.docs  ## build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# TOKENIZER_ARGS="--corpus my.txt --repeats 1", for instance; as it is, it takes half an hour.
bench: $(VENV)/.dev  ## measure tokens/s (results are printed)
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only $(ARGS)
	$(BIN)/python benchmarks/tokenizer.py $(TOKENIZER_ARGS)

clean:  ## delete what was built; runs/ stays
	rm -rf $(VENV) target site .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
