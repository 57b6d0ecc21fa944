# Two commands to begin with: `make demo` decodes with the default pair, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
SHELL = /bin/bash
.SHELLFLAGS = -o pipefail -ec

demo: $(VENV)/ready
	$(RUN) speculative_decode.py --mode compare --prompt "What screen reader works best for blind users?"

test: $(VENV)/ready-to-test
	$(VENV)/bin/ruff check .
	$(RUN) -m pytest -q

# The README's tables and figures, from the files in results/.
results: $(VENV)/ready
	$(RUN) plot_results.py
	$(RUN) fill_readme.py

# What those files hold, measured: two hours on two cores. Each step resumes: move completions.jsonl, paired.jsonl and
# live.jsonl out of results/ to measure anew; run nothing beside it, for it takes times.
evaluate: $(VENV)/ready
	$(RUN) evaluate_acceptance.py complete
	$(RUN) evaluate_acceptance.py paired --drafts base dpo=final_adapter sft=controls/sft balanced=controls/balanced \
	  dpo-seed43=controls/dpo-seed43 sft-seed43=controls/sft-seed43
	$(RUN) evaluate_acceptance.py live --prompts prompts/seed.jsonl
	$(RUN) evaluate_acceptance.py live --prompts prompts/at.jsonl prompts/general.jsonl --per-type 6 --seeds 1 --no-baseline
	$(RUN) evaluate_acceptance.py report
	$(RUN) benchmark_decoding.py --max-new-tokens 32 --json results/benchmark.json
	$(RUN) speculative_decode.py --mode compare --prompt "What screen reader works best for blind users?" --json results/demo.json

# What the README shows of the other scripts' answers: their own words, the first lines of them.
outputs: $(VENV)/ready
	mkdir -p results/output
	$(RUN) data_generation.py --dry-run --output planned.jsonl 2>&1 >/dev/null | head -n 6 > results/output/data_generation.txt
	$(RUN) clean_dataset.py > results/output/clean_dataset.txt 2>&1
	$(RUN) check_dataset.py | head -n 10 > results/output/check_dataset.txt
	$(RUN) check_vocab_compatibility.py > results/output/check_vocab_compatibility.txt
	$(RUN) preprocess_and_load_dataset.py | head -n 5 > results/output/preprocess_and_load_dataset.txt
	$(RUN) train_dpo.py --dry-run 2>&1 | grep -E '^(pair|LoRA|[0-9,]+ of|the full)' > results/output/train_dpo.txt
	$(RUN) test_trained_model.py --samples 3 --max-new-tokens 120 --json results/trained_model.json
	$(RUN) check_exactness.py --samples 150 --json results/exactness.json

# The adapters that it compares: the paper's, two controls of the same budget, and two with another seed.
adapters: $(VENV)/ready
	$(RUN) train_dpo.py
	$(RUN) train_dpo.py --loss sft --output-dir controls/sft
	$(RUN) train_dpo.py --balance query_type --max-steps 118 --output-dir controls/balanced
	$(RUN) train_dpo.py --seed 43 --output-dir controls/dpo-seed43
	$(RUN) train_dpo.py --seed 43 --loss sft --output-dir controls/sft-seed43

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/ready-to-test: requirements-test.txt $(VENV)/ready
	$(RUN) -m pip install --quiet -r requirements-test.txt
	touch $@

.PHONY: demo test results evaluate outputs adapters
