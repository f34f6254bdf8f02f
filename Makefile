# make reproduce   all notebooks on synthetic patches, from nothing to a table of results
# make test        ruff, pytest, and every notebook executed
# make test-all    the same, and the slow tests that a release needs
# make bench       ours against what a user would do instead: DATA_DIR=DIR make bench
# make ship        make the run in runs/slides the model that the package ships, and report on
#                  what is shipped: DATA_DIR=DIR make ship
# make where_98    figures and tables of docs/where_98_comes_from.md, from the stored results
# make lock        choose the exact versions anew (needs uv)
# make address     carry the repository's address from pyproject.toml to README and notebooks
# PYTHON=python3.12 make test   with another Python

PYTHON ?= python3
VENV := .venv/bin/python

# The environment is made anew when the lock, the metadata or the Python changes.
INTERPRETER := $(shell "$(PYTHON)" -c "import sys; print('%d.%d.%d' % sys.version_info[:3])" 2>/dev/null)
INSTALLED := .venv/installed-$(INTERPRETER)

.PHONY: reproduce test test-all bench ship where_98 lock address
.NOTPARALLEL:

reproduce: $(INSTALLED)
	@PCAM_TF_DATA_DIR= $(VENV) -m pcam_tf reproduce --preset smoke

PYTEST := -m pytest -n 2 --dist loadfile --durations=15 --cov --cov-report=term tests
test: $(INSTALLED)
	@$(VENV) -m ruff check . && $(VENV) -m ruff format --check .
	@$(VENV) $(PYTEST) -m "not slow"

test-all: $(INSTALLED)
	@$(VENV) -m ruff check . && $(VENV) -m ruff format --check .
	@$(VENV) $(PYTEST)

$(INSTALLED): requirements.lock pyproject.toml
	@"$(PYTHON)" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null || \
	  { echo "error: pcam_tf needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is '$(INTERPRETER)': run PYTHON=python3.12 make $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "Making .venv with Python $(INTERPRETER) and installing (about 2 GB, a few minutes) ..."
	@"$(PYTHON)" -m venv --clear .venv
	@$(VENV) -m pip install --quiet --progress-bar on -r requirements.lock
	@$(VENV) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch "$@"

# Full size where real patches are given; then do nothing else on the machine for an hour and a half.
bench: $(INSTALLED)
	@if [ -n "$(DATA_DIR)" ]; then $(VENV) -m benchmarks.bench --size full --data-dir "$(DATA_DIR)" --output docs/performance; \
	  else $(VENV) -m benchmarks.bench --size smoke; fi

RUN := runs/slides
ship: $(INSTALLED)
	@test -n "$(DATA_DIR)" || { echo "error: give the patches: DATA_DIR=DIR make ship" >&2; exit 2; }
	@$(VENV) -c "from pcam_tf.models import classifier as c, model_files as f; \
	  c.save_small(c.load('$(RUN)'), f.SHIPPED_MODEL)"
	@cp $(RUN)/recipe.json pcam_tf/shipped/
	@$(VENV) -c "from pcam_tf.models import model_files as f; from pcam_tf.slides import field_predictors as p; \
	  p.export(f.SHIPPED_MODEL, small=True)"
	@cp $(RUN)/history.csv pcam_tf/shipped/
	@$(VENV) -c "from pcam_tf import data, prediction; from pcam_tf.evaluation import reports; run = 'pcam_tf/shipped'; \
	  prediction.predict_run(run, data.open_source('$(DATA_DIR)'), test_time_augmentation=True); \
	  reports.report_run(run)"
	@rm pcam_tf/shipped/predictions-*.csv pcam_tf/shipped/history.csv

where_98: $(INSTALLED)
	@$(VENV) docs/where_98_tables.py

lock:
	@{ sed -n '/^#/p' requirements.lock; \
	  uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --no-annotate \
	    --no-header --constraint constraints.txt requirements-dev.txt; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

REPOSITORY := $(shell sed -n 's/^Repository = "\(.*\)"/\1/p' pyproject.toml)
address:
	@sed -i -E -e 's#https://github.com/[^/ ]+/pcam_tf#$(REPOSITORY)#g' \
	  -e 's#(colab.research.google.com/github)/[^/ ]+/pcam_tf#\1/$(REPOSITORY:https://github.com/%=%)#g' \
	  README.md CITATION.cff notebooks/*.ipynb
