# Every target sets itself up: a clean checkout needs python3, its venv module and make.

PYTHON ?= python3
BIN := .venv/bin

# Without these glibc may return every large buffer to the system after each step and fault it in again (docs/design.md
# has what that cost where it was measured; it differs between machines).
export MALLOC_MMAP_THRESHOLD_ := 1073741824
export MALLOC_TRIM_THRESHOLD_ := 4294967296
# train/ would otherwise come first on the path of `python train/pretrain.py`.
export PYTHONSAFEPATH := 1

.PHONY: setup demo lint test slow docs gpu-check bench study chaos doctor-check slurm image wheel clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# The main job, small: a self-test of the whole road on embedded images, not a result about ImageNet.
demo: setup data/textures/manifest.json
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	  train/pretrain.py --config train/configs/demo.yaml --data.dir data/textures --run_dir runs/demo
	$(BIN)/python -m eval.evaluate runs/demo --protocols knn,linear
	$(BIN)/python -m ops.preview --config train/configs/demo.yaml --data.dir data/textures --output runs/demo/views.png
	@echo
	@echo 'This was a self-test of the pipeline on procedural textures; it says nothing about ImageNet.'
	@echo 'Shards: data/textures   Run: runs/demo   Encoder: runs/demo/encoder   Numbers: runs/demo/eval/results.json'
	@echo 'Loss curve: runs/demo/metrics.jsonl   Contact sheet of views: runs/demo/views.png'

data/textures/manifest.json: | setup
	$(BIN)/python -m pipelines.build_shards textures --output data/textures

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Files are shared out to two workers: 988 s instead of 1,597 on two slow cores.
test: lint .venv-docs/ready
	$(BIN)/pytest --numprocesses 2 --dist loadfile

slow: setup
	$(BIN)/pytest -m slow --timeout 3600

# The documentation as pages in site/, which need no network: open site/index.html. In an environment of its own, because
# a dependency of MkDocs bears the name of a module here.
docs: export NO_MKDOCS_2_WARNING = 1
docs: .venv-docs/ready
	.venv-docs/bin/mkdocs build --strict --quiet

.venv-docs/ready: constraints.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  mkdocs mkdocs-material 'mkdocstrings[python]'
	touch $@

# Needs a CUDA device; without one every test in it is skipped.
gpu-check: setup
	$(BIN)/pytest -m gpu

# The whole step beside its bound; other data with `python -m ops.bench step --config FILE --data.dir DIR`.
bench: setup data/textures/manifest.json
	$(BIN)/python -m ops.bench step --config train/configs/cifar10_cpu.yaml --data.dir data/textures

# The studies of docs/results/augmentations.md and head.md: an hour and a half on two cores; what is done stays done.
STUDY_DATA ?= data/cifar10
STUDY = --config train/configs/cifar10_cpu.yaml --data.dir $(STUDY_DATA) --images 10000 --seeds 0,1 --epochs 8 --jobs 2
study: setup
	$(BIN)/python -m eval.ablate augmentations --operations crop,cutout,colour,sobel $(STUDY) --output runs/studies/augmentations
	$(BIN)/python -m eval.ablate head --dims 32,128,512 $(STUDY) --output runs/studies/head

# Kills runs at drawn instants, goes on by the same command, and compares the ends: a quarter of an hour on two cores.
chaos: setup data/textures/manifest.json
	$(BIN)/python -m ops.chaos --data.dir data/textures

# The doctor's predictions beside real runs in which one stage is starved: ten minutes on two cores that do nothing else.
doctor-check: setup
	$(BIN)/python -m ops.doctor.check

# The batch files on a Slurm of two nodes, made for it; needs root and apt-get install slurm-wlm munge iproute2.
slurm: setup data/textures/manifest.json
	$(BIN)/python -m ops.slurm.check --data.dir data/textures

# The container image, built and tried; needs root, apt-get install buildah runc debootstrap, and 40 GB.
image:
	ops/image/build_and_try.sh

# dist/ with an sdist, which is this checkout, and the wheel that is built from it; pip says what setuptools warns of.
wheel: setup
	rm -rf dist
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')"
	$(BIN)/python -m pip wheel --verbose --no-index --no-deps --no-build-isolation --wheel-dir dist dist/diptych-*.tar.gz

clean:
	rm -rf .venv .venv-docs site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
