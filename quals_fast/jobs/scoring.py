"""A job: score rows in windows, in order; a bad row does not affect the others."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from threading import Thread
from typing import Any, Protocol, TypeAlias

from quals_fast.batching import is_out_of_memory
from quals_fast.errors import InputError
from quals_fast.jobs.inputs import MAX_WINDOW_ROWS, JobInput
from quals_fast.jobs.parsing import InputRow
from quals_fast.results import RowScore, RowScores, SummaryScore
from quals_fast.validation import check_pair

Window: TypeAlias = list[tuple[InputRow, RowScore]]

MAX_WAIT_SECONDS = 0.2  # for which a window waits for more rows from a pipe
_LOG = logging.getLogger("quals_fast")


class Scorer(Protocol):
    """What scores a window of rows: `QualsScorer`, `QagsScorer` or `ClassifierScorer`."""

    @property
    def signature(self) -> str:
        """Everything that the scores depend on, in one line."""
        ...

    def score(
        self,
        documents: list[str],
        summaries: list[str],
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> RowScores:
        """Score each summary against its document."""
        ...


class TextRow(Protocol):
    """A row with its texts, such as `InputRow`."""

    @property
    def document(self) -> Any:
        """The document."""
        ...

    @property
    def summary(self) -> Any:
        """The summary."""
        ...


def score_windows(
    scorer: Scorer,
    rows: Iterable[InputRow],
    *,
    fail_fast: bool = False,
    on_progress: Callable[[int], None] = lambda n: None,
) -> Iterator[Window]:
    """Score rows in windows, in order; a bad row gets status ``error`` and a message.

    Windows of files have `MAX_WINDOW_ROWS` rows, across files, so each row has the same batch
    mates, and the same score to the last bit, whenever the job runs.

    Args:
        scorer: scores the good rows.
        rows: as from `read_rows`; rows of a stream do not wait until a window is full.
        fail_fast: stop after the first row with status ``error``; empty texts do not count.
        on_progress: called with the number of rows that were just processed.
    """
    is_stream = isinstance(rows, JobInput) and rows.is_stream
    for window in _windows_of_stream(rows) if is_stream else _windows(rows):
        problems = [_problem(row) for row in window]
        if fail_fast:
            bad = (i for i, problem in enumerate(problems) if problem and problem.status == "error")
            end = next(bad, len(window)) + 1
            window, problems = window[:end], problems[:end]
        good = [row for row, problem in zip(window, problems, strict=True) if problem is None]
        on_progress(len(window) - len(good))
        scored = iter(score_together(scorer, good, on_progress))
        done: Window = []
        for row, problem in zip(window, problems, strict=True):
            done.append((row, _with_place(row, next(scored) if problem is None else problem)))
            if fail_fast and done[-1][1].status == "error":
                yield done
                return
        yield done


def score_together(
    scorer: Scorer, rows: Sequence[TextRow], on_progress: Callable[[int], None] = lambda n: None
) -> list[RowScore]:
    """Score rows together, or each alone if one of them is too much for memory or tokenizer.

    Such a row gets status ``error``; any other failure is raised.
    """
    if not rows:
        return []
    n_reported = 0

    def count(n: int) -> None:
        nonlocal n_reported
        n_reported += n
        on_progress(n)

    documents, summaries = [row.document for row in rows], [row.summary for row in rows]
    try:
        return list(scorer.score(documents, summaries, on_progress=count).flat())
    except BaseException as error:
        if not _is_of_one_row(error):
            raise
        kind, message = type(error).__name__, f"{type(error).__name__}: {error}"
    # Outside of `except`, whose traceback holds the tensors.
    on_progress(-n_reported)
    if len(rows) == 1:
        on_progress(1)
        sizes = f"document {len(documents[0]):,}, summary {len(summaries[0]):,}"
        message += f"; length in characters: {sizes}"
        return [SummaryScore(status="error", message=message)]
    # Without the message, which may quote a text: the service logs none.
    _LOG.warning("a window of %d rows failed (%s); scoring them singly", len(rows), kind)
    return [result for row in rows for result in score_together(scorer, [row], on_progress)]


def _is_of_one_row(error: BaseException) -> bool:
    """Return whether an error is due to a text: memory ran out, or the tokenizer failed.

    Anything else, such as a lost GPU, would fail with every row.
    """
    if isinstance(error, KeyboardInterrupt):  # perhaps while memory ran out
        return False
    # Tokenizers, in Rust, raises plain exceptions; a panic is not even an Exception.
    is_of_tokenizer = type(error) is Exception or type(error).__name__ == "PanicException"
    return is_of_tokenizer or is_out_of_memory(error)


def _windows(rows: Iterable[InputRow]) -> Iterator[list[InputRow]]:
    remaining = iter(rows)
    while window := list(islice(remaining, MAX_WINDOW_ROWS)):
        yield window


def _windows_of_stream(rows: Iterable[InputRow]) -> Iterator[list[InputRow]]:
    """Yield the rows that arrive within `MAX_WAIT_SECONDS` of a first one; a thread reads them.

    The first windows are small, so that the first results do not wait for 64 rows to be scored.
    """
    ready: queue.Queue[InputRow | BaseException | None] = queue.Queue(MAX_WINDOW_ROWS)

    def read() -> None:
        try:
            for row in rows:
                ready.put(row)
        except BaseException as error:  # raised again by the consumer
            ready.put(error)
        else:
            ready.put(None)

    Thread(target=read, name="quals_fast reader", daemon=True).start()
    end: BaseException | None = None
    is_over, room = False, 1
    while not is_over:
        window: list[InputRow] = []
        due: float | None = None  # the first row may take as long as it likes
        while len(window) < room and not is_over:
            try:
                got = ready.get(timeout=None if due is None else max(0, due - time.monotonic()))
            except queue.Empty:
                break
            if isinstance(got, InputRow):
                window.append(got)
                due = due or time.monotonic() + MAX_WAIT_SECONDS
            else:
                is_over, end = True, got
        room = min(MAX_WINDOW_ROWS, 2 * room)
        if window:
            yield window
    if end is not None:
        raise end


def usable_rows(rows: Iterable[InputRow], *, fail_fast: bool = False) -> tuple[list[InputRow], int]:
    """Return the rows that can be scored, and the number of those that cannot.

    Raises:
        InputError: a row cannot be scored, and `fail_fast` is set.
    """
    good, n_bad = [], 0
    for row in rows:
        problem = _problem(row)
        if problem is None:
            good.append(row)
        elif fail_fast:
            raise InputError(f"{row.place}: {problem.message or problem.status}")
        n_bad += problem is not None
    return good, n_bad


def _problem(row: InputRow) -> SummaryScore | None:
    """Return the result of a row that need not go to the model."""
    if row.problem is not None:
        return SummaryScore(status="error", message=row.problem)
    return check_pair(row.document, row.summary)


def _with_place(row: InputRow, result: RowScore) -> RowScore:
    """Name the row's place in the message, if there is one."""
    if result.message is None:
        return result
    return replace(result, message=f"{row.place}: {result.message}")
