# Two commands do everything on a fresh clone: `make demo` and `make test`.
# Any python3 >= 3.10 will do; choose one with `make test PYTHON=python3.12`.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.10; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: demo test test-all docs gallery evidence third-party lint types check clean

demo: $(READY)
	@echo "== demo: training discrete networks on real data (a minute or two)"
	$(PY) -m sll demo

test: $(READY)
	@echo "== test: all but what compiles much or trains (less than five minutes on 2 cores)"
	$(PY) -m pytest -n 2 --dist worksteal -m "not slow"

test-all: $(READY)
	@echo "== test-all: the whole suite (ten minutes and more on 2 cores)"
	$(PY) -m pytest -n 2 --dist worksteal

docs: $(READY)
	@echo "== docs: the documentation, strictly, into site/"
	$(PY) tools/pages.py --check
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "open site/index.html (the search needs a server: python3 -m http.server -d site)"

gallery: $(READY)
	@echo "== gallery: the eleven examples (a minute); their figures go to out/figures/gallery"
	$(PY) tools/figures.py --gallery --out out/figures

evidence: $(READY)
	$(PY) -m pip install --quiet -c constraints.txt -e ".[evidence]"
	$(PY) -m pip install --quiet --no-deps --ignore-requires-python softtorch
	@echo "== evidence: eighteen tasks (some hours on 2 cores; results.jsonl holds what is done)"
	$(PY) benchmarks/evidence

third-party: $(READY)
	$(PY) -m pip install --quiet -c constraints.txt -e ".[third-party]"
	$(PY) -m pip install --quiet --no-deps norse spikingjelly
	@echo "== third-party: 260 programs of other people's libraries against the line integral (half an hour)"
	$(PY) benchmarks/third_party

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(READY)
	$(PY) -m mypy

check: lint types test-all

$(READY): pyproject.toml constraints.txt tools/install.sh
	@test -n "$(PYTHON)" || { echo "no python3 >= 3.10 with the venv module found; name one: make test PYTHON=/path/to/python3"; exit 1; }
	@bash tools/install.sh "$(PYTHON)" "$(VENV)"
	@touch $(READY)

clean:
	rm -rf $(VENV) out site
