# `make demo` and `make test` set themselves up on a fresh checkout with Python 3.11, make and a package index.
#
#   PIP_ARGS   is passed to pip: without a GPU, point it at an index with a CPU build of torch
#   HEADLESS=1 `make demo` stops at the end and exits 0 only if every stage really happened
#   HOME_DIR   where `make demo` keeps its store and runs; .moescope by default
#   PYTEST_ARGS is passed to pytest, as in PYTEST_ARGS="tests/monitors -x"

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=
HOME_DIR ?= .moescope
HEADLESS ?=
PYTEST_ARGS ?=

TORCH := torch==2.13.0
BIN := .venv/bin
READY := .venv/.ready
# two cores: a test process each, and no threads on top of them; what was compiled once is kept, since
# pytest takes ten seconds to rewrite all tests and a part of CI reads them again
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: help .venv demo up test stories story-spine story-trainer story-health story-dashboard story-store story-studies check lint format types docs bench score clean

help:
	@echo "make demo     trains on made clips, meets poisoned ones, rolls back, recovers; a browser shows it"
	@echo "make test     the tests, under ten minutes on two cores"
	@echo "make stories  whole journeys in real processes"
	@echo "make check    format, lint, types, generated pages"
	@echo "make bench    what watching and a layer of experts cost, as ratios"
	@echo "make score    what the detectors find and how late; the ablations of the sources at toy scale"
	@echo "make docs     writes the generated pages anew"
	@echo "make clean    takes away what was built; not .venv, not the runs"

.venv: $(READY)

# torch first and alone: another package's requirement must not choose its version
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=..."'
	$(BIN)/python -m pip install --no-compile $(PIP_ARGS) $(TORCH)
	$(BIN)/python -m pip install --no-compile $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@# on every core, where pip takes one; what is left out, and what is no Python for this version, is compiled if used
	$(BIN)/python -W ignore -m compileall -qq -j 0 -x '/(tests|transformers/models)/' .venv/lib || true
	touch $(READY)

demo: $(READY)
	MOESCOPE_HOME="$(HOME_DIR)" $(BIN)/moescope demo $(if $(filter-out 0,$(HEADLESS)),--headless)

up: $(READY)
	$(BIN)/moescope up

test: $(READY)
	$(PYTEST) -n 2 --dist worksteal -m "not story"

stories: story-spine story-trainer story-health story-dashboard story-store story-studies

# the demo has five minutes on two cores: nothing else runs beside it
story-spine: $(READY)
	$(PYTEST) -m story tests/stories/spine/test_demo.py --durations=0
	$(PYTEST) -n 2 --dist loadfile -m story tests/stories/spine --ignore=tests/stories/spine/test_demo.py --durations=0

story-trainer: $(READY)
	$(PYTEST) -n 2 --dist worksteal -m story tests/stories/trainer tests/trainer --durations=0

story-health: $(READY)
	$(PYTEST) -n 2 --dist worksteal -m story tests/stories/health tests/monitors --durations=0

story-dashboard: $(READY)
	$(PYTEST) -n 2 --dist loadfile -m story tests/stories/dashboard tests/dashboard --durations=0

# makes a PostgreSQL of its own from Debian's package postgresql, and mounts small disks where it may
story-store: $(READY)
	$(PYTEST) -n 2 -m story tests/stories/store tests/contracts tests/platform --durations=0

# the Slurm story wants a cluster: line=$$(tests/services/slurm.sh start) && eval "$$line"
story-studies: $(READY)
	$(PYTEST) -n 2 --dist loadfile -m story tests/stories/studies tests/studies --durations=0

check: $(READY)
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	$(BIN)/python docs/generate.py --check

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy names modules after the checkout's folder, so it checks a copy that is called moescope; the copy is fresh,
# or a module that was deleted would still be found in it
types: $(READY)
	rm -rf build
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation --target build/stage .
	MYPYPATH=build/stage $(BIN)/mypy --namespace-packages --explicit-package-bases -p moescope | tee build/types.txt
	@# an exclude pattern that swallows the package would check one file and report success
	@test "$$(sed -n 's/.*in \([0-9]*\) source files.*/\1/p' build/types.txt)" -ge 50

docs: $(READY)
	$(BIN)/python docs/generate.py

bench: $(READY)
	for file in $(filter-out benchmarks/turns.py benchmarks/fleet_of_runs.py benchmarks/in_chromium.py benchmarks/score_%,$(wildcard benchmarks/*.py)); do \
		echo "== $$file"; OMP_NUM_THREADS=1 $(BIN)/python "$$file"; done

score: $(READY)
	for file in $(wildcard benchmarks/score_*.py); do \
		echo "== $$file"; OMP_NUM_THREADS=1 $(BIN)/python "$$file"; done

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
