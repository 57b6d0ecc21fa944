# Two commands to begin with: `make demo` decodes with the default pair, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
SHELL = /bin/bash
.SHELLFLAGS = -o pipefail -ec
STUDIES = $(patsubst studies/%/run.sh,%,$(wildcard studies/*/run.sh))
TABLES = $(patsubst studies/%/tables.py,%,$(wildcard studies/*/tables.py))

demo: $(VENV)/ready
	$(RUN) speculative_decode.py --mode compare --drafts base dpo=final_adapter distilled=adapters/distilled \
		--backend auto --k 2 --prompt "What screen reader works best for blind users?"

test: $(VENV)/ready-to-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m pytest -q -n 2

# In seconds, without a test: form and types.
check: $(VENV)/ready-to-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The tables and figures of every page, from the files in studies/*/results/.
results: $(VENV)/ready
	for study in $(TABLES); do $(RUN) -m studies.$$study.tables; done

# What those files hold, measured: `make preference` (half a day on two cores), `make engine` (half an hour), …
$(STUDIES): $(VENV)/ready
	PATH="$(abspath $(VENV))/bin:$$PATH" bash studies/$@/run.sh

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/ready-to-test: requirements-test.txt $(VENV)/ready
	$(RUN) -m pip install --quiet -r requirements-test.txt
	touch $@

.PHONY: demo test check results $(STUDIES)
