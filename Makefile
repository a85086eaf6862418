# make demo   the main job on the embedded data: train, compare, draw
# make test   the tests
# Both set up $(VENV) first, once, and need nothing but Python 3.10 or newer with venv.

VENV ?= .venv
PYTHON ?= python3
EXTRAS ?= dev
REQUIREMENTS ?= /dev/null
BIN := $(VENV)/bin

.PHONY: demo test test-timm test-lowest test-slow sweep lint setup

demo: setup
	$(BIN)/python tools/demo.py

test: setup
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# Without mmengine: make test-timm VENV=.venv-timm EXTRAS=test-timm
test-timm: setup
	$(BIN)/python -m pytest tests/timm --numprocesses auto --maxprocesses 4 --dist loadfile

# With the oldest releases that are supported, of OpenMMLab's own packages, on Python 3.10 or 3.11
test-lowest:
	$(MAKE) test VENV=.venv-lowest EXTRAS=test-timm REQUIREMENTS=constraints/lowest.txt

test-slow: setup
	$(BIN)/python -m pytest -m 'slow and not gpu and not sweep' --numprocesses auto --maxprocesses 4 --dist worksteal

sweep: setup
	$(BIN)/python -m pytest -m sweep --log-cli-level=INFO

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.installed

# The stamp comes last, so that an interrupted installation is taken up again.
$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]' --requirement $(REQUIREMENTS)
	touch $@
