"""Write results line by line: to a stream, or to a file that is whole or not there."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TextIO

from quals_fast.errors import InputError
from quals_fast.jobs.parsing import InputRow
from quals_fast.results import RowScore, signed_row


class OutputFile:
    """A text file for results, or standard output, which is not closed at the end.

    Args:
        file: open file; each write is flushed, so that a stopped job keeps its results.
        name: for messages.
    """

    def __init__(self, file: TextIO, name: str) -> None:
        self._file = file
        self._name = name

    def write(self, text: str) -> int:
        """Write a text; raise `InputError` if that fails."""
        with named_errors(self._name):
            written = self._file.write(text)
            self._file.flush()
        return written

    def commit(self, n_rows: int, state: Any) -> None:
        """Do nothing, unlike a `ResumableFile`: what was written is there."""

    def finish(self) -> None:
        """Do nothing, as `commit` does."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not sys.stdout:
            with named_errors(self._name):
                self._file.close()


@contextmanager
def named_errors(name: str, advice: str = "") -> Iterator[None]:
    """Name the file that cannot be written."""
    try:
        yield
    except BrokenPipeError:  # the reader has stopped, as in `| head`
        raise
    except OSError as error:  # the disk is full
        raise InputError(f"cannot write {name}: {error.strerror}{advice}") from error


class RowWriter:
    """Write one line a row, JSON or CSV.

    Args:
        file: where to.
        is_csv: CSV with the worst pair of each row, instead of JSON lines.
        include_pairs: add all pairs to each JSON line.
        include_spans: add the spans to each JSON line.
        include_file: add the name of each row's file.
        include_probability: whether CSV has this column; JSON has it by its signature.
        is_continued: whether the file has a header, if it is CSV.
    """

    def __init__(
        self,
        file: Any,
        *,
        is_csv: bool = False,
        include_pairs: bool = False,
        include_spans: bool = False,
        include_file: bool = False,
        include_probability: bool = False,
        is_continued: bool = False,
    ) -> None:
        self._file = file
        self._included = {"include_pairs": include_pairs, "include_spans": include_spans}
        self._include_file = include_file
        self._columns = (("file",) if include_file else ()) + (
            ("id", "score", "probability", *CSV_COLUMNS[2:]) if include_probability else CSV_COLUMNS
        )
        self._csv = csv.writer(file) if is_csv else None
        if self._csv is not None and not is_continued:
            self._csv.writerow(self._columns)

    def write(self, row: InputRow, result: RowScore, signature: str) -> None:
        """Write a row's result."""
        content: dict[str, Any] = {"file": row.file} if self._include_file else {}
        signed = signed_row(result, signature, **self._included)
        content |= {"id": row.id, **signed}
        if self._csv is None:
            self._file.write(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
        else:
            worst = result.worst_pair
            if worst is not None:
                content |= {"worst_question": worst.question, "worst_answer": worst.answer}
            self._csv.writerow([content.get(column) for column in self._columns])


CSV_COLUMNS = (
    "id",
    "score",
    "status",
    "n_pairs",
    "truncated_tokens",
    "unknown_tokens",
    "worst_question",
    "worst_answer",
    "message",
    "signature",
)


def open_output(path: str, *, inputs: Sequence[str] = ()) -> OutputFile:
    """Open a file for results.

    Args:
        path: ``-`` for standard output.
        inputs: what the job reads, which must be other files.

    Raises:
        InputError: it cannot be written.
    """
    check_name(path, inputs)
    # backslashreplace: a lone surrogate in an id comes out as its JSON escape.
    if path == "-":
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
        return OutputFile(sys.stdout, path)
    with named_errors(path):
        file = open(path, "w", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115
    return OutputFile(file, path)


def check_name(path: str, inputs: Sequence[str]) -> None:
    """Check that a file can be an output.

    Raises:
        InputError: it would have to be compressed, is one of the inputs, or its folder is missing.
    """
    if path.endswith(".gz"):
        raise InputError(
            f"results are written uncompressed, but got the file name {path}; leave out .gz, and "
            "compress the file afterwards"
        )
    if not Path(path).parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {Path(path).parent}")
    for one in inputs:
        if os.path.isfile(path) and os.path.isfile(one) and os.path.samefile(path, one):
            raise InputError(
                f"the output must not be the same file as INPUT, but both are {path}; choose "
                "another name"
            )
