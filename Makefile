# Everything a newcomer needs: `make demo` and `make test`; both build the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test check format schema benchmark clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[train,test,check]"
	touch $@

demo: setup
	$(BIN)/radnet-lake demo --out demo

test: setup
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PYTHONWARNINGS=ignore $(BIN)/sqlfluff lint --processes 0 sql

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: setup
	$(BIN)/python -m radnet_lake.schema > sql/SCHEMA.md
	$(BIN)/python -m radnet_lake.manual > docs/labels.new && mv docs/labels.new docs/labels.md

benchmark: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train,benchmark]"
	$(BIN)/python benchmarks/harvest.py
	$(BIN)/python benchmarks/label.py
	$(BIN)/python benchmarks/volumes.py
	$(BIN)/python benchmarks/preprocess.py
	$(BIN)/python benchmarks/feeding.py

clean:
	rm -rf $(VENV) demo
