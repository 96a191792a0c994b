# make venv   set up .venv on a fresh machine (no compiler needed)
# make demo   train a toy SAN on toybox, evaluate it, write output/demo/
# make docs   build docs/_build/html, without warnings
# make test   lint, type check and the whole test suite

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: venv demo docs test lint clean

venv: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: export TWOSTAGE_DEMO_START ?= $(shell date +%s)
demo:
	@echo "started at $$TWOSTAGE_DEMO_START"
	$(MAKE) --no-print-directory venv
	$(BIN)/python tools/make_demo.py --output output/demo

docs: venv
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One thread for each of the processes, which are as many as there are cores; a file stays in one for what its tests share.
test: export OMP_NUM_THREADS := 1
test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

clean:
	rm -rf output build docs/_build *.egg-info .ruff_cache .mypy_cache
