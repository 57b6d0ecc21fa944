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

# --- capacity, each at its better rate; another random seed; the draft's own text and the verifier's in turn; after study 0's DPO
# (4 minutes each, in turn 10). --all-weights writes the nearest adapter of rank 128 ---
small="--loss tvdpp_position --limit 64 --eval-steps 8"
for rate in 1e-3 3e-3; do train $arms/rank_16_$rate $small --lora-r 16 --lora-alpha 32 --learning-rate $rate; done
train $arms/rank_256 $small --lora-r 256
for rate in 1e-4 3e-4; do train $arms/all_weights_$rate $small --all-weights --learning-rate $rate; done
train $arms/seed_43 $small --seed 43
train $arms/after_dpo $small --adapter-path final_adapter
train $arms/mixed_32 --loss tvdpp_position --limit 32 --eval-steps 8 --data mixed

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
better() { # of several arms, the one that is best on held-out answers
  python -c 'import json, sys; print(max(sys.argv[1:], key=lambda arm: json.load(open(arm + "/metrics.json"))["held_out_overlap"]["after"]))' "$@"
}
rank_16=$(better $arms/rank_16_1e-3 $arms/rank_16_3e-3)
all_weights=$(better $arms/all_weights_1e-4 $arms/all_weights_3e-4)
paired --prompts domains/at.jsonl --drafts base rank_16=$rank_16 rank_256=$arms/rank_256 all_weights=$all_weights \
  seed_43=$arms/seed_43 after_dpo=$arms/after_dpo mixed_32=$arms/mixed_32 rank_16_1e-3=$arms/rank_16_1e-3
python evaluate_acceptance.py report --results-dir $results --per-type 8 --prompts $both

# --- DPO of the draft that ships, at study 0's small budget: its base is that draft, merged (10 minutes, 3 to measure) ---
merged=$arms/distilled_merged after=$arms/dpo_of_distilled
[ -e $merged ] || python export_draft.py --adapter-path adapters/distilled --output-dir $merged
[ -e $after/metrics.json ] || python train_dpo.py --draft $merged --limit 112 --eval-fraction 0.01 --epochs 1 --batch-size 1 \
  --gradient-accumulation 8 --learning-rate 3e-4 --save-steps 4 --output-dir $after
python evaluate_acceptance.py paired --draft $merged --results-dir $results/dpo_of_distilled \
  --answers studies/preference/results/answers.jsonl --prompts domains/at.jsonl --per-type 8 --drafts base dpo=$after
python evaluate_acceptance.py report --results-dir $results/dpo_of_distilled

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
python generate_answers.py --prompts $both --per-type 3 --temperature 0 1 --output $sampled
for temperature in 0 1; do
  python evaluate_acceptance.py paired --results-dir $results/temperature_$temperature --temperature $temperature \
    --answers $sampled --prompts $both --per-type 3 --drafts base distilled=adapters/distilled
  python evaluate_acceptance.py report --results-dir $results/temperature_$temperature
done

# --- live, with nothing beside it (15 minutes in int8) ---
python evaluate_acceptance.py live --backend int8 --k 2 --results-dir $results/live --prompts $both --per-type 6 --seeds 1 \
  --no-baseline --max-new-tokens 64 --drafts base distilled=adapters/distilled

# --- where in the answers, then the page ---
python -m studies.distillation.positions
python -m studies.distillation.tables
