# Everything a person does with this repository. `make help` lists it.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# The Khronos glTF validator is a node package; without npm its test says so in one line.
NPM       := $(shell command -v npm)
VALIDATOR := $(if $(NPM),tests/node_modules/.ready)

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-all lint format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv and install everything that the other targets need

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

tests/node_modules/.ready: tests/package-lock.json
	@$(NPM) ci --prefix tests --silent --no-audit --no-fund && touch $@ \
		|| echo "npm could not install the glTF validator: its test will say so"

demo: $(READY)  ## set up, start the service, turn the sample photo into a GLB in demo_out/
	$(BIN)/synchuman demo --out demo_out

serve: $(READY)  ## set up and serve serve_config.yaml on http://localhost:8000 until Ctrl-C
	$(BIN)/serve run serve_config.yaml

test: $(READY) $(VALIDATOR)  ## set up and run the tests
	$(BIN)/python -m pytest -m 'not large and not slow and not gpu'

test-all: $(READY) $(VALIDATOR)  ## with the large parity cases (6 GB of memory) and the fault tests
	$(BIN)/python -m pytest -m 'not gpu'

lint: $(READY)  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the targets above made
	rm -rf $(VENV) tests/node_modules demo_out tmp_api_jobs synchuman_data build *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
