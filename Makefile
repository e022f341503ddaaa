# Every target does the set-up that is missing first. PYTHON chooses the interpreter (3.11 or 3.12), LOCK the lock: cpu or gpu;
# TORCH_INDEX is where torch's CPU build comes from if pip does not find it where it looks anyway: PyTorch's own index.
PYTHON ?= python3.11
LOCK ?= cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(LOCK)
OTHER := $(filter-out $(STAMP),$(wildcard $(VENV)/.installed-*))
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup quickstart test test-fast check bench gpu-check calibrate reference clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## make .venv with the pinned stack (about 3 minutes)

$(STAMP): requirements/$(LOCK).txt requirements/dev.txt requirements/natural.txt requirements/install_torch.sh pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not there; install Python 3.11 or 3.12, or say make PYTHON=/path/to/it" >&2; exit 2; }
	@# Both engines are a package named vllm: one installed over the other leaves a mixture of both.
	@test -z "$(OTHER)" || { echo "make: $(VENV) has another lock's packages ($(OTHER)); remove $(VENV), or say make VENV=.venv-$(LOCK) LOCK=$(LOCK)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing $$(cat requirements/$(LOCK).txt requirements/dev.txt | wc -l) pinned packages (about 4 GB) ..."
	$(if $(filter cpu,$(LOCK)),requirements/install_torch.sh $(BIN)/python requirements/$(LOCK).txt "$(TORCH_INDEX)")
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r requirements/$(LOCK).txt -r requirements/dev.txt $(if $(filter cpu,$(LOCK)),-r requirements/natural.txt)
	@# Compiled once here on all cores: without bytecode each of Ray's processes would spend 10 s and more on imports.
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true  # a few packages carry templates that are no Python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/inoc-ray doctor
	@touch $@

quickstart: setup ## the whole path in miniature: train, serve, judge, compare (about 5 minutes)
	$(BIN)/inoc-ray run jobs/studies/quickstart.yaml

test: setup check ## all tests (about 45 minutes on two cores)
	@# Two at a time, a file on one of them: most tests of the real stack wait for a start half of their time.
	@# In the order of tests/conftest.py, the longest file first; xdist's own order would begin it last.
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=20 --durations-min=20

test-fast: setup ## unit tests that start no part of the real stack (about 3 minutes on two cores)
	@# Random inputs a quarter as many as in `make test`.
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=fast $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow" --durations=10 --durations-min=2 tests/unit

check: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## timings as ratios, side by side
	$(BIN)/python -m pytest -q -s -m bench tests/benchmarks

# Any Python that has torch, transformers, peft and deepspeed; ours is not needed, and not made.
GPU_PYTHON ?= $(firstword $(wildcard $(BIN)/python) python3)
TABLE ?= gpu-check.md
gpu-check: ## show on this machine's GPU that 7B and 32B are trained (docs/gpu.md; GPU_PYTHON=…, TABLE=…)
	$(GPU_PYTHON) tests/gpu/check.py --out $(TABLE)

calibrate: setup ## coverage and error rates of the statistics by simulation, into docs/statistics.md (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m inoc_ray.results.calibrate --out docs/statistics.md

reference: setup ## write what the docs take from the code: docs/reference.md, the tree in docs/architecture.md
	$(BIN)/python -m inoc_ray.study.reference --out docs/reference.md
	$(BIN)/python docs/tree.py

clean: ## remove what running and testing left behind (not .venv, not runs/)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
