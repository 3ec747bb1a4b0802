# make demo   embed the docstrings of the installed packages on this machine, and search them
# make test   everything that has to pass before a change goes in (under 15 minutes on 2 cores, installation included)
#
# Both set up .venv first, where it is missing or stale. PIP_FLAGS goes to pip: where there is no GPU
# and pip would take torch's CUDA build, name the place of its CPU build there, as torch's own
# installation page says.

PYTHON ?= python3
PIP_FLAGS ?=
EXTRAS ?= demo,docs,test
PY := .venv/bin/python
STAMP := .venv/.installed
BENCH_STAMP := .venv-bench/.installed

# what `make bench` embeds: a Parquet, CSV or JSONL file; without one, docstrings
TEXTS ?=
COLUMN ?= text
BENCH_FLAGS ?=
# what `make bench-selection` chooses on
DATA ?=

.PHONY: help setup demo test test-all check docs bench bench-requests bench-operations bench-composition bench-observe bench-selection bench-setup clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile
	@echo "also: make setup, make test-all, make docs, make bench-setup, make bench TEXTS=FILE COLUMN=NAME, make bench-requests, make bench-operations, make bench-composition, make bench-observe, make bench-selection DATA=FOLDER, make clean"

setup: $(STAMP)

# An environment whose interpreter has gone is made anew; otherwise only what changed is installed.
# torch goes first and by its pin, so that nothing else pulls in another build of it.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make setup PYTHON=python3.11"; exit 1; }
	@$(PY) -c pass 2>/dev/null || { echo "making .venv"; $(PYTHON) -m venv --clear .venv; }
	@echo "installing into .venv (minutes, the first time)"
	@$(PY) -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt torch
	@$(PY) -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

# Hundreds of programs are started: each finds the package compiled.
test test-all: export PYTHONDONTWRITEBYTECODE :=

# Two at a time, a file whole in one of them: its tests share clusters.
BESIDE := -n 2 --dist loadfile

demo: setup
	@$(PY) pipelines/docsearch.py

check: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-logo

test: check
	$(PY) -m pytest -q -m "not long and not alone" $(BESIDE)
	$(PY) -m pytest -q -m "alone and not long"

test-all: check
	$(PY) -m pytest -q -m "not alone" $(BESIDE)
	$(PY) -m pytest -q -m alone
	@set -e; for file in benchmarks/[a-z]*.py; do echo "$$file --quick"; $(PY) $$file --quick; done

# Into build/docs; nothing is fetched. Every warning is an error.
docs: setup
	@$(PY) docs/generate.py
	@$(PY) -m sphinx -q -W --keep-going -n -b html docs build/docs
	@echo "build/docs/index.html"

bench-setup: setup $(BENCH_STAMP)

# The peers get an environment of their own: they pin what we must not depend on.
$(BENCH_STAMP): benchmarks/requirements-peers.txt constraints.txt
	@.venv-bench/bin/python -c pass 2>/dev/null || $(PYTHON) -m venv --clear .venv-bench
	@.venv-bench/bin/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -r benchmarks/requirements-peers.txt
	@touch $@

bench: setup
	@$(PY) benchmarks/batch_inference.py $(if $(TEXTS),--texts "$(TEXTS)" --column "$(COLUMN)") $(BENCH_FLAGS)

bench-requests: setup
	@$(PY) benchmarks/requests.py $(BENCH_FLAGS)

bench-operations: setup
	@$(PY) benchmarks/operations.py $(BENCH_FLAGS)

bench-composition: setup
	@$(PY) benchmarks/composition.py $(BENCH_FLAGS)

bench-observe: setup
	@$(PY) benchmarks/observe.py $(BENCH_FLAGS)

bench-selection: setup
	@$(PY) -c 'import mabwiser' 2>/dev/null || $(PY) -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt mabwiser
	@$(PY) benchmarks/selection.py $(if $(DATA),--data "$(DATA)") $(BENCH_FLAGS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache
	find altlas_flow pipelines benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +
