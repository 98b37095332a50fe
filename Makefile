# make run   the whole chain on this machine (recipes/tiny.toml)
# make test  checks and all tests
# make check formatting, lint, types, floors, sizes
# make bench beside transformers, llama.cpp (built once, ten minutes), datatrove, data-juicer and rensa; make soak: an hour of traffic

PYTHON ?= python3
RUN  := .venv
TEST := .venv-test
LLAMA := .venv-llama
DATA_PEERS := .venv-data-peers

.PHONY: run test check fast bench soak clean

run: $(RUN)/.ready
	$(RUN)/bin/lianlu run recipes/tiny.toml

test: $(TEST)/.ready check
	$(TEST)/bin/lianlu pull smollm2-135m-instruct
	$(TEST)/bin/pytest -n 2 --dist loadfile -m "not e2e" tests/unit tests/parity
	$(TEST)/bin/pytest --durations=10 -m "e2e or gpu" tests

fast: $(TEST)/.ready
	$(TEST)/bin/pytest -n 2 --dist loadfile -m "not e2e" tests/unit

check: $(TEST)/.ready
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/ruff check .
	$(TEST)/bin/mypy
	$(TEST)/bin/lint-imports
	$(TEST)/bin/python scripts/size.py

bench: $(TEST)/.ready $(LLAMA)/.ready $(DATA_PEERS)/.ready
	for script in cold_start train data data_quality extraction scale serving; do $(TEST)/bin/python bench/$$script.py || exit 1; done
	for precision in float32 bfloat16 int8 int4; do $(TEST)/bin/python bench/engine.py --precision $$precision || exit 1; done

soak: $(TEST)/.ready
	$(TEST)/bin/python bench/soak.py

$(RUN)/.ready: pyproject.toml scripts/setup.sh
	PYTHON=$(PYTHON) sh scripts/setup.sh $(RUN) .

$(TEST)/.ready: pyproject.toml scripts/setup.sh
	PYTHON=$(PYTHON) sh scripts/setup.sh $(TEST) '.[dev]' chromium

$(LLAMA)/.ready: bench/peers/llama.sh
	PYTHON=$(PYTHON) sh bench/peers/llama.sh $(LLAMA)

$(DATA_PEERS)/.ready: bench/peers/data.sh
	PYTHON=$(PYTHON) sh bench/peers/data.sh $(DATA_PEERS)

clean:
	rm -rf $(RUN) $(TEST) $(LLAMA) $(DATA_PEERS)
