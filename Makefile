# All a checkout needs, on a machine with make and Python 3.11 or newer with its venv module. `make` lists the
# targets. Everything is installed into .venv, nothing on the system.
#
#   make test PG=15 PYTEST_ARGS="-x tests/test_session.py"     on PostgreSQL 15, some tests, other options
#   make test SQLALCHEMY=2.0.40                                on this SQLAlchemy, in an environment of its own
#   make venv PYTHON=/opt/python3.12/bin/python3               with this Python

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3.13 python3.12 python3.11 python3
EXTRAS := asyncpg,binary,cli,embedded,lint,testing
PG ?=
PYTEST_ARGS ?=
MUTANTS_ARGS ?=
SQLALCHEMY ?=
BENCHMARKS ?= session telemetry imports isolation fanout provision pool memory roles churn
MATRIX_PG ?= 15 16 17 18
STEPS ?= 100000
MINUTES ?= 30

# The lower bound that pyproject.toml promises.
SQLALCHEMY_LOWEST := $(shell sed -n 's/^ *"sqlalchemy>=\([0-9.]*\)".*/\1/p' pyproject.toml)

# `basename` cuts the last component: .venv-sqlalchemy-2.0 for 2.0.40.
VENV := .venv$(if $(SQLALCHEMY),-sqlalchemy-$(basename $(SQLALCHEMY)))
PY := $(VENV)/bin/python

# The stamp says for which folder and which SQLAlchemy the environment was made. One of a checkout that was
# moved or copied since, or whose Python is gone, is made anew.
STAMP := $(VENV)/.installed
MADE_FOR := $(CURDIR) $(SQLALCHEMY)
ifneq ($(strip $(shell $(PY) -c 'print(open("$(STAMP)").read())' 2>/dev/null)),$(strip $(MADE_FOR)))
.PHONY: $(STAMP)
endif

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

.PHONY: demo
demo: $(STAMP) ## three universities on an embedded PostgreSQL, and a dozen tries to read the neighbour
	PYTHONPATH=examples $(PY) -m llm_chatbot.demo

.PHONY: test
test: $(STAMP) ## the test suite; PG=15 chooses the server, PYTEST_ARGS="..." is passed on
	$(PY) -m pytest $(if $(PG),--pg $(PG)) $(PYTEST_ARGS)

.PHONY: mutants
mutants: $(STAMP) ## break each layer, and see what finds it; MUTANTS_ARGS=--whole-corpus tries all attacks on each
	$(PY) -m pytest tests/test_mutants.py $(if $(PG),--pg $(PG)) $(MUTANTS_ARGS)

# All of them, so that one run shows everything there is to mend.
.PHONY: lint
lint: $(STAMP) ## ruff, mypy --strict, and the floors that import-linter guards
	@failed=0; \
	for check in 'ruff check' 'ruff format --check' mypy 'lint-imports --no-logo'; do \
	  echo "$(VENV)/bin/$$check"; \
	  $(VENV)/bin/$$check || failed=1; \
	done; \
	exit $$failed

.PHONY: bench
bench: $(STAMP) ## the benchmarks; results as JSON in .benchmarks
	@mkdir -p .benchmarks; failed=0; \
	for name in $(BENCHMARKS); do \
	  $(PY) -m benchmarks $$name --json .benchmarks/$$name.json || failed=1; \
	done; \
	exit $$failed

.PHONY: peers
peers: $(STAMP) ## the libraries that we are compared with, each in an environment of its own in .cache
	$(PY) -c 'from benchmarks.contestants import contestants; [peer.python() for peer in contestants()]'

.PHONY: matrix
matrix: $(STAMP) ## the whole suite on every PostgreSQL there is, and on the oldest SQLAlchemy allowed
	@report=; failed=0; \
	note() { report=$$(printf '%s\n%s: %s' "$$report" "$$1" "$$2"); test "$$2" != FAILED || failed=1; }; \
	for major in $(MATRIX_PG); do \
	  if ! source=$$($(PY) -W ignore -m tests.servers $$major); then \
	    note "PostgreSQL $$major" "$${source#none: }"; \
	  elif $(MAKE) test PG=$$major; then note "$$source" passed; \
	  else note "$$source" FAILED; fi; \
	done; \
	if $(MAKE) test SQLALCHEMY=$(SQLALCHEMY_LOWEST); then note 'SQLAlchemy $(SQLALCHEMY_LOWEST)' passed; \
	else note 'SQLAlchemy $(SQLALCHEMY_LOWEST)' FAILED; fi; \
	printf '%s\n' "$$report"; exit $$failed

.PHONY: soak
soak: $(STAMP) ## 100,000 steps of the state machine, then 30 minutes of load and faults; STEPS=, MINUTES=, SEED= choose
	@seed=$${SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; echo "seed $$seed: make soak SEED=$$seed repeats it"; \
	failed=0; \
	$(PY) -m pytest $(if $(PG),--pg $(PG)) tests/test_machine.py -k reads_is_what -rP --timeout 0 \
	  -o faulthandler_timeout=0 --machine-steps $(STEPS) --machine-seed $$seed $(PYTEST_ARGS) || failed=1; \
	$(PY) -m benchmarks soak --minutes $(MINUTES) --seed $$seed $(if $(PG),--pg $(PG)) || failed=1; \
	exit $$failed

.PHONY: venv
venv: $(STAMP) ## only make the environment that the other targets use

.PHONY: clean
clean: ## remove the environments, caches and what was built
	rm -rf .venv .venv-sqlalchemy-* build dist .benchmarks .cache .hypothesis .coverage .coverage.* htmlcov
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@if [ "$$(cat $(STAMP) 2>/dev/null)" != "$(MADE_FOR)" ] || ! $(PY) -c '' 2>/dev/null; then \
	  $(find_python); \
	  echo "making $(VENV) with $$python (Python $$version)"; \
	  "$$python" -m venv --clear $(VENV) || exit 1; \
	fi
	@rm -f $(STAMP)
	@echo 'installing into $(VENV): a minute or two the first time'
	@$(PY) -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]' --group dev \
	  $(if $(SQLALCHEMY),'sqlalchemy==$(SQLALCHEMY)')
	@echo '$(MADE_FOR)' > $(STAMP)

# Sets $python and $version to the first candidate that is new enough and can make environments. Each one is
# run, because a name on the PATH may be a shim of a version manager with nothing behind it.
define find_python
python=; bare=; old=; \
for candidate in $(PYTHON); do \
  version=$$("$$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
  if ! "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then old="$$old $$candidate is $$version,"; \
  elif ! "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then bare="$${bare:-$$candidate}"; \
  else python="$$candidate"; break; fi; \
done; \
if [ -z "$$python" ] && [ -n "$$bare" ]; then \
  echo "$$bare has no venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; \
elif [ -z "$$python" ]; then \
  echo "no Python 3.11 or newer:$$old nothing else of '$(PYTHON)' runs." >&2; \
  echo "On Debian 12 and Ubuntu 24.04 or newer: apt-get install python3 python3-venv." >&2; \
  echo "Or name one: make venv PYTHON=/path/to/python3.12" >&2; exit 1; \
fi
endef
