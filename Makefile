# make demo: install, then the main job on the embedded model.  make test: install, then every test.  make lint: style and types.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
STAMP := $(VENV)/.installed

LMMS := .venv-lmms

.PHONY: demo test test-gpu gpu-report test-lmms lint clean

$(STAMP): setup.py pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints-cpu.txt --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/longcompress demo --out demo_out

test: $(STAMP)
	$(ENV) $(BIN)/pytest -q -n 2 --dist loadfile
	$(ENV) TRITON_INTERPRET=1 $(BIN)/pytest -q tests/interpreted tests/kernels/test_attend.py tests/kernels/test_novelty.py

# Needs a GPU and an environment of one's own (PyTorch for CUDA, pip install -e ".[dev]"): kernels run compiled there.
test-gpu:
	LONGCOMPRESS_REQUIRE_GPU=1 $(PYTHON) -m pytest -q tests/interpreted

# The same machine in under ten minutes: device, tests, every operation and type, kernels one by one, a captured segment.
gpu-report:
	$(PYTHON) -m longcompress.eval.bench.gpu_report --out gpu_report

# lmms-eval asks for an older av, and for a torchvision that breaks transformers where torch is for CPUs: it goes again.
$(LMMS)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(LMMS)/bin/pip install --quiet --disable-pip-version-check lmms-eval==0.7.3 torchvision==0.28.0
	$(LMMS)/bin/pip uninstall --quiet --yes torchvision
	$(LMMS)/bin/pip install --quiet --disable-pip-version-check --editable . pytest
	touch $@

# The plugin under the real lmms-eval.
test-lmms: $(LMMS)/.installed
	$(ENV) $(LMMS)/bin/pytest -q tests/lmms

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(LMMS) demo_out gpu_report build dist *.egg-info
