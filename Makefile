# Two commands to begin with: `make demo` decodes with the default pair, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

demo: $(VENV)/ready
	$(RUN) speculative_decode.py --mode compare --prompt "What screen reader works best for blind users?"

test: $(VENV)/ready-to-test
	$(VENV)/bin/ruff check .
	$(RUN) -m pytest -q

# The README's tables and figures, from the files in results/.
results: $(VENV)/ready
	$(RUN) plot_results.py
	$(RUN) fill_readme.py

# What those files hold, measured again: several hours on two cores. Each step resumes; run nothing beside it.
evaluate: $(VENV)/ready
	$(RUN) evaluate_acceptance.py complete
	$(RUN) evaluate_acceptance.py paired --drafts base dpo=final_adapter sft=controls/sft balanced=controls/balanced
	$(RUN) evaluate_acceptance.py live --prompts prompts/seed.jsonl
	$(RUN) evaluate_acceptance.py report
	$(RUN) benchmark_decoding.py --max-new-tokens 32 --json results/benchmark.json
	$(RUN) check_exactness.py --json results/exactness.json
	$(RUN) test_trained_model.py --samples 3 --max-new-tokens 120 --json results/trained_model.json
	$(RUN) speculative_decode.py --mode compare --prompt "What screen reader works best for blind users?" --json results/demo.json

# The adapters that it compares, trained again: the paper's, and two controls of the same budget.
adapters: $(VENV)/ready
	$(RUN) train_dpo.py
	$(RUN) train_dpo.py --loss sft --output-dir controls/sft
	$(RUN) train_dpo.py --balance query_type --max-steps 118 --output-dir controls/balanced

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/ready-to-test: requirements-test.txt $(VENV)/ready
	$(RUN) -m pip install --quiet -r requirements-test.txt
	touch $@

.PHONY: demo test results evaluate adapters
