# The verbs of the project. `make demo` and `make test` need Python 3.11, git and make, and nothing else.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help venv data demo test check soak layouts lint format docs report clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## create .venv and install everything from constraints.txt

# torch comes first: a plain resolve would fetch the largest build that the registry offers.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt setuptools wheel
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[demo,test,lint,docs]'
	touch $(STAMP)

data: venv  ## fetch the demo's images and weights (230 MB), verified by hash
	$(BIN)/shadowline data fetch

demo: data  ## the whole job on three real product classes
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/shadowline demo

# Tests make and remove many thousands of small files: in memory where there is room, and removed at the end. Others may
# enter the folder, since PostgreSQL does not run as root.
FREE_SHM  = $(shell df --output=avail /dev/shm 2>/dev/null | tail -1)
TESTS_TMP = $(shell test "$(FREE_SHM)" -gt 10000000 2>/dev/null && echo /dev/shm || echo $${TMPDIR:-/tmp})

test: data lint  ## lint, types, and the whole test suite
	folder=$$(mktemp -d $(TESTS_TMP)/tests-XXXXXX) && chmod 711 "$$folder" && trap 'rm -rf "$$folder"' EXIT INT TERM && \
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 TMPDIR="$$folder" $(BIN)/pytest --numprocesses 4 --dist loadscope \
	  --no-loadscope-reorder --junitxml=out/junit.xml

check: data lint  ## lint, types and the unit tests, for daily work
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 tests/unit

soak: data  ## a thousand kills and ten thousand engine sequences; writes docs/soak.json
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python tests/soak.py
	$(BIN)/python docs/generate.py

layouts: data  ## replicas of public data sets, from init to a judged model; writes docs/layouts.json
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python tests/layouts.py

lint: venv  ## ruff, mypy and the layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv  ## let ruff put the code in order
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: venv  ## build the documentation into site/
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

report: venv  ## write data/report/report.html again from what was measured
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/shadowline report

clean:  ## remove results and caches, keep the downloads and the environment
	rm -rf .shadowline data/code data/classes data/images data/manifest data/import data/validation data/features data/evaluation \
	  data/plots data/report data/remote data/audit data/archive data/stream data/*.json models/encoder models/decoder \
	  models/banks models/moments models/identity models/calibration models/legacy models/inspector mlflow.db mlruns \
	  data/records.db* .dvc/cache .dvc/tmp dvc.lock
