# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
WORKERS ?= 2
# One thread for each worker. Tests start many processes, so the bytecode of modules is kept, whatever the environment says.
QUICK := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=

.PHONY: demo test test-all fuzz lint site install install-dev system clean

# The job a user has, on data that comes with the installation; ends with a table and the path of the report.
demo: $(VENV)/.installed
	$(BIN)/lessen demo

test: $(VENV)/.installed-dev system
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(QUICK) $(BIN)/pytest -n $(WORKERS) --dist worksteal -q

# Every test, those on large networks and on all pairs included: an hour or two.
test-all: $(VENV)/.installed-dev system
	$(QUICK) $(BIN)/pytest -n $(WORKERS) --dist worksteal -q -m ""

# Damaged and forged files of every kind, each of which must end in one error; docs/security.md has the counts.
TRIES ?= 10000
SEED ?= 0
fuzz: $(VENV)/.installed-dev
	$(QUICK) $(BIN)/python tests/hostile/fuzz.py --tries $(TRIES) --seed $(SEED)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

# The documentation as web pages, in site/; open site/index.html, or serve the folder so that search works.
site: $(VENV)/.installed-dev runs/demo/report.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

# The report that the site shows as an example; made once. A demo that was interrupted leaves its folder: it is resumed.
runs/demo/report.html:
	if [ -d runs/demo ]; then $(BIN)/lessen resume runs/demo; else $(BIN)/lessen demo --run runs/demo; fi

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# torch comes first and alone: a range asked for together with other packages may take another build.
$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q $(shell grep -E '^torch(vision)?==' constraints.txt)
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(PIP) install -q -c constraints.txt -e '.[openvino,zoo,data,search,frames,track,site,dev]'
	touch $@ $(VENV)/.installed

# A browser for the test of the report and Fashion-MNIST for the tests on it, where Debian's packages can be had.
# Where they cannot, those tests say that they were skipped, and why.
system:
	sh scripts/system-packages.sh

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache
