"""What the service counts, for Prometheus."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

# Where prometheus_client keeps the figures of several processes.
SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)
_PAIRS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters, histograms and gauges.

    Attributes:
        requests: answers by HTTP status code; 499 if the client had gone away.
        seconds: from the end of a request's headers to its scores.
        pairs: scored pairs by status.
        batch_pairs: pairs of a batch.
        queue: pairs that wait.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "quals_fast_requests", "Requests for scores, by HTTP status code.", ["code"],
            registry=self._registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "quals_fast_request_seconds", "Seconds from a request to its scores.",
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.pairs = Counter(
            "quals_fast_pairs", "Pairs scored, by status.", ["status"], registry=self._registry
        )
        self.batch_pairs = Histogram(
            "quals_fast_batch_pairs", "Pairs in a batch.", buckets=_PAIRS, registry=self._registry
        )
        self.queue = Gauge(
            "quals_fast_queue_pairs", "Pairs that wait.",
            multiprocess_mode="livesum", registry=self._registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format, those of all workers together."""
        if SHARED_FOLDER not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
