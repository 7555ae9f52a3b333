.DEFAULT_GOAL := help
VENV := .venv
UV := $(shell command -v uv 2>/dev/null || echo $(VENV)-uv/bin/uv)
STORE ?= store
BENCHMARKS ?= evaluation judge nightly checkpoint

.PHONY: help venv demo test test-cluster lint bench images images-list bundle chart compile docs lock clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

venv: $(VENV)/.ready ## make .venv with everything that the demo and the tests need

$(VENV)/.ready: requirements.lock pyproject.toml
	@command -v uv >/dev/null || test -x $(VENV)-uv/bin/uv || (python3 -m venv $(VENV)-uv && $(VENV)-uv/bin/pip install -q uv)
	test -x $(VENV)/bin/python || $(UV) venv -q --python 3.11 $(VENV)
	$(UV) pip sync -q --compile-bytecode --require-hashes --python $(VENV)/bin/python requirements.lock
	$(UV) pip install -q --no-deps --python $(VENV)/bin/python -e .
	@touch $@

demo: venv ## documents → adapted model → report, on this machine in ten minutes
	$(VENV)/bin/telellm run recipes/quickstart.yaml --store $(STORE)

test: venv ## unit tests and the pipelines on this machine
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile tests/unit
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --durations=8 tests/local

test-cluster: venv ## jobs in the cluster of KUBECONFIG; TELELLM_LOAD_IMAGE loads images into it ("": they are there)
	$(VENV)/bin/python -m pytest -v --durations=0 --durations-min=1 tests/cluster $(PYTEST_ARGS)

lint: venv ## format, rules, types, arrows between the rooms
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)-bench/.ready ## measure telellm beside its peers into benchmarks/results (BENCHMARKS=NAMES, ARGS of the only one)
	set -e; for name in $(BENCHMARKS); do $(VENV)-bench/bin/python benchmarks/$$name.py $(ARGS); done

$(VENV)-bench/.ready: $(VENV)/.ready # the peers, in an environment of their own that sees ours
	test -x $(VENV)-bench/bin/python || $(UV) venv -q --python 3.11 $(VENV)-bench
	echo "import site; site.addsitedir('$(abspath $(VENV))/lib/python3.11/site-packages')" \
	  >$(VENV)-bench/lib/python3.11/site-packages/telellm.pth
	$(UV) pip install -q --python $(VENV)-bench/bin/python lm-eval
	@touch $@

images: ## build all images, or NAMES of images/; try each in a container and print sizes (REGISTRY, TAG)
	python3 images/build.py $(NAMES) $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(TAG),--tag $(TAG))

chart: venv ## check and package the chart, with the compiled pipelines, into build/
	$(VENV)/bin/telellm compile --out helm/telellm/files/pipelines
	cp k8s/pytorchjob.yaml k8s/shards.yaml helm/telellm/files/k8s/
	helm lint --strict helm/telellm
	helm package helm/telellm --destination build

images-list: venv ## print every image that a site must mirror (VALUES of an installation, REGISTRY)
	@$(VENV)/bin/python helm/images.py $(addprefix -f ,$(VALUES)) $(if $(REGISTRY),--registry $(REGISTRY))

bundle: chart ## write images, chart, pipelines, lock and checksums into one archive for a site without a way out
	PYTHON=$(VENV)/bin/python helm/bundle.sh $$(ls -t build/telellm-*.tgz | head -1) helm/telellm/files/pipelines build/telellm-bundle.tar $(IMAGES)

compile: venv ## write the pipelines as Kubeflow YAML to compiled/
	$(VENV)/bin/telellm compile --out compiled

docs: venv ## write docs/recipes.md and docs/chart.md from the fields and values
	$(VENV)/bin/python docs/write_recipes.py
	$(VENV)/bin/python docs/write_chart.py

lock: ## resolve the dependencies again into requirements.lock
	$(UV) pip compile -q --upgrade --python-version 3.11 --all-extras --generate-hashes --no-emit-index-url \
	  --no-emit-package telellm --no-header pyproject.toml -o requirements.lock

clean: ## remove what can be made again (not the store)
	rm -rf $(VENV) $(VENV)-uv $(VENV)-bench compiled build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
