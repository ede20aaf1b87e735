# make run | test | faults | lab | notebooks | predict | app | bench | report | links
PYTHON ?= python3
EXPERIMENT ?= experiment_5
NOTEBOOKS ?= notebooks/*.ipynb
BIN := .venv/bin
OPTIONS := $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(SEED),--seed $(SEED)) $(if $(VALIDATION),--validation)

.PHONY: run test faults lab notebooks predict app bench report links

run: .venv/installed  ## train an experiment, or go on where its last run stopped
	@$(BIN)/python -m utils train $(EXPERIMENT) $(OPTIONS)

test: .venv/tools  ## unit tests, then every notebook in fast mode
	$(BIN)/python -m pytest -q tests
	$(BIN)/python -m pytest -q --nbval-lax notebooks

faults: .venv/tools  ## attack it: crashes, damage, lies, nonsense -> results/faults.csv
	$(BIN)/python -m tests.faults

lab: .venv/tools  ## open the notebooks in Jupyter
	$(BIN)/jupyter lab notebooks

notebooks: .venv/tools  ## run notebooks to their end and keep the outputs
	TQDM_DISABLE=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace $(NOTEBOOKS)

predict: .venv/installed  ## IMAGE=picture.jpg: what the final network says of it
	@$(BIN)/python -m utils predict $(IMAGE)

app: .venv/tools  ## the same in the browser
	@$(BIN)/python -m utils app

bench: .venv/installed  ## the plain training loop and ours in turn: speed, where the time goes, memory
	@$(BIN)/python -m utils bench

report: .venv/installed  ## results/ -> the README's tables and images/
	@$(BIN)/python -m utils report

links: .venv/installed  ## REPO=owner/name: point every badge and bootstrap cell at your copy
	@$(BIN)/python -m utils links $(REPO)

.venv/installed: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed, but $(PYTHON) is " + sys.version.split()[0] + "; name another one, such as: make PYTHON=python3.12")'
	@echo "Setting up .venv once (a few minutes; torch is large) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --requirement requirements.txt --constraint constraints.txt
	@touch $@

.venv/tools: .venv/installed requirements-tools.txt
	@echo "Adding Jupyter and the tools to .venv ..."
	@$(BIN)/python -m pip install --quiet --requirement requirements-tools.txt --constraint constraints.txt
	@touch $@
