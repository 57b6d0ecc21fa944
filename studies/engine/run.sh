#!/usr/bin/env bash
# The engine, every command in order, with its time on two cores. `make engine` runs it; run nothing beside it, for it takes times.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=studies/engine/results

python check_exactness.py --samples 150 --json $results/exactness.json  # 6 minutes with bf16 units, 30 without
python check_exactness.py --samples 150 --backend int8 --json $results/exactness_int8.json  # 3 minutes

# --- every engine, each in a process of its own: 15 minutes. On a CPU without VNNI, write to benchmark_no_vnni.json ---
pip install --quiet -r requirements-peers.txt  # llama.cpp and OpenVINO; without them their rows say that they are not installed
python benchmark_decoding.py --drafts base distilled=adapters/distilled distilled_more=adapters/distilled_more --limit 8 \
  --max-new-tokens 48 --peers llama.cpp=2 openvino int8=2,3,4 transformers=3 generate \
  --llama-cpp-draft Qwen/Qwen2.5-Coder-0.5B-Instruct --lengths 100 1000 2000 --json $results/benchmark.json

# --- how far the int8 verifier is from its bf16 self: 2 minutes, 4 GB of the folder for temporary files ---
python -m studies.engine.agreement --answers studies/distillation/answers/at.jsonl --limit 32 \
  --json $results/agreement.json

# --- a smaller output layer of the draft, on the CPU without VNNI: 5 minutes; its page's last column takes that CPU's benchmark ---
python -m studies.engine.draft_head --answers studies/preference/results/answers.jsonl --prompts domains/at.jsonl --per-type 3 \
  --counts studies/distillation/answers/at.jsonl --adapter-path adapters/distilled --json $results/draft_head.json

# --- one prompt with every draft, on the front page (2 minutes) ---
python speculative_decode.py --mode compare --backend int8 --drafts base dpo=final_adapter distilled=adapters/distilled --k 2 \
  --prompt "What screen reader works best for blind users?" --json $results/demo_int8.json

# --- what only a CPU without bf16 instructions can measure, so that its results stay: 4 minutes, and how it looks in the viewer ---
if python -c "import torch; raise SystemExit(torch.ops.mkldnn._is_mkldnn_bf16_supported())"; then
  python speculative_decode.py --mode compare --prompt "What screen reader works best for blind users?" --max-new-tokens 80 \
    --trace $results/trace_float32.jsonl --json $results/demo_float32.json
  python view_trace.py $results/trace_float32.jsonl --runs base dpo --png $results/still.png
fi

# --- on a GPU of 40 GiB or more: what models of the shapes of the paper's pair cost (a minute), with random weights ---
if python -c "import torch; raise SystemExit(not torch.cuda.is_available())"; then
  python -m studies.engine.shapes --json $results/shapes.json
fi
python -m studies.engine.tables
