#!/usr/bin/env bash
# Larger budgets, every command in order, for a GPU of 16 GiB (a CPU takes days). `run.sh all` goes on with what waits for a GPU.
# The drafts' weights and the stored probabilities are not in the repository: to train again, move answers/, drafts/ and results/ of
# this study away first.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=studies/scale
answers=$here/answers drafts=$here/drafts results=$here/results
texts="--answers studies/preference/results/answers.jsonl"
both="domains/at.jsonl domains/general.jsonl"
mkdir -p $answers
trained() { [ -e "$drafts/$1/adapter_model.safetensors" ]; }
prefer() { trained "$1" || python train_dpo.py --save-steps 200 --output-dir "$drafts/$1" "${@:2}"; }
distill() { trained "$1" || python train_distill.py --pair smollm2-qwen --output-dir "$drafts/$1" "${@:2}"; }

# --- the fair pair: whole, and 14 steps at three rates ---
whole="--pair qwen-coder --batch-size 8 --gradient-accumulation 2"
small="--pair qwen-coder --limit 112 --eval-fraction 0.01 --epochs 1 --batch-size 8 --gradient-accumulation 1"
prefer half_dpo $whole
prefer half_sft $whole --loss sft --restart
for rate in 3e-4 5e-5 1e-5; do prefer half_dpo_$rate $small --learning-rate $rate; done
for draft in dpo sft; do
  python evaluate_acceptance.py paired --pair qwen-coder $texts --results-dir $results/fair --prompts $both \
    --drafts base $draft=$drafts/half_$draft
done
python evaluate_acceptance.py paired --pair qwen-coder $texts --results-dir $results/fair_rates --prompts domains/at.jsonl --per-type 8 \
  --drafts base dpo_3e-4=$drafts/half_dpo_3e-4 dpo_5e-5=$drafts/half_dpo_5e-5 dpo_1e-5=$drafts/half_dpo_1e-5

# --- more text. at.jsonl was stopped at 640 answers, those to the shortest prompts; without the file all 985 are written ---
generate="python generate_answers.py --pair smollm2-qwen --top-probs 128 --batch-size 128"
[ -e $answers/at.jsonl ] || $generate --prompts dpo_clean.jsonl --output $answers/at.jsonl
[ -e $answers/general.jsonl ] || $generate --prompts domains/general_train.jsonl --output $answers/general.jsonl
at="--answers $answers/at.jsonl --loss tvdpp_position --eval-steps 60"
for size in 64 125 250; do distill at_$size $at --limit $size; done
distill at_all $at
distill long_42 --answers $answers/at.jsonl $answers/general.jsonl --loss tvdpp_position --eval-steps 100 --keep-rank 64
[ -e adapters/distilled_more ] || cp -r $drafts/long_42 adapters/distilled_more  # 42 is its random seed
# two processes at once, half of the drafts each, into folders of their own, whose files are joined
paired="python evaluate_acceptance.py paired --pair smollm2-qwen $texts --per-type 8 --prompts $both"
$paired --results-dir $results/text_0 --drafts base shipped=adapters/distilled at_250=$drafts/at_250 at_all=$drafts/at_all &
$paired --results-dir $results/text_1 --drafts base at_125=$drafts/at_125 at_64=$drafts/at_64 long_42=$drafts/long_42
wait
mkdir -p $results/text
cat $results/text_[01]/paired.jsonl > $results/text/paired.jsonl
for found in fair fair_rates text; do python evaluate_acceptance.py report --results-dir $results/$found; done

# --- live on two cores, with nothing beside it (15 minutes); adapters/distilled_more is drafts/long_42 ---
python evaluate_acceptance.py live --pair smollm2-qwen --backend int8 --k 2 --results-dir $results/live --prompts $both --per-type 6 \
  --seeds 1 --no-baseline --max-new-tokens 64 --drafts base distilled_more=adapters/distilled_more

python -m studies.preference.positions --results-dir $results/fair --domains at general
python -m studies.scale.tables
if [ "${1:-}" != all ]; then exit; fi

# --- what waits for a GPU: rank, capacity and rates, whose text, others' texts, longer runs ---
prefer dpo_r128 --pair smollm2-qwen --batch-size 8 --gradient-accumulation 2 --lora-r 128 --lora-alpha 256
prefer dpo_r16 --pair smollm2-qwen --batch-size 8 --gradient-accumulation 2
python evaluate_acceptance.py paired --pair smollm2-qwen $texts --results-dir $results/rank --prompts domains/at.jsonl --per-type 16 \
  --drafts base dpo_r16=$drafts/dpo_r16 dpo_r128=$drafts/dpo_r128
for rank in 16 64 256; do
  for rate in 1e-3 3e-3; do distill at_250_r${rank}_$rate $at --limit 250 --lora-r $rank --learning-rate $rate; done
done
for rate in 3e-4 3e-3; do distill at_250_$rate $at --limit 250 --learning-rate $rate; done
for rate in 1e-4 3e-4; do distill at_250_all_$rate $at --limit 250 --all-weights --learning-rate $rate; done
distill at_500 $at --limit 500
for data in offline online mixed; do distill at_32_$data $at --limit 32 --data $data; done
[ -e $answers/chosen.jsonl ] || python generate_answers.py --pair smollm2-qwen --prompts dpo_clean.jsonl --text chosen --limit 560 \
  --top-probs 128 --output $answers/chosen.jsonl
chosen="--answers $answers/chosen.jsonl --eval-steps 60"
for rate in 1e-4 1e-5; do distill chosen_nll_$rate $chosen --limit 64 --loss nll --learning-rate $rate; done
for size in 64 500; do distill chosen_$size $chosen --limit $size --loss tvdpp_position; done
for passes in 2 4; do
  distill long_$passes --answers $answers/at.jsonl $answers/general.jsonl --loss tvdpp_position --passes $passes --keep-rank 64 \
    --eval-steps 100
done
measured=""
for folder in $drafts/at_* $drafts/chosen_* $drafts/long_*; do measured="$measured $(basename $folder)=$folder"; done
python evaluate_acceptance.py paired --pair smollm2-qwen $texts --results-dir $results/more --prompts $both --per-type 16 \
  --drafts base shipped=adapters/distilled $measured
for found in rank more; do python evaluate_acceptance.py report --results-dir $results/$found; done
