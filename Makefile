# `make check` before every commit, `make test` for everything; what a target needs it builds itself.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help venv criu format check static test fuzz carry transitions demo demo-drain demo-inference storm bench bench-checkpoint bench-scheduler bench-device bench-router bench-gpu golden lock clean

PYTHON ?= python3
BIN := .venv/bin
DEPS := .venv/.deps
STAMP := .venv/.stamp
SEEDS ?= 50
COUNT ?= 20
EXAMPLES ?= 200
SEED ?= 1
PLOTS ?= build/plots
FAST := tests/unit tests/properties tests/contract tests/conformance tests/golden
PYTEST := $(BIN)/python -m pytest -q
# Two files at a time, in their order, so that the many short ones of tests/unit are last: by itself
# xdist begins the files with the most tests first, and ends with a few tests of many processes.
BESIDE := -n 2 --dist loadfile --no-loadscope-reorder

help:  ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

venv: $(STAMP)  ## the pinned environment in .venv

$(DEPS): requirements.lock requirements-torch.txt
	@command -v $(PYTHON) >/dev/null || { echo "venv: no $(PYTHON) here; install Python 3.11 or later, or set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "venv: $(PYTHON) is older than 3.11; set PYTHON= to a newer one" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "venv: $(PYTHON) has no venv module; install your distribution's python3-venv" >&2; exit 1; }
	@echo "venv: 1/4 an empty environment in .venv" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "venv: 2/4 what requirements.lock pins (about 150 packages)" >&2
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@echo "venv: 3/4 torch (200 MB or more, once)" >&2
	@$(BIN)/python -m pip install --quiet -r requirements-torch.txt
	@touch $(DEPS)

$(STAMP): $(DEPS) pyproject.toml
	@echo "venv: 4/4 singularity itself" >&2
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

criu:  ## a CRIU that works here in .criu (skipped with one line where none can be had)
	@deploy/install-criu.sh .criu

format: $(STAMP)  ## format the tree
	@$(BIN)/ruff check --quiet --fix --select I .
	@$(BIN)/ruff format --quiet .

static: $(STAMP)
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

check: static  ## format, lint, types, import contracts, fast tests (two minutes)
	$(PYTEST) $(BESIDE) $(FAST)

test: static criu  ## everything: check, simulation, integration
	$(PYTEST) $(BESIDE) tests

fuzz: $(STAMP)  ## EXAMPLES=200 requests to each operation of the REST API, by chance (SEED=n repeats them)
	SINGULARITY_FUZZ=$(EXAMPLES) SINGULARITY_SEED=$(if $(filter command line environment,$(origin SEED)),$(SEED),0) \
	  $(PYTEST) -s tests/integration/test_contract.py tests/integration/test_strange_requests.py

carry: $(STAMP) criu  ## every way people run PyTorch, moved, to the bit
	SINGULARITY_CARRY=all $(PYTEST) tests/integration/test_carry.py

transitions: $(STAMP) criu  ## COUNT=20 random transitions of one training (SEED=1), to the bit
	SINGULARITY_TRANSITIONS=$(COUNT) SINGULARITY_SEED=$(SEED) $(PYTEST) tests/integration/test_transitions.py

demo: $(STAMP) criu  ## a planet on this machine, a real training job, and what befalls it
	$(BIN)/python examples/digits/demo.py

demo-drain: $(STAMP) criu  ## a region drained under six trainings, by plan; then half of a drain, aborted
	$(BIN)/python -m examples.drain.demo

demo-inference: $(STAMP) criu  ## a service whose load rises tenfold, and the training that lends it devices
	$(BIN)/python -m examples.inference.demo

storm: $(STAMP)  ## SEEDS=50 simulated planets under faults
	$(BIN)/python -m singularity.scheduler.sim storm --seeds $(SEEDS)

bench: $(STAMP)  ## the figures, with their ranges and the runs they came from
	@for figure in overhead elastic splice store plane submits; do echo "== bench/$$figure.py"; $(BIN)/python bench/$$figure.py || exit 1; done

bench-checkpoint: $(STAMP) criu  ## what a cut, a move and shared devices cost
	@for figure in overhead elastic splice store migration faults plane; do \
	  echo "== bench/$$figure"; $(BIN)/python bench/$$figure.py || exit 1; done

bench-scheduler: $(STAMP)  ## what decisions and questions cost; with DATA=dir that holds openb, pollux, servegen or kueue, these too
	$(BIN)/python bench/scale.py
	$(BIN)/python bench/resident.py
	$(BIN)/python bench/following.py
	$(BIN)/python bench/goodput.py
	$(BIN)/python bench/eta.py --days 2 --seeds 3
	$(BIN)/python bench/whatif.py
	@for dir in "$(DATA)" "$(DATA)/openb"; do \
	  test ! -f "$$dir/openb_node_list_gpu_node.csv" || $(BIN)/python bench/openb.py --data "$$dir" || exit 1; done
	@for dir in "$(DATA)" "$(DATA)/pollux"; do \
	  test ! -f "$$dir/philly_82k.csv" || $(BIN)/python bench/philly.py --data "$$dir" || exit 1; done
	@test ! -d "$(DATA)/pollux/workloads" || $(BIN)/python bench/pollux.py --data "$(DATA)"
	$(BIN)/python bench/decisions.py
	@for dir in "$(DATA)" "$(DATA)/kueue"; do for set in baseline large-scale; do \
	  test ! -f "$$dir/$$set/generator.yaml" || $(BIN)/python bench/kueue.py --data "$$dir" --set $$set || exit 1; done; done
	@test ! -d "$(DATA)/servegen" || $(BIN)/python bench/services.py --data "$(DATA)"
	@test ! -d "$(DATA)/servegen" || test ! -d "$(DATA)/pollux" || $(BIN)/python bench/lending.py --data "$(DATA)"

bench-device: $(STAMP)  ## preemption inside a device, modelled and real; PNGs in PLOTS=build/plots
	@for figure in levels disb pace shim ptx cpu; do \
	  echo "== bench/device.py $$figure"; $(BIN)/python bench/device.py --plots $(PLOTS) $$figure || exit 1; done
	@echo "== bench/device_share.py"; $(BIN)/python bench/device_share.py

bench-router: $(STAMP)  ## what a router costs
	$(BIN)/python bench/router.py

bench-gpu: $(STAMP)  ## preemption on a GPU (one line where there is none)
	$(BIN)/python bench/device.py gpu

golden: $(STAMP)  ## record plans anew; review them with git diff
	SINGULARITY_GOLDEN=write $(PYTEST) tests/golden

lock: $(STAMP)  ## pin anew what pyproject.toml asks for
	@# pip-compile writes the torch of this machine's index at the end; the head says why not here.
	@sed -n '/^#/!q;p' requirements.lock > .venv/lock.head
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
	  --unsafe-package torch --extra dev --extra examples --extra plot --output-file .venv/lock.body pyproject.toml
	@{ cat .venv/lock.head; sed '/^# The following packages/,$$d; /^# WARNING/,$$d' .venv/lock.body; } > requirements.lock

clean:  ## everything that was made here
	rm -rf .venv .criu build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
