# Two commands, each doing all of its own set-up:
#   make demo   run the main job on embedded data    (DATA=file.h5ad for your own)
#   make test   run the tests
# and for those who change it:
#   make lint   ruff, mypy, and what services read of this repository
#   make docs   the documentation, with warnings as errors: docs/_build/html/index.html
#   make links  the addresses in it that lead elsewhere (needs a network)
# Choose an interpreter with PYTHON=python3.13; each has its own environment.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV ?= .venv-$(VERSION)
BIN := $(VENV)/bin
# The versions that were tested on this Python, where such a list exists.
CONSTRAINTS := $(wildcard constraints/python$(VERSION).txt)

OUT ?= demo_output
DATA ?=
ARGS ?=
# Processes that share the tests, of one thread each; files stay whole, for the sake of what their
# tests share. 0: the process that is started.
WORKERS ?= 2
# pytest's plugins: these alone, as zarr has one, too, for which pytest rewrites all of zarr.
PLUGINS := -p xdist -p pytest_cov -p hypothesispytest

.PHONY: demo test lint docs links clean

demo: $(VENV)/.installed
	$(BIN)/scalex-scvi demo $(DATA) --outdir $(OUT) $(ARGS)

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 \
		$(BIN)/python -m pytest $(PLUGINS) \
		--numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python packaging/check.py

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -b html docs docs/_build/html $(ARGS)

links: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -b linkcheck docs docs/_build/links $(ARGS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

INSTALL = $(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS))

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) --editable '.[test,peers]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv-* demo_output docs/_build docs/generated
