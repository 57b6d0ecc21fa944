#!/usr/bin/env bash
# The engine, every command in order, with its time on two cores. `make engine` runs it; run nothing beside it, for it takes times.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=studies/engine/results

python check_exactness.py --samples 150 --json $results/exactness.json  # 6 minutes
python benchmark_decoding.py --max-new-tokens 32 --json $results/benchmark.json  # 12 minutes

# --- both backends in one sitting (on a CPU without bf16 instructions 20 minutes; the results kept were stopped earlier) ---
python benchmark_decoding.py --pair smollm2-qwen --backend int8 --limit 4 --max-new-tokens 32 --k 1 2 3 4 5 6 8 \
  --skip-same-vocabulary --json $results/benchmark_int8.json
python benchmark_decoding.py --pair smollm2-qwen --limit 4 --max-new-tokens 32 --k 2 3 4 \
  --skip-same-vocabulary --json $results/benchmark_beside.json

# --- one prompt with every draft, on the front page (2 minutes) ---
python speculative_decode.py --mode compare --backend int8 --drafts base dpo=final_adapter distilled=adapters/distilled --k 2 \
  --prompt "What screen reader works best for blind users?" --json $results/demo_int8.json

# --- on a CPU without bf16 instructions (4 minutes), and how it looks in the viewer ---
python speculative_decode.py --mode compare --prompt "What screen reader works best for blind users?" --max-new-tokens 80 \
  --trace $results/trace_float32.jsonl --json $results/demo_float32.json
python view_trace.py $results/trace_float32.jsonl --runs base dpo --png $results/still.png
python -m studies.engine.tables
