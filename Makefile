# The two commands that a newcomer needs are `make run` and `make test`; both make what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
WORK ?= work
BASE ?= main

.PHONY: run test lint compile impact readmes clean help images images-offline push sbom scan requirements manifests crds kind-up kind-run kind-down test-images test-nodes test-distributed

help:
	@echo "make run       run the shipped 'tiny' recipe whole, on this machine"
	@echo "make test      run the tests"
	@echo "make lint      ruff, mypy and the layers of the design"
	@echo "make images    build the container images, with nothing but Docker (VARIANT=cpu for machines without GPUs)"
	@echo "make images-offline   the same where no registry can be reached, on a stand-in base"
	@echo "make push REGISTRY=...  push them, and write images/digests.lock"
	@echo "make sbom scan   a bill of materials of each image; a search for secrets in every layer"
	@echo "make test-distributed   one process, several, and shards of several train the same; killed ones go on (KILLS=20)"
	@echo "make test-images test-nodes   the tests that need a Docker engine and the images"
	@echo "make requirements   write the images' requirements with hashes again"
	@echo "make compile   compile the golden pipelines again"
	@echo "make impact BASE=main   what the work tree changes since a commit, as Markdown (RECIPES=... for some recipes alone)"
	@echo "make manifests render every manifest and hold it against its schema, our rules and checkov (crds: fetch the schemas first)"
	@echo "make kind-up kind-run kind-down   a cluster on this machine, 'tiny' on it, and away with it"
	@echo "make readmes   write the components' READMEs again"

# torch comes first and by exact version: asked for like this, pip takes the CPU build; left to the others' ranges it
# could take one with several GB of CUDA.
$(BIN)/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[pipeline,train,evaluate,release,presidio,dev]"
	# DeepSpeed asks for torch while it is built; in the isolation of a build it would fetch another one.
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[distributed]"
	touch $@

run: $(BIN)/.made
	$(BIN)/med42 run tiny --work $(WORK)

# Trainings, whole runs and containers have the machine to themselves; the rest shares it, a file at a time.
ALONE := tests/distributed tests/images tests/runs tests/training
test: $(BIN)/.made
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(addprefix --ignore=,$(ALONE))
	$(BIN)/python -m pytest $(ALONE)

lint: $(BIN)/.made
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint images/*/Dockerfile
	$(BIN)/shellcheck --external-sources --shell bash .ci/run .ci/engine images/build images/lock images/push images/sbom/write images/standin/build \
	  kind/up kind/run kind/down manifests/fetch-crds

compile: $(BIN)/.made
	$(BIN)/python -m pipelines.golden

impact: $(BIN)/.made
	@$(BIN)/med42 impact --base $(BASE) $(RECIPES)

# checkov pins more than the rest of the project can live with: its environment is its own.
.venv-manifests/.made: manifests/requirements.txt
	$(PYTHON) -m venv .venv-manifests
	.venv-manifests/bin/pip install --quiet --requirement manifests/requirements.txt
	touch $@

manifests: .venv-manifests/.made
	.venv-manifests/bin/python manifests/check.py
	.venv-manifests/bin/yamllint --config-file manifests/.yamllint manifests kind .github
	.venv-manifests/bin/zizmor --offline --quiet .github/workflows

crds:
	manifests/fetch-crds build/crds

kind-up:
	kind/up

kind-run: $(BIN)/.made
	kind/run

kind-down:
	kind/down

readmes: $(BIN)/.made
	$(BIN)/python -m components.readme

images:
	images/build

images-offline:
	images/standin/build

push:
	images/push $(REGISTRY)

sbom:
	images/sbom/write build/sbom

scan:
	images/scan

requirements: $(BIN)/.made
	UV=$(BIN)/uv images/lock

test-images: $(BIN)/.made
	$(BIN)/python -m pytest tests/images

test-distributed: $(BIN)/.made
	$(BIN)/python -m pytest tests/distributed

test-nodes: $(BIN)/.made
	$(BIN)/python -m pytest tests/training/test_two_nodes.py

clean:
	rm -rf $(VENV) .venv-manifests $(WORK)
