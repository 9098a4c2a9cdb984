# Every target runs from a fresh clone: the virtualenv .venv is made when it is missing or out of date.
SHELL := /bin/bash
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
SCENARIOS := $(notdir $(patsubst %/,%,$(dir $(wildcard molecule/*/molecule.yml))))

.PHONY: help new-endpoint demo demo-down demo-cluster demo-cluster-down test lint unit molecule demo-test bench bench-test import-template readme docs clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/.installed: requirements-dev.txt app/requirements.txt
	@echo "Setting up .venv (about a minute) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

new-endpoint: export NAME := $(NAME)
new-endpoint: export PROFILE := $(or $(PROFILE),plain)
new-endpoint: export FOLDER := $(or $(FOLDER),endpoints)
new-endpoint: .venv/.installed ## An endpoint of your own: make new-endpoint NAME=my-api PROFILE=plain|sklearn|fasttext|pytorch
	@python tools/new_endpoint.py "$$NAME" "$$PROFILE" "$$FOLDER"

demo: .venv/.installed ## One Debian 13 "instance" in a container, deployed over SSH, asked a question
	@tools/demo.sh up

demo-down: ## Remove the demo's instance
	@tools/demo.sh down

demo-cluster: .venv/.installed ## A balancer and three instances: a release in turn under load, and a host that dies
	@tools/demo_cluster.sh up

demo-cluster-down: ## Remove the demo of a cluster
	@tools/demo_cluster.sh down

test: .venv/.installed ## Everything: lint, unit tests, the demo, a short bench, every Molecule scenario
	@tools/test.sh lint unit "demo-test bench-test" $(SCENARIOS)

lint: .venv/.installed ## Style and documentation: yamllint, ansible-lint, ruff, mypy, docsmith, shellcheck
	@tools/lint.sh

unit: .venv/.installed ## Unit tests of modules, plugins, templates and the example app
	@tools/needs.sh curl flock haproxy keepalived rsync ss zstd
	@pytest -q

demo-test: .venv/.installed ## The README's quick start on a fresh instance, over SSH
	@tools/demo_test.sh

molecule: .venv/.installed ## Every Molecule scenario, or one: make molecule SCENARIOS=default
	@tools/test.sh $(SCENARIOS)

bench: .venv/.installed ## Measure against what there is to compare with, into docs/performance.md (about an hour and a half)
	@tools/bench.sh
	@ARTIFACTS_SIZE=1000000000 tools/test.sh artifacts

bench-test: .venv/.installed ## The same in minutes, to see that it works; what it measures means nothing
	@tools/bench.sh --short

import-template: .venv/.installed ## A vars file of a clone of the old template: make import-template CLONE=../my-old-api
	@tools/import_template.py "$(CLONE)" $(OPTIONS)

readme: .venv/.installed ## Regenerate the READMEs' tables of variables from the argument specs
	@for role in roles/*/; do ansible-docsmith generate $$role; done

docs: .venv/.installed ## The documentation as a site: .cache/site/index.html
	@sphinx-build --fresh-env --fail-on-warning --quiet docs .cache/site
	@echo "The site is there: .cache/site/index.html"

clean: ## Remove the virtualenv and caches
	rm -rf .venv .cache .ansible .mypy_cache .ruff_cache .pytest_cache
