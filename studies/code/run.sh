#!/usr/bin/env bash
# Study 3, every command in order. Each resumes where it was stopped, and a larger EACH adds prompts to what is measured. The drafts'
# weights are not in the repository: to measure again, move drafts/ and results/ of this study away first.
#
#   bash studies/code/run.sh         on two cores: 16 prompts a language, drafts of 64 texts, then live runs by themselves
#   bash studies/code/run.sh all     with a GPU: all 40 prompts a language, drafts of all texts; then their live run, on two cores
#   bash studies/code/run.sh rates   Table 2b, in float32: for a machine without bf16 units, for a folder holds one data type
set -euo pipefail
cd "$(dirname "$0")/../.."
each=${EACH:-16} # at least eight
results=studies/code/results texts=studies/code/answers drafts=studies/code/drafts
answers="--raw --max-new-tokens 128 --batch-size 30 --pair qwen-coder"
family="--pair qwen-coder --max-new-tokens 128 --answers $results/answers.jsonl --results-dir $results/qwen-coder"
foreign="--pair smollm2-qwen --max-new-tokens 128 --answers $results/answers.jsonl --results-dir $results/smollm2-qwen"
human="python -m studies.code.human --pair qwen-coder"
some="--limit 74 --max-tokens 256" learnt="--limit 64 --batch-size 2"
distill() { # NAME, then options; a draft whose weights are here stays
  [ -e "$drafts/$1/adapter_model.safetensors" ] || python train_distill.py --pair qwen-coder --output-dir "$drafts/$1" --restart "${@:2}"
}

if [ "${1:-}" = rates ]; then # --- the text or the rate (Table 2b), on three prompts a language ---
  earlier=$results/rates
  mkdir -p $earlier $texts
  grep -v -m 36 '"language": "javascript"' domains/code_test.jsonl > $earlier/prompts.jsonl
  head -n 9 domains/natural_language.jsonl >> $earlier/prompts.jsonl
  python generate_answers.py $answers --prompts $earlier/prompts.jsonl --output $earlier/answers.jsonl
  $human $some --output $texts/rates-human.jsonl --prompts $texts/rates-prompts.jsonl
  $human --limit 74 --max-tokens 128 --output $texts/human-128.jsonl
  python generate_answers.py $answers --top-probs 128 --limit 37 --prompts $texts/rates-prompts.jsonl \
    --output $texts/rates-distilled.jsonl
  for r in 3e-5 3e-4; do
    distill rates_human_$r --learning-rate $r --limit 32 --batch-size 2 --loss nll --answers $texts/human-128.jsonl
  done
  distill rates_distilled_3e-5 --learning-rate 3e-5 --limit 32 --batch-size 2 --answers $texts/rates-distilled.jsonl
  distill rates_distilled --learning-rate 3e-4 --limit 32 --batch-size 2 --answers $texts/rates-distilled.jsonl
  distill rates_human --learning-rate 3e-4 --limit 64 --batch-size 2 --loss nll --answers $texts/rates-human.jsonl
  python evaluate_acceptance.py paired --pair qwen-coder --max-new-tokens 128 --answers $earlier/answers.jsonl --results-dir $earlier \
    --prompts $earlier/prompts.jsonl --drafts base human=$drafts/rates_human distilled=$drafts/rates_distilled \
    distilled_3e-5=$drafts/rates_distilled_3e-5 human_3e-5=$drafts/rates_human_3e-5 human_3e-4=$drafts/rates_human_3e-4
  python -m studies.code.analysis
  python -m studies.code.tables
  exit
fi

if [ "${1:-}" = all ]; then # --- all texts and all prompts (half a minute to two a training on an H200, several at once) ---
  mkdir -p $results $texts
  grep -v '"language": "javascript"' domains/code_test.jsonl > $results/prompts.jsonl
  cat domains/natural_language.jsonl >> $results/prompts.jsonl
  { tail -n +193 $results/prompts.jsonl | head -n 288; tail -n +49 domains/natural_language.jsonl; } > $results/prompts-more.jsonl
  many="--raw --max-new-tokens 128 --pair qwen-coder"
  python generate_answers.py $many --batch-size 120 --prompts $results/prompts.jsonl --output $results/answers.jsonl
  python evaluate_acceptance.py paired $foreign --prompts $results/prompts.jsonl --drafts base
  $human --output $texts/human-all.jsonl --prompts $texts/prompts-all.jsonl
  $human --mix balanced --output $texts/human-balanced-all.jsonl
  $human --repeat zig=4 --output $texts/human-worst-all.jsonl
  python generate_answers.py $many --batch-size 135 --top-probs 128 --prompts $texts/prompts-all.jsonl --output $texts/distilled-all.jsonl
  for draft in human-all human-balanced-all human-worst-all; do
    distill $draft --learning-rate 3e-5 --keep-rank 32 --loss nll --answers $texts/$draft.jsonl
  done
  distill distilled-all --learning-rate 3e-5 --keep-rank 32 --answers $texts/distilled-all.jsonl
  distill distilled-all-3 --learning-rate 3e-5 --passes 3 --keep-rank 32 --answers $texts/distilled-all.jsonl
  distill distilled-all-1e-4 --learning-rate 1e-4 --keep-rank 32 --answers $texts/distilled-all.jsonl
  python evaluate_acceptance.py paired $family --prompts $results/prompts.jsonl --drafts base human-all=$drafts/human-all \
    distilled-all=$drafts/distilled-all
  python evaluate_acceptance.py paired $family --prompts $results/prompts-more.jsonl --drafts base \
    human-balanced-all=$drafts/human-balanced-all human-worst-all=$drafts/human-worst-all \
    distilled-all-3=$drafts/distilled-all-3 distilled-all-1e-4=$drafts/distilled-all-1e-4
  head -n 24 $results/prompts.jsonl > $results/prompts-live.jsonl
  python evaluate_acceptance.py live --pair qwen-coder --backend int8 --raw --max-new-tokens 128 --seeds 1 --k 2 \
    --prompts $results/prompts-live.jsonl --results-dir $results/qwen-coder/live-k2-all --drafts base \
    human-all=$drafts/human-all distilled-all=$drafts/distilled-all
  python -m studies.code.analysis
  python -m studies.code.tables
  exit
fi

# --- the prompts: the languages take turns in the file, so its first lines are EACH of each (JavaScript is in no table) ---
mkdir -p $results $texts
grep -v -m $((12 * each)) '"language": "javascript"' domains/code_test.jsonl > $results/prompts.jsonl
head -n $((3 * each)) domains/natural_language.jsonl >> $results/prompts.jsonl # of three kinds

# --- the verifier's completions, which serve both pairs, and the base drafts on them ---
python generate_answers.py $answers --prompts $results/prompts.jsonl --output $results/answers.jsonl
python evaluate_acceptance.py paired $family --prompts $results/prompts.jsonl --drafts base
python evaluate_acceptance.py paired $foreign --prompts $results/prompts.jsonl --drafts base

# --- drafts of 64 texts: human code, and the verifier's completions of the same prompts ---
rate="--learning-rate 3e-5" # at ten times as much even the draft that the verifier taught lost acceptance (Table 2b)
$human $some --output $texts/human.jsonl --prompts $texts/prompts.jsonl
distill human $rate $learnt --loss nll --answers $texts/human.jsonl
python generate_answers.py $answers --top-probs 128 --prompts $texts/prompts.jsonl --output $texts/distilled.jsonl
distill distilled $rate $learnt --answers $texts/distilled.jsonl
python evaluate_acceptance.py paired $family --prompts $results/prompts.jsonl --drafts base human=$drafts/human \
  distilled=$drafts/distilled

# --- balanced over the languages, and half of the text of the one that is furthest behind, Zig; on eight prompts a language ---
{ head -n 96 $results/prompts.jsonl; head -n 24 domains/natural_language.jsonl; } > $results/prompts-8.jsonl
$human $some --mix balanced --output $texts/human-balanced.jsonl
$human --limit 44 --max-tokens 256 --mix balanced --repeat zig=8 --output $texts/human-worst.jsonl
distill human-balanced $rate $learnt --loss nll --answers $texts/human-balanced.jsonl
distill human-worst $rate $learnt --loss nll --answers $texts/human-worst.jsonl
python evaluate_acceptance.py paired $family --prompts $results/prompts-8.jsonl --drafts base \
  human-balanced=$drafts/human-balanced human-worst=$drafts/human-worst

# --- from human to distilled, one change at a time, on the same code prompts ---
$human --limit 74 --max-tokens 128 --output $texts/human-128.jsonl
$human --limit 74 --max-tokens 128 --temperature 0.7 --output $texts/human-128-0.7.jsonl
distill human-128 $rate $learnt --loss nll --answers $texts/human-128.jsonl
distill human-128-0.7 $rate $learnt --loss nll --answers $texts/human-128-0.7.jsonl
distill distilled-nll $rate $learnt --loss nll --answers $texts/distilled.jsonl
head -n 96 $results/prompts.jsonl > $results/prompts-code.jsonl
python evaluate_acceptance.py paired $family --prompts $results/prompts-code.jsonl --drafts base human-128=$drafts/human-128 \
  human-128-0.7=$drafts/human-128-0.7 distilled-nll=$drafts/distilled-nll

# --- live by draft length, two prompts a language, with nothing beside it; the tuned drafts where base is fastest ---
head -n 24 $results/prompts.jsonl > $results/prompts-live.jsonl
live="--pair qwen-coder --backend int8 --raw --max-new-tokens 128 --seeds 1 --prompts $results/prompts-live.jsonl"
python evaluate_acceptance.py live $live --k 2 --results-dir $results/qwen-coder/live-k2 --drafts base human=$drafts/human \
  distilled=$drafts/distilled
for k in 1 4 8 16 32; do
  python evaluate_acceptance.py live $live --k $k --results-dir $results/qwen-coder/live-k$k --drafts base
done
python -m studies.code.analysis
python -m studies.code.tables
