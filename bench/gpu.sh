#!/usr/bin/env bash
# All that only a GPU can tell, in under 9 minutes: tests, kernels, end to end, floor.
# Needs the tree and torch, triton, transformers, pytest; writes bench/results/*.csv and *.json.
#   bench/gpu.sh [DATA]      DATA: JSON lines of documents and summaries; without it, the examples
# The claim's test takes as long again: python -m bench.claim --quick --device cuda --candidates FILE
# (answer candidates, prepared where spaCy is with --prepare FILE).
# Each part has its own limit, and one that fails does not keep the others from running.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD:$PWD/kernels" PYTHONUNBUFFERED=1
data=${1:+--data "$1"}
failed=0

part() { # SECONDS COMMAND...
  local limit=$1
  shift
  echo "== $* (at most $limit s)"
  timeout "$limit" "$@" || { echo "!! exit code $?: $*"; failed=1; }
}

python -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || { echo "there is no GPU here" >&2; exit 1; }
part 150 python -m pytest -q -m gpu tests
for op in group_select beam_attention span_match linear_logprob lm_head_topk; do
  part 30 python -m "bench.ops.bench_$op"
done
# shellcheck disable=SC2086
part 130 python -m bench.end_to_end --quick --device cuda --models bart-large --dtypes float32 auto $data
part 60 python -m bench.throughput --device cuda
[ -n "${OUT:-}" ] && cp -r bench/results "$OUT"
exit $failed
