# A fresh machine needs Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
# Without bytecode a process pays up to 20 s of imports where PYTHONDONTWRITEBYTECODE is set, hence --compile-bytecode.
STAMP   = $(VENV)/.installed

.PHONY: help env train test test-all lint lock audit clean
.DEFAULT_GOAL := help

help: ## show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

env: $(STAMP) ## make the environment in .venv (about 6 GB: torch brings its CUDA libraries)

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("Python %d.%d found, 3.11 or newer needed: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python -m uv pip install --compile-bytecode --require-hashes -r requirements.lock
	@touch $@

train: env ## train EMIS-Net on generated images on the CPU (under 3 minutes), nothing to download
	$(BIN)/python -m src.train experiment=quickstart

lint: env ## formatting, lint rules and types
	$(BIN)/ruff format --check src tests experiments
	$(BIN)/ruff check src tests experiments
	$(BIN)/mypy

test: lint ## environment, lint, types and the quick tests (set EMISNET_DATA to run the real-data tests)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: lint ## the same with the tests that take long: before a release, and after changes of what they look at
	$(BIN)/python -m pytest -n 2 --dist worksteal

lock: ## renew requirements.lock from pyproject.toml
	uv pip compile --universal --all-extras --generate-hashes --no-emit-index-url --no-annotate -q pyproject.toml -o requirements.lock

audit: env ## look the pinned packages up among known vulnerabilities (needs the network)
	$(BIN)/python -m uv tool run pip-audit -r requirements.lock --require-hashes --disable-pip --strict

clean: ## remove caches (runs and the environment stay)
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
