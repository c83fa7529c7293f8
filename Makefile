# Everything sets itself up: a clean clone needs Python 3.11 and this file.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
REMOTE ?= local
JOBS   ?= 2
SCALE  ?= 10
SECONDS ?= 60
MINUTES ?= 10
LONG   := tests/chaos tests/controls tests/faults tests/fuzz tests/model tests/security tests/signing \
          tests/repository/test_healthy.py tests/repository/test_damage_cells.py tests/mirror/test_mirror_cells.py

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test verify check format bench docs reliability fuzz soak clean

help:
	@echo "make demo [REMOTE=localstack]  evaluate a real model through a cache, four times, and compare"
	@echo "make test [JOBS=2]             the tests for every change, LocalStack included, in so many processes"
	@echo "make verify [JOBS=2]           the exhaustive tests: crash points, faults, schedules, model, damage, six storages"
	@echo "make reliability [SCALE=10]    crash points, faults, schedules, model, damage: so many times what make verify does"
	@echo "make fuzz [SECONDS=60]         coverage-guided fuzzing of all that is parsed, so long for each of 22 targets"
	@echo "make soak [MINUTES=10]         writers, readers and maintenance on LocalStack, killed and behind faults"
	@echo "make check                     formatting, lint, types, layers, spelling"
	@echo "make format                    rewrite the code as make check wants it"
	@echo "make bench                     the benchmarks, each with its peer"
	@echo "make docs                      the documentation as a site, in site/"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet -c constraints.txt -e ".[s3,mteb]" --group dev
	@touch $@

demo: $(READY)
	$(BIN)/python examples/demo.py --remote $(REMOTE)

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations 10 -m "not verify"

verify: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations 10 -m verify

reliability: $(READY)
	CAS_CACHE_TEST_SCALE=$(SCALE) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(LONG)
	$(BIN)/python tests/model/protocol.py --large

fuzz: $(READY)
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS)

soak: $(READY)
	$(BIN)/python tests/soak/soak.py --minutes $(MINUTES) --remote localstack

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	@for benchmark in benchmarks/*.py; do echo "== $$benchmark"; $(BIN)/python $$benchmark || exit 1; done

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) .localstack .azurite path_to_cache_dir .demo site
