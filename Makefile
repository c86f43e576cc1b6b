# Every target stands behind a ##; `make` alone prints them.
PYTHON ?= python3
# Extra options for pip, for instance an index that offers a CPU build of torch: make report PIP_ARGS="--index-url URL"
PIP_ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help env report test lint studies report-full lab

help: ## print this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

env: .venv/.stamp ## make .venv and install lwq with the versions of constraints.txt

.venv/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lwq needs Python 3.11 or newer; try make PYTHON=python3.12"; exit 2; }
	@echo "Installing into .venv (the first time it takes 2 to 5 minutes, torch is large) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@if git rev-parse --git-dir >/dev/null 2>&1; then \
	  git config filter.nbstripout.clean '$(BIN)/nbstripout'; git config filter.nbstripout.smudge cat; \
	  git config filter.nbstripout.required false; git config diff.ipynb.textconv '$(BIN)/nbstripout -t'; fi
	@touch $@

report: env ## fetch SmolLM2-135M, run the orderings study, write reports/quick/report.html
	@$(BIN)/lwq study orderings --size quick
	@$(BIN)/lwq report --size quick

test: env ## run the tests and the notebooks in one pytest run
	@$(BIN)/python -m pytest tests notebooks --nbval-lax --nbval-cell-timeout=600 $(PYTEST_ARGS)

lint: env ## ruff, mypy, stripped notebooks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/nbstripout --verify notebooks/[1-9]*.ipynb notebooks/template.ipynb

studies: env ## run the laptop-size studies (hours, resumable)
	@$(BIN)/lwq study orderings --size laptop

report-full: env ## rebuild the tracked report from results/table.csv
	@$(BIN)/lwq report --size laptop

lab: env ## open JupyterLab on notebooks/
	@$(BIN)/jupyter lab --notebook-dir=notebooks
