# Everything here runs in .venv, which is made on first use from constraints.txt. It needs Python
# 3.11 or newer with pip, and make; name another interpreter with `make PYTHON=/path/to/python`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CREATED := $(VENV)/.created
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
# The two variables hold the build tools to the same versions: older pips read the first for that,
# newer ones the second.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
# All in benchmarks/ but those that need vLLM or Ray.
BENCHMARKS := bench_cluster bench_core bench_dashboard bench_gateway bench_hub cluster \
	gateway_workers bench_loadgen bench_simulator bench_usage locality smoothness tracing

.PHONY: help demo test lint format types layers check bench wheel lock clean

help:
	@echo "make demo    install and run the demonstration (a minute)"
	@echo "make test    install the development tools and run all tests; PYTEST_ARGS adds options"
	@echo "make check   lint, types, layers and tests"
	@echo "make format  let ruff rewrite what it can"
	@echo "make bench   run benchmarks/, for minutes; BENCH_ARGS=--quick for seconds"
	@echo "make wheel   make dist/fairlane-VERSION-py3-none-any.whl, for pip to install elsewhere"
	@echo "make lock    move constraints.txt to today's versions"
	@echo "make clean   remove .venv and caches"

demo: $(RUNTIME)
	$(BIN)/fairlane demo

test: $(DEV)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup $(PYTEST_ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV)
	$(BIN)/mypy

layers: $(DEV)
	$(BIN)/lint-imports

check: lint types layers test

bench: $(DEV)
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; \
		$(BIN)/python -m benchmarks.$$name $(BENCH_ARGS); done

wheel: | $(CREATED)
	@rm -f dist/fairlane-*.whl
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/fairlane-*.whl

lock: $(DEV)
	$(BIN)/python tools/lock.py

clean:
	rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Fairlane needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." \
			"Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(RUNTIME): pyproject.toml constraints.txt | $(CREATED)
	$(PIP) install --quiet --editable '.[bench,gateway]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(CREATED)
	$(PIP) install --quiet --editable '.[dev]'
	@touch $(RUNTIME) $@
