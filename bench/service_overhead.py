"""What does the service add to scoring? Requests to a scorer that answers at once.

    python -m bench.service_overhead

One client sends the pairs of workload `short`, one a request, over the loopback. The scorer has
scored them before and only looks the results up, so what is measured is everything else: HTTP,
JSON, the queue, threads, and the milliseconds for which a pair waits for others (`--max-wait-ms`).
The library's own time of a pair varies by more than that (`python -m bench.serve`). Half a minute.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from bench.serve import figures
from bench.shared.common import Pair, finish
from bench.shared.options import command_line
from bench.shared.service import load
from bench.shared.weights import MODEL, weights_of
from bench.shared.workloads import load_workload
from quals_fast import QualsResult, QualsScorer
from quals_fast.serving.limits import Limits
from quals_fast.serving.server import address, listen, run
from quals_fast.serving.service import Service


class Remembering:
    """A scorer that looks up what another has said of some pairs.

    Args:
        scorer: does everything but score.
        pairs: what it is asked for, each in a call of its own.
    """

    def __init__(self, scorer: QualsScorer, pairs: Sequence[Pair]) -> None:
        self._scorer = scorer
        self._results = {
            (pair.document, pair.summary): scorer.score([pair.document], [pair.summary])
            for pair in pairs
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)

    def score(self, documents: Sequence[str], summaries: Sequence[str], **_: object) -> QualsResult:
        """Return the result of one pair."""
        (document,), (summary,) = documents, summaries
        return self._results[document, summary]


@contextmanager
def listening(scorer: Remembering, limits: Limits) -> Iterator[str]:
    """Run a service in a thread; yield its URL."""
    ready = threading.Event()
    service = Service(lambda: cast("QualsScorer", scorer), limits, on_ready=ready.set)
    with listen("127.0.0.1", 0) as sock:
        url = address(sock)
        thread = threading.Thread(target=run, args=(service, sock))
        thread.start()
        ready.wait()
        yield url
        service.is_stopping = True
        thread.join()


def main() -> None:
    """Measure and write bench/results/service_overhead.json."""
    parser = command_line(__doc__, data=None, dtype="float32")
    parser.add_argument("--requests", type=int, default=2000, help="requests of a turn")
    arguments = parser.parse_args()
    pairs = load_workload("short", arguments.data, 8)
    scorer = QualsScorer.from_pretrained(MODEL, device="cpu", dtype=arguments.dtype)
    remembering = Remembering(scorer, pairs)
    asked = [pairs[i % len(pairs)] for i in range(arguments.requests)]
    added = {}
    for wait in (Limits().max_wait_ms, 0.0):
        with listening(remembering, Limits(max_wait_ms=wait)) as url:
            load(url, asked[:100], 1)  # first requests are slow
            added[f"{wait:g}"] = figures([load(url, asked, 1)])["latency_ms"]
    result = {"requests": len(asked), "added_ms_by_max_wait_ms": added}
    finish("service_overhead", result, weights=weights_of(MODEL))


if __name__ == "__main__":
    main()
