# Thin: what it takes to run is in deploy/setup, gateway/demo and tests.
.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-services test-children test-slow lint bench bench-export bench-inference images images-test compose-test test-containers cluster-test stages formats docs locks clean
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
export PYTHON
BIN := .venvs/tunesmith/bin
READY := $(foreach name,tunesmith trainer inference,.venvs/$(name)/.ready)

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: ## Make the three virtual environments in .venvs (about 6.5 GB; nothing to do when they are up to date)
	@$(MAKE) -s -j3 $(READY)

demo: setup ## Train, export, serve and ask a small model through the API (ARGS=--keep leaves the platform running)
	@$(BIN)/python -m gateway.demo $(ARGS)

up: setup ## Start the platform; Ctrl-C stops it
	@$(BIN)/tunesmith up

# Both at once: the services' tests mostly wait, the children's mostly compute.
test: ## Lint, types, import contracts, all tests
	@$(MAKE) -s -j4 $(READY) .venvs/checks/.ready
	@$(MAKE) lint
	@$(MAKE) -k -j2 test-services test-children

test-services:
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-children:
	.venvs/trainer/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/child

test-slow: setup ## The tests that take minutes, which `make test` leaves out (about 40 minutes)
	.venvs/trainer/bin/python -m pytest -m slow tests/child
	$(BIN)/python -m pytest -m slow

lint: .venvs/tunesmith/.ready ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## The same YAML through Tunesmith, LLaMA Factory and TRL; writes docs/benchmarks.md (ARGS="--rounds 3")
	@$(BIN)/python -m tests.bench.trainers $(ARGS)

bench-export: setup ## One adapter merged by Tunesmith, peft and LLaMA Factory; writes docs/benchmarks-export.md
	@$(BIN)/python -m tests.bench.exports $(ARGS)

bench-inference: setup ## Answers through vLLM, the gateway, LiteLLM and LLaMA Factory; writes docs/benchmarks-inference.md
	@$(BIN)/python -m tests.bench.inference $(ARGS)

images: ## Build the images and print their sizes (GPU=1: on CUDA; ARGS=gateway: only that one)
	@deploy/images $(ARGS)

images-test: setup ## Build the images, run each as an orchestrator does (IMAGES=gateway,trainer: only those)
	$(BIN)/python -m pytest tests/engine --timeout 3600

test-containers: setup ## compose.yaml without vLLM: builds the gateway's image only, the trainer borrows .venvs/trainer
	$(BIN)/python -m pytest -rs --durations 12 tests/compose

compose-test: setup ## Build all images, run the main job on compose.yaml, kill each container once (about 20 minutes)
	$(BIN)/python -m pytest tests/compose -m "slow or not slow"

cluster-test: setup ## The chart on the cluster of TUNESMITH_TEST_KUBECONFIG, in a namespace of its own (about 20 minutes)
	$(BIN)/python -m pytest tests/cluster -m slow

stages: setup ## Train SmolLM2-135M in every stage for a few steps, through the API (ARGS="--only dpo")
	@$(BIN)/python tests/bench/stages.py $(ARGS)

formats: setup ## Export SmolLM2-135M in every format, serve and ask it; writes docs/formats.md (ARGS="--only w8a8")
	@$(BIN)/python -m tests.bench.formats $(ARGS)

docs: .venvs/tunesmith/.ready ## Write docs/ again: from the declarations, and from what the gateway answers to LF's files
	$(BIN)/python -m shared.reference > docs/parameters.md
	$(BIN)/python -m shared.reference zh > docs/parameters.zh.md
	$(BIN)/python -m shared.templates.reference > docs/templates.md
	$(BIN)/python -m shared.failures > docs/failures.md
	$(BIN)/python -m shared.metrics.reference > docs/metrics.md
	$(BIN)/python -m tests.lf_examples.page > docs/llama-factory.md
	$(BIN)/python -m deploy.grafana.panels

locks: ## Write deploy/locks from what is installed in .venvs
	$(BIN)/python deploy/locks/freeze.py

clean: ## Remove the virtual environments and caches; your data in .tunesmith stays
	rm -rf .venvs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venvs/tunesmith/.ready: $(foreach lock,tunesmith dev broker,deploy/locks/$(lock).txt) pyproject.toml deploy/setup
	@deploy/setup tunesmith

.venvs/trainer/.ready: deploy/locks/trainer.txt pyproject.toml deploy/setup
	@deploy/setup trainer

.venvs/inference/.ready: deploy/locks/inference.txt deploy/locks/inference-gpu.txt pyproject.toml deploy/setup
	@deploy/setup inference

.venvs/checks/.ready: deploy/locks/checks.txt deploy/setup
	@deploy/setup checks
