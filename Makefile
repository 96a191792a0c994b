# make venv   set up .venv on a fresh machine (no compiler needed)
# make demo   train a toy SAN on toybox, evaluate it, write output/demo/
# make test   lint, type check and the whole test suite

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Upstream Detectron2 stays where it is installed; otherwise our subset is installed.
UPSTREAM = $(BIN)/python -c "import importlib.metadata as m, sys; sys.exit('+twostage' in m.version('detectron2'))"

.PHONY: venv demo test lint clean

venv: $(VENV)/.installed

OWN_DETECTRON2 := $(shell find third_party/detectron2 -name '*.py' -not -path '*/build/*')

$(VENV)/.installed: requirements.txt setup.py $(OWN_DETECTRON2)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(UPSTREAM) 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall ./third_party/detectron2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: export TWOSTAGE_DEMO_START ?= $(shell date +%s)
demo:
	@echo "started at $$TWOSTAGE_DEMO_START"
	$(MAKE) --no-print-directory venv
	$(BIN)/python tools/make_demo.py --output output/demo

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf output build *.egg-info .ruff_cache .mypy_cache
