#!/usr/bin/env bash
# The engine, every command in order, with its time on two cores. `make engine` runs it; run nothing beside it, for it takes times.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=studies/engine/results

python check_exactness.py --samples 150 --json $results/exactness.json  # 6 minutes
python benchmark_decoding.py --max-new-tokens 32 --json $results/benchmark.json  # 12 minutes
python -m studies.engine.tables
