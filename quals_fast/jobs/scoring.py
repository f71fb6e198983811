"""A job: score rows in windows, in order; a bad row does not affect the others."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Protocol

from quals_fast.errors import InputError
from quals_fast.jobs.files import FileFormat, read_rows
from quals_fast.jobs.parsing import InputRow
from quals_fast.results import RowScore, RowScores, SummaryScore
from quals_fast.validation import check_pair

MAX_WINDOW_ROWS = 64  # scored together: enough to batch by length, few to lose
MAX_WAIT_SECONDS = 0.2  # for which a window waits for more rows from a pipe


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInput:
    """The rows of a job's file; each iteration reads the file again.

    Attributes:
        path: as for `read_rows`, like the next four.
        file_format: `auto`, `jsonl` or `csv`.
        encoding: of the text.
        document_field: key or column of the document.
        summary_field: key or column of the summary.
        ids: take only the rows with these ids; empty for all rows.
        check: raises `InputError` on a row that makes the job pointless.
    """

    path: str
    file_format: FileFormat = "auto"
    encoding: str = "utf-8"
    document_field: str = "document"
    summary_field: str = "summary"
    ids: tuple[str, ...] = ()
    check: Callable[[InputRow], None] | None = None

    def __iter__(self) -> Iterator[InputRow]:
        """Yield the rows.

        Raises:
            InputError: the file cannot be read, or does not have one of `ids`.
        """
        missing = dict.fromkeys(self.ids)
        for row in read_rows(
            self.path,
            file_format=self.file_format,
            encoding=self.encoding,
            document_field=self.document_field,
            summary_field=self.summary_field,
        ):
            if self.ids and str(row.id) not in self.ids:
                continue
            missing.pop(str(row.id), None)
            if self.check is not None:
                self.check(row)
            yield row
        if missing:
            name = "standard input" if self.path == "-" else self.path
            raise InputError(
                f"no row of {name} has the id {' or '.join(missing)}; for a row without an id, "
                "give its line number"
            )

    def survey(self) -> int | None:
        """Read and count all rows, which is cheap and finds a bad file before the work.

        Returns:
            None if rows can be read only once: from standard input, or from a pipe such as bash's
            <(...).
        """
        return None if self.is_stream else sum(1 for _ in self)

    @property
    def is_stream(self) -> bool:
        """Whether rows can be read only once, and may arrive slowly."""
        path = Path(self.path)
        return self.path == "-" or path.is_fifo() or path.is_char_device()


class Scorer(Protocol):
    """What scores a window of rows: `QualsScorer` or `QagsScorer`."""

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


def score_rows(
    scorer: Scorer,
    rows: Iterable[InputRow],
    *,
    fail_fast: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[InputRow, RowScore]]:
    """Score rows in windows, in order; a bad row gets status ``error`` and a message.

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
        if on_progress is not None:
            on_progress(len(window) - len(good))
        documents, summaries = [row.document for row in good], [row.summary for row in good]
        scored = iter(scorer.score(documents, summaries, on_progress=on_progress).flat())
        for row, problem in zip(window, problems, strict=True):
            result = _at_line(row, next(scored) if problem is None else problem)
            yield row, result
            if fail_fast and result.status == "error":
                return


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
            raise InputError(f"line {row.line}: {problem.message or problem.status}")
        n_bad += problem is not None
    return good, n_bad


def _problem(row: InputRow) -> SummaryScore | None:
    """Return the result of a row that need not go to the model."""
    if row.problem is not None:
        return SummaryScore(status="error", message=row.problem)
    return check_pair(row.document, row.summary)


def _at_line(row: InputRow, result: RowScore) -> RowScore:
    """Name the line in the message, if there is one."""
    if result.message is None:
        return result
    return replace(result, message=f"line {row.line}: {result.message}")
