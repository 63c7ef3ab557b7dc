# `make demo` runs the main job, `make test` passes the tests; both set up what they need in VENV.
# To keep an environment of your own (a CUDA build of torch, say): make test VENV=/path/to/it
VENV ?= .venv
PYTHON ?= python3
# torch has its own line: a range in an empty environment would fetch the newest CUDA build.
TORCH ?= torch==2.13.0
# So has Triton: a CUDA build of torch brings the version that it needs.
TRITON ?= triton==3.9.0

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
WORKERS ?= 2

.PHONY: demo test test-all lint docs bench clean

demo: $(VENV)/.run
	$(BIN)/eplb-opt demo

test: $(VENV)/.dev
	$(BIN)/python -m tests.warm_up
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

test-all: $(VENV)/.dev
	$(BIN)/python -m tests.warm_up
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m ""

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.run
	$(BIN)/python docs/reference/commands.py > docs/reference/commands.md

bench: $(VENV)/.run
	$(BIN)/python benchmarks/spine.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) install "$(TORCH)"
	$(PIP) install -c constraints.txt -e ".[compiled]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.run
	$(BIN)/python -c "import sys; sys.platform != 'linux' or __import__('triton')" 2>/dev/null \
		|| $(PIP) install "$(TRITON)"
	$(PIP) install -c constraints.txt -e ".[compiled,gpu,milp,frame,cluster,report,notebooks,dev]"
	touch $@
