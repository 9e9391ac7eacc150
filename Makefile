# Everything from nothing: each target makes the virtual environment it needs.
PYTHON ?= python3
# For a GPU: make run EXTRAS=cuda13 (or cuda12), by the CUDA major that the driver supports.
EXTRAS ?=
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: run test test-long lint clean

run: $(VENV)/installed-run$(EXTRAS)
	$(BIN)/gpu-npu run seed --bursts 1000

test: lint
	$(BIN)/python -m pytest -m "not long" -n $(WORKERS)

test-long: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m long -n $(WORKERS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-run$(EXTRAS): $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".$(if $(EXTRAS),[$(EXTRAS)])"
	touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[test,dev]"
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
