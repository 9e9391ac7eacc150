# Everything from nothing: each target makes the virtual environment it needs.
PYTHON ?= python3
# cuda13, cuda12 or nothing, by what the NVIDIA driver supports; make run EXTRAS= leaves CUDA out.
ifeq ($(origin EXTRAS), undefined)
EXTRAS := $(shell $(PYTHON) gpu_npu/backends/toolchain/driver.py)
endif
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: run test test-long lint wheel clean

run: $(VENV)/installed-run$(EXTRAS)
	$(BIN)/gpu-npu run seed --bursts 1000

test: lint
	$(BIN)/python -m pytest -m "not long" -n $(WORKERS)

# What is timed is timed alone.
test-long: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m long -n $(WORKERS) --ignore=tests/profiling/test_speed.py --ignore=tests/profiling/test_calls.py
	$(BIN)/python -m pytest -m long tests/profiling/test_speed.py tests/profiling/test_calls.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/mypy

# A Linux x86-64 wheel with the CPU library built in advance; auditwheel finds the oldest glibc that it runs on.
wheel: $(VENV)/installed-wheel
	rm -rf dist/linux
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=true $(BIN)/hatchling build --target wheel --directory dist/linux
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist dist/linux/*.whl
	rm -rf dist/linux

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-run$(EXTRAS): $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".$(if $(EXTRAS),[$(EXTRAS)])"
	touch $@

$(VENV)/installed-wheel: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[wheel]"
	touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[test,dev]"
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
