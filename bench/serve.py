"""How fast does `quals-fast serve` answer? Throughput and latency by clients, start-up.

    python -m bench.serve [--data FILE]

Clients send one pair a request over the loopback and wait for the answer. Workload `pairs` has
`short` pairs, workload `documents` 8 summaries of each document, which arrive apart. The server is
compared with itself without batching (batches of one, no documents kept, the same threads) and with
calls of the library one after the other. All take turns with the same texts, which are new in each
turn, another one beginning each time, and their scores are compared. What the server adds to the
library's time would be lost in the noise of such pairs, so short requests tell it: documents of 60
words and few beams, each sent to the server, on a connection of its own, and to the library. There
are enough of them for 99th percentiles; take them from `--data`, since those made from the examples
repeat and the server keeps documents. Results are written after each round. 11 minutes on two
cores.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from bench.onnx import exported
from bench.recipes.grow import folder_of
from bench.shared.common import Pair, finish, spread
from bench.shared.options import command_line
from bench.shared.service import (
    FEW_BEAMS,
    WORDS,
    Load,
    Server,
    command_of,
    load,
    served,
    shortened,
)
from bench.shared.timing import ratios, rotated, rounds_within
from bench.shared.weights import MODEL, weights_of
from bench.shared.workloads import load_workload
from quals_fast import DecodingConfig, QualsScorer

BATCHED, SINGLE, LIBRARY = "server", "server without batching", "library in a loop"
WORKLOADS = ("pairs", "documents")
SUMMARIES_A_DOCUMENT = 8
WARM_UPS = 5  # short requests

Result = dict[str, Any]


def in_a_loop(scorer: QualsScorer, pairs: Sequence[Pair]) -> Load:
    """Score each pair in a call of its own."""
    latencies, scores = [], []
    for pair in pairs:
        begin = time.perf_counter()
        (row,) = scorer.score([pair.document], [pair.summary]).flat()
        latencies.append(time.perf_counter() - begin)
        scores.append(row.to_dict()["score"])
    return Load(sum(latencies), latencies, scores)


def at_once(scorer: QualsScorer, pairs: Sequence[Pair]) -> Load:
    """Score all pairs in one call, where only their scores matter."""
    begin = time.perf_counter()
    result = scorer.score([pair.document for pair in pairs], [pair.summary for pair in pairs])
    scores = [row.to_dict()["score"] for row in result.flat()]
    return Load(time.perf_counter() - begin, [], scores)


def workload(name: str, data: Path | None, requests: int) -> list[Pair]:
    """Return the pairs of a workload, one a request."""
    rows = load_workload("short", data, requests)
    if name == "pairs":
        return rows
    documents = [rows[i // SUMMARIES_A_DOCUMENT].document for i in range(requests)]
    return [row._replace(document=one) for row, one in zip(rows, documents, strict=True)]


def percentiles_of(latencies: Sequence[float]) -> dict[str, float]:
    """Return percentiles in milliseconds, and the number of latencies, which are in seconds."""
    cuts = statistics.quantiles([1000 * one for one in latencies], n=100, method="inclusive")
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "n": len(latencies)}


def figures(loads: Sequence[Load]) -> Result:
    """Return throughput a round, and percentiles of all latencies."""
    rates = [len(one.latencies) / one.seconds for one in loads]
    latencies = [seconds for one in loads for seconds in one.latencies]
    return {"requests_per_s": spread(rates), "latency_ms": percentiles_of(latencies)}


def difference(load: Load, expected: Load) -> float:
    """Return the largest absolute difference of scores; those without one must be the same."""
    pairs = list(zip(load.scores, expected.scores, strict=True))
    if any((one is None) != (other is None) for one, other in pairs):
        raise RuntimeError("the server and the library disagree on which pairs have a score")
    return max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=0.0)


def compare(
    servers: dict[str, Server], scorer: QualsScorer, pairs: Sequence[Pair], sizes: dict[int, int],
    rounds: int, seconds: float, save: Callable[[Result], None],
) -> None:  # fmt: skip
    """Measure servers and library in turn, each turn with a part of the pairs.

    Args:
        servers: by name, `BATCHED` and `SINGLE`.
        scorer: with the servers' settings.
        pairs: enough for all turns of all rounds.
        sizes: requests of a turn by number of clients; with the fewest, the library is timed, too.
        rounds: at most.
        seconds: for all rounds.
        save: gets the result after each round.
    """
    unused = iter(pairs)
    loads: dict[int, dict[str, list[Load]]] = {
        n: {name: [] for name in (LIBRARY, *servers)} for n in sizes
    }
    fewest, deltas = min(sizes), []
    in_a_loop(scorer, pairs[:1])  # first calls are slow; the servers have made theirs
    for turn in rounds_within(seconds, rounds):
        for place, (n, of_n) in enumerate(loads.items()):
            part = list(islice(unused, sizes[n]))
            for name in rotated([*of_n], turn + place):
                if name == LIBRARY:
                    ask = in_a_loop if n == fewest else at_once
                    of_n[name].append(ask(scorer, part))
                else:
                    of_n[name].append(load(servers[name].url, part, n))
            deltas += [difference(of_n[name][-1], of_n[LIBRARY][-1]) for name in servers]
        save(
            {
                "requests": {str(n): size for n, size in sizes.items()},
                "library": figures(loads[fewest][LIBRARY]),
                "clients": {
                    str(n): {name: figures(of_n[name]) for name in servers}
                    for n, of_n in loads.items()
                },
                "times_as_fast": {
                    str(n): ratios(*([1 / one.seconds for one in of_n[name]] for name in servers))
                    for n, of_n in loads.items()
                },
                "max_abs_delta": max(deltas),
            }
        )


def median_of(differences: Sequence[float]) -> dict[str, float]:
    """Return the median with its 95 % bootstrap interval, and the number of differences."""
    drawn = bootstrap((differences,), np.median, method="percentile", n_resamples=2000, rng=0)
    low, high = drawn.confidence_interval
    value = statistics.median(differences)
    return {"value": value, "low": float(low), "high": float(high), "n": len(differences)}


def added_by(server: Server, scorer: QualsScorer, pairs: Sequence[Pair]) -> tuple[Load, Load]:
    """Send each pair to the server and score it with the library, in turn; return both loads."""
    loads: dict[str, list[Load]] = {BATCHED: [], LIBRARY: []}
    for turn, pair in enumerate(pairs):
        for name in rotated([*loads], turn):
            one = in_a_loop(scorer, [pair]) if name == LIBRARY else load(server.url, [pair], 1)
            loads[name].append(one)
    joined = (
        Load(
            sum(one.seconds for one in own),
            [one.latencies[0] for one in own],
            [one.scores[0] for one in own],
        )
        for own in loads.values()
    )
    of_server, of_library = joined
    return of_server, of_library


def short_requests(
    server: Server, scorer: QualsScorer, pairs: Sequence[Pair], sizes: dict[int, int]
) -> Result:
    """Measure what the server adds to the library's time, and latency by clients.

    Args:
        server: with the scorer's settings.
        scorer: searches with few beams.
        pairs: short ones, all different.
        sizes: requests by number of clients.
    """
    added_by(server, scorer, pairs[:WARM_UPS])  # warms both up
    unused = iter(pairs[WARM_UPS:])
    one, library = added_by(server, scorer, list(islice(unused, sizes[1])))
    latencies = {1: one.latencies}
    deltas = [difference(one, library)]
    for n in [n for n in sizes if n > 1]:
        part = list(islice(unused, sizes[n]))
        own = load(server.url, part, n)
        latencies[n] = own.latencies
        deltas.append(difference(own, at_once(scorer, part)))
    added = [1000 * (a - b) for a, b in zip(one.latencies, library.latencies, strict=True)]
    return {
        "settings": FEW_BEAMS,
        "document_words": WORDS,
        "added_ms": median_of(added),
        "library_ms": percentiles_of(library.latencies),
        "latency_ms": {str(n): percentiles_of(own) for n, own in latencies.items()},
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
    """Measure, and write bench/results/serve.json after each round."""
    parser = command_line(__doc__, data=None, dtype="float32", rounds=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16], help="at once")
    parser.add_argument(
        "--requests", type=int, default=12, help="requests of a turn; at least one for each client"
    )
    parser.add_argument(
        "--short-requests", type=int, default=300, help="short requests by number of clients"
    )
    parser.add_argument("--limit", type=float, default=420, help="seconds for the comparison")
    arguments = parser.parse_args()
    sizes = {n: max(arguments.requests, n) for n in arguments.clients}
    short_sizes = dict.fromkeys([1, *arguments.clients], arguments.short_requests)
    try:
        needed = WARM_UPS + sum(short_sizes.values())
        short = shortened(load_workload("short", arguments.data, needed))
        needed = arguments.rounds * sum(sizes.values())
        texts = {name: workload(name, arguments.data, needed) for name in WORKLOADS}
    except ValueError as error:
        parser.error(str(error))
    folder, dtype, rounds = folder_of(MODEL), arguments.dtype, arguments.rounds
    scorer, short_scorer = (
        QualsScorer.from_pretrained(folder, device="cpu", dtype=dtype, decoding=decoding)
        for decoding in (DecodingConfig(), DecodingConfig(**FEW_BEAMS))
    )
    result: Result = {
        "dtype": dtype,
        "signature": scorer.signature,
        "data": arguments.data.name if arguments.data else "examples",
        "start_up_s": {
            "PyTorch": start_up(folder, rounds),
            "slim": start_up(exported(folder, "int8"), rounds),
        },
        "workloads": {},
    }
    with served(command_of(folder, dtype=dtype, **FEW_BEAMS)) as server:
        result["short_requests"] = short_requests(server, short_scorer, short, short_sizes)
    with ExitStack() as stack:
        apart = {"max_batch": 1, "cache_mib": 0}
        servers = {
            name: stack.enter_context(served(command_of(folder, dtype=dtype, **more)))
            for name, more in ((BATCHED, {}), (SINGLE, apart))
        }
        for name, pairs in texts.items():

            def save(case: Result, name: str = name) -> None:
                result["workloads"][name] = case
                finish("serve", result, weights=weights_of(MODEL))

            seconds = arguments.limit / len(texts)
            compare(servers, scorer, pairs, sizes, rounds, seconds, save)


if __name__ == "__main__":
    main()
