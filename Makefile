# `make demo` and `make test` set everything up in .venv; a second run reuses it.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/ready

.PHONY: setup demo check test docs bench chaos fuzz format constraints training-data checkpoints scale-picture evaluation

setup: $(READY)

# Modules are compiled here, on all cores, which pip does on one: without that, each process of a run
# would compile torch anew where PYTHONDONTWRITEBYTECODE is set. (Some packages hold files on purpose
# that cannot be compiled.)
$(READY): pyproject.toml constraints.txt
	@echo "setting up .venv: torch, Ray and the rest; this takes minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev]'
	@echo "compiling their modules"
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	touch $@

demo: $(READY)
	$(BIN)/python -m jobs.demo --output=demo

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes: one runs most tests that start Ray, the other one the rest (tests/conftest.py).
test: $(READY)
	$(BIN)/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

# Without a network. A fresh environment, since a warning counts as an error only where pages are read.
docs: $(READY)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet docs build/docs
	@echo build/docs/index.html

bench: $(READY)
	$(BIN)/python -m tests.bench $(if $(ALEXNET_WEIGHTS),--alexnet-weights=$(ALEXNET_WEIGHTS))

# Faults by the dozen, on a cluster of several nodes on this machine; some 40 minutes on two cores.
chaos: $(READY)
	$(BIN)/python -m tests.chaos

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Newest versions that pyproject.toml allows, from the registry that pip is set up with.
constraints:
	rm -rf .venv-new && $(PYTHON) -m venv .venv-new
	.venv-new/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	(head -n 1 constraints.txt; .venv-new/bin/python -m pip freeze --exclude-editable) > constraints.new
	mv constraints.new constraints.txt && rm -rf .venv-new

# Arranges the training data in the folders that conf/checkpoints/ names; see CONTRIBUTING.md.
DATA ?= data
TRAINING := build/training
training-data: $(READY)
	mkdir -p $(TRAINING)/photos $(TRAINING)/photos_held_out
	ln -sfn $(abspath $(DATA))/weights $(TRAINING)/weights
	find $(abspath $(DATA))/photos -name '*0.jpg' -exec ln -sf -t $(TRAINING)/photos_held_out {} +
	find $(abspath $(DATA))/photos -name '*[1-9].jpg' -exec ln -sf -t $(TRAINING)/photos {} +
	test -f $(TRAINING)/live/pairs.csv || $(BIN)/python $(DATA)/live/rebuild.py $(TRAINING)/live

# Trains a packaged checkpoint. Its fold models stay in build/training, for the evaluation.
checkpoint-%: training-data
	$(BIN)/python jobs/train.py --config conf/checkpoints/$*.yaml
	cp $(TRAINING)/$*.safetensors spips_core/checkpoints/

checkpoint-embedded: $(TRAINING)/embedded_trunk.safetensors

$(TRAINING)/embedded_trunk.safetensors: | training-data
	$(BIN)/python jobs/distill_trunk.py --config conf/checkpoints/embedded_trunk.yaml

# Draws docs/expected_dmos.jpg with the packaged checkpoint, after it was trained anew.
scale-picture: $(READY)
	$(BIN)/python -m docs.draw_expected_dmos

# Trains models without each family of distortions in turn, and tables how well they agree with the
# jury on all kinds; the families' models and the table are in build/families.
families-%: training-data
	$(BIN)/python jobs/train.py --config conf/checkpoints/$*.yaml --output.uri=build/families \
		--training.num_folds=0 --training.by_family=true
	$(BIN)/python jobs/evaluate.py --config conf/checkpoints/families/$*.yaml

# Trains the ablations and variants, and makes the tables of docs/evaluation.md.
VARIANTS := $(foreach b,embedded alexnet squeezenet1_1,$(foreach v,no-semantic no-tradition mlp,$(b)-$(v)))
VARIANTS += alexnet-none
no-semantic := --model.streams='["tradition","percept"]'
no-tradition := --model.streams='["percept","semantic"]'
mlp := --model.fusion=mlp
none := --model.feature_norm=none

variant-%: training-data
	$(BIN)/python jobs/train.py --config conf/checkpoints/$(firstword $(subst -, ,$*)).yaml \
		--output.name=$* $($(subst $(firstword $(subst -, ,$*))-,,$*))

evaluation: $(addprefix variant-,$(VARIANTS))
	$(BIN)/python jobs/evaluate.py --config conf/checkpoints/evaluation.yaml
