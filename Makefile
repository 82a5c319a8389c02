# `make` lists the targets. Everything lives in .venv; nothing else on the machine is changed, but
# for the model, which is kept in MEMIT_MODEL_CACHE (default ~/.local/share/memit/models).

PYTHON ?= python3
BIN := .venv/bin

# On Linux, PyPI's torch brings gigabytes of CUDA libraries. MEMIT_TORCH_INDEX may name an index
# with CPU-only wheels, such as PyTorch's own. Untested: no such index was reachable where this was
# written.
PIP_INDEX := $(if $(MEMIT_TORCH_INDEX),--extra-index-url $(MEMIT_TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test check compose-test clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.ready ## Create .venv, install everything, fetch the default model (needs Python >= 3.11)

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python >= 3.11 is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "== creating .venv"
	@$(PYTHON) -m venv .venv || { \
	  echo "cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "== installing (about 1 GB, most of it torch)"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_INDEX) -e '.[dev]'
	@echo "== fetching the default model"
	$(BIN)/python -m memit_core.default_model
	@touch $@

demo: setup ## Watch a model learn facts while it answers, and take one back
	$(BIN)/python scripts/demo.py

serve: setup ## Run the service until Ctrl-C (options by MEMIT_* variables, or: .venv/bin/memit serve --help)
	$(BIN)/memit serve

test: setup ## Run all tests, those with the real model too
	$(BIN)/python -m pytest -n auto --dist worksteal

check: setup ## Format, lint, types, import rules and the fast tests
	@echo "== format";       $(BIN)/ruff format --check .
	@echo "== lint";         $(BIN)/ruff check .
	@echo "== types";        $(BIN)/mypy && $(BIN)/mypy scripts benchmarks examples
	@echo "== import rules"; $(BIN)/lint-imports
	@echo "== fast tests";   $(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow'

# A project name and a free port of its own: it must not touch a running service, nor its volumes.
compose-test: export COMPOSE_PROJECT_NAME = memit-compose-test
compose-test: export MEMIT_PORT = 0
compose-test: export MEMIT_SCRATCH_SAVE_SECONDS = 0
compose-test: ## Start the containers, run docker/e2e.sh against them, take them down (needs Docker)
	@trap 'docker compose down --volumes --rmi local' EXIT; trap 'exit 130' INT TERM; \
	docker compose up --detach --build --wait --wait-timeout 900 \
	  || { docker compose logs --tail 40; exit 1; }; \
	bash docker/e2e.sh

clean: ## Remove .venv and all caches, not the models and not your data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
