# Everything a user or a contributor types. The environment is .venv in the checkout.
PYTHON ?= $(shell for v in python3.11 python3.12 python3; do $$v -c "import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))" >/dev/null 2>&1 && echo $$v && break; done || echo python3)
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8501
PYTEST_ARGS ?=
JOBS ?= 2
GPU_ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help env run test check bench profile bench-memory kernels mutants gpu editor clean lessons
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

# The stamps make a second start immediate: pip runs again only when the requirements change.
$(VENV)/.env-stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else "Deltalab needs Python 3.11 or 3.12; this is %d.%d. Install one of them, or name it: make run PYTHON=python3.12" % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'Installing Deltalab into $(VENV) (some minutes the first time) …'
	@$(BIN)/python -m pip install -qq --upgrade pip
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test-stamp: $(VENV)/.env-stamp
	@echo 'Installing what the tests need …'
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[test]'
	@touch $@

env: $(VENV)/.env-stamp  ## create .venv and install Deltalab into it

run: env  ## open the app on http://127.0.0.1:8501 (PORT=… for another port)
	$(BIN)/deltalab serve --port $(PORT)

# In three parts. Side by side what can be, each worker on a processor of its own; then what needs a browser, each worker
# with a server and a Chromium of its own; then what measures time, with nothing beside it.
# (pytest ends with 5 when PYTEST_ARGS choose none of a part.)
SIDE_BY_SIDE = -n $(JOBS) --dist loadfile --no-loadscope-reorder
test: $(VENV)/.test-stamp  ## run every test (the browser tests need a Chromium; without one they skip, saying so)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not alone and not browser" $(PYTEST_ARGS) || [ $$? = 5 ]
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "browser and not alone" $(PYTEST_ARGS) || [ $$? = 5 ]
	$(BIN)/python -m pytest -m "alone" $(PYTEST_ARGS) || [ $$? = 5 ]

check: $(VENV)/.test-stamp  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test-stamp  ## step speed and peak memory against transformers.Trainer + PEFT, on this machine's CPU
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m tests.bench

profile: $(VENV)/.test-stamp  ## where a training step's time goes on this machine's CPU
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m tests.profile_step

bench-memory: $(VENV)/.test-stamp  ## the memory and parameter calculators against real steps and published figures (CPU)
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m tests.bench_memory

kernels: $(VENV)/.test-stamp  ## compile every kernel for every generation of cards, without one (some minutes)
	$(BIN)/python -m tests.kernels.ahead

mutants: $(VENV)/.test-stamp  ## break the kernels on purpose, one line at a time: do their tests notice?
	$(BIN)/python -m tests.kernels.mutants

# A machine with a card may have no network, and the packages in a Python of its own: the environment is taken if it is
# there or can be made (pip tries once), else the first Python found that has torch and transformers.
gpu:  ## GPU tests and benchmarks; writes their records (needs a CUDA device; GPU_ARGS=--dry-run rehearses)
	@PIP_RETRIES=0 PIP_DEFAULT_TIMEOUT=20 $(MAKE) --no-print-directory $(VENV)/.test-stamp \
		|| echo 'The environment is not complete here: going on with the packages that are found.'
	@for python in $(BIN)/python $(PYTHON) python3 python; do \
		$$python -c 'from importlib.util import find_spec as f; exit(not (f("torch") and f("transformers")))' \
			>/dev/null 2>&1 && exec $$python -m tests.gpu $(GPU_ARGS); \
	done; echo 'No Python here has torch and transformers; nothing was measured.' >&2; exit 2

lessons: $(VENV)/.test-stamp  ## run the whole course at full size: every experiment, measurement, code cell and exercise
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m tests.lessons

editor:  ## build the code editor anew from app/components/editor/source (needs node; the built file is in the repository)
	cd app/components/editor && npm ci --silent --no-audit --no-fund && npm run --silent build

clean:  ## remove the environment and the caches (never your runs)
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
