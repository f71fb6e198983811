#!/usr/bin/env bash
# The tests that take too long for every run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec pytest -m slow "$@"
