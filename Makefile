# Every target does its own set-up: it finds a Python, creates .venv and installs into it what pyproject.toml names.
# A stamp file in .venv keeps the second call quick; a changed pyproject.toml installs again. No step needs root.

PYTHON ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n 2

.PHONY: help demo test check docs peer-tests lint typing format soak soak-server soak-hostile timing bench venv clean

help:
	@echo "make demo    show a real file travelling through every path"
	@echo "make test    the tests that gate a change (minutes)"
	@echo "make check   lint, types, and the slower tests"
	@echo "make docs    the documentation site, in docs/_build/html"
	@echo "make peer-tests  rdma-core's own Python tests against the emulated adapter"
	@echo "make timing  whether the time of a refusal tells what was wrong"
	@echo "make soak-server   30 minutes of load, cut connections and kill -9;  make soak-hostile   10 minutes of nonsense"
	@echo "make soak    long runs;  make bench  the figures;  make format  lay out the source"

demo: .venv/.run
	@$(BIN)/netfs demo

test: .venv/.dev
	@$(PYTEST) $(PARALLEL) -q -m "not slow and not soak"

check: lint typing docs .venv/.e2e
	@$(PYTEST) $(PARALLEL) -q -m "slow and not soak"

docs: .venv/.docs
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lint: .venv/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q . || { echo "run: make format" >&2; exit 1; }

typing: .venv/.dev
	@$(BIN)/mypy

format: .venv/.dev
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format -q .

peer-tests: .venv/.dev
	@$(BIN)/python -m tests.rdma.peer

timing: .venv/.dev
	@$(BIN)/python -m tests.attacks.timing

soak: .venv/.dev
	@$(PIP) install --group fuzz || echo "without atheris its test skips" >&2
	@$(PYTEST) -m soak --timeout 3600

soak-server: .venv/.dev
	@$(BIN)/python -m tests.servers.soak

soak-hostile: .venv/.dev
	@$(BIN)/python -m tests.servers.hostile

bench: .venv/.run
	@$(BIN)/netfs bench

venv: .venv/.dev

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

# pip is renewed first: the one that comes with Debian 12 knows no dependency groups.
.venv/.dev: .venv/.run
	@echo "installing what the tests need"
	@$(PIP) install --group test --group lint --group typing
	@touch $@

.venv/.e2e: .venv/.dev
	@echo "installing the libraries that use netfs"
	@$(PIP) install --group e2e
	@$(PIP) install -e '.[fuse]' || echo "no pyfuse3: the tests of the mount are skipped"
	@touch $@

.venv/.docs: .venv/.dev
	@echo "installing what the documentation site is made with"
	@$(PIP) install --group docs
	@touch $@

.venv/.run: pyproject.toml
	@found=; bare=; \
	for candidate in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	    "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    if "$$candidate" -c 'import ensurepip' 2>/dev/null; then found="$$candidate"; break; fi; \
	    bare="$${bare:-$$candidate}"; \
	done; \
	if $(BIN)/python -m pip --version >/dev/null 2>&1; then :; \
	elif [ -n "$$found" ]; then echo "creating .venv with $$("$$found" --version)"; "$$found" -m venv --clear .venv; \
	elif [ -n "$$bare" ]; then echo "$$bare cannot create .venv; run: sudo apt install $${bare##*/}-venv" >&2; exit 1; \
	else echo "netfs needs Python 3.11 or later; name one with: make PYTHON=/path/to/python3" >&2; exit 1; fi
	@echo "installing netfs"
	@$(PIP) install --upgrade pip
	@$(PIP) install -e .
	@touch $@
