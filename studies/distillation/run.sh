#!/usr/bin/env bash
# Study 2, every command in order, with its time on two cores without bf16 instructions. Each resumes where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=studies/distillation/results
arms=studies/distillation/drafts
answers=studies/distillation/answers

# --- what the verifier writes (13 s an answer alone on the machine) ---
python generate_answers.py --prompts dpo_clean.jsonl --limit 176 --top-probs 128 --output $answers/at.jsonl
python generate_answers.py --prompts domains/general_train.jsonl --limit 96 --top-probs 128 --output $answers/general.jsonl

# --- the draft of the test that decides (20 minutes); it was trained when at.jsonl held its first 96 answers, and its
# weights, 78 MB like those of every draft below, are not in the repository ---
head -n 97 $answers/at.jsonl > $answers/first.jsonl
python train_distill.py --answers $answers/first.jsonl --loss kl --passes 2 --batch-size 8 --learning-rate 3e-4 --eval-steps 11 \
  --output-dir adapters/kl

# --- learning rate and batch (4 minutes each), then ten losses at one budget (4 minutes each) ---
python train_distill.py --answers $answers/first.jsonl --limit 64 --loss kl --learning-rate 3e-4 --output-dir $arms/kl
python train_distill.py --answers $answers/first.jsonl --limit 64 --loss kl --batch-size 2 --output-dir $arms/kl_1e-3_b2
python train_distill.py --answers $answers/first.jsonl --limit 64 --loss kl --learning-rate 2e-3 --output-dir $arms/kl_2e-3
python train_distill.py --answers $answers/first.jsonl --limit 64 --loss kl --output-dir $arms/kl_1e-3
for loss in tvd nll lk_lambda lk_alpha tvdpp_position reverse_kl js tvdpp_sampled tvdpp; do
  python train_distill.py --answers $answers/first.jsonl --limit 64 --loss $loss --output-dir $arms/$loss
done
