# Two commands to begin with: `make demo` decodes with the default pair, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

demo: $(VENV)/ready
	$(RUN) speculative_decode.py --mode compare --prompt "What screen reader works best for blind users?"

test: $(VENV)/ready-to-test
	$(VENV)/bin/ruff check .
	$(RUN) -m pytest -q

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/ready-to-test: requirements-test.txt $(VENV)/ready
	$(RUN) -m pip install --quiet -r requirements-test.txt
	touch $@

.PHONY: demo test
