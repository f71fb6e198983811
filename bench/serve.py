"""How fast does `quals-fast serve` answer? Throughput and latency by clients, start-up.

    python -m bench.serve [--data FILE]

Clients send one pair a request over the loopback and wait for the answer. Workload `pairs` has
`short` pairs, workload `documents` 8 summaries of each document, which arrive apart. The server is
compared with itself without batching (batches of one, no documents kept, the same threads) and with
calls of the library one after the other. All take turns with the same texts, which are new in each
turn, and their scores are compared. Under 10 minutes on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.onnx import exported
from bench.recipes.grow import folder_of
from bench.shared.common import Pair, finish, spread
from bench.shared.options import command_line
from bench.shared.service import Load, Server, command_of, load, served
from bench.shared.timing import ratios, rounds_within
from bench.shared.weights import MODEL, weights_of
from bench.shared.workloads import load_workload
from quals_fast import QualsScorer

BATCHED, SINGLE, LIBRARY = "server", "server without batching", "library in a loop"
SUMMARIES_A_DOCUMENT = 8


def in_a_loop(scorer: QualsScorer, pairs: Sequence[Pair]) -> Load:
    """Score each pair in a call of its own."""
    latencies, scores = [], []
    for pair in pairs:
        begin = time.perf_counter()
        (row,) = scorer.score([pair.document], [pair.summary]).flat()
        latencies.append(time.perf_counter() - begin)
        scores.append(row.to_dict()["score"])
    return Load(sum(latencies), latencies, scores)


def workload(name: str, data: Path | None, requests: int) -> list[Pair]:
    """Return the pairs of a workload, one a request."""
    rows = load_workload("short", data, requests)
    if name == "pairs":
        return rows
    documents = [rows[i // SUMMARIES_A_DOCUMENT].document for i in range(requests)]
    return [row._replace(document=one) for row, one in zip(rows, documents, strict=True)]


def figures(loads: Sequence[Load]) -> dict[str, Any]:
    """Return throughput a round, and percentiles of all latencies, milliseconds."""
    latencies = [1000 * one for load in loads for one in load.latencies]
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    rates = [len(load.latencies) / load.seconds for load in loads]
    of_latency = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}
    return {"requests_per_s": spread(rates), "latency_ms": of_latency}


def difference(load: Load, expected: Load) -> float:
    """Return the largest absolute difference of scores; those without one must be the same."""
    pairs = list(zip(load.scores, expected.scores, strict=True))
    if any((one is None) != (other is None) for one, other in pairs):
        raise RuntimeError("the server and the library disagree on which pairs have a score")
    return max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=0.0)


def added_ms(loads: Sequence[Load], library: Sequence[Load]) -> float:
    """Return the median, over all requests, of how much longer they took than in the library."""
    pairs = zip(loads, library, strict=True)
    return 1000 * statistics.median(
        a - b for one, other in pairs for a, b in zip(one.latencies, other.latencies, strict=True)
    )


def compare(
    servers: dict[str, Server], scorer: QualsScorer, pairs: Sequence[Pair], clients: Sequence[int],
    rounds: int, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """Measure servers and library in turn, each turn with a part of the pairs."""
    size = len(pairs) // (rounds * len(clients))
    parts = (pairs[first : first + size] for first in range(0, len(pairs), size))
    library: dict[int, list[Load]] = {n: [] for n in clients}
    loads: dict[int, dict[str, list[Load]]] = {n: {name: [] for name in servers} for n in clients}
    deltas = []
    in_a_loop(scorer, pairs[:1])  # first calls are slow; the servers have made theirs
    for _ in rounds_within(seconds, rounds):
        for n, of_n in loads.items():
            part = next(parts)
            library[n].append(in_a_loop(scorer, part))
            for name, server in servers.items():
                of_n[name].append(load(server.url, part, n))
                deltas.append(difference(of_n[name][-1], library[n][-1]))
    rates = {
        n: {name: [1 / one.seconds for one in own] for name, own in of_n.items()}
        for n, of_n in loads.items()
    }
    fewest = min(clients)
    return {
        "requests": size,
        "library": figures([one for own in library.values() for one in own]),
        "clients": {
            str(n): {name: figures(own) for name, own in of_n.items()} for n, of_n in loads.items()
        },
        "times_as_fast": {str(n): ratios(of_n[BATCHED], of_n[SINGLE]) for n, of_n in rates.items()},
        "added_ms": {str(fewest): added_ms(loads[fewest][BATCHED], library[fewest])},
        "max_abs_delta": max(deltas),
    }


def start_up(model: Path, rounds: int) -> dict[str, float]:
    """Start a server so many times, after a first that only warms the disk's cache."""
    seconds = []
    for _ in range(rounds + 1):
        with served(command_of(model)) as server:
            seconds.append(server.seconds)
    return spread(seconds[1:])


def main() -> None:
    """Measure and write bench/results/serve.json."""
    parser = command_line(__doc__, data=None, dtype="float32", rounds=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16], help="at once")
    parser.add_argument("--requests", type=int, default=24, help="requests of a turn")
    parser.add_argument("--limit", type=float, default=420, help="seconds for the comparison")
    arguments = parser.parse_args()
    folder, slim = folder_of(MODEL), exported(folder_of(MODEL), "int8")
    finish("serve", measured(arguments, folder, slim), weights=weights_of(MODEL))


def measured(arguments: argparse.Namespace, folder: Path, slim: Path) -> dict[str, Any]:
    """Return the result."""
    result: dict[str, Any] = {"dtype": arguments.dtype}
    result["start_up_s"] = {
        "PyTorch": start_up(folder, arguments.rounds),
        "slim": start_up(slim, arguments.rounds),
    }
    scorer = QualsScorer.from_pretrained(folder, device="cpu", dtype=arguments.dtype)
    result["signature"] = scorer.signature
    result["workloads"] = {}
    with ExitStack() as stack:
        apart = {"max_batch": 1, "cache_mib": 0}
        servers = {
            name: stack.enter_context(served(command_of(folder, dtype=arguments.dtype, **more)))
            for name, more in ((BATCHED, {}), (SINGLE, apart))
        }
        needed = arguments.requests * arguments.rounds * len(arguments.clients)
        for name in ("pairs", "documents"):
            pairs = workload(name, arguments.data, needed)
            result["workloads"][name] = compare(
                servers, scorer, pairs, arguments.clients, arguments.rounds, arguments.limit / 2
            )
    return result


if __name__ == "__main__":
    main()
