# Everything runs in a virtual environment of its own; only Python and make are needed before.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python -W ignore::UserWarning
PIP := $(VENV)/bin/python -m pip install -qq --disable-pip-version-check

# Threads that wait for others give their core away: with the default, two trainings on the same
# cores run tens of times slower than one after the other.
export OMP_WAIT_POLICY := passive
# Keep freed memory instead of asking the system for it again at every step.
export MALLOC_MMAP_THRESHOLD_ := 1000000000
export MALLOC_TRIM_THRESHOLD_ := 1000000000
# Keep the bytecode: without it every process spends seconds on compiling torch.
unexport PYTHONDONTWRITEBYTECODE

DEMO := work_dirs/mask_rcnn_vanillanet13_shapes_finetune
DEMO_CONFIG := configs/mask_rcnn_vanillanet13_shapes_finetune.py
SOURCES := $(shell find configs mmvanilla -name '*.py')

.PHONY: help env demo docs dist lint lint-workflows test fast \
    test-slow test-share stacks oldest bench soak clean

help:
	@echo 'make env        make $(VENV) with the pinned packages of requirements.txt'
	@echo 'make demo       train a small Mask R-CNN on generated shapes, test it, draw the results'
	@echo 'make docs       the site of these texts, in site/; it needs none of the other packages'
	@echo 'make dist       the wheel and the source archive, in dist/, checked as for an upload'
	@echo 'make lint       check style, layout, imports between the rooms, and types'
	@echo 'make test       lint, and all tests but the slow ones'
	@echo 'make test-slow  the slow tests: full nets, trainings, every runtime'
	@echo 'make test-share a seventh of the slow tests by weekday, and those of the last change'
	@echo 'make stacks     install the wheel on other stacks and test it there: an hour and more;'
	@echo '                with STACK="torch 2.6" on one'
	@echo 'make oldest     the same for the oldest torch, with a few of the tests: minutes'
	@echo 'make lint-workflows  check .github/workflows with actionlint and zizmor'
	@echo 'make bench      the benchmarks'
	@echo 'make soak       thirty kills of a training, and its memory over 2,000 steps'
	@echo 'make clean      remove what the demo made'

env: $(VENV)/complete

# What an interruption left is completed: the file that says so comes last.
$(VENV)/complete: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || \
	    { echo 'make: the packages of requirements.txt need Python 3.11 to 3.14, and $(PYTHON) is' \
	    `$(PYTHON) --version 2>&1`'; name another one: make $(MAKECMDGOALS) PYTHON=python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing the packages of requirements.txt, about a minute ...'
	@$(PIP) --no-compile --requirement requirements.txt && \
	    $(PIP) --no-deps --no-build-isolation --editable . || \
	    { echo 'make: pip could not install into $(VENV); it needs the network and 7 GB of disk;' \
	    'make $(MAKECMDGOALS) goes on where it stopped' >&2; exit 1; }
	touch $@

data/shapes/preview.png: mmvanilla/datasets/shapes.py tools/make_shapes.py | env
	$(RUN) tools/make_shapes.py --out data/shapes

# A training of the same sources and data goes on where it was interrupted; another begins anew.
$(DEMO)/begun: data/shapes/preview.png $(SOURCES)
	rm -rf $(DEMO)
	mkdir -p $(DEMO)
	touch $@

$(DEMO)/trained: $(DEMO)/begun
	$(RUN) tools/train.py $(DEMO_CONFIG) --resume --cfg-options \
	    default_hooks.visualization.draw=True default_hooks.visualization.interval=4
	touch $@

$(DEMO)/curve.png: $(DEMO)/trained
	$(RUN) tools/test.py $(DEMO_CONFIG) `cat $(DEMO)/last_checkpoint` --show-dir $(DEMO)/predictions
	$(RUN) tools/plot_log.py $(DEMO) --out $@

demo: env $(DEMO)/curve.png
	@echo
	@echo 'Shapes, with their annotation:           data/shapes/preview.png'
	@echo 'Ground truth (left), prediction (right): $(DEMO)/predictions/*.jpg'
	@echo 'Training curve:                          $(DEMO)/curve.png'

docs: .venv-docs/complete
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

# What an older build left in build/ would be in the wheel, too.
dist: .venv-dist/complete
	rm -rf build dist
	.venv-dist/bin/python -m build --outdir dist .
	.venv-dist/bin/twine check --strict dist/*
	.venv-dist/bin/check-wheel-contents dist/*.whl
	@test -z "$$TAG" -o -e "dist/mmvanilla-$${TAG#v}.tar.gz" || \
	    { echo "make: tag $$TAG is not v and the version in mmvanilla/__init__.py" >&2; exit 1; }

lint-workflows: .venv-workflows/complete
	.venv-workflows/bin/actionlint
	.venv-workflows/bin/zizmor --quiet .github

.venv-%/complete: requirements-%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet --no-compile --requirement $<
	touch $@

lint: env
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/mypy

# One worker per core with one thread each: most nets in the tests are small.
fast test-slow test-share: export OMP_NUM_THREADS := 1
PROCESSES := $(shell getconf _NPROCESSORS_ONLN)
PYTEST := $(RUN) -m pytest -n $(PROCESSES) --maxprocesses 4 --dist worksteal

# In parallel, since mypy uses one core only.
test: env
	@$(MAKE) --no-print-directory -j 2 lint fast

fast: env
	$(PYTEST) -m 'not slow'

test-slow: env
	$(PYTEST) -m slow

test-share: env
	$(PYTEST) -m slow --share

stacks:
	$(PYTHON) tests/stacks.py $${STACK:+"$$STACK"}

# What tells soonest that an old torch is left behind.
oldest:
	$(PYTHON) tests/stacks.py 'torch 2.1' --tests tests/test_models tests/test_safe_load

bench: env
	$(RUN) benchmarks/roi_align.py
	$(RUN) tools/fps.py configs/mask_rcnn_vanillanet13.py --part backbone --no-fuse --fuse --deploy
	$(RUN) benchmarks/speed.py --out work_dirs/speed

soak: env
	$(RUN) benchmarks/kills.py
	$(RUN) benchmarks/memory.py

clean:
	rm -rf data/shapes $(DEMO)
