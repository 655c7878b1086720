# Everything runs in .venv, which the first target that needs it makes. Nothing outside this folder is changed,
# except that the demo keeps its photographs in ~/.cache/lightning_fastdata.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help demo test test-full check lint format unit bench docs clean

help:
	@echo "make demo    train on photographs, with plain Lightning and with the pack"
	@echo "make test    the test-suite"
	@echo "make test-full  the test-suite and the full products of which it runs a pairwise cover (minutes more)"
	@echo "make lint    formatting, lint, types"
	@echo "make check   formatting, lint, types, unit tests (before every commit)"
	@echo "make format  rewrite files in the project's format"
	@echo "make docs    the documentation as a site, in docs/_build (open index.html there)"
	@echo "make bench   the benchmarks of benchmarks/README.md (minutes; an otherwise idle machine)"

$(INSTALLED): pyproject.toml
	@echo "Installing into .venv (the first time takes some minutes: torch is large) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/python examples/demo.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not full and not timed" -n 2 --dist loadfile
	$(BIN)/python -m pytest -m "timed and not full"

test-full: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

unit: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow"

check: lint unit

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/python benchmarks/monitor_overhead.py
	$(BIN)/python benchmarks/plan_vs_default.py
	$(BIN)/python benchmarks/cpu_training_threads.py
	$(BIN)/python benchmarks/sameness_cost.py
	$(BIN)/python benchmarks/auto_workers.py
	$(BIN)/python benchmarks/auto_table.py
	$(BIN)/python benchmarks/wait_truth.py
	$(BIN)/python benchmarks/tokens.py
	$(BIN)/python benchmarks/tuner_regret.py
	$(BIN)/python benchmarks/tuner_live.py
	$(BIN)/python benchmarks/in_memory.py
	$(BIN)/python benchmarks/image_folder.py
	$(BIN)/python benchmarks/image_folder.py --copies 1
	$(BIN)/python benchmarks/image_folder.py --run
	$(BIN)/python benchmarks/image_folder.py --accuracy
	$(BIN)/python benchmarks/cache.py

docs: $(INSTALLED)
	$(BIN)/sphinx-build -W --keep-going -n -q -b html -c docs . docs/_build
	@echo "docs/_build/index.html"

clean:
	rm -rf .venv dist build docs/_build .mypy_cache .ruff_cache .pytest_cache runs
