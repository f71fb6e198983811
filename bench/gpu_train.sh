#!/usr/bin/env bash
# Trains a question-answer generator on a GPU, in calls of ten minutes: bench/gpu_train.sh --help
# What has to be in place, and what comes back: bench/README.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TORCH_CUDNN_SDPA_DEPRIORITIZED=1
exec "${PYTHON:-python3}" -m bench.gpu_train "$@"
