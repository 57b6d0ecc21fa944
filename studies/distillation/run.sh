#!/usr/bin/env bash
# Study 2, every command in order, with its time on two cores without bf16 instructions. Each resumes where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=studies/distillation/results
arms=studies/distillation/drafts
at=studies/distillation/answers/at.jsonl
general=studies/distillation/answers/general.jsonl
train() { # trains what is not trained yet
  [ -e "$1/metrics.json" ] || python train_distill.py --output-dir "$1" --answers $at "${@:2}"
}

# --- what the verifier writes (13 s an answer alone on the machine) ---
python generate_answers.py --prompts dpo_clean.jsonl --limit 96 --top-probs 128 --output $at
python generate_answers.py --prompts domains/general_train.jsonl --limit 64 --top-probs 128 --output $general

# --- the draft of the test that decides (20 minutes); weights, 78 MB, are kept of the draft that ships alone ---
train adapters/kl --loss kl --passes 2 --batch-size 8 --learning-rate 3e-4 --eval-steps 11

# --- learning rate and batch, then losses at one budget (4 minutes each) ---
train $arms/kl_3e-4 --loss kl --limit 64 --eval-steps 8 --learning-rate 3e-4
train $arms/kl_2e-3 --loss kl --limit 64 --eval-steps 8 --learning-rate 2e-3
train $arms/kl_1e-3_b2 --loss kl --limit 64 --eval-steps 8 --batch-size 2
train $arms/kl_1e-3 --loss kl --limit 64 --eval-steps 4
for loss in tvd nll lk_lambda lk_alpha tvdpp_position tvdpp tvdpp_sampled reverse_kl js; do
  train $arms/$loss --loss $loss --limit 64 --eval-steps 8
done

# --- whose text, and what of it is learnt: to the same prompts, the answers that study 0 prefers, which another model wrote and
# the verifier only reads (5 s a text); from their likelihood, and from the verifier's probabilities on them (4 minutes each) ---
chosen=studies/distillation/answers/at_chosen.jsonl
python generate_answers.py --prompts dpo_clean.jsonl --limit 96 --text chosen --top-probs 128 --output $chosen
train_on() { # the answers, then as `train`
  [ -e "$2/metrics.json" ] || python train_distill.py --answers "$1" --output-dir "$2" --limit 64 --eval-steps 8 "${@:3}"
}
train_on $chosen $arms/nll_chosen --loss nll
train_on $chosen $arms/tvdpp_position_chosen --loss tvdpp_position

# --- the draft that ships, on AT and general answers (15 minutes); its loss was best on held-out prompts when it was trained ---
train adapters/distilled $general --loss tvdpp_position --passes 2 --eval-steps 12 --keep-rank 64

# --- what they do to acceptance, on study 0's stored answers (25 minutes) ---
paired() {
  python evaluate_acceptance.py paired --results-dir $results --answers studies/preference/results/answers.jsonl --per-type 8 "$@"
}
both="domains/at.jsonl domains/general.jsonl"
paired --prompts $both --drafts base dpo=final_adapter kl=adapters/kl distilled=adapters/distilled
paired --prompts domains/at.jsonl --drafts base kl_1e-3=$arms/kl_1e-3 tvd=$arms/tvd nll=$arms/nll lk_lambda=$arms/lk_lambda \
  lk_alpha=$arms/lk_alpha tvdpp_position=$arms/tvdpp_position tvdpp=$arms/tvdpp tvdpp_sampled=$arms/tvdpp_sampled \
  reverse_kl=$arms/reverse_kl js=$arms/js trigram=$at
paired --prompts domains/at.jsonl --drafts base nll_chosen=$arms/nll_chosen tvdpp_position_chosen=$arms/tvdpp_position_chosen
python evaluate_acceptance.py report --results-dir $results --per-type 8 --prompts $both

# --- prompts of a kind that no draft learnt from, and other temperatures (a quarter of an hour each); a folder each, for a file of
# rows holds one sampling, and its report all that it holds ---
shipped="base dpo=final_adapter distilled=adapters/distilled"
others=studies/distillation/answers/ood.jsonl
python generate_answers.py --prompts domains/translation.jsonl --limit 24 --output $others
python generate_answers.py --prompts domains/code_chat.jsonl --limit 12 --output $others
python evaluate_acceptance.py paired --results-dir $results/out_of_domain --answers $others \
  --prompts domains/translation.jsonl domains/code_chat.jsonl --drafts $shipped
python evaluate_acceptance.py report --results-dir $results/out_of_domain

sampled=studies/distillation/answers/temperatures.jsonl
for domain in at general; do
  python generate_answers.py --prompts domains/$domain.jsonl --limit 8 --temperature 0 0.7 1 --output $sampled
done
for temperature in 0 0.7 1; do
  python evaluate_acceptance.py paired --results-dir $results/temperature_$temperature --temperature $temperature \
    --answers $sampled --prompts $both --drafts base distilled=adapters/distilled
  python evaluate_acceptance.py report --results-dir $results/temperature_$temperature
done

# --- live, with nothing beside it (15 minutes in int8) ---
python evaluate_acceptance.py live --backend int8 --k 2 --results-dir $results/live --prompts $both --per-type 6 --seeds 1 \
  --no-baseline --max-new-tokens 64 --drafts base distilled=adapters/distilled

# --- where in the answers, then the page ---
python -m studies.distillation.positions
python -m studies.distillation.tables
