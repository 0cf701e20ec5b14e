# Each target does all of its own set-up: one .venv at the root, no activation. `make help` lists them.
# In another environment: make test PY=python (it must hold requirements.lock and this package).
PYTHON ?= python3
VENV := .venv

ifeq ($(origin PY),undefined)
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
endif

.DEFAULT_GOAL := help
.PHONY: help demo test soak lint format strip notebooks laptop overnight paper figures lab browser clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(STAMP)  ## train, sample and score MoCA on digits (about a minute on 2 cores); figures in figures/demo/
	@mkdir -p figures/executed/demo
	$(PY) -m papermill notebooks/01_quickstart.ipynb figures/executed/demo/01_quickstart.ipynb -k python3 --no-progress-bar --log-level ERROR
	@echo "the executed notebook: figures/executed/demo/01_quickstart.ipynb"
	@echo "the run:               data/runs/demo/"
	@echo "the figures:"
	@ls figures/demo/*.png

# Two tests at a time, each on one thread: two on the same core would wait for each other.
test: $(STAMP) lint  ## lint, unit tests, then every notebook (9 to 15 minutes on 2 idle cores)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist worksteal
	$(MAKE) --no-print-directory notebooks

MINUTES ?= 30
soak: $(STAMP)  ## tests that are too long for every commit, wrong versions that tests must find, half an hour of faults (MINUTES=30)
	$(PY) -m pytest -q -m soak
	$(PY) tests/mutants.py
	$(PY) tests/soak.py --minutes $(MINUTES)

lint: $(STAMP)  ## ruff on modules, tests and notebooks
	$(PY) -m ruff check -q .
	$(PY) -m ruff format -q --check mocalib tests notebooks

format: $(STAMP)  ## let ruff mend and format modules, tests and notebooks
	$(PY) -m ruff check -q --fix .
	$(PY) -m ruff format -q mocalib tests notebooks

NOTEBOOKS ?= notebooks/*.ipynb

strip: $(STAMP)  ## remove outputs and what running leaves in notebooks, as they are committed
	$(PY) notebooks/strip.py $(NOTEBOOKS)

# Two notebooks at a time, each on one thread.
# Runs and figures go to a folder of their own: in the checkout a finished run would be skipped, and nothing tested.
notebooks: $(STAMP)  ## run every notebook at smoke scale with nbval
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	MOCALIB_SCALE=smoke MOCALIB_RUNS="$$scratch/runs" MOCALIB_FIGURES="$$scratch/figures" OMP_NUM_THREADS=1 \
	PYTHONPATH="$(CURDIR)/tests/offline:$$PYTHONPATH" \
	$(PY) -m pytest -q -p no:python -p kernels -n 2 --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout 300 notebooks

# All runs of a scale, whichever of them fail, then its figures. Finished runs are skipped; those of Table 1 are also
# sampled from Gaussians.
MIXED := table1 baselines_cifar10 baselines_celeba table1_wae
define PAPER
	@status=0; $(PY) -m mocalib sweep $(MIXED) --sampler gmm10 --scale $(1) || status=1; \
	$(PY) -m mocalib sweep all --scale $(1) || status=1; \
	$(call FIGURES,$(firstword $(1))) || status=1; exit $$status
endef
FIGURES = OMP_NUM_THREADS=1 $(PY) notebooks/execute.py $(1)

laptop: $(STAMP)  ## the whole paper in small: every run of the laptop scale, two at a time on two cores, then make figures
	$(call PAPER,laptop --jobs 0)

# Faces first: the ablations that take an hour or two, then all else. It needs data/raw/faces10k and data/raw/cifar10-jpeg.
FIRST := figure5 table3 table4 figure4
overnight: $(STAMP)  ## the paper on faces and CIFAR-10 with small nets, two runs at a time; stop it and start it again at will
	-$(PY) -m mocalib sweep $(FIRST) --scale overnight --jobs 0
	$(call PAPER,overnight --jobs 0)

paper: SCALE ?= paper
ENGINE ?= local
DEVICE ?= cuda
SWEEP ?= --jobs 0
paper: $(STAMP)  ## every run as published, then make figures; ENGINE=ray: on a cluster (also SCALE=smoke, DEVICE=cpu, SWEEP="--jobs 4 --threads 1")
	$(call PAPER,$(SCALE) --engine $(ENGINE) --device $(DEVICE) $(SWEEP))

figures: SCALE ?= laptop
figures: $(STAMP)  ## run the notebooks over finished runs: figures/<scale>/ and executed copies; nothing is trained (SCALE=paper)
	$(call FIGURES,$(SCALE))

lab: $(STAMP)  ## open the notebooks in JupyterLab
	$(PY) -m jupyterlab notebooks

browser: $(STAMP)  ## run notebooks in a real JupyterLab in a real browser; needs chromium and `pip install playwright`
	$(PY) tests/browser.py

clean:  ## remove caches and what demo and smoke made; never data/raw, custom runs and notebooks or committed records
	rm -rf data/cache data/runs/demo data/runs/smoke figures/demo figures/smoke figures/executed/demo
	rm -rf .pytest_cache .ruff_cache notebooks/.ipynb_checkpoints build *.egg-info

# Reinstalled only when what it is made from changes.
$(VENV)/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; this is $$($(PYTHON) --version). Pass another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "making $(VENV) failed; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@mkdir -p $(VENV)/etc/ipython  # kernels warn of their loopback sockets at every start; errors still show
	@echo '{"IPKernelApp": {"log_level": 40}}' > $(VENV)/etc/ipython/ipython_kernel_config.json
	@touch $@
