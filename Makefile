# make run      a broker with its database, in the foreground
# make test     everything that has to pass
# make lint     ruff and mypy alone
# See CONTRIBUTING.rst for the others.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := platziverse tests bench twisted
SETUP := setup.cfg pyproject.toml
NODE := tests/integration/node_modules
AEDES := bench/aedes/node_modules
AMQTT := .venv-bench

.DEFAULT_GOAL := help
.PHONY: help run test lint format bench fuzz torture conformance install-systemd clean tools

help:
	@sed -n 's/^# //p' Makefile

run: $(VENV)/installed
	@exec $(BIN)/twistd -n --pidfile= platziverse $(ARGS)

test: tools lint $(NODE)/.package-lock.json
	@exec $(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/installed-test
	@$(BIN)/ruff check --quiet $(SOURCES)
	@$(BIN)/ruff format --check --quiet $(SOURCES)
	@$(BIN)/mypy --no-error-summary

format: $(VENV)/installed-test
	@$(BIN)/ruff check --quiet --fix $(SOURCES)
	@$(BIN)/ruff format --quiet $(SOURCES)

# make bench ONLY=..., see python -m bench --help. A broker that could not be installed is skipped.
bench: $(VENV)/installed-test tools $(AEDES)/.package-lock.json $(AMQTT)/installed
	@exec $(BIN)/python -m bench $(ONLY)

# make fuzz N=executions
fuzz: $(VENV)/installed-test
	@exec $(BIN)/python -m tests.fuzz $(N)

# make torture N=kills
torture: $(VENV)/installed-test tools
	@exec $(BIN)/python -m tests.crash $(N)

# Writes docs/conformance.rst and docs/bad-inputs.rst anew from the marks in the code and in the tests.
conformance: $(VENV)/installed-test
	@exec $(BIN)/python -m tests.conformance

# As root: the daemon in /opt/platziverse, its user, its units and its configuration; starts nothing.
install-systemd:
	test -x /opt/platziverse/bin/python || $(PYTHON) -m venv /opt/platziverse
	/opt/platziverse/bin/pip install --quiet '.[embedded]'
	install -D -m 644 systemd/sysusers.d/platziverse.conf /etc/sysusers.d/platziverse.conf
	systemd-sysusers /etc/sysusers.d/platziverse.conf
	install -m 644 -t /etc/systemd/system systemd/platziverse.service systemd/platziverse.socket
	test -e /etc/platziverse.toml || install -m 640 -g platziverse examples/platziverse.toml /etc/platziverse.toml
	test ! -d /run/systemd/system || systemctl daemon-reload
	@echo "Now: systemctl enable --now platziverse"

clean:
	rm -rf $(VENV) $(NODE) $(AEDES) $(AMQTT) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis _trial_temp*
	find platziverse tests bench twisted -name __pycache__ -o -name dropin.cache | xargs rm -rf

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# setuptools' own way of an editable install hides twisted/plugins, hence the compatible one.
$(VENV)/installed: $(SETUP) | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[embedded]' --config-settings editable_mode=compat
	@touch $@

$(VENV)/installed-test: $(SETUP) | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[embedded,test,bench]' --config-settings editable_mode=compat
	@touch $@ $(VENV)/installed

tools:
	@sh tests/integration/tools.sh

$(NODE)/.package-lock.json: tests/integration/package.json tests/integration/package-lock.json
	@if command -v npm > /dev/null; then cd tests/integration && npm ci --silent --no-audit --no-fund; fi

$(AEDES)/.package-lock.json: bench/aedes/package.json bench/aedes/package-lock.json
	@if command -v npm > /dev/null; then cd bench/aedes && npm ci --silent --no-audit --no-fund; fi || true

$(AMQTT)/installed: bench/amqtt/requirements.txt
	@$(PYTHON) -m venv $(AMQTT) && $(AMQTT)/bin/pip install --quiet --disable-pip-version-check -r $< && touch $@ || true
