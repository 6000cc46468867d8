# Every target sets itself up from a bare clone in .venv; another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
.PHONY: help demo test lint docs bench cohort image fuzz faults audit clean

help:
	@echo "make demo    super-resolve a numerical brain phantom and open the report's path"
	@echo "make test    run the tests"
	@echo "make lint    run ruff and mypy"
	@echo "make docs    build the API reference: build/docs/index.html"
	@echo "make bench   measure against peers, print a table of ratios"
	@echo "make fuzz    feed damaged files to every reader for ten minutes"
	@echo "make faults  kill runs, fill disks, take memory away; print what was lost"
	@echo "make audit   licences and known vulnerabilities of all dependencies"
	@echo "make cohort  40 scans of a BIDS data set: workers killed, the scheduler restarted, nothing lost"
	@echo "make image   build the container of the BIDS App, where there is Docker"
	@echo "make clean   remove $(VENV) and build products"

demo: $(VENV)/.core
	$(BIN)/dwi-superres demo --output demo --overwrite

test: $(VENV)/.test
	sh Testing/install_system_packages.sh
	@# Many tests start a Python; where PYTHONDONTWRITEBYTECODE is set, each would compile the library anew.
	$(BIN)/python -m compileall -q DWISuperResLib Testing
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet --doctree-dir build/doctrees docs build/docs
	@echo "build/docs/index.html"

bench: $(VENV)/.test
	sh Testing/install_system_packages.sh
	$(BIN)/python -m compileall -q DWISuperResLib Testing
	$(BIN)/python -m Testing.benchmarks

fuzz: $(VENV)/.test
	$(INSTALL) --only-binary :all: --editable ".[fuzz]" \
		|| echo "atheris has no wheel for this Python: plain mutations instead"
	$(BIN)/python -m Testing.fuzz

faults: $(VENV)/.test
	$(BIN)/python -m Testing.faults

audit: $(VENV)/.test
	$(INSTALL) --editable ".[audit]"
	$(BIN)/python -m Testing.audit

cohort: $(VENV)/.test
	rm -rf runs/cohort
	OMP_NUM_THREADS=1 $(BIN)/python -m Testing.benchmarks.cohort --folder runs/cohort

# CUDA: make image TORCH_INDEX=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
image:
	@if docker info >/dev/null 2>&1; then \
		docker build --build-arg TORCH_INDEX=$(TORCH_INDEX) --tag dwi-superres . ; \
	else \
		echo "skipped: there is no Docker engine here; apptainer.def builds the same with Apptainer"; \
	fi

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable .
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable ".[test,slicer]"
	touch $@ $(VENV)/.core

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable ".[docs]"
	touch $@ $(VENV)/.core
