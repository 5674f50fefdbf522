# Every target makes its own .venv; the stamp is renewed only when pyproject.toml changes.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The pages need less than the tests: a small environment does where the large one is not there.
PAGES := $(if $(wildcard $(STAMP)),$(STAMP),build/venv/.installed)
PYTHONS := python3.13 python3.12 python3.11 python3
# Few at a time, because the longest tests come first: in one piece they would all be one process's.
# One more than there are processors: some tests wait, for a server to start or for a time that is their subject.
PYTEST := $(BIN)/pytest -q -n 3 --maxschedchunk 4
PUBSUB_TEST_PG ?= all

# What declares and delivers, without processes, clocks and documents.
FAST := tests/declare tests/deliver tests/process tests/test_frames.py tests/test_values.py tests/test_settings.py

.PHONY: demo demo-orders demo-web docs test tests test-fast test-all test-matrix release-check bench bench-peers lint clean

demo: $(STAMP)
	@$(BIN)/sqla-pubsub demo

demo-orders: $(STAMP)
	@$(BIN)/python -m examples.orders.demo

demo-web: $(STAMP)
	@$(BIN)/python -m examples.easy.demo_web

docs: $(PAGES)
	@$(<D)/bin/python -m sphinx -q -W --keep-going -n -b html -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

# Types are checked by one processor beside the tests, which leave some of the other's time.
test: $(STAMP)
	@$(MAKE) --no-print-directory -j 2 lint tests

# The tests start hundreds of processes, which would compile the library one by one where no bytecode is written.
tests: $(STAMP)
	@$(BIN)/python -m compileall -q sqla_pubsub alembic_ext
	@$(PYTEST) -m "not slow"

# For every save; with one driver.
test-fast: export PUBSUB_TEST_DRIVERS = psycopg2
test-fast: $(STAMP)
	@$(BIN)/ruff check --quiet
	@$(PYTEST) -m "not slow" $(FAST)

# Everything on every PostgreSQL found; PUBSUB_TEST_PG=18 narrows it.
test-all: export PUBSUB_TEST_FULL = 1
test-all: export PUBSUB_TEST_PG := $(PUBSUB_TEST_PG)
test-all: lint
	@$(PYTEST)

# Every PostgreSQL, Python and library that we say we run on, and Alembic's own suite with our plugin. What it needs is
# kept in a cache folder. MATRIX='--only "PostgreSQL 17"' narrows it.
test-matrix: $(STAMP)
	@$(BIN)/python -m tests.matrix $(MATRIX)

# Asks the package index for what is built with and depended on; uploads nothing.
release-check: $(STAMP)
	@$(BIN)/python -m tests.release

# BENCH="--full" measures at full length, BENCH="--beside COMMIT" beside the library of another commit.
bench: $(STAMP)
	@$(BIN)/python -m benchmarks.run $(BENCH)

bench-peers: $(STAMP)
	@$(BIN)/python -m benchmarks.run --peers all $(BENCH)

lint: $(STAMP)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A version manager's shim may be on the PATH and still refuse to run, so each candidate is tried.
$(STAMP): EXTRAS := dev
build/venv/.installed: EXTRAS := docs,alembic,asyncio,web,prometheus,otel,sentry
$(STAMP) build/venv/.installed: pyproject.toml
	@for candidate in $(PYTHONS); do \
	    if $$candidate -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	done; \
	test -n "$$python" || { echo "No Python >= 3.11 with venv found among: $(PYTHONS)" >&2; exit 1; }; \
	echo "Installing into $(@D) with $$($$python --version) ..." >&2; \
	$$python -m venv $(@D)
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check uv
	@$(@D)/bin/uv pip install -q --compile-bytecode --python $(@D)/bin/python --editable '.[$(EXTRAS)]' \
	    || $(@D)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@
