# QuantLens. `make help` lists what there is.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint requirements.lock
RUNTIME  := $(VENV)/.quantlens-runtime
DEV      := $(VENV)/.quantlens-dev
ENGINES  := .venv-llamacpp .venv-mlx
TOOLS    := .venv-tools
LOCKED   := requirements.txt requirements.lock

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test lint types imports pytest unit browser format lock catalog screenshots benchmark clean distclean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  ARGS=... is handed on: make run ARGS='--server.port 8600', make unit ARGS='-k gptq'"

run: $(RUNTIME)  ## start the dashboard on the bundled model and open it in the browser
	@$(BIN)/python -m streamlit run app.py $(ARGS)

test: lint types imports pytest  ## everything: lint, types, import rules, and every test

lint: $(DEV)  ## style and format
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

types: $(DEV)  ## static types, strict
	@$(BIN)/python -m mypy --no-error-summary

imports: $(DEV)  ## who may import whom
	@$(BIN)/lint-imports --no-logo

pytest: $(DEV) $(ENGINES:=/.quantlens)  ## every test, the browser's included, in two processes of one thread each
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

unit: $(DEV) $(ENGINES:=/.quantlens) $(TOOLS)/.quantlens  ## the tests that need no browser, other tools' included
	@$(BIN)/python -m pytest --quiet -m "not browser" $(ARGS)

browser: $(DEV)  ## the tests that click through the app in Chromium
	@$(BIN)/python -m pytest --quiet -m browser $(ARGS)

format: $(DEV)  ## let ruff sort the imports and lay out the code
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

lock: $(DEV)  ## write requirements.lock anew from the environment
	@grep '^#' requirements.lock > requirements.lock.new
	@$(BIN)/python -m pip list --format=freeze --exclude pip --exclude setuptools \
	    | grep -vE '^(nvidia|cuda|triton)' | sed 's/+[a-z0-9.]*$$//' >> requirements.lock.new
	@mv requirements.lock.new requirements.lock

catalog: $(RUNTIME)  ## write quant_core/catalog.json anew from the registries
	@$(BIN)/python -m quant_core catalog $(ARGS)

screenshots: $(DEV)  ## take the pictures of every page anew, into docs/screens
	@$(BIN)/python -m tools.screenshots $(ARGS)

benchmark: $(RUNTIME)  ## list the benchmarks, or run one: make benchmark NAME=...
ifdef NAME
	@$(BIN)/python -m benchmarks.$(NAME) $(ARGS)
else
	@for file in $(filter-out %/__init__.py benchmarks/_%,$(wildcard benchmarks/*.py)); do \
	    awk -v name="$$(basename "$$file" .py)" \
	        '/^"""/ { gsub(/"""/, ""); printf "  make benchmark NAME=%-20s %s\n", name, $$0; exit }' "$$file"; \
	done
endif

clean:  ## remove caches and build results; results and the environment stay
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis \
	    screenshots test-results
	@find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean  ## remove the environment too
	@rm -rf $(VENV) $(ENGINES) $(TOOLS)

# ------------------------------------------------------------------------------------------------------------
# The environment. A stamp newer than the requirements means there is nothing to install.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "QuantLens needs Python 3.11 or later: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(RUNTIME): $(LOCKED) | $(BIN)/python
	@echo "Installing into $(VENV); the first time takes a few minutes."
	@$(PIP) --requirement requirements.txt
	@touch $@

$(DEV): requirements-dev.txt $(LOCKED) | $(BIN)/python
	@echo "Installing into $(VENV), tools for the tests included; the first time takes a few minutes."
	@$(PIP) --requirement requirements-dev.txt
	@touch $(RUNTIME) $@

# Engines as wheels in environments of their own, which see the packages of the main one; where a platform lacks one,
# the tests that run it are skipped.
.venv-tools/.quantlens: DEPENDENCIES := --no-deps
.venv-%/.quantlens: requirements-%.txt | $(BIN)/python
	@echo "Installing $* for its tests."
	@$(BIN)/python -m venv $(@D)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(echo $(@D)/lib/python*/site-packages)/main.pth
	@if $(@D)/bin/python -m pip --disable-pip-version-check --quiet install --only-binary :all: \
	    $(DEPENDENCIES) --requirement $<; then touch $@; \
	    else echo "No $* for this platform: what runs in it is not tested." >&2; fi
