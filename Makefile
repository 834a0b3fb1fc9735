# Every target that needs packages runs the bootstrap first; when nothing
# changed since the last time that takes a fraction of a second.

PYTHON    ?= python3
BOOTSTRAP  = @$(PYTHON) deploy/bootstrap.py --with
PYTEST     = .venv/bin/python -m pytest
# Four files at a time, as most tests wait for processes and leases; `make test PYTEST_ARGS=`
# runs one after the other.
PYTEST_ARGS ?= -n 4 --dist loadfile

# The tests start hundreds of processes, each of which would compile what it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo up test-fast test check nightly bench faults coverage mutants fmt client-wheel secrets compose-check dashboards clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install everything into .venv and stop there
	$(BOOTSTRAP) demo

demo: ## Start the whole fleet on this machine and send it work
	$(BOOTSTRAP) demo
	@.venv/bin/lanefleet demo

up: ## Start the whole fleet on this machine and leave it running
	$(BOOTSTRAP) demo
	@.venv/bin/lanefleet up

test-fast: ## Run the tests that start no process and load no model
	$(BOOTSTRAP) test
	$(PYTEST) -n 2 tests/unit tests/lua

test: ## Run the tests, less the slow ones
	$(BOOTSTRAP) test
	$(PYTEST) $(PYTEST_ARGS) -m "not slow and not bench"

check: ## Run what CI runs: format, lint, types, import rules, tests, quick benchmarks
	$(BOOTSTRAP) test
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTEST) $(PYTEST_ARGS) -m "not slow"

nightly: ## Run everything: slow forms and quick benchmarks too
	$(BOOTSTRAP) test
	$(PYTEST)

bench: ## Run the benchmarks and print their ratios
	$(BOOTSTRAP) test
	.venv/bin/python -m tests.benchmarks

faults: ## Run the fault tests, the slow ones too
	$(BOOTSTRAP) test
	$(PYTEST) tests/faults

# A package more than the tests need, so it comes here and not with the bootstrap.
coverage: ## Run the pure tiers under coverage, against the floor in pyproject.toml
	$(BOOTSTRAP) test
	.venv/bin/python -m pip install --quiet "coverage>=7.10"
	rm -f .coverage .coverage.*
	.venv/bin/python -m coverage run -m pytest -m "not slow and not bench" tests/unit tests/lua tests/process
	.venv/bin/python -m coverage combine --quiet
	.venv/bin/python -m coverage report

mutants: ## Change the pure rules one by one and list what no test notices
	$(BOOTSTRAP) test
	.venv/bin/python -m tests.mutants

fmt: ## Format the code and fix what ruff can fix
	$(BOOTSTRAP) test
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

# From nothing, as setuptools packs whatever an earlier build left in its folder.
client-wheel: ## Build the Python client's own wheel into dist/
	$(BOOTSTRAP) demo
	rm -rf deploy/client/build
	.venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist deploy/client
	rm -rf deploy/client/build

secrets: ## Write passwords and the like for the containers into secrets/
	@$(PYTHON) deploy/make_secrets.py

compose-check: ## Check docker-compose.yml with Compose, or by its schema where there is none
	$(BOOTSTRAP) test
	@.venv/bin/python deploy/compose_check.py

dashboards: ## Make Grafana's dashboards from deploy/grafana/build.py anew
	$(BOOTSTRAP) test --extra dashboards
	.venv/bin/python deploy/grafana/build.py

clean: ## Remove .venv and every cache
	rm -rf .venv build deploy/client/build deploy/client/*.egg-info dist demo-output bench-output *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis .import_linter_cache
	find api common worker tests deploy -name __pycache__ -type d -prune -exec rm -rf {} +
