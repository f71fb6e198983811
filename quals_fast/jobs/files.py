"""Read rows of documents and summaries from files, and write results line by line.

A row that cannot be read keeps its place and gets a message; only a file that cannot be used at all
raises.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self, TextIO

from quals_fast.errors import InputError
from quals_fast.jobs.opening import as_text, known_encoding, open_binary
from quals_fast.jobs.parsing import InputRow, has_columns, parse_csv, parse_json
from quals_fast.results import RowScore

FileFormat = Literal["auto", "jsonl", "csv"]


def read_rows(
    path: str,
    *,
    file_format: FileFormat = "auto",
    encoding: str = "utf-8",
    document_field: str = "document",
    summary_field: str = "summary",
) -> Iterator[InputRow]:
    """Read rows one by one.

    Args:
        path: a file, or ``-`` for standard input; gzip is decompressed.
        file_format: ``jsonl`` for JSON lines, a JSON array, or objects over several lines; ``csv``
            for columns separated by commas, semicolons or tabs; ``auto`` for CSV if the name ends
            in ``.csv`` or ``.tsv`` or the text begins with a header, otherwise JSON.
        encoding: of the text.
        document_field: key or column of the document.
        summary_field: key or column of the summary.

    Raises:
        InputError: the file cannot be opened or decoded, is of an unsupported kind, or its header
            lacks a column.
    """
    fields = (document_field, summary_field)
    name = "standard input" if path == "-" else path
    known_encoding(encoding)
    try:
        with open_binary(path, name) as binary:
            is_csv = file_format == "csv" or (
                file_format == "auto"
                and (
                    path.lower().removesuffix(".gz").endswith((".csv", ".tsv"))
                    or has_columns(binary.peek(1).decode(encoding, "replace"), fields)
                )
            )
            parse = parse_csv if is_csv else parse_json
            # JSON lines end at a line feed only; the CSV reader needs line ends as they are.
            file = as_text(binary, name, encoding, newline="" if is_csv else "\n")
            yield from parse(file, name, encoding, fields)
    except UnicodeError as error:  # encodings that surrogateescape cannot carry
        raise InputError(f"{name} is not {encoding}: {error}; give its --encoding") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{name} is not a complete gzip file: {error}; check it with gzip -t, or remove .gz "
            "from its name if it is not compressed"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error


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
        with self._named_errors():
            written = self._file.write(text)
            self._file.flush()
        return written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not sys.stdout:
            with self._named_errors():
                self._file.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # the reader has stopped, as in `| head`
            raise
        except OSError as error:  # the disk is full
            raise InputError(f"cannot write {self._name}: {error.strerror}") from error


class RowWriter:
    """Write one line a row, JSON or CSV.

    Args:
        file: where to.
        is_csv: CSV with the worst pair of each row, instead of JSON lines.
        include_pairs: add all pairs to each JSON line.
    """

    def __init__(
        self, file: OutputFile, *, is_csv: bool = False, include_pairs: bool = False
    ) -> None:
        self._file = file
        self._include_pairs = include_pairs
        self._csv = csv.writer(file) if is_csv else None
        if self._csv is not None:
            self._csv.writerow(CSV_COLUMNS)

    def write(self, row: InputRow, result: RowScore, signature: str) -> None:
        """Write a row's result."""
        content = {"id": row.id, **result.to_dict(include_pairs=self._include_pairs)}
        content["signature"] = signature
        if self._csv is None:
            self._file.write(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
        else:
            worst = result.worst_pair
            if worst is not None:
                content |= {"worst_question": worst.question, "worst_answer": worst.answer}
            self._csv.writerow([content.get(column) for column in CSV_COLUMNS])


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


def open_output(path: str, *, input_path: str | None = None) -> OutputFile:
    """Open a file for results.

    Args:
        path: ``-`` for standard output.
        input_path: what the job reads, which must be another file.

    Raises:
        InputError: it cannot be written.
    """
    if path.endswith(".gz"):
        raise InputError(
            f"results are written uncompressed, but got the file name {path}; leave out .gz, and "
            "compress the file afterwards"
        )
    if input_path is not None:
        both = Path(path), Path(input_path)
        if all(one.is_file() for one in both) and both[0].samefile(both[1]):
            raise InputError(
                f"the output must not be the same file as INPUT, but both are {path}; choose "
                "another name"
            )
    # backslashreplace: a lone surrogate in an id comes out as its JSON escape.
    if path == "-":
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
        return OutputFile(sys.stdout, path)
    try:
        file = open(path, "w", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    return OutputFile(file, path)
