#!/usr/bin/env bash
# All that only a GPU can tell, in stages: `bench/gpu.sh --help` lists them.
# Needs this tree and torch, triton, transformers, pytest and pytest-xdist.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root:$root/kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# cuDNN builds a plan for every new shape of attention: all programs that are compared avoid it.
export TORCH_CUDNN_SDPA_DEPRIORITIZED=1
for argument in "$@"; do
  if [ "$argument" = --dry-run ]; then
    # Triton's interpreter runs the kernels, and two stages share the CPU.
    export CUDA_VISIBLE_DEVICES="" TRITON_INTERPRET=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
  fi
done
exec python3 -m bench.gpu "$@"
