#!/usr/bin/env bash
# All that a CPU can tell, in stages that resume: `bench/cpu.sh --help` lists them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root:$root/kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec python3 -m bench.cpu "$@"
