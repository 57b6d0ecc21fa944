#!/usr/bin/env bash
# Study 1, every command in order, with its time on two cores without bf16 units (100 GFLOP/s: the verifier reads or writes about
# 30 tokens/s, and loading it takes 40 s). Each resumes where it was stopped. `bash studies/domains/run.sh 1` ends behind part 1.
set -euo pipefail
cd "$(dirname "$0")/../.."
last=${1:-6}
here=studies/domains
answers=$here/answers queries=$here/queries drafts=$here/drafts results=$here/results

distill() { # NAME, then options; a draft that is there stays. Its weights (78 MB) are not in the repository.
  if [ -e "$drafts/$1/metrics.json" ]; then return; fi
  python train_distill.py --output-dir "$drafts/$1" --restart --batch-size 4 --passes 2 "${@:2}"
}

pages() { # the report of what is measured, the claims, the page: a minute
  python evaluate_acceptance.py report --results-dir $results
  python -m studies.domains.analysis
  python -m studies.domains.tables
}

# --- part 1: biology, scenarios I and III, white-box and black-box, forgetting (40 minutes) ---
# what the verifier answers: 48 + 16 + 16 answers of about 220 tokens (7 + 3 + 3 minutes)
python generate_answers.py --prompts domains/biology_users.jsonl --limit 48 --top-probs 128 --output $answers/biology_users.jsonl
python generate_answers.py --prompts domains/biology_test.jsonl --limit 16 --output $answers/test.jsonl
python generate_answers.py --prompts domains/general.jsonl --limit 16 --output $answers/test.jsonl
# the drafts: 20 steps of 4 answers (4 minutes each)
distill biology_users --answers $answers/biology_users.jsonl --limit 40 --loss tvdpp_position
distill biology_users_nll --answers $answers/biology_users.jsonl --limit 40 --loss nll
# the verifier's own queries, and its answers to them (5 + 7 minutes, 4 for the draft)
python generate_queries.py --domain biology --draws 96 --output $queries/biology.jsonl --json $results/queries_biology.json
python generate_answers.py --prompts $queries/biology.jsonl --limit 48 --top-probs 128 --output $answers/biology_synthetic.jsonl
distill biology_synthetic --answers $answers/biology_synthetic.jsonl --limit 40 --loss tvdpp_position
# 32 texts, four drafts (7 minutes)
python evaluate_acceptance.py paired --results-dir $results --answers $answers/test.jsonl \
  --prompts domains/biology_test.jsonl domains/general.jsonl --drafts base biology_users=$drafts/biology_users \
  biology_users_nll=$drafts/biology_users_nll biology_synthetic=$drafts/biology_synthetic
pages
if [ "$last" -le 1 ]; then exit; fi

# --- part 2: function calling, scenario I (45 minutes; its prompts have 700 tokens, most of them tools) ---
# 24 + 12 answers, 28 s each (11 + 6 minutes); small batches, for a batch is as wide as its longest prompt
python generate_answers.py --prompts domains/function_calling_users.jsonl --limit 24 --top-probs 128 --batch-size 4 \
  --output $answers/function_calling_users.jsonl
python generate_answers.py --prompts domains/function_calling_test.jsonl --limit 12 --batch-size 4 --output $answers/test.jsonl
# 10 steps of 30 s (5 minutes each)
distill function_calling_users --answers $answers/function_calling_users.jsonl --limit 20 --loss tvdpp_position
distill function_calling_users_nll --answers $answers/function_calling_users.jsonl --limit 20 --loss nll
# the new drafts on all texts, the old ones on the new texts (13 minutes)
tests="domains/biology_test.jsonl domains/function_calling_test.jsonl domains/general.jsonl domains/at.jsonl"
measured="base biology_users=$drafts/biology_users biology_users_nll=$drafts/biology_users_nll"
measured="$measured biology_synthetic=$drafts/biology_synthetic function_calling_users=$drafts/function_calling_users"
measured="$measured function_calling_users_nll=$drafts/function_calling_users_nll"
python evaluate_acceptance.py paired --results-dir $results --answers $answers/test.jsonl --prompts $tests --drafts $measured
pages
if [ "$last" -le 2 ]; then exit; fi

# --- part 3: the other arms at the same budget (5 hours) ---
# AT: study 0's prompts (7 + 3 minutes for texts, 30 for drafts) and the verifier's own AT queries (16 minutes)
python generate_answers.py --prompts dpo_clean.jsonl --limit 48 --top-probs 128 --output $answers/at_pairs.jsonl
python generate_answers.py --prompts domains/at.jsonl --limit 16 --output $answers/test.jsonl
distill at_pairs --answers $answers/at_pairs.jsonl --limit 40 --loss tvdpp_position
distill at_pairs_nll --answers $answers/at_pairs.jsonl --limit 40 --loss nll
distill at_pairs_online --answers $answers/at_pairs.jsonl --limit 40 --loss tvdpp_position --data online
python generate_queries.py --domain at --draws 96 --output $queries/at.jsonl --json $results/queries_at.json
python generate_answers.py --prompts $queries/at.jsonl --limit 48 --top-probs 128 --output $answers/at_synthetic.jsonl
distill at_synthetic --answers $answers/at_synthetic.jsonl --limit 40 --loss tvdpp_position
# biology: curated queries, the draft's own text (7 + 4 + 22 minutes)
python generate_answers.py --prompts domains/biology_exam.jsonl --limit 48 --top-probs 128 --output $answers/biology_exam.jsonl
distill biology_exam --answers $answers/biology_exam.jsonl --limit 40 --loss tvdpp_position
distill biology_users_online --answers $answers/biology_users.jsonl --limit 40 --loss tvdpp_position --data online
# function calling: curated queries, synthetic ones with the users' tools, the draft's own text (7 + 25 + 11 + 30 minutes)
python generate_answers.py --prompts domains/function_calling_curated.jsonl --limit 24 --top-probs 128 --batch-size 4 \
  --output $answers/function_calling_curated.jsonl
distill function_calling_curated --answers $answers/function_calling_curated.jsonl --limit 20 --loss tvdpp_position
python generate_queries.py --domain function_calling --draws 48 --batch-size 4 --output $queries/function_calling.jsonl \
  --json $results/queries_function_calling.json
python generate_answers.py --prompts $queries/function_calling.jsonl --limit 24 --top-probs 128 --batch-size 4 \
  --output $answers/function_calling_synthetic.jsonl
distill function_calling_synthetic --answers $answers/function_calling_synthetic.jsonl --limit 20 --loss tvdpp_position
distill function_calling_users_online --answers $answers/function_calling_users.jsonl --limit 20 --loss tvdpp_position --data online
# one draft on all three (12 minutes)
distill mixed --answers $answers/biology_users.jsonl $answers/function_calling_users.jsonl $answers/at_pairs.jsonl --loss tvdpp_position
# every draft on every test set (60 minutes)
for draft in $drafts/*/; do
  name=$(basename "$draft")
  if [[ " $measured " != *" $name="* && "$name" != chinese* ]]; then measured="$measured $name=$drafts/$name"; fi
done
python evaluate_acceptance.py paired --results-dir $results --answers $answers/test.jsonl --prompts $tests --drafts $measured
pages
if [ "$last" -le 3 ]; then exit; fi

# --- part 4: more data, scenario I (answers 1 + 4 hours, drafts 4 hours, measured 1 hour) ---
python generate_answers.py --prompts domains/biology_users.jsonl --limit 560 --top-probs 128 --output $answers/biology_users.jsonl
python generate_answers.py --prompts domains/function_calling_users.jsonl --limit 560 --top-probs 128 --batch-size 4 \
  --output $answers/function_calling_users.jsonl
for size in 125 250 500; do
  distill biology_users_$size --answers $answers/biology_users.jsonl --limit $size --loss tvdpp_position
  distill function_calling_users_$size --answers $answers/function_calling_users.jsonl --limit $size --loss tvdpp_position
  measured="$measured biology_users_$size=$drafts/biology_users_$size"
  measured="$measured function_calling_users_$size=$drafts/function_calling_users_$size"
done
python evaluate_acceptance.py paired --results-dir $results --answers $answers/test.jsonl --prompts $tests --drafts $measured
pages
if [ "$last" -le 4 ]; then exit; fi

# --- part 5: Chinese (2 hours). What bounds SmolLM2 is the verifier's mass on the tokens that both name: `shared_mass` ---
python generate_answers.py --prompts domains/chinese_test.jsonl --limit 16 --output $answers/test.jsonl
python evaluate_acceptance.py paired --results-dir $results --answers $answers/test.jsonl --prompts domains/chinese_test.jsonl \
  --drafts base
# the same-family pair, whose vocabulary is whole (answers 7 minutes, 20 steps of 50 s, measured 10 minutes)
python generate_answers.py --prompts domains/chinese_train.jsonl --limit 48 --top-probs 128 --output $answers/chinese_users.jsonl
distill chinese_users --pair qwen-coder --answers $answers/chinese_users.jsonl --limit 40 --loss tvdpp_position
python evaluate_acceptance.py paired --pair qwen-coder --results-dir $results/same_family --answers $answers/test.jsonl \
  --prompts domains/chinese_test.jsonl domains/general.jsonl --drafts base chinese_users=$drafts/chinese_users
python evaluate_acceptance.py report --results-dir $results/same_family
pages
if [ "$last" -le 5 ]; then exit; fi

# --- part 6: all 120 test prompts a domain (5 hours), and the winners live, with nothing beside them (40 minutes) ---
for domain in biology_test general at chinese_test; do
  python generate_answers.py --prompts domains/$domain.jsonl --output $answers/test.jsonl
done
python generate_answers.py --prompts domains/function_calling_test.jsonl --batch-size 4 --output $answers/test.jsonl
python evaluate_acceptance.py paired --results-dir $results --answers $answers/test.jsonl --prompts $tests --drafts $measured
python evaluate_acceptance.py live --results-dir $results --prompts domains/biology_test.jsonl domains/at.jsonl --per-type 4 \
  --seeds 1 --drafts base biology_users_500=$drafts/biology_users_500 at_pairs=$drafts/at_pairs
pages
