# make demo: everything on a made-up genome whose true answer is known. make test: lint, types, tests.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Threads that spin at barriers slow each other down where cores are shared.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test install clean

demo: install
	$(BIN)/python benchmarks/demo.py --out demo

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo
