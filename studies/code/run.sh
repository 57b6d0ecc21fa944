#!/usr/bin/env bash
# Study 3, every command in order, with its time on two cores that have bf16 units. Each resumes where it was stopped, and a larger
# EACH adds prompts to what is measured.
#
#   bash studies/code/run.sh           eight prompts a language, drafts of 64 texts, live runs: an hour and a half
#   EACH=40 bash studies/code/run.sh whole    all 40 a language, drafts of all texts: for a GPU, in a clone of its own, for its drafts
#                                      have the same names; there every command but the live runs also takes a larger --batch-size
set -euo pipefail
cd "$(dirname "$0")/../.."
each=${EACH:-8}
results=studies/code/results texts=studies/code/answers drafts=studies/code/drafts
answers="--raw --max-new-tokens 128 --batch-size 30 --pair qwen-coder"
family="--pair qwen-coder --max-new-tokens 128 --answers $results/answers.jsonl --results-dir $results/qwen-coder"
foreign="--pair smollm2-qwen --max-new-tokens 128 --answers $results/answers.jsonl --results-dir $results/smollm2-qwen"
human="python -m studies.code.human --pair qwen-coder"
some="--limit 74 --max-tokens 256" learnt="--limit 64 --batch-size 2"
if [ "${1:-}" = whole ]; then some="" learnt=""; fi
distill() { # NAME, then options; a draft whose weights are here stays
  [ -e "$drafts/$1/adapter_model.safetensors" ] || python train_distill.py --pair qwen-coder --output-dir "$drafts/$1" --restart "${@:2}"
}

# --- the prompts: the languages take turns in the file, so its first lines are EACH of each (JavaScript is in no table) ---
mkdir -p $results $texts
grep -v -m $((12 * each)) '"language": "javascript"' domains/code_test.jsonl > $results/prompts.jsonl
head -n $((3 * each)) domains/natural_language.jsonl >> $results/prompts.jsonl # of three kinds

# --- the verifier's completions, which serve both pairs, and the base drafts on them ---
python generate_answers.py $answers --prompts $results/prompts.jsonl --output $results/answers.jsonl
python evaluate_acceptance.py paired $family --prompts $results/prompts.jsonl --drafts base
python evaluate_acceptance.py paired $foreign --prompts $results/prompts.jsonl --drafts base

# --- the draft that decides, and the verifier's completions of the same prompts ---
rate="--learning-rate 3e-5" # ten times as much costs this draft acceptance whoever teaches it (Table 2b)
$human $some --output $texts/human.jsonl --prompts $texts/prompts.jsonl
distill human $rate $learnt --loss nll --answers $texts/human.jsonl
python generate_answers.py $answers --top-probs 128 --prompts $texts/prompts.jsonl --output $texts/distilled.jsonl
distill distilled $rate $learnt --answers $texts/distilled.jsonl
python evaluate_acceptance.py paired $family --prompts $results/prompts.jsonl --drafts base human=$drafts/human \
  distilled=$drafts/distilled

# --- balanced over the languages, and half of the text of the one that is furthest behind (WORST) ---
$human $some --mix balanced --output $texts/human-balanced.jsonl
if [ "${1:-}" = whole ]; then
  $human --repeat "${WORST:-zig}=4" --output $texts/human-worst.jsonl
else
  $human --limit 44 --max-tokens 256 --mix balanced --repeat "${WORST:-zig}=8" --output $texts/human-worst.jsonl
fi
distill human-balanced $rate $learnt --loss nll --answers $texts/human-balanced.jsonl
distill human-worst $rate $learnt --loss nll --answers $texts/human-worst.jsonl
python evaluate_acceptance.py paired $family --prompts $results/prompts.jsonl --drafts base \
  human-balanced=$drafts/human-balanced human-worst=$drafts/human-worst

# --- the text or the rate (Table 2b), on three prompts a language; measured in float32, for one folder holds rows of one data type ---
earlier=$results/rates
mkdir -p $earlier
head -n 36 $results/prompts.jsonl > $earlier/prompts.jsonl
head -n 9 domains/natural_language.jsonl >> $earlier/prompts.jsonl
python generate_answers.py $answers --prompts $earlier/prompts.jsonl --output $earlier/answers.jsonl
$human --limit 74 --max-tokens 128 --output $texts/human-128.jsonl
for r in 3e-5 3e-4; do
  distill rates_human_$r --learning-rate $r --limit 32 --batch-size 2 --loss nll --answers $texts/human-128.jsonl
done
distill rates_distilled_3e-5 --learning-rate 3e-5 --limit 32 --batch-size 2 --answers $texts/distilled.jsonl
distill rates_distilled --learning-rate 3e-4 --limit 32 --batch-size 2 --answers $texts/distilled.jsonl
distill rates_human --learning-rate 3e-4 --limit 64 --batch-size 2 --loss nll --answers $texts/human.jsonl
python evaluate_acceptance.py paired --pair qwen-coder --max-new-tokens 128 --answers $earlier/answers.jsonl --results-dir $earlier \
  --prompts $earlier/prompts.jsonl --drafts base human=$drafts/rates_human distilled=$drafts/rates_distilled \
  distilled_3e-5=$drafts/rates_distilled_3e-5 human_3e-5=$drafts/rates_human_3e-5 human_3e-4=$drafts/rates_human_3e-4

# --- live by draft length, one prompt a language, with nothing beside it ---
head -n 12 $results/prompts.jsonl > $results/prompts-live.jsonl
for k in 1 2 4 8 16 32; do
  python evaluate_acceptance.py live --pair qwen-coder --backend int8 --raw --max-new-tokens 128 --k $k --seeds 1 --drafts base \
    --prompts $results/prompts-live.jsonl --results-dir $results/qwen-coder/live-k$k
done
python -m studies.code.analysis
python -m studies.code.tables
