# Every target sets up .venv by itself, again only when the pins changed.
# make demo [PARTS=20]   the main job on embedded defaults     make test    all tests
# make run [CONFIG=...]  the service                           make check   format, lint, types, import rule
# make bench             every benchmark                       make clean   what was built

PYTHON ?= python3
PARTS ?= 20
CONFIG ?= config.toml
TEST_JOBS ?= 3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
NODE_READY := tests/contract/node/node_modules/.package-lock.json

.PHONY: demo run test check bench clean system-packages

demo: $(READY)
	$(BIN)/cangate demo --parts $(PARTS)

run: $(READY)
	mkdir -p data/frames
	$(BIN)/cangate run -c $(CONFIG)

test: $(READY) system-packages $(NODE_READY)
	$(BIN)/pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder  # conftest.py knows the order

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/unit/test_import_rule.py

bench: $(READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/contract/node/node_modules

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# What the tests need beside Python: a real broker, a real browser, an independent OPC UA client. Where they cannot be
# installed, the tests that need them are skipped and say so.
system-packages:
	@deploy/install-test-tools.sh

$(NODE_READY): tests/contract/node/package.json
	@if command -v npm >/dev/null; then npm install --silent --no-fund --no-audit --prefix tests/contract/node; \
	else echo "npm is not here: the tests with node-opcua-client are skipped"; fi
