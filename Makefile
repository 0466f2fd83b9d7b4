# Everything here works on a fresh machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV   := .venv
PY     := $(VENV)/bin/python

.PHONY: install quickstart test test-all bench lint types clean

install: $(VENV)/.installed

# Installed again when the dependencies change.
$(VENV)/.installed: pyproject.toml
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(PY) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version) if sys.version_info < (3, 11) else None'
	@echo "Installing into $(VENV): some minutes and, with CUDA builds of torch, several GB."
	$(PY) -m pip install --quiet --editable '.[dev]'
	@touch $@

quickstart: install
	$(PY) evaluate.py generate --config configs/gm_fashion/quickstart.yaml
	$(PY) train.py --config configs/quickstart.yaml

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: install
	$(VENV)/bin/mypy

# Two workers of one thread each take two thirds of the time of one with two.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

test: lint types
	$(PYTEST)

test-all: lint types
	$(PYTEST) -m 'not gpu and not benchmark'

bench: install
	$(PY) -m pytest tests/benchmarks -m benchmark -s

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
