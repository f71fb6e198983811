"""Does the memory of `quals-fast serve` stay flat over thousands of requests?

    python -m bench.serve_memory [--requests 5000] [--data FILE]

Clients send one pair a request. With `--data`, nearly all are different; pairs made from the
examples repeat after a few hundred. The cache of encoded documents is small, so that it is full by
then and what grows later is no cache. Texts are short and the search has few beams, since a leak
would show all the same.
"""

from __future__ import annotations

from pathlib import Path

from bench.recipes.grow import folder_of
from bench.shared.common import finish
from bench.shared.options import command_line
from bench.shared.service import FEW_BEAMS, command_of, load, served, shortened
from bench.shared.weights import MODEL, weights_of
from bench.shared.workloads import load_workload

CLIENTS = 64
SETTINGS = FEW_BEAMS | {"cache_mib": 16}
STEPS = 10  # at which memory is read


def resident_mib(status: str) -> float:
    """Return the resident memory that a process's ``/proc/PID/status`` tells, MiB."""
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main() -> None:
    """Measure, and write bench/results/serve_memory.json after each step."""
    parser = command_line(__doc__, data=None)
    parser.add_argument("--requests", type=int, default=5000, help="at least 10")
    arguments = parser.parse_args()
    size = arguments.requests // STEPS
    if not size:
        parser.error(f"--requests must be at least {STEPS}, but got {arguments.requests}")
    try:
        pairs = shortened(load_workload("short", arguments.data, size * STEPS))
    except ValueError as error:
        parser.error(str(error))
    resident: dict[str, float] = {}
    result = {"clients": CLIENTS, "settings": SETTINGS, "resident_mib": resident}
    weights = weights_of(MODEL)
    with served(command_of(folder_of(MODEL), **SETTINGS)) as server:
        for step in range(STEPS):
            load(server.url, pairs[step * size : (step + 1) * size], CLIENTS)
            status = Path(f"/proc/{server.pid}/status").read_text("ascii")
            resident[str((step + 1) * size)] = resident_mib(status)
            finish("serve_memory", result, weights=weights)


if __name__ == "__main__":
    main()
