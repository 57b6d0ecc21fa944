#!/usr/bin/env bash
# Study 0, every command in order, with its time on two cores. `make preference` runs it; run nothing beside it, for it takes times.
# Measuring resumes where it was stopped. To measure again, move results/*.jsonl away first; to train again, the adapters.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=studies/preference/results
prompts="domains/study0.jsonl domains/at.jsonl domains/general.jsonl"

# --- the data, as the scripts show them (1 minute) ---
mkdir -p $results/output
python data_generation.py --dry-run --output planned.jsonl 2>&1 >/dev/null | head -n 6 > $results/output/data_generation.txt
python clean_dataset.py > $results/output/clean_dataset.txt 2>&1
python check_dataset.py --json $results/dataset.json | head -n 10 > $results/output/check_dataset.txt
python check_vocab_compatibility.py > $results/output/check_vocab_compatibility.txt
python preprocess_and_load_dataset.py | head -n 5 > $results/output/preprocess_and_load_dataset.txt
python train_dpo.py --dry-run 2>&1 | grep -E '^(LoRA|[0-9,]+ of|the full)' > $results/output/train_dpo.txt

# --- the drafts: the paper's, two controls of the same budget, and two trained again (65 + 25 + 45 + 48 + 25 minutes) ---
train() { # FOLDER, then options; an adapter that is there stays
  if [ -e "$1/adapter_model.safetensors" ]; then return; fi
  python train_dpo.py --output-dir "$1" "${@:2}"
}
train final_adapter
train adapters/sft --loss sft
train adapters/balanced --balance query_type --max-steps 118
train adapters/dpo-seed43 --seed 43
train adapters/sft-seed43 --seed 43 --loss sft
python test_trained_model.py --samples 3 --max-new-tokens 120 --json $results/trained_model.json  # 5 minutes

# --- what they do to acceptance (15 + 20 + 70 minutes) ---
python generate_answers.py --prompts $prompts --output $results/answers.jsonl
python evaluate_acceptance.py paired --drafts base dpo=final_adapter sft=adapters/sft balanced=adapters/balanced \
  dpo-seed43=adapters/dpo-seed43 sft-seed43=adapters/sft-seed43
python evaluate_acceptance.py live --prompts domains/study0.jsonl
python evaluate_acceptance.py live --prompts domains/at.jsonl domains/general.jsonl --per-type 6 --seeds 1 --no-baseline
python evaluate_acceptance.py report
python -m studies.preference.analysis  # the paper's three tables and its noise
python -m studies.preference.positions  # where in the answer acceptance changes

# --- a draft of the verifier's own family, beside the usual one, at a budget that two cores can pay: 112 pairs, 14 steps of 8 ---
# (trained 5 and 20 minutes, measured 4 and 7, in float32)
small() { # PAIR: the same training and the same 32 prompts
  local draft=studies/preference/drafts/$1
  [ -e "$draft/metrics.json" ] || python train_dpo.py --pair "$1" --limit 112 --eval-fraction 0.01 --epochs 1 --batch-size 1 \
    --gradient-accumulation 8 --learning-rate 3e-4 --save-steps 4 --output-dir "$draft"
  python evaluate_acceptance.py paired --pair "$1" --results-dir $results/small/$1 --answers $results/answers.jsonl \
    --prompts domains/at.jsonl --per-type 8 --drafts base dpo="$draft"
  python evaluate_acceptance.py report --results-dir $results/small/$1 --prompts domains/at.jsonl --per-type 8
  python -m studies.preference.positions --results-dir $results/small/$1 --domains at
}
small smollm2-qwen
small qwen-coder

# rank 128 and scale 2, beside the first of these (10 minutes, 4 to measure), for studies/scale
beside=$results/small/smollm2-qwen rank=studies/preference/drafts/smollm2-qwen_r128
[ -e $rank/metrics.json ] || python train_dpo.py --pair smollm2-qwen --limit 112 --eval-fraction 0.01 --epochs 1 --batch-size 1 \
  --gradient-accumulation 8 --learning-rate 3e-4 --lora-r 128 --lora-alpha 256 --save-steps 20 --output-dir $rank
python evaluate_acceptance.py paired --pair smollm2-qwen --results-dir $beside --answers $results/answers.jsonl \
  --prompts domains/at.jsonl --per-type 8 --drafts base dpo_r128=$rank
python evaluate_acceptance.py report --results-dir $beside --prompts domains/at.jsonl --per-type 8

# what the own family's draft writes (5 minutes), and live, with nothing beside it (20 minutes)
own=studies/preference/drafts/qwen-coder
python test_trained_model.py --pair qwen-coder --adapter-path $own --eval-fraction 0.01 --samples 3 --max-new-tokens 120 \
  --json $results/small/qwen-coder/trained_model.json
python evaluate_acceptance.py live --pair qwen-coder --backend int8 --results-dir $results/small/live --prompts domains/study0.jsonl \
  --max-new-tokens 64 --no-baseline --drafts base dpo=$own

# --- the pages ---
python -m studies.preference.tables
