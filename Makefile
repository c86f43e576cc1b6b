# `make` alone prints the targets: whatever stands behind ## is shown.
PYTHON ?= python3
# More options for pip. On Linux, PyPI's torch is a CUDA build of several GB; with an index that carries the CPU build:
#   make report PIP_ARGS="--extra-index-url URL"
PIP_ARGS ?=
# More options for pytest: make test PYTEST_ARGS="-k gptq --cov"
PYTEST_ARGS ?=
# Options for the benchmarks: make bench BENCH_ARGS="--only sweep --repeat 3"
BENCH_ARGS ?=
# What make report compresses with: rounding that needs no statistics, and no guard, since the table says what uniform bits give.
QUICK := --quantizer rtn --nsamples 8 --seqlen 256 --no-guard
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on $(PIP_ARGS) -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help env report test lint studies report-full notebooks lab bench

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

env: .venv/.stamp ## make .venv and install lwq with the versions of constraints.txt

# The stamp holds the folder it was made in: the scripts of a clone that was moved or copied still name the old one.
ifneq "$(shell cat .venv/.stamp 2>/dev/null)" "$(CURDIR)"
.PHONY: .venv/.stamp
endif
.venv/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "lwq needs Python 3.11 or newer, and '$(PYTHON)' is not; name another: make PYTHON=python3.13"; exit 2; }
	@if [ -f $@ ] && [ "$$(cat $@)" != "$(CURDIR)" ]; then echo "this folder was moved: making .venv again"; rm -rf .venv; fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing lwq and what it needs into .venv: 2 to 4 minutes, longer where torch (0.2 to 3 GB) comes slowly ..."
	@$(INSTALL) -e '.[test]'
	@if up=$$(git rev-parse --show-cdup 2>/dev/null) && [ -z "$$up" ]; then \
	  git config filter.nbstripout.clean '$(BIN)/nbstripout --keep-id' && git config filter.nbstripout.smudge cat && \
	  git config diff.ipynb.textconv '$(BIN)/nbstripout --keep-id -t'; fi
	@printf '%s' "$(CURDIR)" > $@

.venv/.stamp-dev: .venv/.stamp
	@echo "Installing ruff, mypy and pre-commit into .venv ..."
	@$(INSTALL) -e '.[dev]'
	@touch $@

report: env ## fetch SmolLM2-135M, find its best bits, write it smaller, and reports/quick/report.html
	@$(BIN)/lwq study which_score --size quick
	@$(BIN)/lwq compress smollm2-135m --size 95MB $(QUICK) --out out/smollm2-135m-95MB
	@$(BIN)/lwq report --size quick

test: env ## run the tests and the notebooks, in one pytest run, a process a core
	@$(BIN)/python -m pytest tests notebooks --numprocesses=auto --dist=loadscope --nbval-lax --nbval-cell-timeout=600 $(PYTEST_ARGS)

lint: .venv/.stamp-dev ## ruff, mypy, notebooks without outputs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/nbstripout --keep-id --verify $(filter-out notebooks/00_tour.ipynb,$(wildcard notebooks/*.ipynb))

studies: env ## run the studies at laptop size (days on two cores, resumable; an estimate comes first)
	@for file in $$(grep -l '^  laptop:' studies/*.yaml); do \
	  name=$$(basename $$file .yaml); [ $$name = common ] || $(BIN)/lwq study $$name --size laptop || exit $$?; done

report-full: env ## rebuild the tracked report from results/table.csv
	@$(BIN)/lwq report --size laptop

notebooks: env ## run the notebooks at laptop size from results/table.csv into reports/notebooks/; measures nothing
	@$(BIN)/lwq report --notebooks

lab: env ## open JupyterLab at the clone, with the tour in front
	@$(BIN)/python -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_tour.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

bench: env ## compare speed and memory with peers, each in an environment of its own (an hour or two, resumable)
	@PIP_ARGS="$(PIP_ARGS)" $(BIN)/python benchmarks/run.py $(BENCH_ARGS)
	@PIP_ARGS="$(PIP_ARGS)" $(BIN)/python benchmarks/schemes.py
