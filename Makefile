# The two commands that a newcomer needs are `make run` and `make test`; both make what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
WORK ?= work

.PHONY: run test lint compile readmes clean help

help:
	@echo "make run       run the shipped 'tiny' recipe whole, on this machine"
	@echo "make test      run the tests"
	@echo "make lint      ruff, mypy and the layers of the design"
	@echo "make compile   compile the golden pipelines again"
	@echo "make readmes   write the components' READMEs again"

# torch comes first and by exact version: asked for like this, pip takes the CPU build; left to the others' ranges it
# could take one with several GB of CUDA.
$(BIN)/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[pipeline,evaluate,release,dev]"
	touch $@

run: $(BIN)/.made
	$(BIN)/med42 run tiny --work $(WORK)

test: $(BIN)/.made
	$(BIN)/python -m pytest

lint: $(BIN)/.made
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

compile: $(BIN)/.made
	$(BIN)/python -m pipelines.golden

readmes: $(BIN)/.made
	$(BIN)/python -m components.readme

clean:
	rm -rf $(VENV) $(WORK)
