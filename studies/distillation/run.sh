#!/usr/bin/env bash
# Study 2, every command in order, with its time on two cores without bf16 instructions. Each resumes where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=studies/distillation/results
answers=studies/distillation/answers/at.jsonl

# --- what the verifier writes (13 s an answer alone on the machine; 96 of the 384 are written so far) ---
python generate_answers.py --prompts dpo_clean.jsonl --limit 384 --top-probs 128 --output $answers

# --- the drafts (20 minutes; its weights, 78 MB, are not in the repository) ---
python train_distill.py --answers $answers --loss kl --passes 2 --eval-steps 11 --output-dir adapters/kl

# --- what they do to acceptance, on study 0's stored answers (25 minutes) ---
python evaluate_acceptance.py paired --results-dir $results --answers studies/preference/results/answers.jsonl \
  --prompts domains/at.jsonl domains/general.jsonl --per-type 8 --drafts base dpo=final_adapter kl=adapters/kl
python evaluate_acceptance.py report --results-dir $results
python -m studies.distillation.tables
