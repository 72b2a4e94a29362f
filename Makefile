# Two commands on a fresh machine: `make demo` and `make test`. They need Python 3.11+, make and git; on Linux the
# tests also need bubblewrap and tmux.
#   make demo [DEVICE=cuda13|cuda12|cpu]   Linux: which MLX; macOS always has Metal
#   make test                              the whole suite          make check   linters, types, import rules

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OS     := $(shell uname -s)
# The MLX that an environment was made with stays its own: another one would overwrite it without a word.
MADE   := $(firstword $(patsubst $(VENV)/.run-%,%,$(wildcard $(VENV)/.run-*)))
DEVICE ?= $(or $(MADE),cpu)

ifeq ($(OS),Darwin)
  RUN_EXTRAS := [tui]
  DEV_EXTRAS := [dev,torch,tui,serve]
else
  RUN_EXTRAS := [$(DEVICE),tui]
  DEV_EXTRAS := [$(DEVICE),dev,torch,tui,serve]
endif

# uv where there is one (it finds a Python, or fetches one, unless one is named), else venv and pip.
ifneq ($(shell command -v uv 2>/dev/null),)
  MAKE_VENV := uv venv --seed --quiet --python "$(if $(filter file,$(origin PYTHON)),>=3.11,$(PYTHON))" $(VENV)
  INSTALL   := uv pip install --quiet --python $(BIN)/python
else
  MAKE_VENV := $(PYTHON) -m venv $(VENV)
  INSTALL   := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: help demo test test-kills check format bench-demo bench-cuda bench-peers bench-memory bench-grpo bench-tui screenshots readme clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

$(BIN)/python:
	$(MAKE_VENV) || { rm -rf $(VENV); exit 1; }
	@$@ -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { rm -rf $(VENV); \
	    echo "mlx-align needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }

.PHONY: one-device
one-device:
	@for other in $(VENV)/.run-*; do \
	  case "$$other" in "$(VENV)/.run-$(DEVICE)" | "$(VENV)/.run-*") ;; *) \
	    echo "$(VENV) was made with DEVICE=$${other#$(VENV)/.run-}, which $(DEVICE) would overwrite: make clean first"; \
	    exit 1 ;; esac; done

$(VENV)/.run-$(DEVICE): $(BIN)/python pyproject.toml | one-device
	@echo "installing (about a minute) ..."
	$(INSTALL) -e '.$(RUN_EXTRAS)'
	@rm -f $(VENV)/.run-* $(VENV)/.dev-* && touch $@

$(VENV)/.dev-$(DEVICE): $(BIN)/python pyproject.toml | one-device
	@echo "installing (some minutes) ..."
	$(INSTALL) -e '.$(DEV_EXTRAS)'
	@rm -f $(VENV)/.run-* $(VENV)/.dev-* && touch $@ $(VENV)/.run-$(DEVICE)

demo: $(VENV)/.run-$(DEVICE)
	$(BIN)/mlx-align orpo
	@echo 'To type mlx-align yourself: source $(BIN)/activate'

# A worker for each core, up to four, and a file's tests on one; libraries with threads of their own would only be in
# each other's way. The files with the longest tests come first by their names: the order is left as it is.
test: $(VENV)/.dev-$(DEVICE)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest \
	  -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The long form of the proof that a killed run is resumed bit for bit.
test-kills: $(VENV)/.dev-$(DEVICE)
	KILLS=20 $(BIN)/python -m pytest tests/faults/test_kill.py

check: $(VENV)/.dev-$(DEVICE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev-$(DEVICE)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The long form of the demo's promise: three methods, three seeds; writes tests/bench/results/manner.json.
bench-demo: $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m tests.bench.manner

# The parity proof on an NVIDIA GPU; writes tests/bench/results/parity-*.json and selftest/*.json.
bench-cuda: $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m tests.bench.cuda_parity

# Other projects' trainers on the same work, alone on the machine for some hours; writes tests/bench/results/peers.json.
# For a part of it: make bench-peers PEERS='--cells headline --arms ours trl'
bench-peers: $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m tests.bench.peers.environments
	$(BIN)/python -m tests.bench.peers.run $(PEERS)

# The memory planner against MLX's own count; writes tests/bench/results/memory.json.
bench-memory: $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m tests.bench.memory

# GRPO: three seeds on the embedded model, and what sampling and an update cost; writes grpo.json, rollouts.json and
# grpo-step.json under tests/bench/results.
bench-grpo: $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m tests.bench.rollouts
	$(BIN)/python -m tests.bench.grpo_step
	$(BIN)/python -m tests.bench.grpo

# The terminal UI with a run of 100,000 events, on a quiet machine; writes tests/bench/results/tui-speed.json.
bench-tui: $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m tests.bench.tui_speed

# The README's pictures of the terminal UI, of a demo run that is trained for them; writes apps/screenshots/*.svg.
screenshots: $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m tests.bench.screenshots

# Put the measured figures into README.md.
readme: $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m tests.bench.readme

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
