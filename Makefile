# Everything happens in an environment of its own, .venv; a target that is up to date is not made again.

PYTHON ?= python3
VENV ?= .venv
TORCH_SPEC ?= torch==2.13.0
TORCH_INDEX ?=
# The thread counts of the benchmarks; each has its own process, as thread pools are sized once.
THREADS = $(sort 1 $(shell nproc))

IN_VENV := $(VENV)/bin
PIP := $(IN_VENV)/python -m pip --disable-pip-version-check --quiet
SOURCES := pyproject.toml setup.py $(shell find build_tools csrc -type f ! -name '*.py[cod]')

.PHONY: build test test-arm test-clang lint demo bench accuracy instructions sanitize coverage fuzz docs dist matrix wheels gpu-check clean help

build: $(VENV)/test.stamp  ## compile the library and install the project into .venv, editable

test: $(VENV)/test.stamp  ## run the tests, a process per core (ARGS="-k name": some; ARGS="-m slow": the exhaustive ones)
	$(IN_VENV)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(VENV)/lint.stamp  ## check format, types and mistakes in Python, C++ and the workflow
	$(IN_VENV)/ruff check --quiet
	$(IN_VENV)/ruff format --check --quiet
	$(IN_VENV)/mypy
	find csrc tests -name '*.h' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu' | \
	  xargs $(IN_VENV)/clang-format --dry-run -Werror
	sed -n 's/.*"file": "\(.*\.cpp\)".*/\1/p' build/compile_commands.json | \
	  xargs -n 1 -P "$$(nproc)" $(IN_VENV)/clang-tidy -p build --quiet
	$(IN_VENV)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

demo: $(VENV)/lm.stamp  ## train a small language model into runs/demo (FILE=text.txt: on your text; ARGS=--resume: go on)
	$(IN_VENV)/rnnfused train$(if $(FILE), '$(FILE)') --out runs/demo $(ARGS)

bench: $(VENV)/bench.stamp  ## time the layer against torch's own; put the results into README and docs/performance.md
	$(IN_VENV)/python benchmarks/run.py --threads $(THREADS) $(ARGS)
	$(IN_VENV)/python benchmarks/report.py

accuracy: $(VENV)/bench.stamp  ## measure the errors of tanh and of whole loops; put them into docs/accuracy.md
	$(IN_VENV)/python benchmarks/accuracy.py
	$(IN_VENV)/python benchmarks/report.py

instructions: $(VENV)/test.stamp  ## count the instructions of four layers with valgrind; put them into the figures that tests/driver compares with
	PYTHONPATH=tests $(IN_VENV)/python -m driver.instructions.figures

sanitize: $(VENV)/test.stamp  ## run csrc/cpu with the sanitizers of addresses, undefined behaviour and threads (half an hour)
	.ci/sanitize $(ARGS)

coverage: $(VENV)/coverage.stamp  ## measure which lines and branches of csrc/cpu the tests reach, into build/coverage and docs/evidence.md
	.ci/coverage $(ARGS)

fuzz: $(VENV)/test.stamp  ## make 20,000 random calls, right and wrong, with another seed each time (ARGS="--fuzz-seed 7 --fuzz-calls 300")
	$(IN_VENV)/python -m pytest tests/fuzz --fuzz-calls 20000 $(ARGS)

docs: $(VENV)/docs.stamp  ## build the documentation into build/site; dead links and missing docstrings fail
	NO_MKDOCS_2_WARNING=1 $(IN_VENV)/mkdocs build --strict

dist: $(VENV)/dist.stamp  ## build the source distribution and the wheel into dist/
	$(IN_VENV)/python -m build --no-isolation

matrix: $(VENV)/dist.stamp  ## build the wheel once, test it on the Pythons found, old and new torches (ARGS="3.12=2.11 3.14t=newest")
	$(IN_VENV)/python .ci/matrix $(ARGS)

wheels: $(VENV)/dist.stamp  ## build this machine's wheel for others into dist/, on Linux in manylinux's image (needs docker)
	$(IN_VENV)/cibuildwheel --output-dir dist

test-clang: $(VENV)/test.stamp  ## build with Clang, where a warning is an error, and run the tests on that (CXX=clang++-19)
	.ci/clang $(ARGS)

test-arm:  ## build for 64-bit ARM and run the core of the tests under qemu (Debian, Ubuntu; an hour)
	.ci/arm $(ARGS)

gpu-check:  ## on a machine with an NVIDIA GPU: build, test and time the CUDA kernels with its own python3, in nine minutes
	.ci/gpu-check $(ARGS)

clean:  ## remove what was built; the environment and its torch stay (rm -r .venv)
	rm -rf build dist *.egg-info rnnfused/*.so $(VENV)/*.stamp

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)
	@printf '%s\n' '' 'PYTHON=python3.12            makes .venv' \
	  'TORCH_SPEC=torch==2.10.0     the torch to install where .venv has none' \
	  'TORCH_INDEX=URL              the index to take it from, such as PyTorch'\''s of CPU builds' \
	  'THREADS="1 4"                numbers of threads that bench measures (default: 1 and all cores)' \
	  'RNNFUSED_CUDA=1              builds CUDA beside any torch (unset: where torch has it; 0: never); after make clean' \
	  'RNNFUSED_CUDA_ARCHS="90a"    GPU architectures to build for (unset: those of this machine)' \
	  'LOGS=FOLDER ARCHIVE=FILE     where gpu-check puts its results (build/gpu-check, and .tar.gz)' \
	  'DEADLINE=540 PREBUILT=1      seconds of gpu-check in all; it compiles nothing'

# <extra>.stamp: the project is installed with that extra, and compiled from the current sources.
$(VENV)/%.stamp: $(VENV)/torch.stamp $(SOURCES)
	@echo 'rnnfused[$*]: compiling what has changed, installing ...'
	@$(PIP) install --no-build-isolation --editable '.[$*]'
	@test -e rnnfused/_cuda.so || echo 'rnnfused: built for the CPU only (RNNFUSED_CUDA=0, a torch without CUDA, or no nvcc; RNNFUSED_CUDA=1 insists)'
	@touch $@

# The build above is not isolated and needs setuptools: it then works without network when only sources change.
$(VENV)/torch.stamp:
	@test -w . || { echo 'rnnfused: cannot write to this folder, where the build puts its files: copy it, and build the copy'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo 'rnnfused: $(PYTHON) is no Python >= 3.10 with venv (Debian: apt install python3-venv)'; exit 1; }
	@test -x $(IN_VENV)/python || $(PYTHON) -m venv $(VENV)
	@$(IN_VENV)/python -c 'import torch' 2>/dev/null || { echo 'installing $(TORCH_SPEC) ...' && \
	  $(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH_SPEC)'; }
	@$(PIP) install 'setuptools>=77.0.3'
	@touch $@
