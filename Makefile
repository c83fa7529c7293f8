# Everything sets itself up: a clean clone needs Python 3.11 to 3.14 and this file.
PYTHON ?= python3.11 python3.12 python3.13 python3.14 python3
TORCH_INDEX ?=
REMOTE ?= local
JOBS   ?= 3
VERIFY_JOBS ?= 2
SCALE  ?= 10
SECONDS ?= 60
MINUTES ?= 10
V      := tests/verification
LONG   := $(V)/crash_points $(V)/controls $(V)/faults $(V)/fuzz $(V)/model $(V)/damage \
          tests/unit/security tests/unit/signing

TEST  := .venv
CORE  := .envs/core
CHECK := .envs/check
DOCS  := .envs/docs
DEMO  := .envs/demo
BENCH := .envs/bench
DIST  := .envs/dist
WHEEL := .envs/wheel

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export NO_MKDOCS_2_WARNING := 1

.PHONY: help demo test test-core verify environments check format bench docs dist reliability fuzz soak clean

help:
	@echo "make demo [REMOTE=localstack]  evaluate a real model through a cache, four times, and compare"
	@echo "make test [JOBS=3]             the tests for every change, LocalStack included, in so many processes"
	@echo "make test-core [JOBS=3]        those of make test that need neither mteb nor torch: any Python from 3.11 to 3.14"
	@echo "make verify [VERIFY_JOBS=2]    the exhaustive tests: crash points, faults, schedules, model, damage, six storages"
	@echo "make environments              a part of the tests with the lowest and newest dependencies, and on every Python here"
	@echo "make reliability [SCALE=10]    crash points, faults, schedules, model, damage: so many times what make verify does"
	@echo "make fuzz [SECONDS=60]         coverage-guided fuzzing of all that is parsed, so long for each of 22 targets"
	@echo "make soak [MINUTES=10]         writers, readers and maintenance on LocalStack, killed and behind faults"
	@echo "make check                     formatting, lint, types, layers, spelling"
	@echo "make format                    rewrite the code as make check wants it"
	@echo "make bench                     the benchmarks, each with its peer"
	@echo "make docs                      the documentation as a site, in site/"
	@echo "make dist                      wheel and sdist in dist/, checked, and the wheel tried in an empty environment"
	@echo "make clean                     delete all environments and everything that was built"
	@echo
	@echo "Each target installs its own environment at first. CONTRIBUTING.md says how much that downloads. Variables:"
	@echo "  PYTHON=python3.12    the Python of new environments (default: the first of 3.11 to 3.14 that runs)"
	@echo "  TORCH_INDEX=URL      an index with other builds of torch, for demo, test and bench: of the CPU builds, the"
	@echo "                       one that PyTorch's installation page names"

# The first Python that runs: pyenv puts commands on the path that only say "command not found".
usable := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
python  = $(or $(shell for python in $(PYTHON); do \
            $$python -c '$(usable)' >/dev/null 2>&1 && echo $$python && break; done),$(error \
          cas_cache needs Python 3.11 or newer, with venv, and none of these is one: $(PYTHON). \
          Install one, or name it: make PYTHON=/path/to/python3.12))

$(TEST)/.ready:  INSTALL = -e ".[s3,mteb]" --group test
$(CORE)/.ready:  INSTALL = -e ".[s3]" --group test-core
$(CHECK)/.ready: INSTALL = -e ".[sign]" --group lint
$(DOCS)/.ready:  INSTALL = --group docs
$(DEMO)/.ready:  INSTALL = -e ".[s3,mteb]" --group demo
$(BENCH)/.ready: INSTALL = -e ".[s3,mteb,faiss]" --group bench
$(DIST)/.ready:  INSTALL = --group dist

# What is downloaded on Linux, as benchmarks/downloads.py measures it.
TORCH = and torch, which is 190 MB as a CPU build, and 2,700 MB with the CUDA that the public index adds to it. \
        For a CPU build add TORCH_INDEX=URL to the command: the index of CPU builds that PyTorch's installation page names.
$(TEST)/.ready:  SIZE = about 580 MB, $(TORCH)
$(CORE)/.ready:  SIZE = about 240 MB.
$(CHECK)/.ready: SIZE = about 70 MB.
$(DOCS)/.ready:  SIZE = about 30 MB.
$(DEMO)/.ready:  SIZE = about 350 MB, $(TORCH)
$(BENCH)/.ready: SIZE = about 340 MB, $(TORCH)
$(DIST)/.ready:  SIZE = about 15 MB.

$(foreach environment,$(TEST) $(CORE) $(CHECK) $(DOCS) $(DEMO) $(BENCH) $(DIST),$(environment)/.ready): pyproject.toml constraints.txt
	@echo "Installing $(@D) with $(python). It downloads $(SIZE)"
	$(python) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(@D)/bin/python -m pip install $(addprefix --extra-index-url ,$(TORCH_INDEX)) -c constraints.txt $(INSTALL)
	@touch $@

demo: $(DEMO)/.ready
	$(DEMO)/bin/python examples/demo.py --remote $(REMOTE)

test: $(TEST)/.ready
	$(TEST)/bin/python -m pytest -n $(JOBS) --dist worksteal --durations 10 -m "not verify and not environments"

verify: $(TEST)/.ready
	$(TEST)/bin/python -m pytest -n $(VERIFY_JOBS) --dist worksteal --durations 10 -m verify

environments: $(TEST)/.ready
	$(TEST)/bin/python -m pytest -s -m environments

test-core: $(CORE)/.ready
	$(CORE)/bin/python -m pytest -n $(JOBS) --dist worksteal -m "not verify and not environments"

reliability: $(TEST)/.ready
	CAS_CACHE_TEST_SCALE=$(SCALE) $(TEST)/bin/python -m pytest -n $(JOBS) --dist loadfile $(LONG)
	$(TEST)/bin/python tests/verification/model/protocol.py --large

fuzz: $(TEST)/.ready
	$(TEST)/bin/python tests/verification/fuzz/run.py --seconds $(SECONDS)

soak: $(TEST)/.ready
	$(TEST)/bin/python tests/verification/soak/soak.py --minutes $(MINUTES) --remote localstack

check: $(CHECK)/.ready
	$(CHECK)/bin/ruff format --check .
	$(CHECK)/bin/ruff check .
	$(CHECK)/bin/mypy
	$(CHECK)/bin/lint-imports
	$(CHECK)/bin/codespell

format: $(CHECK)/.ready
	$(CHECK)/bin/ruff format .
	$(CHECK)/bin/ruff check --fix .

bench: $(BENCH)/.ready
	@for benchmark in benchmarks/*.py; do echo "== $$benchmark"; $(BENCH)/bin/python $$benchmark || exit 1; done

docs: $(DOCS)/.ready
	$(DOCS)/bin/mkdocs build --strict

# Commit first: the sdist must hold exactly what git tracks.
dist: $(DIST)/.ready
	rm -rf dist
	$(DIST)/bin/python -m build
	$(DIST)/bin/twine check --strict dist/*
	$(DIST)/bin/check-wheel-contents --package src/cas_cache dist/*.whl
	tar -tf dist/*.tar.gz | sed 's:^[^/]*/::' | grep -vx PKG-INFO | LC_ALL=C sort > $(DIST)/held
	git ls-files | LC_ALL=C sort | diff - $(DIST)/held
	$(DIST)/bin/python -m venv --clear $(WHEEL)
	$(WHEEL)/bin/python -m pip install --quiet dist/*.whl
	$(WHEEL)/bin/python -m pip check
	env -i PATH=/usr/bin:/bin HOME=$(abspath $(WHEEL)) $(WHEEL)/bin/cas-cache demo
	$(WHEEL)/bin/cas-cache --version

clean:
	rm -rf .venv .envs .localstack .azurite path_to_cache_dir .demo dist site
