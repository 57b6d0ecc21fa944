#!/usr/bin/env bash
# Study 3, every command in order, with its time on two cores of 100 GFLOP/s (the 1.5B verifier reads or writes 30 tokens/s there, the
# 0.5B draft 90, SmolLM2 350). Each resumes where it was stopped, and a larger EACH adds to what is there.
#
#   EACH=3 bash studies/code/run.sh first    three prompts a language, base drafts of both pairs: half an hour
#   EACH=3 bash studies/code/run.sh second   and on these prompts the draft that decides, from 64 snippets, and Table 2b: an hour more
#   bash studies/code/run.sh                 all 40 a language, the trainings and the live runs: two days; in a clone of its own,
#                                            for its drafts have the second slice's names
set -euo pipefail
cd "$(dirname "$0")/../.."
each=${EACH:-40}
results=studies/code/results
texts=studies/code/answers
distill() { # NAME, then options; a draft whose weights are here stays
  [ -e "studies/code/drafts/$1/adapter_model.safetensors" ] || python train_distill.py --output-dir "studies/code/drafts/$1" "${@:2}"
}
answers="--raw --max-new-tokens 128"
family="--pair qwen-coder --max-new-tokens 128 --answers $results/answers.jsonl --results-dir $results/qwen-coder"
foreign="--pair smollm2-qwen --max-new-tokens 128 --answers $results/answers.jsonl --results-dir $results/smollm2-qwen"

# --- the prompts: the languages take turns in the file, so its first lines are EACH of each (JavaScript is in no table) ---
mkdir -p $results $texts
grep -v -m $((12 * each)) '"language": "javascript"' domains/code_test.jsonl > $results/prompts.jsonl
head -n $((3 * each)) domains/natural_language.jsonl >> $results/prompts.jsonl  # of three kinds

# --- the verifier's completions, which serve both pairs, and the base drafts on them (10 + 10 + 8 minutes at 3 a language,
#     2 + 2 + 2 hours at 40); small batches, for prompts of unequal length are padded ---
python generate_answers.py $answers --pair qwen-coder --batch-size 8 --prompts $results/prompts.jsonl --output $results/answers.jsonl
python evaluate_acceptance.py paired $family --prompts $results/prompts.jsonl --drafts base
python evaluate_acceptance.py paired $foreign --prompts $results/prompts.jsonl --drafts base
if [ "${1:-all}" = first ]; then
  python -m studies.code.analysis
  python -m studies.code.tables
  exit
fi
if [ "${1:-all}" = second ]; then
  small="--pair qwen-coder --batch-size 2"
  python -m studies.code.human --pair qwen-coder --limit 74 --max-tokens 256 --output $texts/human.jsonl --prompts $texts/prompts.jsonl
  python generate_answers.py $answers --pair qwen-coder --batch-size 8 --top-probs 128 --limit 37 --prompts $texts/prompts.jsonl \
    --output $texts/distilled.jsonl
  distill human $small --limit 64 --learning-rate 3e-4 --loss nll --answers $texts/human.jsonl
  distill distilled $small --limit 32 --learning-rate 3e-4 --loss tvdpp_position --answers $texts/distilled.jsonl
  # the text or the rate: beside `distilled`, as many texts of as many tokens (4 minutes each)
  python -m studies.code.human --pair qwen-coder --limit 74 --max-tokens 128 --output $texts/human-128.jsonl
  distill distilled_3e-5 $small --limit 32 --learning-rate 3e-5 --loss tvdpp_position --answers $texts/distilled.jsonl
  distill human_3e-5 $small --limit 32 --learning-rate 3e-5 --loss nll --answers $texts/human-128.jsonl
  distill human_3e-4 $small --limit 32 --learning-rate 3e-4 --loss nll --answers $texts/human-128.jsonl
  drafts=studies/code/drafts
  python evaluate_acceptance.py paired $family --prompts $results/prompts.jsonl --drafts base human=$drafts/human \
    distilled=$drafts/distilled distilled_3e-5=$drafts/distilled_3e-5 human_3e-5=$drafts/human_3e-5 human_3e-4=$drafts/human_3e-4
  python -m studies.code.analysis
  python -m studies.code.tables
  exit
fi

# --- training text: human code in the plan's mix, balanced over languages, and with weight on the language that Table 3 shows
#     furthest behind (WORST); the verifier's completions of the same prompts (1 hour) ---
python -m studies.code.human --pair qwen-coder --output $texts/human.jsonl --prompts $texts/prompts.jsonl
python -m studies.code.human --pair qwen-coder --mix balanced --output $texts/human-balanced.jsonl
python -m studies.code.human --pair qwen-coder --repeat "${WORST:-ocaml}=4" --output $texts/human-worst.jsonl
python generate_answers.py $answers --pair qwen-coder --top-probs 128 --prompts $texts/prompts.jsonl --output $texts/distilled.jsonl

# --- the drafts (2 hours each: 180,000 tokens, forward and backward at 30 tokens/s) ---
rate="--learning-rate 3e-5"  # ten times as much costs this draft acceptance whoever teaches it (Table 2b)
for name in human human-balanced human-worst; do
  distill $name --pair qwen-coder $rate --loss nll --answers $texts/$name.jsonl
done
distill distilled --pair qwen-coder $rate --loss tvdpp_position --answers $texts/distilled.jsonl

# --- what they do to acceptance (4 hours), and live by draft length on 20 prompts (80 minutes a length) ---
python evaluate_acceptance.py paired $family --prompts $results/prompts.jsonl --drafts base human=studies/code/drafts/human \
  human-balanced=studies/code/drafts/human-balanced human-worst=studies/code/drafts/human-worst \
  distilled=studies/code/drafts/distilled
head -n 20 $results/prompts.jsonl > $results/prompts-live.jsonl
for k in 1 2 4 8 16 32; do
  python evaluate_acceptance.py live --pair qwen-coder --raw --max-new-tokens 128 --k $k --seeds 1 --drafts base human=studies/code/drafts/human \
    --prompts $results/prompts-live.jsonl --results-dir $results/qwen-coder/live-k$k
done
for q in 0.4 0.8; do
  python evaluate_acceptance.py live --pair qwen-coder --raw --max-new-tokens 128 --k 8 --stop-below $q --seeds 1 --drafts base human=studies/code/drafts/human \
    --prompts $results/prompts-live.jsonl --results-dir $results/qwen-coder/live-q$q
done
python -m studies.code.analysis
python -m studies.code.tables
