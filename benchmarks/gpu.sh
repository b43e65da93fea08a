#!/usr/bin/env bash
# One call of at most ten minutes on a machine with an NVIDIA GPU and no ROS, from a plain checkout:
#     FLOWCLAS_KIT=path/to/kit benchmarks/gpu.sh
# CUDA against CPU scores for every preset, latency and memory, and (with the kit) a short fit in bf16 and in fp32.
# Writes benchmarks/results/gpu.json, or $OUT/gpu.json where OUT is set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
[[ -x $python ]] || python=python3
exec "$python" benchmarks/gpu.py "$@"
