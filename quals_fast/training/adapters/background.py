"""Score while training continues: in a thread, or in a separate process."""

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
    """Score in the background, in the order of submission, one call at a time.

    By default, scoring runs in a thread. This suits a scorer on a device that the training does not
    use. The thread shares the Python interpreter with the training. It uses no CUDA graphs, since
    the training could not draw random numbers on that GPU while one is captured. `in_process` runs
    scoring in a separate process, which shares nothing with the training.

    Use the scorer as a context manager, or call `close`.

    Args:
        scorer: Scorer to run in the thread. Do not call it elsewhere in the meantime.

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
        """Create a background scorer that loads and runs a model in a new process.

        Loading begins at once; if it fails, the first result raises the error. As always with new
        processes, a script must put its own work under ``if __name__ == "__main__":``.

        Args:
            model: As for `QualsScorer.from_pretrained`.
            threads: Number of CPU threads of the process, as for `QualsScorer.from_pretrained`.
            settings: Other arguments of `QualsScorer.from_pretrained`, such as
                ``device="cuda:1"``.

        Returns:
            A background scorer.
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
        """Submit documents and summaries to be scored.

        Args:
            documents: As for `QualsScorer.score`.
            summaries: As for `QualsScorer.score`.

        Returns:
            A future. Its ``result()`` waits for the scores. It raises what scoring raised, or
            `BrokenProcessPool` if the process died.

        Raises:
            RuntimeError: If the background scorer is closed.
        """
        return self._executor.submit(self._score, documents, summaries)

    def close(self, *, cancel: bool = False) -> None:
        """Finish all submitted work and end the thread or process.

        Args:
            cancel: Drop work that has not begun.
        """
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


# State of a worker process, which is told only once what to load.
_settings: dict[str, Any] = {}
_loaded: list[QualsScorer] = []


def _begin(settings: dict[str, Any]) -> None:
    """Prepare a worker process. Nothing here may fail, since the message would be lost."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller ends it
    _settings.update(settings)


def _scorer_there() -> None:
    """Load the scorer on first use; an exception goes to whoever waits for the result."""
    if _loaded:
        return
    _loaded.append(QualsScorer.from_pretrained(**_settings))


def _score_there(documents: Sequence[str], summaries: Sequence[Any]) -> QualsResult:
    _scorer_there()
    return _loaded[0].score(documents, summaries)
