# make demo       install, then compress a synthetic video and ask about it with the embedded model
# make test       install, then run every test
# make test-fast  install, then run the tests that take seconds
# make lint       install, then check style and types
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
STAMP := $(VENV)/.installed

LMMS := .venv-lmms
T519 := .venv-519

.PHONY: demo test test-library test-interpreted test-fast fuzz fuzz-bytes test-gpu gpu-report test-learns test-lmms test-page soak audit test-transformers-519 lint clean

$(STAMP): setup.py pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints-cpu.txt --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/longcompress demo --out demo_out

# Triton's interpreter is chosen when a process starts, so the kernels under it run in a process of their own, beside
# the other tests. Those have three for two cores: many wait for servers and other processes.
test: $(STAMP)
	$(MAKE) --jobs 2 test-library test-interpreted

test-library: $(STAMP)
	$(ENV) $(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder

test-interpreted: $(STAMP)
	$(ENV) TRITON_INTERPRET=1 $(BIN)/pytest -q tests/interpreted tests/kernels/test_attend.py tests/kernels/test_novelty.py

test-fast: $(STAMP)
	$(ENV) $(BIN)/pytest -q -n 2 --dist loadfile -m "not slow and not compiled and not real"

# Made-up videos through `compress`: make fuzz N=2000 SEED=1. Killed, it goes on where it stopped.
N ?= 200
SEED ?= 1
fuzz: $(STAMP)
	$(ENV) PYTHONPATH=.:tests $(BIN)/python tests/fuzz.py --num $(N) --seed $(SEED)

# Small files with damaged bytes through the commands: make fuzz-bytes N=5000 SEED=1. It goes on likewise.
fuzz-bytes: $(STAMP)
	$(ENV) PYTHONPATH=.:tests $(BIN)/python tests/fuzz_bytes.py --num $(N) --seed $(SEED)

# Needs a GPU, and PyTorch for CUDA in the environment of PYTHON. The kernels run compiled.
test-gpu:
	LONGCOMPRESS_REQUIRE_GPU=1 $(PYTHON) -m pytest -q tests/interpreted

# Needs the same. Writes one report in under ten minutes: the device, the tests, every kernel and type with its speed.
gpu-report:
	$(PYTHON) -m longcompress.eval.bench.gpu_report --out gpu_report

# A real language model learns to see and hear, from downloads to answers. Run again, it goes on.
LEARNS := real_small_stack
test-learns: $(STAMP)
	$(ENV) $(BIN)/python examples/real_small_stack/run.py --out $(LEARNS) --cache .cache/assets
	$(ENV) $(BIN)/pytest -q -rs tests/test_learns.py

# lmms-eval 0.7.3 needs filelock 3 and names an older av. It also brings a torchvision that breaks transformers beside a
# torch for CPUs: remove it.
$(LMMS)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(LMMS)/bin/pip install --quiet --disable-pip-version-check lmms-eval==0.7.3 torchvision==0.28.0 'filelock<4'
	$(LMMS)/bin/pip uninstall --quiet --yes torchvision
	$(LMMS)/bin/pip install --quiet --disable-pip-version-check --editable . pytest
	touch $@

# Runs the plugin under the real lmms-eval.
test-lmms: $(LMMS)/.installed
	$(ENV) $(LMMS)/bin/pytest -q tests/lmms

$(T519)/.installed: setup.py pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(T519)
	$(T519)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	grep -v '^transformers==' constraints-cpu.txt > $(T519)/constraints.txt
	$(T519)/bin/pip install --quiet --disable-pip-version-check --constraint $(T519)/constraints.txt \
		'transformers==5.19.*' --editable . pytest pillow num2words
	touch $@

# Stock video LLMs under the oldest transformers that is supported for them. What it doesn't have is skipped by name.
test-transformers-519: $(T519)/.installed
	$(ENV) $(T519)/bin/pytest -q -rs tests/llm/test_stock.py tests/encoders/test_stock_encoders.py \
		tests/test_stock_models.py tests/test_stock_folders.py tests/test_stock_product.py tests/test_export.py

# The page in Debian's chromium (apt-get install chromium chromium-driver), with clicks, keys and axe-core.
PAGE := .venv-page
$(PAGE)/.installed:
	$(PYTHON) -m venv $(PAGE)
	$(PAGE)/bin/pip install --quiet --disable-pip-version-check selenium==4.* axe-core-python==0.1.0 pytest httpx
	touch $@

test-page: $(STAMP) $(PAGE)/.installed
	$(ENV) PYTHON_OF_SERVER=$(BIN)/python $(PAGE)/bin/pytest -q tests/page

# The server under requests without end: make soak MINUTES=30. Memory may grow by less than 5 MB an hour.
MINUTES ?= 30
soak: $(STAMP)
	$(ENV) $(BIN)/longcompress bench serve --soak-minutes $(MINUTES) --out soak.csv

# Known vulnerabilities of all that is installed, of PyPI's list. pip-audit passes over what it can't look up, so the
# list must first know an old fault: where it can't be reached, this fails.
AUDIT := .venv-audit
$(AUDIT)/.installed:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	touch $@

audit: $(STAMP) $(AUDIT)/.installed
	echo jinja2==2.4.1 > $(AUDIT)/known.txt
	$(BIN)/pip freeze --exclude-editable | sed 's/+.*//' > $(AUDIT)/installed.txt
	@$(AUDIT)/bin/pip-audit --no-deps --disable-pip -f json -r $(AUDIT)/known.txt 2> /dev/null \
		| grep -q '"vulns": \[{' || { echo "nothing was audited: no list of vulnerabilities can be reached"; exit 2; }
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip -r $(AUDIT)/installed.txt

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(LMMS) $(PAGE) $(AUDIT) $(T519) demo_out gpu_report $(LEARNS) build dist *.egg-info
