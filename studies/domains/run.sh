#!/usr/bin/env bash
# Study 1, every command in order. Part 1 was measured in float32, with its time on two cores without bf16 units (100 GFLOP/s), where
# an answer of up to 200 tokens takes the verifier 13 s; from part 2 on in bf16, with its time on two cores that have them, where it
# takes 3 s. One folder holds rows of one data type. Each command resumes where it was stopped; `bash studies/domains/run.sh 2` ends
# behind part 2, as without a number it does behind part 5: part 6 is for a GPU, part 7 needs its draft. The drafts' weights are not
# in the repository: to measure again, move drafts/ and results/ of this study away first (and of part 1 the
# tvdpp_position_16 and _32 of study 2).
set -euo pipefail
cd "$(dirname "$0")/../.."
last=${1:-5}
here=studies/domains
answers=$here/answers queries=$here/queries drafts=$here/drafts results=$here/results
study2=studies/distillation
pair="--pair smollm2-qwen" # by name, for with a GPU of 20 GiB the default is another

distill() { # NAME, then options; a draft that is there stays. Its weights (78 MB) are not in the repository.
  if [ -e "$drafts/$1/metrics.json" ]; then return; fi
  python train_distill.py $pair --output-dir "$drafts/$1" --restart --batch-size 4 --passes 2 "${@:2}"
}

at() { # the same for a draft of study 2's AT answers, at study 2's budget: one pass
  if [ -e "$study2/drafts/$1/metrics.json" ]; then return; fi
  python train_distill.py $pair --output-dir "$study2/drafts/$1" --restart --answers $study2/answers/at.jsonl --loss tvdpp_position "${@:2}"
}

pages() { # the claims and the page from what is measured: a minute
  if [ -e "$results/paired.jsonl" ]; then python evaluate_acceptance.py report --results-dir $results; fi
  python -m studies.domains.analysis
  python -m studies.domains.tables
}

# --- part 1: AT. White-box and black-box are study 2's (its run.sh, before this); the draft's own text and fewer answers beside them,
# --- measured on study 2's 32 prompts, in its folder (an hour) ---
# 8 steps in which the draft writes and the verifier scores, then 4 and 8 steps of 12 s (5 minutes with loading)
at tvdpp_position_32_online --data online --limit 32
at tvdpp_position_16 --limit 16
at tvdpp_position_32 --limit 32
# 32 stored texts, three drafts (6 minutes)
python evaluate_acceptance.py paired $pair --results-dir $study2/results --answers studies/preference/results/answers.jsonl --per-type 8 \
  --prompts domains/at.jsonl --drafts base tvdpp_position_32_online=$study2/drafts/tvdpp_position_32_online \
  tvdpp_position_16=$study2/drafts/tvdpp_position_16 tvdpp_position_32=$study2/drafts/tvdpp_position_32
python evaluate_acceptance.py report --results-dir $study2/results --per-type 8 --prompts domains/at.jsonl domains/general.jsonl
python -m studies.distillation.tables
pages
if [ "$last" -le 1 ]; then exit; fi

# --- part 2: biology, scenarios I and III, white-box and black-box, forgetting (25 minutes) ---
# what the verifier answers: 48 and 64 answers, of the tests 8 a query type (3 + 4 minutes)
python generate_answers.py $pair --prompts domains/biology_users.jsonl --limit 48 --top-probs 128 --output $answers/biology_users.jsonl
python generate_answers.py $pair --prompts domains/biology_test.jsonl domains/general.jsonl --per-type 8 --output $answers/test.jsonl
# the drafts: 20 steps of 4 answers (2 minutes each)
distill biology_users --answers $answers/biology_users.jsonl --limit 40 --loss tvdpp_position
distill biology_users_nll --answers $answers/biology_users.jsonl --limit 40 --loss nll
# the verifier's own queries, drawn in float32 for an earlier round, and its answers to them (3 minutes, 2 for the draft)
python generate_queries.py $pair --domain biology --draws 96 --output $queries/biology.jsonl --json $results/queries_biology.json
python generate_answers.py $pair --prompts $queries/biology.jsonl --limit 48 --top-probs 128 --output $answers/biology_synthetic.jsonl
distill biology_synthetic --answers $answers/biology_synthetic.jsonl --limit 40 --loss tvdpp_position
# 64 texts, four drafts (5 minutes)
python evaluate_acceptance.py paired $pair --results-dir $results --answers $answers/test.jsonl \
  --prompts domains/biology_test.jsonl domains/general.jsonl --drafts base biology_users=$drafts/biology_users \
  biology_users_nll=$drafts/biology_users_nll biology_synthetic=$drafts/biology_synthetic
pages
if [ "$last" -le 2 ]; then exit; fi

# --- part 3: function calling, scenarios I and III (45 minutes; its prompts have 700 tokens, most of them tools) ---
# 24 + 24 answers; small batches, for a batch is as wide as its longest prompt (3 + 3 minutes)
python generate_answers.py $pair --prompts domains/function_calling_users.jsonl --limit 24 --top-probs 128 --batch-size 4 \
  --output $answers/function_calling_users.jsonl
python generate_answers.py $pair --prompts domains/function_calling_test.jsonl --limit 24 --batch-size 4 --output $answers/test.jsonl
# 40 steps of one answer: four of the longest prompts need more than 24 GiB (3 minutes)
distill function_calling_users --batch-size 1 --answers $answers/function_calling_users.jsonl --limit 20 --loss tvdpp_position
# the verifier's own queries, with the users' tools, and its answers to them (12 + 4 minutes, 3 for the draft)
python generate_queries.py $pair --domain function_calling --draws 48 --batch-size 4 --output $queries/function_calling.jsonl \
  --json $results/queries_function_calling.json
python generate_answers.py $pair --prompts $queries/function_calling.jsonl --limit 24 --top-probs 128 --batch-size 4 \
  --output $answers/function_calling_synthetic.jsonl
distill function_calling_synthetic --batch-size 1 --answers $answers/function_calling_synthetic.jsonl --limit 20 \
  --loss tvdpp_position
# every draft on every text (10 minutes)
tests="domains/biology_test.jsonl domains/function_calling_test.jsonl domains/general.jsonl"
measured="base"
for draft in biology_synthetic biology_users biology_users_nll function_calling_synthetic function_calling_users; do
  measured="$measured $draft=$drafts/$draft"
done
python evaluate_acceptance.py paired $pair --results-dir $results --answers $answers/test.jsonl --prompts $tests --drafts $measured
pages
if [ "$last" -le 3 ]; then exit; fi

# --- part 4: curated queries, the draft's own text, black-box on function calling; the users' drafts live ---
distill biology_users_online --answers $answers/biology_users.jsonl --limit 40 --loss tvdpp_position --data online
distill function_calling_users_nll --batch-size 1 --answers $answers/function_calling_users.jsonl --limit 20 --loss nll
python generate_answers.py $pair --prompts domains/biology_exam.jsonl --limit 48 --top-probs 128 --output $answers/biology_exam.jsonl
distill biology_exam --answers $answers/biology_exam.jsonl --limit 40 --loss tvdpp_position
python generate_answers.py $pair --prompts domains/function_calling_curated.jsonl --limit 24 --top-probs 128 --batch-size 4 \
  --output $answers/function_calling_curated.jsonl
distill function_calling_curated --batch-size 1 --answers $answers/function_calling_curated.jsonl --limit 20 --loss tvdpp_position
paired() { # FILE, then drafts
  local named=""
  for draft in "${@:2}"; do named="$named $draft=$drafts/$draft"; done
  python evaluate_acceptance.py paired $pair --results-dir $results --answers $answers/test.jsonl --prompts "$1" --drafts base $named
}
paired domains/biology_test.jsonl biology_users_online biology_exam
paired domains/function_calling_test.jsonl function_calling_users_nll function_calling_curated
paired domains/general.jsonl biology_users_online biology_exam function_calling_users_nll function_calling_curated
# with nothing beside it
for domain in biology function_calling; do
  python evaluate_acceptance.py live $pair --backend int8 --k 2 --seeds 1 --no-baseline --max-new-tokens 64 --per-type 6 \
    --results-dir $results/live --prompts domains/${domain}_test.jsonl --drafts base ${domain}_users=$drafts/${domain}_users
done
pages
if [ "$last" -le 4 ]; then exit; fi

# --- part 5: AT by study 0's prompts and by the verifier's own, one draft of all three domains, one answer a step; Chinese ---
python generate_answers.py $pair --prompts dpo_clean.jsonl --limit 48 --top-probs 128 --output $answers/at_pairs.jsonl
distill at_pairs --answers $answers/at_pairs.jsonl --limit 40 --loss tvdpp_position
python generate_answers.py $pair --prompts domains/at.jsonl --per-type 8 --output $answers/test.jsonl
# 216 steps of one answer (7 minutes)
distill mixed --batch-size 1 --answers $answers/biology_users.jsonl $answers/function_calling_users.jsonl $answers/at_pairs.jsonl \
  --loss tvdpp_position
python generate_queries.py $pair --domain at --draws 96 --output $queries/at.jsonl --json $results/queries_at.json
python generate_answers.py $pair --prompts $queries/at.jsonl --limit 48 --top-probs 128 --output $answers/at_synthetic.jsonl
distill at_synthetic --answers $answers/at_synthetic.jsonl --limit 40 --loss tvdpp_position
distill biology_users_single --batch-size 1 --answers $answers/biology_users.jsonl --limit 20 --loss tvdpp_position
paired domains/at.jsonl at_pairs at_synthetic mixed biology_users function_calling_users
paired domains/general.jsonl at_pairs at_synthetic mixed biology_users_single
paired domains/biology_test.jsonl at_pairs mixed biology_users_single
paired domains/function_calling_test.jsonl at_pairs mixed
# the rest of the square
paired domains/at.jsonl biology_synthetic biology_exam function_calling_synthetic function_calling_curated
paired domains/biology_test.jsonl at_synthetic function_calling_curated
paired domains/function_calling_test.jsonl at_synthetic biology_exam
# Chinese: the verifier's mass on the tokens that both name (`shared_mass`) is what bounds SmolLM2
python generate_answers.py $pair --prompts domains/chinese_test.jsonl --per-type 8 --output $answers/test.jsonl
paired domains/chinese_test.jsonl
# the same-family pair, whose vocabulary is whole
python generate_answers.py $pair --prompts domains/chinese_train.jsonl --limit 48 --top-probs 128 --output $answers/chinese_users.jsonl
distill chinese_users --pair qwen-coder --learning-rate 3e-5 --answers $answers/chinese_users.jsonl --limit 40 --loss tvdpp_position
python evaluate_acceptance.py paired --pair qwen-coder --results-dir $results/same_family --answers $answers/test.jsonl \
  --prompts domains/chinese_test.jsonl domains/general.jsonl --drafts base chinese_users=$drafts/chinese_users
python evaluate_acceptance.py report --results-dir $results/same_family
# the draft's own text on function calling (16 minutes, for the draft writes every answer of a step)
distill function_calling_users_online --batch-size 1 --answers $answers/function_calling_users.jsonl --limit 20 --loss tvdpp_position \
  --data online
for test in function_calling_test general; do paired domains/$test.jsonl function_calling_users_online; done
# how many of a draft's own texts are calls
[ -e $results/own_text.json ] || python count_calls.py $pair --answers $answers/function_calling_users.jsonl --json $results/own_text.json --drafts base \
  online=$drafts/function_calling_users_online offline=$drafts/function_calling_users
# more data, the smaller draft's answers among the larger's (15 minutes of answers, 20 of training)
python generate_answers.py $pair --prompts domains/biology_users.jsonl --limit 280 --top-probs 128 --output $answers/biology_users_more.jsonl
for size in 125 250; do
  distill biology_users_$size --answers $answers/biology_users_more.jsonl --limit $size --loss tvdpp_position
done
for test in biology_test general; do paired domains/$test.jsonl biology_users_125 biology_users_250; done
# the draft that ships, which saw neither biology nor function calling
for test in function_calling_test biology_test general at; do
  python evaluate_acceptance.py paired $pair --results-dir $results --answers $answers/test.jsonl --prompts domains/$test.jsonl \
    --drafts base distilled_more=adapters/distilled_more
done
# and that draft with calls (8 minutes)
distill with_calls --adapter-path adapters/distilled_more --batch-size 1 --learning-rate 3e-4 --loss tvdpp_position \
  --answers $answers/biology_users.jsonl $answers/function_calling_users.jsonl $answers/at_pairs.jsonl
for test in function_calling_test general at biology_test; do paired domains/$test.jsonl with_calls; done
[ -e adapters/with_calls ] || cp -r $drafts/with_calls adapters/with_calls
# with nothing beside it (10 minutes)
python evaluate_acceptance.py live $pair --backend int8 --k 2 --seeds 1 --no-baseline --max-new-tokens 64 --per-type 6 \
  --results-dir $results/live-calls --prompts domains/function_calling_test.jsonl --drafts base \
  distilled_more=adapters/distilled_more with_calls=adapters/with_calls
# Chinese on all of its test prompts, and 250 answers in one pass (45 minutes)
python generate_answers.py $pair --prompts domains/chinese_test.jsonl --output $answers/test.jsonl
paired domains/chinese_test.jsonl
python generate_answers.py $pair --prompts domains/chinese_train.jsonl --limit 280 --top-probs 128 \
  --output $answers/chinese_users_more.jsonl
distill chinese_users_250 --pair qwen-coder --learning-rate 3e-5 --answers $answers/chinese_users_more.jsonl --limit 250 --passes 1 \
  --loss tvdpp_position
python evaluate_acceptance.py paired --pair qwen-coder --results-dir $results/same_family --answers $answers/test.jsonl \
  --prompts domains/chinese_test.jsonl domains/general.jsonl --drafts base chinese_users=$drafts/chinese_users \
  chinese_users_250=$drafts/chinese_users_250
python evaluate_acceptance.py report --results-dir $results/same_family
# what saves function calling from forgetting: one pass, more answers (15 minutes)
python generate_answers.py $pair --prompts domains/function_calling_users.jsonl --limit 66 --top-probs 128 --batch-size 16 \
  --output $answers/function_calling_users_more.jsonl
distill function_calling_once --batch-size 1 --passes 1 --answers $answers/function_calling_users.jsonl --limit 20 --loss tvdpp_position
distill function_calling_60 --batch-size 1 --passes 1 --answers $answers/function_calling_users_more.jsonl --limit 60 \
  --loss tvdpp_position
for test in general function_calling_test; do paired domains/$test.jsonl function_calling_once function_calling_60; done
pages
if [ "$last" -le 5 ]; then exit; fi

# --- part 6: larger budgets, for a GPU (seven minutes of an H200, up to 14 of these commands at once). In one pass 125, 250 and 500
# --- answers, each number drawn from the next (a larger --limit adds prompts to a file), and 250 answers for every other arm ---
learn() { # NAME, then options
  [ -e "$drafts/whole_$1/metrics.json" ] || python train_distill.py $pair --output-dir "$drafts/whole_$1" --restart "${@:2}"
}
met() { # TEST SET, ANSWERS, then drafts
  local named=""
  for draft in "${@:3}"; do named="$named $draft=$drafts/whole_$draft"; done
  python evaluate_acceptance.py paired $pair --results-dir $results/whole --prompts domains/$1.jsonl --answers $whole/$2.jsonl \
    --drafts base distilled_more=adapters/distilled_more with_calls=adapters/with_calls $named
}
whole=$answers/whole
long="python generate_answers.py $pair --top-probs 128 --batch-size 70" short="python generate_answers.py $pair --top-probs 128 --batch-size 140"
for number in 140 280 560; do
  $short --prompts domains/biology_users.jsonl --limit $number --output $whole/biology_users.jsonl
  $long --prompts domains/function_calling_users.jsonl --limit $number --output $whole/function_calling_users.jsonl
done
$short --prompts dpo_clean.jsonl --limit 280 --output $whole/at_pairs.jsonl
$short --prompts domains/general_train.jsonl --limit 280 --output $whole/general.jsonl
$short --prompts domains/biology_exam.jsonl --limit 280 --output $whole/biology_exam.jsonl
$long --prompts domains/function_calling_curated.jsonl --limit 280 --output $whole/function_calling_curated.jsonl
write="python generate_queries.py $pair --draws 770"
$write --domain function_calling --batch-size 110 --output $queries/whole/function_calling.jsonl --json $results/whole/queries_function_calling.json
for domain in biology at; do
  $write --domain $domain --batch-size 260 --output $queries/whole/$domain.jsonl --json $results/whole/queries_$domain.json
  $short --prompts $queries/whole/$domain.jsonl --limit 280 --output $whole/${domain}_synthetic.jsonl
done
$long --prompts $queries/whole/function_calling.jsonl --limit 280 --output $whole/function_calling_synthetic.jsonl
python generate_answers.py $pair --batch-size 60 --prompts domains/function_calling_test.jsonl --output $whole/test_calls.jsonl
python generate_answers.py $pair --batch-size 180 --prompts domains/biology_test.jsonl domains/at.jsonl domains/general.jsonl \
  --output $whole/test.jsonl
for draft in biology_users function_calling_users at_pairs biology_synthetic function_calling_synthetic at_synthetic biology_exam \
  function_calling_curated; do
  learn ${draft}_250 --answers $whole/$draft.jsonl --limit 250
done
for draft in biology_users function_calling_users at_pairs; do
  for loss in nll kl; do learn ${draft}_250_$loss --answers $whole/$draft.jsonl --limit 250 --loss $loss; done
done
for draft in biology_users function_calling_users; do
  for size in 125 500; do learn ${draft}_$size --answers $whole/$draft.jsonl --limit $size; done
done
# the first 280 answers of each, about 250 behind what is held out
mkdir -p $whole/everything
for domain in biology function_calling; do head -n 282 $whole/${domain}_users.jsonl > $whole/everything/${domain}_users.jsonl; done
everything="$whole/everything/biology_users.jsonl $whole/everything/function_calling_users.jsonl $whole/at_pairs.jsonl $whole/general.jsonl"
learn everything --keep-rank 64 --answers $everything
learn with_everything --adapter-path adapters/distilled_more --learning-rate 3e-4 --answers $everything
all="everything with_everything"
met function_calling_test test_calls function_calling_users_125 function_calling_users_250 function_calling_users_500 $all \
  function_calling_synthetic_250 function_calling_curated_250 function_calling_users_250_nll function_calling_users_250_kl \
  biology_users_250 at_pairs_250
met biology_test test biology_users_125 biology_users_250 biology_users_500 biology_synthetic_250 biology_exam_250 \
  biology_users_250_nll biology_users_250_kl $all function_calling_users_250 at_pairs_250
met at test at_pairs_250 at_synthetic_250 at_pairs_250_nll at_pairs_250_kl $all function_calling_users_250 biology_users_250
met general test function_calling_users_250 function_calling_users_500 function_calling_synthetic_250 function_calling_curated_250 \
  function_calling_users_250_nll biology_users_250 biology_users_500 biology_synthetic_250 biology_exam_250 at_pairs_250 \
  at_synthetic_250 $all
python evaluate_acceptance.py report --results-dir $results/whole
pages
if [ "$last" -le 6 ]; then exit; fi

# --- part 7: the draft that ships, live on two cores with nothing beside it (20 minutes) ---
[ -e adapters/with_everything ] || cp -r $drafts/whole_with_everything adapters/with_everything
live="python evaluate_acceptance.py live $pair --backend int8 --k 2 --seeds 1 --no-baseline --max-new-tokens 64"
shipped="distilled_more=adapters/distilled_more with_calls=adapters/with_calls with_everything=adapters/with_everything"
$live --per-type 6 --results-dir $results/live-shipped --prompts domains/function_calling_test.jsonl --drafts base $shipped
$live --per-type 2 --results-dir $results/live-shipped --prompts domains/at.jsonl domains/biology_test.jsonl domains/general.jsonl \
  --drafts base $shipped
# eight prompts tell little (8 minutes)
$live --per-type 6 --results-dir $results/live-prose --prompts domains/at.jsonl domains/general.jsonl --drafts base \
  distilled_more=adapters/distilled_more with_everything=adapters/with_everything
pages
