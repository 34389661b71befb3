# Two commands are enough: `make validate` and `make test`. Both set up first, which takes no time when it is done.

STEP ?= step1
bin := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup validate test lint format notebooks bench bench-full lab

help:
	@echo "make validate   set up, run $(STEP), print the verdict and the report's path (STEP=all for every step)"
	@echo "make test       set up, run the tests (ARGS='-k budget -q' goes to pytest)"
	@echo "make lint       format, lint, types and import rules, without changing a file"
	@echo "make format     put the source into its one format"
	@echo "make bench      measure against the same machine bare; writes reports/bench.json"
	@echo "make bench-full the same with ledgers ten times as large"
	@echo "make lab        JupyterLab on the notebooks"
	@echo "make setup      only set up: Python packages in .venv"

setup:
	@sh .ci/setup

validate: setup
	@$(bin)/podcastqa validate $(STEP) $(ARGS)

test: setup
	@$(bin)/python -m pytest -m "not bench and not aws and not spotify" $(ARGS)

lint: setup
	@$(bin)/ruff format --check .
	@$(bin)/ruff check .
	@$(bin)/mypy
	@$(bin)/lint-imports

format: setup
	@$(bin)/ruff format .
	@$(bin)/ruff check --fix .

bench: setup
	@$(bin)/python -m tests.bench $(ARGS)

bench-full: setup
	@BENCH_FULL=1 $(bin)/python -m tests.bench $(ARGS)

lab: setup
	@$(bin)/podcastqa lab
