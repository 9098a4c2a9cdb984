# Every target runs from a fresh clone: the virtualenv .venv is made when it is missing or out of date.
SHELL := /bin/bash
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
SCENARIOS := $(notdir $(patsubst %/,%,$(dir $(wildcard molecule/*/molecule.yml))))

# What a user does with an endpoint: tools/run.py.
RUNS := deploy check status logs releases rollback diagnose traffic audit remove

.PHONY: $(RUNS) help venv tools new-endpoint demo demo-down demo-cluster demo-cluster-down test test-full lint unit component molecule \
  interruptions demo-test tutorial-test bench bench-test import-template readme docs clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# What deploying needs.
.venv/.deploy: requirements.txt
	@echo "Setting up .venv ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@tools/venv.sh "$(PYTHON)"
	@touch $@

# What working on the project needs, in addition.
.venv/.dev: .venv/.deploy requirements-dev.txt app/requirements.txt
	@echo "Installing the development tools into .venv (about a minute) ..."
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

venv: .venv/.deploy ## Install into .venv what deploying needs

tools: .venv/.dev ## Install into .venv what working on the project needs too

new-endpoint: export NAME := $(NAME)
new-endpoint: export PROFILE := $(or $(PROFILE),plain)
new-endpoint: export FOLDER := $(or $(FOLDER),endpoints)
new-endpoint: .venv/.deploy ## An endpoint of your own: make new-endpoint NAME=my-api PROFILE=plain|sklearn|fasttext|pytorch
	@python tools/new_endpoint.py "$$NAME" "$$PROFILE" "$$FOLDER"

deploy: ## Deploy an endpoint: make deploy NAME=my-api (left out: the one in inventory/) TAGS=app LIMIT=host ARGS="-K"
check: ## Say what a deployment would do, and touch nothing: make check NAME=my-api
status: ## A line for each host: what is live, whether it is healthy, memory, requests, errors
logs: ## The last lines of each log: make logs NAME=my-api ARGS="-e api_endpoint_log_lines=100"
releases: ## Which releases each host has, and which is live
rollback: ## Back to the good release before the live one, or to a certain one: RELEASE=0123456789ab
diagnose: ## Why is the API unwell? The likeliest cause first, and the fix
traffic: ## A page with plots of what was asked, when, and how it went
audit: ## Does anything on a host tell who called?
remove: ## Remove an endpoint from its hosts: CONFIRM=its-name. What would go: ARGS=--check

$(RUNS): export NAME_ORIGIN := $(origin NAME)
$(RUNS): export NAME := $(NAME)
$(RUNS): export TAGS := $(TAGS)
$(RUNS): export LIMIT := $(LIMIT)
$(RUNS): export RELEASE := $(RELEASE)
$(RUNS): export CONFIRM := $(CONFIRM)
$(RUNS): export ARGS := $(ARGS)
$(RUNS): export GIVEN := $(MAKEOVERRIDES)
$(RUNS): .venv/.deploy
	@python tools/run.py $@

demo: ## One Debian 13 "instance" in a container, deployed over SSH, asked a question
	@tools/demo.sh up

demo-down: ## Remove the demo's instance
	@tools/demo.sh down

demo-cluster: .venv/.deploy ## A balancer and three instances: a release in turn under load, and a host that dies
	@tools/demo_cluster.sh up

demo-cluster-down: ## Remove the demo of a cluster
	@tools/demo_cluster.sh down

test: .venv/.dev ## The gate, about half an hour: lint, unit and component tests, the demo, the core of every scenario
	@tools/test.sh --gate lint unit component demo-test tutorial-test $(SCENARIOS)

test-full: .venv/.dev ## Everything, more than an hour: all tests on Debian 12 and 13, and a short bench
	@tools/test.sh lint unit component "demo-test bench-test" tutorial-test $(SCENARIOS)

lint: .venv/.dev ## Style and documentation: yamllint, ansible-lint, ruff, mypy, docsmith, shellcheck
	@tools/lint.sh

unit: .venv/.dev ## Unit tests of modules, plugins, templates and the example app
	@tools/needs.sh bzip2 curl flock haproxy keepalived rsync ss xz zstd
	@pytest -q --numprocesses=2 --dist=worksteal --ignore=tests/component

component: .venv/.dev ## The role's nginx, HAProxy and gunicorn settings, with the real programs and a stub app
	@tools/needs.sh chromium haproxy nginx
	@pytest -q --numprocesses=2 --dist=loadgroup tests/component

demo-test: .venv/.dev ## The README's quick start on a fresh instance, over SSH
	@tools/demo_test.sh

tutorial-test: .venv/.dev ## The guide "Your .joblib goes live" word by word, on a fresh instance, over SSH
	@tools/tutorial_test.sh

molecule: .venv/.dev ## Every Molecule scenario, or some: make molecule SCENARIOS="default privacy"
	@tools/test.sh $(SCENARIOS)

interruptions: .venv/.dev ## Seeded faults, with what must hold after each: make interruptions ROUNDS=100 SEED=7, or SEED=7 ROUND=17
	@tools/test.sh interruptions

bench: .venv/.dev ## Measure against what there is to compare with, into docs/performance.md (about an hour and a half)
	@tools/bench.sh
	@ARTIFACTS_SIZE=1000000000 tools/test.sh artifacts

bench-test: .venv/.dev ## The same in minutes, to see that it works; what it measures means nothing
	@tools/bench.sh --short

import-template: .venv/.deploy ## An endpoint of a clone of the old template: make import-template CLONE=../my-old-api
	@tools/import_template.py "$(CLONE)" $(OPTIONS)

readme: .venv/.dev ## Regenerate the READMEs' tables of variables from the argument specs
	@for role in roles/*/; do ansible-docsmith generate $$role; done

docs: .venv/.dev ## The documentation as a site: .cache/site/index.html
	@sphinx-build --fresh-env --fail-on-warning --quiet docs .cache/site
	@echo "The site is there: .cache/site/index.html"

clean: ## Remove the virtualenv and caches
	rm -rf .venv .cache .ansible .mypy_cache .ruff_cache .pytest_cache
