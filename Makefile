# make run | test | faults | lab | notebooks | predict | app | bench | report | links | site
PYTHON ?= python3
export EXPERIMENT ?= experiment_5
NOTEBOOKS ?= notebooks/*.ipynb
BIN := .venv/bin
OPTIONS := $(if $(EPOCHS),--epochs "$$EPOCHS") $(if $(SEED),--seed "$$SEED") $(if $(filter-out 0 n N no No NO false False FALSE off Off OFF,$(VALIDATION)),--validation)
PIP_THERE := $(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip > /dev/null

.DELETE_ON_ERROR:  # half an environment is none
.PHONY: run test faults lab notebooks predict app bench report links site

run: .venv/installed  ## train an experiment, or go on where its last run stopped
	@$(BIN)/python -m utils train $(if $(EXPERIMENT),"$$EXPERIMENT") $(OPTIONS)

test: .venv/tools  ## unit tests, then every notebook in fast mode
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadscope --nbval-lax notebooks

faults: .venv/tools  ## attack it: crashes, damage, lies, nonsense -> results/faults.csv
	$(BIN)/python -m tests.faults

lab: .venv/tools  ## open the notebooks in Jupyter
	$(BIN)/python -m jupyterlab notebooks

notebooks: .venv/tools  ## run notebooks to their end and keep the outputs
	TQDM_DISABLE=1 $(BIN)/python -m nbconvert --to notebook --execute --inplace $(NOTEBOOKS)
	$(BIN)/python -m nbconvert --to notebook --coalesce-streams --inplace $(NOTEBOOKS)  # asked for at once it would come first

predict: .venv/installed  ## IMAGE=picture.jpg: what the final network says of it
	@$(BIN)/python -m utils predict $(if $(IMAGE),"$$IMAGE")

app: .venv/tools  ## the same in the browser
	@$(BIN)/python -m utils app

bench: .venv/installed  ## the plain training loop and ours in turn: speed, where the time goes, memory
	@$(BIN)/python -m utils bench

report: .venv/installed  ## results/ -> the README's tables and images/
	@$(BIN)/python -m utils report

links: .venv/installed  ## REPO=owner/name: point every badge and bootstrap cell at your copy
	@$(BIN)/python -m utils links $(if $(REPO),"$$REPO")

site: .venv/site  ## the pages and notebooks as they are, as a website: build/site/index.html
	$(BIN)/python -m sphinx -qW --keep-going -d build/doctrees -c docs . build/site
	@cp build/site/README.html build/site/index.html

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed, but $(PYTHON) is " + sys.version.split()[0] + "; name another one, such as: make PYTHON=python3.12")'
	@rm -f $(BIN)/python $(BIN)/python3* .venv/installed .venv/tools .venv/site  # of a Python that is gone
	@$(PYTHON) -m venv .venv

.venv/installed: requirements.txt constraints.txt | .venv/bin/python
	@echo "Setting up .venv once (a few minutes; torch is large) ..."
	@$(PIP_THERE)
	@$(BIN)/python -m pip install --quiet --requirement requirements.txt --constraint constraints.txt
	@touch $@

.venv/tools: .venv/installed requirements-tools.txt
	@echo "Adding Jupyter and the tools to .venv ..."
	@$(BIN)/python -m pip install --quiet --requirement requirements-tools.txt --constraint constraints.txt
	@touch $@

.venv/site: requirements-site.txt constraints.txt | .venv/bin/python
	@echo "Adding to .venv what the website needs ..."
	@$(PIP_THERE)
	@$(BIN)/python -m pip install --quiet --requirement requirements-site.txt --constraint constraints.txt
	@touch $@
