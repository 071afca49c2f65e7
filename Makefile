# Targets for people: `make help`. Works with GNU make 3.81 and any POSIX shell.

SHELL = /bin/sh
PORT ?= 8000
BIN = .venv/bin
PIP_OPTIONS = --quiet --progress-bar off --disable-pip-version-check --log .venv/pip.log
PIP = $(BIN)/python -m pip install $(PIP_OPTIONS)
PYTHONS = $(if $(PYTHON),$(PYTHON),python3.13 python3.12 python3.11 python3)
# -rs says what was skipped, and why.
PYTEST = $(BIN)/python -m pytest -rs
export PORT
# Bytecode is kept, whatever the machine says: a site and its tests are dozens of processes, and each would compile
# everything again.
unexport PYTHONDONTWRITEBYTECODE

help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

run: packages $(if $(filter embedded,$(MONGODB)),dev-packages)  ## The whole site on http://localhost:8000/ (PORT=, HOST=, MONGODB=embedded)
	@$(BIN)/python -I config/embedded/first_run.py
	@exec $(BIN)/python manage.py serve --stop-with-parent

test: packages dev-packages  ## All tests, with a browser too, and those of the stores once more on MongoDB's protocol and on PostgreSQL
	@$(MAKE) --no-print-directory -j 2 test-all test-rows

# Four workers in all keep two cores busy, with the browsers and processes that tests start: with more of them nothing is
# sooner, and everything waits. Each has stores of its own; the tests of one file stay together, the longest files first.
test-all:
	$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder

test-rows:
	@status=0; for stores in mongodb postgresql; do \
	    STORES=$$stores $(PYTEST) -n 1 --dist loadfile --no-loadscope-reorder -m stores || status=1; \
	done > .venv/test-rows.log 2>&1; \
	cat .venv/test-rows.log; exit $$status

test-stores: packages dev-packages  ## The tests of the stores, and all tests with a browser, on MongoDB's protocol and on PostgreSQL
	@status=0; for stores in mongodb postgresql; do \
	    STORES=$$stores $(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder -m "stores or browser" || status=1; \
	done; exit $$status

# The next two are for pipelines (docs/contributing.md): a job takes some folders, and servers that run beside it.
test-folders: packages dev-packages  ## The tests of some folders: make test-folders TESTS="tests/chat tests/history"
	$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder $(wildcard $(TESTS))

test-external: packages dev-packages  ## The tests of the stores, on the servers of DATABASE_URL, MONGODB_URI and REDIS_URL
	STORES=external $(PYTEST) -n $$(echo "$$REDIS_URL" | tr , '\n' | wc -l) --dist loadfile --no-loadscope-reorder -m stores

soak: packages dev-packages  ## Long runs in which processes are killed
	SOAK=1 STORES=production $(BIN)/python -m pytest -m soak -s tests/processes/test_bad_nights.py
	SOAK=1 STORES=postgresql $(BIN)/python -m pytest -m soak -s tests/billing/test_ledger_load.py tests/billing/test_real_kills.py
	SOAK=1 $(BIN)/python -m pytest -m soak -s

bench: packages dev-packages  ## The load benchmark and that of the stores, half an hour; bench-quick takes two minutes. Figures go to bench/RESULTS.md
	$(BIN)/python -m bench.run
	$(BIN)/python -m bench.stores

bench-stores: packages dev-packages  ## What a turn costs on each store, by the socket and by event streams, fifteen minutes
	$(BIN)/python -m bench.stores

bench-transports: packages dev-packages  ## What a token costs by our adapters and by the official SDKs, five minutes
	$(BIN)/python -m bench.transports

bench-search: packages dev-packages  ## How long a search takes in 1 million turns, on PostgreSQL and SQLite, ten minutes
	$(BIN)/python -m bench.search

bench-relay: packages dev-packages  ## What the OpenAI-compatible API adds to a provider's answers, beside the socket, eight minutes
	$(BIN)/python -m bench.relay

bench-webhooks: packages dev-packages  ## What 5,000 forged notifications of payments do to chats beside them, two minutes
	$(BIN)/python -m bench.webhooks

check-djstripe: packages dev-packages  ## Compare our one migration of dj-stripe with its own, on both databases, three minutes
	CHECK_DJSTRIPE=1 $(PYTEST) tests/billing/test_djstripe.py
	CHECK_DJSTRIPE=1 STORES=postgresql $(PYTEST) tests/billing/test_djstripe.py

smoke-providers: packages  ## Ask every provider whose key is set, in earnest: it costs a fraction of a cent
	$(BIN)/python manage.py smoke_providers

smoke-payments: packages  ## Try Stripe and Mercado Pago in their test modes, in earnest, with test keys
	$(BIN)/python manage.py smoke_payments

bench-quick: packages dev-packages
	$(BIN)/python -m bench.run --quick

# As in production, so that `check --deploy` judges what matters. Set variables win over .env.
check: export DEBUG = false
check: export SECRET_KEY = only-for-make-check-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFG
check: export JWT_SECRET_KEY = another-one-for-make-check-0123456789-abcdefghijklmnopqrstuvwxyz
check: export SITE_URL = https://chat.example.com
check: export ALLOWED_HOSTS = chat.example.com
check: export EMAIL_URL = smtp+tls://user:password@mail.example.com:587
check: packages dev-packages  ## Format, lint, types, layers, templates, workflows, migrations, deployment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	if find templates -name '*.html' | grep -q .; then $(BIN)/djlint templates --check; fi
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --quiet --offline --no-progress --strict-collection .github
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py check --deploy --fail-level WARNING

# Every package has its exact version in these lists, so nothing is resolved. One that cannot be looked up is an error.
audit: packages dev-packages  ## Whether a package is known to have a hole, which takes a connection
	cat requirements*.txt constraints.txt | sed -n 's/[[:space:]]*[;#].*//; s/\[.*\]//; /==/p' | tr A-Z_ a-z- | sort -u > .venv/audited.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement .venv/audited.txt

release-notes:  ## What CHANGELOG.md says of a release, if everything fits: make release-notes TAG=v1.2.3
	@$(or $(wildcard $(BIN)/python),python3) .ci/release_notes.py "$(TAG)"

roll-out:  ## The containers of a release, one process after the other: make roll-out IMAGE=ghcr.io/you/tertulia:1.2.3
	deploy/roll_out "$(IMAGE)"

# Packages are installed again when the content of their lists has changed.

requirements: .venv/bin/python
	@lists=$$(cat requirements.txt constraints.txt | cksum); \
	if [ "$$lists" != "$$(cat .venv/packages 2>/dev/null)" ]; then \
	    echo "Installing the packages of requirements.txt (a minute or two the first time)."; \
	    $(PIP) -r requirements.txt -c constraints.txt || { \
	        echo "The packages could not be installed: the reason is above, and in .venv/pip.log."; exit 1; }; \
	    echo "$$lists" > .venv/packages; \
	fi

install: requirements  ## What a production server needs, and nothing else (docs/deploy.md)
	$(BIN)/python -m compileall -q accounts billing chat config core history

# One after the other, so that of two processes one always answers; runners and workers before web processes.
COMPOSE = docker compose --env-file .env --file deploy/compose.yaml
up:  ## The site in containers, on ports 80 and 443, or its new release; needs a .env (docs/deploy.md)
	$(COMPOSE) build
	$(COMPOSE) up --detach --wait postgres mongo redis
	$(COMPOSE) run --rm prepare
	for service in runner1 runner2 worker beat web1 web2 nginx; do \
	    $(COMPOSE) up --detach --wait --no-deps $$service || exit 1; \
	done
	$(COMPOSE) kill --signal HUP nginx

packages: requirements
	@lists=$$(cksum < requirements-embedded.txt); \
	if [ "$$lists" != "$$(cat .venv/packages-embedded 2>/dev/null)" ]; then \
	    echo "Installing the embedded services of requirements-embedded.txt."; \
	    missing=; \
	    for package in $$(sed 's/#.*//' requirements-embedded.txt); do \
	        $(PIP) --no-deps --only-binary :all: --retries 1 "$$package" 2>/dev/null || missing="$$missing $$package"; \
	    done; \
	    if [ -z "$$missing" ]; then echo "$$lists" > .venv/packages-embedded; \
	    else echo "Not available on this platform, and tried again next time (see .venv/pip.log):$$missing."; fi; \
	fi

dev-packages: packages
	@lists=$$(cat requirements.txt requirements-dev.txt constraints.txt | cksum); \
	if [ "$$lists" != "$$(cat .venv/packages-dev 2>/dev/null)" ]; then \
	    echo "Installing the packages of requirements-dev.txt."; \
	    $(PIP) -r requirements-dev.txt -c constraints.txt || { \
	        echo "The packages could not be installed: the reason is above, and in .venv/pip.log."; exit 1; }; \
	    echo "$$lists" > .venv/packages-dev; \
	fi
	@lists=$$(cat requirements-meaning.txt constraints.txt | cksum); \
	if [ "$$lists" != "$$(cat .venv/packages-meaning 2>/dev/null)" ]; then \
	    echo "Installing the package of requirements-meaning.txt, for one test."; \
	    if $(PIP) --only-binary :all: --retries 1 -r requirements-meaning.txt -c constraints.txt 2>/dev/null; then \
	        echo "$$lists" > .venv/packages-meaning; \
	    else echo "Not available on this platform, and tried again next time (see .venv/pip.log): that test is skipped."; fi; \
	fi

# What programs ask the site with in tests (tests/processes/test_openai_clients.py): four clients of OpenAI's API, each in
# an environment of its own. What stands there is replaced when the content of its lists has changed.
clients: .venv/bin/python  ## The OpenAI SDKs, llm and LangChain, for the tests that ask the site with them, into .clients/ (a minute)
	@mkdir -p .clients
	@for client in openai llm langchain node; do \
	    lists=$$(cd tests/clients && cat requirements-$$client.txt constraints.txt package.json | cksum); \
	    if [ "$$lists" = "$$(cat .clients/$$client/installed 2>/dev/null)" ]; then continue; fi; \
	    echo "Installing the client of tests/clients/requirements-$$client.txt."; \
	    $(BIN)/python -m venv --clear --without-pip .clients/$$client || exit 1; \
	    $(BIN)/python -m pip --python .clients/$$client/bin/python install $(PIP_OPTIONS) \
	        -r tests/clients/requirements-$$client.txt -c tests/clients/constraints.txt || { \
	        echo "It could not be installed: the reason is above, and in .venv/pip.log."; exit 1; }; \
	    if [ $$client = node ]; then \
	        cp tests/clients/package.json .clients/node/; \
	        PATH="$(CURDIR)/.clients/node/bin:$$PATH" npm install --prefix .clients/node --no-package-lock --no-audit \
	            --no-fund --omit=optional --loglevel=error || exit 1; \
	    fi; \
	    echo "$$lists" > .clients/$$client/installed; \
	done

.venv/bin/python:
	@for python in $(PYTHONS); do \
	    "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && break; \
	    python=; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "Python 3.11, 3.12 or 3.13 is needed, and none of these is one: $(PYTHONS). Install it, or name it: make run PYTHON=/path/to/python3.13"; \
	    exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "$$python lacks its venv module: on Debian or Ubuntu, install python3-venv (apt install python3-venv), then make run again."; \
	    exit 1; \
	fi; \
	echo "Creating .venv with $$($$python --version)."; \
	"$$python" -m venv --clear .venv

.DELETE_ON_ERROR:
.PHONY: help install requirements up run test test-all test-rows test-stores test-folders test-external soak bench bench-quick bench-relay bench-search bench-stores bench-transports bench-webhooks smoke-providers smoke-payments check-djstripe audit release-notes roll-out check clients packages dev-packages
