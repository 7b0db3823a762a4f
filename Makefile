# Each target runs a plain command; README.md says them for those without make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
READY := $(VENV)/.ready

.PHONY: setup demo test test-% train-% exercises bench lint doctor

setup: $(READY)

# Made anew when the requirements change; every other target needs it.
$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	@$(BIN)/python -c "import pathlib; pathlib.Path('$(READY)').touch()"

demo: $(READY)
	$(BIN)/python demo.py

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

# make test-03 runs chapter 03's tests; make train-03 its level-3 training.
test-%: $(READY)
	$(BIN)/python -m pytest $(wildcard $*_*)

train-%: $(READY)
	$(BIN)/python $(wildcard $*_*)/paper/train.py

exercises: $(READY)
	$(BIN)/python -m utils.exercises

bench: $(READY)
	$(BIN)/python -m benchmarks.run

lint: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m utils.results --check
	$(BIN)/python -m utils.exercises sync --check

doctor: $(READY)
	$(BIN)/python -m utils.doctor
