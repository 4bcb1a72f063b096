# Parley's commands. `make` alone lists them.
# A setting behind a command reaches the server: make run PORT=8081. ARGS reaches the tool that a
# command starts: make test ARGS="-k resume".

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# A stamp carries the hash of what was installed: other requirements, another stamp, and a start
# with the same ones installs nothing and asks no network.
hash = $(firstword $(shell cat $(1) | cksum))
BASE := $(VENV)/.base-$(call hash,requirements/base.txt)
DEV := $(VENV)/.dev-$(call hash,requirements/base.txt requirements/dev.txt)

# A Python that was upgraded away leaves a dead link behind: then nothing counts as installed.
$(shell [ -x $(BIN)/python ] || rm -f $(VENV)/.base-* $(VENV)/.dev-*)

PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install --quiet --root-user-action=ignore --require-hashes --no-deps

# Two makes at once wait for each other where flock exists; inside one make each stamp is made once.
LOCK := if command -v flock >/dev/null 2>&1; then exec 9>$(VENV).lock; flock 9; fi

# Finds a Python that is new enough, makes the environment when there is none that works, and puts
# the root of the project on its path. The path is relative, so a moved folder still finds itself.
define ENVIRONMENT
if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	for found in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
		if $$found -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python=$$found; break; \
		fi; \
	done; \
	if [ -z "$${python:-}" ]; then \
		echo "Parley needs Python 3.11 or newer, and there is none on the PATH; name one with PYTHON=/path/to/python3." >&2; \
		exit 1; \
	fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$python comes without the module venv or ensurepip; install it (on Debian and Ubuntu: apt install python3-venv) and try again." >&2; \
		exit 1; \
	fi; \
	echo "Making $(VENV) with $$($$python --version) ..."; \
	$$python -m venv --clear $(VENV); \
fi; \
$(BIN)/python -c 'import pathlib, sys, sysconfig; site = pathlib.Path(sysconfig.get_path("purelib")); (site / "parley.pth").write_text("../" * (len(site.relative_to(sys.prefix).parts) + 1) + "\n")'
endef

.PHONY: help
help: ## Lists these commands.
	@echo "Commands of Parley (make <command>):"
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS="$$(printf '\t')" read -r name text; do printf '  %-10s %s\n' "$$name" "$$text"; done

$(BASE):
	@set -e; $(LOCK); \
	[ ! -e $@ ] || exit 0; \
	$(ENVIRONMENT); \
	echo "Installing what the server needs ..."; \
	$(INSTALL) -r requirements/base.txt; \
	rm -f $(VENV)/.base-*; touch $@

$(DEV): $(BASE)
	@set -e; $(LOCK); \
	[ ! -e $@ ] || exit 0; \
	echo "Installing what the checks and tests need ..."; \
	$(INSTALL) -r requirements/dev.txt; \
	rm -f $(VENV)/.dev-*; touch $@

.PHONY: setup
setup: $(DEV) ## Makes .venv with everything that is pinned in requirements/.

.PHONY: run
run: $(BASE) ## Starts the server on http://localhost:8080; Ctrl-C stops it.
	@exec $(BIN)/python cmd/main.py $(ARGS)

.PHONY: dev
dev: $(DEV) ## Starts the server and starts it again at every change.
	@exec $(BIN)/python -m watchfiles --sigint-timeout 45 "$(BIN)/python cmd/main.py $(ARGS)" cmd internal migrations

.PHONY: migrate
migrate: $(BASE) ## Applies migrations/*.sql to the configured database.
	@exec $(BIN)/python cmd/migrate.py $(ARGS)

.PHONY: check
check: fmt-check lint types layers ## Checks format, lint, types and the layers.

.PHONY: fmt
fmt: $(DEV) ## Formats the code and mends what can be mended.
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

.PHONY: fmt-check
fmt-check: $(DEV)
	@$(BIN)/ruff format --check .

.PHONY: lint
lint: $(DEV) ## Looks for mistakes with ruff.
	@$(BIN)/ruff check .

.PHONY: types
types: $(DEV) ## Checks the types with mypy.
	@$(BIN)/python -m mypy

.PHONY: layers
layers: $(DEV) ## Checks who may import whom.
	@$(BIN)/lint-imports

# Three for two cores: many tests wait for a process to start, or for a time to pass.
TESTERS := $(shell $(BIN)/python -c 'import os; print(len(os.sched_getaffinity(0)) * 3 // 2 or 1)' 2>/dev/null || echo 3)

.PHONY: test
test: $(DEV) ## Runs the whole test suite against a real PostgreSQL and real sockets.
	@$(BIN)/python -m pytest -n $(TESTERS) $(ARGS)

.PHONY: unit
unit: $(DEV) ## Runs the tests that need neither a database nor a socket.
	@$(BIN)/python -m pytest tests/unit tests/test_conventions.py $(ARGS)

.PHONY: e2e
e2e: $(DEV) ## Runs the tests that speak to a running server.
	@$(BIN)/python -m pytest -n auto tests/e2e $(ARGS)

.PHONY: deploy-check
deploy-check: $(DEV) ## Checks deploy/ with the linters that are there, and tries the proxies.
	@$(BIN)/python -m pytest -n auto tests/test_deploy.py tests/e2e/test_proxies.py $(ARGS)

.PHONY: matrix
matrix: $(DEV) ## Tries who may do what to what: every route, for everyone, for every kind of object.
	@PARLEY_MATRIX=full $(BIN)/python -m pytest -n $(TESTERS) tests/e2e/test_matrix.py $(ARGS)

.PHONY: coverage
coverage: $(DEV) ## Runs the suite with coverage; auth, the event log, permissions and doors must be covered whole.
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest -n auto $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report
	@$(BIN)/python -m coverage report --include='internal/auth/*,internal/eventlog/*,internal/permission/*' --fail-under=100
	@$(BIN)/python -m coverage json --quiet -o .coverage.json
	@$(BIN)/python -m tests.permission.doors .coverage.json

.PHONY: bench
bench: $(DEV) ## Measures fan-out, sends and memory beside the goals; permissions, READY, restricted channels.
	@$(BIN)/python bench/fanout.py $(ARGS)
	@$(BIN)/python bench/permission.py
	@$(BIN)/python bench/ready.py
	@exec $(BIN)/python bench/restricted.py

.PHONY: storm
storm: $(DEV) ## Cuts 5,000 sockets off at once, kills the server, and measures how they come back.
	@exec $(BIN)/python bench/storm.py $(ARGS)

.PHONY: replay
replay: $(DEV) ## Replays a real conversation, kills the server on the way, and counts what was lost.
	@exec $(BIN)/python bench/replay.py $(ARGS)

# How long faults go on; without it, as long as the target says.
TOLD = $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: fault
fault: $(DEV) ## Four kinds of fault against three nodes, 20,000 messages, and the proof that none is lost.
	@exec $(BIN)/python -m tests.fault --messages 20000 $(TOLD)

.PHONY: fault-full
fault-full: $(DEV) ## Every kind of fault, twice or for SECONDS=, each at its full length.
	@exec $(BIN)/python -m tests.fault --full $(TOLD)

.PHONY: seeded-bugs
seeded-bugs: $(DEV) ## Builds one bug after the other into the server, and proves that each is found.
	@$(BIN)/python -m pytest -n $(TESTERS) -m seeded tests/fault tests/permission $(ARGS)

.PHONY: docs
docs: $(BASE) ## Writes the documents that are generated from the code.
	@$(BIN)/python -m internal.config.docs
	@$(BIN)/python -m internal.routes.catalogue

# As the headers of the files say. Hashes are of every wheel, so one file serves all platforms.
COMPILE := ../$(BIN)/python -m piptools compile --quiet --allow-unsafe --generate-hashes --strip-extras \
	--no-emit-find-links --no-emit-index-url --no-emit-trusted-host

.PHONY: lock
lock: $(DEV) ## Pins the newest versions of requirements/*.in with their hashes.
	@cd requirements && $(COMPILE) --upgrade --output-file=base.txt base.in
	@cd requirements && $(COMPILE) --upgrade --output-file=dev.txt dev.in

.PHONY: clean
clean: ## Removes the environment, caches and reports; var/ with the data stays.
	@rm -rf $(VENV) $(VENV).lock .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache htmlcov .coverage .coverage.*
	@find cmd internal tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
