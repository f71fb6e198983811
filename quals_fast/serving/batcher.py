"""Dynamic batching: pairs that wait at the same time are scored together, in one thread."""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from itertools import count
from typing import NamedTuple, TypeAlias

from quals_fast.processes import trim_heap
from quals_fast.results import RowScore
from quals_fast.scorer import QualsScorer
from quals_fast.serving.metrics import Metrics
from quals_fast.serving.requests import Pair

Waiting: TypeAlias = "asyncio.Future[RowScore]"

TRIM_EVERY = 16  # batches; trimming takes some milliseconds

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


class _Turn(NamedTuple):
    """What waits of a request.

    Attributes:
        pairs: by their results, in order.
        arrived: when the request arrived, on the loop's clock.
    """

    pairs: dict[Waiting, Pair]
    arrived: float


class Batcher:
    """Gathers pairs and scores them, batch after batch.

    A batch starts as soon as the thread is free and enough pairs wait, or the first of them has
    waited long enough. Pairs that arrive during a batch wait for the next one. Requests take turns,
    a pair each, so that a short request need not wait for all pairs of a long one.

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
        self._turns: deque[_Turn] = deque()  # none is empty
        self._arrived = asyncio.Event()
        self._n_running = 0
        self._seconds_per_pair = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no pair waits or is being scored."""
        return not self._turns and not self._n_running

    @property
    def n_waiting(self) -> int:
        """How many pairs wait."""
        return sum(len(turn.pairs) for turn in self._turns)

    def submit(self, pairs: Sequence[Pair]) -> list[Waiting]:
        """Take a request's pairs; return their results, of which each may be cancelled.

        Raises:
            QueueFullError: too many pairs wait already.
        """
        if self.n_waiting + len(pairs) > self._max_queue:
            seconds = self.n_waiting * self._seconds_per_pair
            raise QueueFullError(max(1, math.ceil(seconds)))
        loop = asyncio.get_running_loop()
        turn = _Turn({loop.create_future(): pair for pair in pairs}, loop.time())
        self._turns.append(turn)
        for future in turn.pairs:
            future.add_done_callback(partial(self._forget, turn))
        self._metrics.queue.set(self.n_waiting)
        self._arrived.set()
        return list(turn.pairs)

    async def run(self) -> None:
        """Score what waits, until cancelled; after that, or a failure, nothing waits any more."""
        try:
            for n in count(1):
                await self._gather()
                batch = self._next_batch()
                if batch:  # or else all were cancelled
                    await self._score_batch(batch)
                if n % TRIM_EVERY == 0:
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(self._executor, trim_heap)
        finally:
            for future in [future for turn in self._turns for future in turn.pairs]:
                if not future.done():
                    future.set_exception(BatchFailedError())

    async def _gather(self) -> None:
        """Wait for a first pair, and for as many more as may be."""
        while not self._turns:
            self._arrived.clear()
            await self._arrived.wait()
        first = min(turn.arrived for turn in self._turns)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(first + self._max_wait):
                while 0 < self.n_waiting < self._max_batch:
                    self._arrived.clear()
                    await self._arrived.wait()

    def _next_batch(self) -> dict[Waiting, Pair]:
        """Take pairs from the queue, one of each request in turn."""
        batch: dict[Waiting, Pair] = {}
        while self._turns and len(batch) < self._max_batch:
            turn = self._turns.popleft()
            future = next(iter(turn.pairs))
            batch[future] = turn.pairs.pop(future)
            if turn.pairs:
                self._turns.append(turn)
        self._metrics.queue.set(self.n_waiting)
        return batch

    async def _score_batch(self, batch: dict[Waiting, Pair]) -> None:
        """Score pairs; if that fails, so do their results."""
        loop = asyncio.get_running_loop()
        self._n_running, began = len(batch), loop.time()
        try:
            self._metrics.batch_pairs.observe(len(batch))
            pairs = list(batch.values())
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

    def _forget(self, turn: _Turn, future: Waiting) -> None:
        """Drop a pair that nobody waits for any more."""
        if turn.pairs.pop(future, None) is None:
            return
        if not turn.pairs:
            self._turns.remove(turn)
        self._metrics.queue.set(self.n_waiting)
        self._arrived.set()


def log_failure(what: str, error: BaseException) -> None:
    """Log an error's type and where it was raised, but not its message: it may quote a text."""
    where = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("%s: %s\n%s", what, type(error).__name__, where)
