# Two commands to begin with: `make demo` decodes with the default pair, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

demo: $(VENV)/ready
	$(RUN) speculative_decode.py --mode compare --prompt "What screen reader works best for blind users?"

test: $(VENV)/ready-to-test
	$(VENV)/bin/ruff check .
	$(RUN) -m pytest -q

# The README's tables, from the files in results/.
results: $(VENV)/ready
	$(RUN) fill_readme.py

# What those files hold, measured again. Each step resumes.
evaluate: $(VENV)/ready
	$(RUN) evaluate_acceptance.py complete
	$(RUN) evaluate_acceptance.py paired --drafts base dpo=final_adapter
	$(RUN) evaluate_acceptance.py report
	$(RUN) benchmark_decoding.py --json results/benchmark.json
	$(RUN) speculative_decode.py --mode compare --prompt "What screen reader works best for blind users?" --json results/demo.json

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/ready-to-test: requirements-test.txt $(VENV)/ready
	$(RUN) -m pip install --quiet -r requirements-test.txt
	touch $@

.PHONY: demo test results evaluate
