# Everything a newcomer needs: `make demo` and `make test`; both build the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The phantom study: `make reproduce`, with more patients or a larger network if you like, and
# transfer on top of it: `make reproduce-liver`.
PATIENTS ?= 160
SLICES ?= 24
SIDE ?= 64
DEPTH ?= 10
WIDTH ?= 16
EPOCHS ?= 12
MORE ?=
STUDY ?= study/$(PATIENTS)
RUN ?= $(STUDY)/run-$(SLICES)x$(SIDE)-depth$(DEPTH)-width$(WIDTH)

# Its CT with liver masks are other patients: another seed.
LIVER_PATIENTS ?= 60
LIVER_SEEDS ?= 3
LIVER_EPOCHS ?= 2
LIVER_MORE ?=
LIVER ?= $(RUN)-liver-$(LIVER_PATIENTS)

# Each of Ray's many processes would compile all libraries anew where bytecode may not be written.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo reproduce reproduce-liver quick test test-all check format docs benchmark clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[train,test,check]"
	touch $@

demo: setup
	$(BIN)/radnet-lake demo --out demo

# Each command goes on where it stopped, so that a killed study is finished by the same command.
# The truth is written last: without it the archive is only a part.
$(STUDY)/archive.truth.csv: | setup
	mkdir -p $(STUDY)
	rm -rf $(STUDY)/archive
	$(BIN)/radnet-lake phantom $(STUDY)/archive --patients $(PATIENTS) --seed 11

reproduce: setup $(STUDY)/archive.truth.csv
	$(BIN)/radnet-lake harvest $(STUDY)/archive --lake $(STUDY)/lake --phi keep --collection phantom
	$(BIN)/radnet-lake label --lake $(STUDY)/lake
	$(BIN)/radnet-lake preprocess --lake $(STUDY)/lake \
		--slices $(SLICES) --rows $(SIDE) --columns $(SIDE)
	$(BIN)/radnet-lake train --out $(RUN) $(if $(wildcard $(RUN)/config.json),--resume) \
		--lake $(STUDY)/lake --preprocessing $(SLICES)x$(SIDE)x$(SIDE) \
		--depth $(DEPTH) --width $(WIDTH) --epochs $(EPOCHS) --batch 32 --learning-rate 0.002 \
		--weight-decay 0.0001 --warmup 0.1 --channels-last $(MORE)
	$(BIN)/radnet-lake evaluate $(RUN) --split test

$(LIVER)/archive.truth.csv: | setup
	mkdir -p $(LIVER)
	rm -rf $(LIVER)/archive
	$(BIN)/radnet-lake phantom $(LIVER)/archive --patients $(LIVER_PATIENTS) --seed 21 --only masks

reproduce-liver: reproduce $(LIVER)/archive.truth.csv
	$(BIN)/radnet-lake harvest $(LIVER)/archive --lake $(LIVER)/lake --phi keep --collection phantom
	$(BIN)/radnet-lake liver prepare --lake $(LIVER)/lake --run $(RUN) --out $(LIVER)/cases
	$(BIN)/radnet-lake liver sweep --cases $(LIVER)/cases --out $(LIVER)/sweep \
		--scratch-shares 0.4,0.2 --seeds $(LIVER_SEEDS) --epochs $(LIVER_EPOCHS) --batch 2 --learning-rate 0.002 \
		--decoder-width 8 --channels-last --note "PHANTOM DATA" $(LIVER_MORE)

quick: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
		-m "not slow and not ray and not s3 and not long"

test: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PYTHONWARNINGS=ignore $(BIN)/sqlfluff lint --processes 0 sql

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/python -m radnet_lake.cli.docs

benchmark: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train,benchmark]"
	$(BIN)/python benchmarks/harvest.py
	$(BIN)/python benchmarks/label.py
	$(BIN)/python benchmarks/volumes.py
	$(BIN)/python benchmarks/preprocess.py
	$(BIN)/python benchmarks/feeding.py
	$(BIN)/python benchmarks/train.py

clean:
	rm -rf $(VENV) demo
