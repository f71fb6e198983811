"""Scoring while the next training step goes on: in a thread, or in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol

from quals_fast.processes import this_thread
from quals_fast.results import QualsResult
from quals_fast.scorer import QualsScorer


class _Score(Protocol):
    def __call__(self, documents: Sequence[str], summaries: Sequence[Any]) -> QualsResult: ...


class BackgroundScorer:
    """A queue in front of a scorer; what is handed in first is scored first, one call at a time.

    In a thread, which suits a scorer on a device that the training does not use; it shares Python's
    interpreter with the training, and captures no CUDA graphs, since the training could draw no
    random numbers meanwhile. `in_process` shares nothing. Use it as a context, or close it.

    Args:
        scorer: scores in the thread; call it nowhere else meanwhile.

    Examples:
        >>> from quals_fast import QualsScorer
        >>> from quals_fast.training import BackgroundScorer
        >>> with BackgroundScorer(QualsScorer.from_pretrained("qagen-mini")) as background:
        ...     future = background.score_async(["Anne won."], ["Anne won."])
        ...     future.result()[0].status
        'ok'
    """

    def __init__(self, scorer: QualsScorer) -> None:
        self._executor: Executor = ThreadPoolExecutor(
            1, thread_name_prefix="quals_fast", initializer=_capture_no_graphs
        )
        self._score: _Score = scorer.score

    @classmethod
    def in_process(
        cls, model: str = "qagen-mini", *, threads: int | None = None, **settings: Any
    ) -> BackgroundScorer:
        """Load a scorer in a new process and score there.

        Loading begins at once; what goes wrong with it arrives with the first result. As with all
        new processes, a script must have its own work under ``if __name__ == "__main__":``.

        Args:
            model: as for `QualsScorer.from_pretrained`.
            threads: of the process, as for `QualsScorer.from_pretrained`.
            settings: likewise of `QualsScorer.from_pretrained`, such as ``device="cuda:1"``.
        """
        made = cls.__new__(cls)
        made._executor = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),  # a forked torch may deadlock
            initializer=_begin,
            initargs=({"model": model, "threads": threads, **settings},),
        )
        made._score = _score_there
        made._executor.submit(_scorer_there)
        return made

    def score_async(
        self, documents: Sequence[str], summaries: Sequence[str] | Sequence[Sequence[str]]
    ) -> Future[QualsResult]:
        """Hand in what `QualsScorer.score` takes; its result, or its exception, comes later.

        Returns:
            A future whose ``result()`` waits for the scores and raises what scoring raised;
            `BrokenProcessPool` where the process died.

        Raises:
            RuntimeError: the queue is closed.
        """
        return self._executor.submit(self._score, documents, summaries)

    def close(self, *, cancel: bool = False) -> None:
        """Finish what was handed in, or drop what has not begun, and end thread or process."""
        self._executor.shutdown(wait=True, cancel_futures=cancel)

    def __enter__(self) -> BackgroundScorer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(cancel=error is not None)


def _capture_no_graphs() -> None:
    this_thread.captures_graphs = False


# Of a worker process, which is told only once what to load.
_settings: dict[str, Any] = {}
_loaded: list[QualsScorer] = []


def _begin(settings: dict[str, Any]) -> None:
    """Prepare a worker process; nothing here may fail, or no message would arrive."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller ends it
    _settings.update(settings)


def _scorer_there() -> None:
    """Load the scorer, if that is not done; an exception goes to whoever waits for the result."""
    if _loaded:
        return
    _loaded.append(QualsScorer.from_pretrained(**_settings))


def _score_there(documents: Sequence[str], summaries: Sequence[Any]) -> QualsResult:
    _scorer_there()
    return _loaded[0].score(documents, summaries)
