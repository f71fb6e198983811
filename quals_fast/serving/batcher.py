"""Dynamic batching: pairs that wait at the same time are scored together, in one thread."""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from itertools import islice
from typing import TypeAlias

from quals_fast.results import RowScore
from quals_fast.scorer import QualsScorer
from quals_fast.serving.metrics import Metrics
from quals_fast.serving.requests import Pair

Waiting: TypeAlias = "asyncio.Future[RowScore]"

_LOG = logging.getLogger("quals_fast")


class QueueFullError(Exception):
    """More pairs would wait than may.

    Attributes:
        retry_after: in how many seconds there may be room, at least 1.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__()
        self.retry_after = retry_after


class BatchFailedError(Exception):
    """A batch could not be scored, for no reason of its texts; the log says where."""


def pairs_at_once(scorer: QualsScorer) -> int:
    """Return how many pairs fill the token budget of a scorer's engine, at least 1."""
    of_beams = scorer.decoding.num_beams * (scorer.decoding.max_length + 1)
    return max(1, scorer.engine.max_batch_tokens // of_beams)


class Batcher:
    """Gathers pairs and scores them, batch after batch.

    A batch starts as soon as the thread is free and enough pairs wait, or the first of them has
    waited long enough. Pairs that arrive during a batch wait for the next one.

    Args:
        score: scores a batch; runs in the executor.
        executor: with one thread.
        max_batch: pairs of a batch.
        max_wait: for which a pair waits for others while nothing is scored, seconds.
        max_queue: pairs that may wait.
        metrics: what it counts.
    """

    def __init__(
        self,
        score: Callable[[list[Pair]], Sequence[RowScore]],
        executor: Executor,
        *,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        metrics: Metrics,
    ) -> None:
        self._score, self._executor, self._metrics = score, executor, metrics
        self._max_batch, self._max_wait, self._max_queue = max_batch, max_wait, max_queue
        self._waiting: dict[Waiting, tuple[Pair, float]] = {}  # with the time of arrival
        self._arrived = asyncio.Event()
        self._n_running = 0
        self._seconds_per_pair = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no pair waits or is being scored."""
        return not self._waiting and not self._n_running

    def submit(self, pairs: Sequence[Pair]) -> list[Waiting]:
        """Take pairs; return their results, of which each may be cancelled.

        Raises:
            QueueFullError: too many pairs wait already.
        """
        if len(self._waiting) + len(pairs) > self._max_queue:
            seconds = len(self._waiting) * self._seconds_per_pair
            raise QueueFullError(max(1, math.ceil(seconds)))
        loop = asyncio.get_running_loop()
        futures: list[Waiting] = [loop.create_future() for _ in pairs]
        for future, pair in zip(futures, pairs, strict=True):
            self._waiting[future] = pair, loop.time()
            future.add_done_callback(self._forget)
        self._metrics.queue.set(len(self._waiting))
        self._arrived.set()
        return futures

    async def run(self) -> None:
        """Score what waits, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._gather()
            batch = dict(islice(self._waiting.items(), self._max_batch))
            for future in batch:
                del self._waiting[future]
            self._metrics.queue.set(len(self._waiting))
            if not batch:
                continue  # all were cancelled
            self._n_running = len(batch)
            self._metrics.batch_pairs.observe(len(batch))
            began = loop.time()
            pairs = [pair for pair, _ in batch.values()]
            try:
                results = await loop.run_in_executor(self._executor, self._score, pairs)
                for future, result in zip(batch, results, strict=True):
                    self._metrics.pairs.labels(result.status).inc()
                    if not future.done():
                        future.set_result(result)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # a panic of the tokenizer is not an Exception
                log_failure("a batch failed", error)
                for future in batch:
                    if not future.done():
                        future.set_exception(BatchFailedError())
            self._n_running = 0
            self._seconds_per_pair = (loop.time() - began) / len(batch)

    async def _gather(self) -> None:
        """Wait for a first pair, and for as many more as may be."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        _, arrived = next(iter(self._waiting.values()))
        with suppress(TimeoutError):
            async with asyncio.timeout_at(arrived + self._max_wait):
                while 0 < len(self._waiting) < self._max_batch:
                    self._arrived.clear()
                    await self._arrived.wait()

    def _forget(self, future: Waiting) -> None:
        """Drop a pair that nobody waits for any more."""
        if self._waiting.pop(future, None) is not None:
            self._metrics.queue.set(len(self._waiting))
            self._arrived.set()


def log_failure(what: str, error: BaseException) -> None:
    """Log an error's type and where it was raised, but not its message: it may quote a text."""
    where = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("%s: %s\n%s", what, type(error).__name__, where)
