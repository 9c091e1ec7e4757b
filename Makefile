# Two commands matter: `make demo` runs the main job on the demo pair, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What the installed package is made of: a change here reinstalls it.
SOURCES := $(shell find compiler runtime -type f -not -name '*.so' -not -path '*__pycache__*') CMakeLists.txt pyproject.toml

.PHONY: demo engines demo-engines random-engines test check lint sanitize format clean

# Builds the demo bundle, compares with plain decoding on held-out prompts, by which this machine's rounds are planned
# from then on, and streams one continuation.
demo: $(VENV)/.installed
	$(BIN)/build-engine build recipes/demo.yaml -o artifacts/demo
	$(BIN)/build-engine bench artifacts/demo --save
	$(BIN)/build-engine run artifacts/demo --compare --prompt - < recipes/demo/prompt.txt

# Builds engines for NVIDIA GPUs without one: the demo's, and the round of a target with the sizes of Qwen3-0.6B.
# One build keeps one core busy, so both run at once.
engines: $(VENV)/.installed
	$(MAKE) --jobs=2 --output-sync=target demo-engines random-engines

demo-engines: $(VENV)/.installed
	$(BIN)/build-engine build recipes/demo-tensorrt.yaml -o artifacts/demo-tensorrt
	$(BIN)/build-engine inspect artifacts/demo-tensorrt --check

random-engines: $(VENV)/.installed
	$(BIN)/python benchmarks/tensorrt_builds.py --size qwen3-0.6b --graph round --precision float16

test: $(VENV)/.installed
	$(BIN)/python -m pytest

check: lint sanitize

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.c' '*.h' '*.cpp')

# The C core and its tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/sanitize -G Ninja -DFORERUN_SANITIZE=ON -DFORERUN_PYTHON=OFF
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/sanitize
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir build/sanitize --output-on-failure

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.c' '*.h' '*.cpp')

$(VENV)/.tools: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch cmake ninja
	touch $@

$(VENV)/.installed: $(VENV)/.tools $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ".[compiler,dev]"
	touch $@

clean:
	rm -rf $(VENV) build artifacts/demo
