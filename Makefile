.POSIX:

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: help demo test check venv clean

help:
	@echo 'make demo    install the light runtime in $(VENV) and upscale the sample pictures into demo/'
	@echo 'make test    install everything in $(VENV), PyTorch included, and run the tests'
	@echo 'make check   lint, formatting and types'
	@echo 'make venv    only create $(VENV)'
	@echo 'make clean   remove what the other targets write, but keep $(VENV)'
	@echo
	@echo 'Variables: PYTHON=$(PYTHON) (3.11 or newer), VENV=$(VENV), TORCH=$(TORCH)'

demo: $(VENV)/.runtime-installed
	@$(VENV)/bin/hiif-deploy demo -o demo

test: $(VENV)/.dev-installed
	@$(VENV)/bin/python -m pytest -q

check: $(VENV)/.dev-installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

venv: $(VENV)/.created

clean:
	rm -rf demo dist .mypy_cache .pytest_cache .ruff_cache
	find hiif_deploy export engines training tests -name __pycache__ -prune -exec rm -rf {} +

# Without a usable pip the folder is no finished environment: create it (again).
$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
	    echo '$(PYTHON) was not found. Name a Python 3.11 or newer: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
	    echo 'Name a newer one: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo '*' >$(VENV)/.gitignore
	@touch $@

$(VENV)/.runtime-installed: $(VENV)/.created pyproject.toml
	@echo 'Installing the runtime in $(VENV) ...'
	@$(PIP) install -qq -e .
	@touch $@

$(VENV)/.dev-installed: $(VENV)/.created pyproject.toml
	@echo 'Installing $(TORCH) and the development tools in $(VENV) ...'
	@$(PIP) install -qq '$(TORCH)'
	@$(PIP) install -qq -e '.[train,export,engines,dev]'
	@touch $(VENV)/.runtime-installed $@
