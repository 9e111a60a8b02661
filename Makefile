.POSIX:

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
JOBS ?= auto
PYTEST = $(VENV)/bin/python -m pytest -q --numprocesses $(JOBS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
# Older processors that this one may imitate; tests marked `processor` run again as on each of them.
ISAS = avx2 avx512 avx512-bf16
# Programs that some tests need, and Debian's packages of them.
PROGRAMS = chromium qemu-aarch64 aarch64-linux-gnu-gcc
PACKAGES = chromium qemu-user gcc-aarch64-linux-gnu

.PHONY: help demo test quick check venv system clean

help:
	@echo 'make demo    install the light runtime in $(VENV) and upscale the sample pictures into demo/'
	@echo 'make test    install everything in $(VENV), PyTorch included, and run the tests'
	@echo 'make quick   the tests that need no export and no PyTorch, in a minute'
	@echo 'make check   lint, formatting and types; Dockerfiles too'
	@echo 'make venv    only create $(VENV)'
	@echo 'make system  as root on Debian: programs that some tests need (a browser, an emulator)'
	@echo 'make clean   remove what the other targets write, but keep $(VENV)'
	@echo
	@echo 'Variables: PYTHON=$(PYTHON) (3.11 or newer), VENV=$(VENV), TORCH=$(TORCH), JOBS=$(JOBS), TESTS=options of pytest'

demo: $(VENV)/.runtime-installed
	@$(VENV)/bin/hiif-deploy demo -o demo

test: $(VENV)/.dev-installed
	@$(PYTEST) $(TESTS)
	@for isa in $(ISAS); do $(PYTEST) --isa $$isa $(TESTS) $(shell grep -rl mark.processor tests) || exit 1; done

quick: $(VENV)/.quick-installed
	@$(PYTEST) --quick $(TESTS)

check: $(VENV)/.dev-installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/hadolint .github/docker/*.Dockerfile

venv: $(VENV)/.created

# Tests are skipped, with the reason, where these programs are missing.
system:
	@missing=; for one in $(PROGRAMS); do command -v $$one >/dev/null || missing="$$missing $$one"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	    echo "Not installed, their tests are skipped:$$missing (apt-get install $(PACKAGES))"; exit 0; fi; \
	(timeout 120 apt-get -qq update && DEBIAN_FRONTEND=noninteractive timeout 300 \
	    apt-get -qq install -y --no-install-recommends $(PACKAGES) >/dev/null) \
	    || echo "Could not be installed, their tests are skipped:$$missing"

clean:
	rm -rf demo dist .mypy_cache .pytest_cache .ruff_cache .test-cache
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

$(VENV)/.quick-installed: $(VENV)/.runtime-installed
	@test -e $(VENV)/.dev-installed || $(PIP) install -qq 'pytest>=8.4' 'pytest-xdist>=3.8'
	@touch $@

$(VENV)/.dev-installed: $(VENV)/.created pyproject.toml
	@echo 'Installing $(TORCH) and the development tools in $(VENV) ...'
	@$(PIP) install -qq '$(TORCH)'
	@$(PIP) install -qq -e '.[train,export,engines,dev]'
	@$(VENV)/bin/hiif-deploy serve --install-viewer || echo 'Without it the tests of the page are skipped.'
	@touch $(VENV)/.runtime-installed $(VENV)/.quick-installed $@
