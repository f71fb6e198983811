"""Rows of documents and summaries: read from JSON lines or CSV, results written line by line.

A row that cannot be read keeps its place, with a message; only a file that makes no sense at all
raises.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TextIO

from quals_fast.results import RowScore

FileFormat = Literal["auto", "jsonl", "csv"]

_UNDECODED = re.compile("[\udc80-\udcff]")  # what errors="surrogateescape" makes of a byte


class InputError(ValueError):
    """A file that cannot be read or written at all; single bad rows do not raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRow:
    """One row of a file.

    Attributes:
        line: number of its first line, from 1.
        id: the row's own, else its line number.
        fields: all its fields.
        document: what stands in the document's field; None where `problem` is set.
        summary: what stands in the summary's field; None where `problem` is set.
        problem: why the row could not be read, or None.
    """

    line: int
    id: Any
    fields: dict[str, Any]
    document: Any = None
    summary: Any = None
    problem: str | None = None


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
        path: a file, ``-`` for standard input; ``.gz`` is unpacked.
        file_format: ``auto`` goes by the name: CSV for ``.csv`` and ``.csv.gz``, else JSON lines.
        encoding: of the text.
        document_field: key or column of the document.
        summary_field: key or column of the summary.

    Raises:
        InputError: the file cannot be opened or decoded, or its header lacks a column.
    """
    is_csv = file_format == "csv" or (
        file_format == "auto" and path.lower().removesuffix(".gz").endswith(".csv")
    )
    parse = _parse_csv if is_csv else _parse_jsonl
    fields = (document_field, summary_field)
    name = "standard input" if path == "-" else path
    try:
        with _open(path, name, encoding, newline="" if is_csv else "\n") as file:
            yield from parse(file, name, encoding, fields)
    except UnicodeError as error:  # encodings that surrogateescape cannot carry
        raise InputError(f"{name} is not {encoding}: {error}; pass its --encoding") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{name} is not a whole gzip file: {error}; check it with gzip -t, or drop .gz from "
            "the name of a file that is not compressed"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error


class OutputFile:
    """An open text file for results, or standard output, which stays open at the end.

    Args:
        file: written and flushed at once, so that a stopped job keeps what it has.
        name: for messages.
    """

    def __init__(self, file: TextIO, name: str) -> None:
        self._file = file
        self._name = name

    def write(self, text: str) -> int:
        """Write a text; raise `InputError` where that fails."""
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
        except BrokenPipeError:  # the reader has what it wants, as in `| head`
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
            f"results are written as plain text, but got the name {path}; leave out .gz, and "
            "compress the file afterwards"
        )
    if input_path is not None:
        both = Path(path), Path(input_path)
        if all(one.is_file() for one in both) and both[0].samefile(both[1]):
            raise InputError(
                f"the output must be another file than INPUT, but both are {path}; give a new name"
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


def _parse_jsonl(
    file: TextIO, name: str, encoding: str, fields: tuple[str, str]
) -> Iterator[InputRow]:
    """Yield a row for each line; blank lines count only where more lines follow."""
    blank: list[int] = []
    for line, text in enumerate(file, 1):
        if not text.strip():
            blank.append(line)
            continue
        yield from (InputRow(line=n, id=n, fields={}, problem="the line is blank") for n in blank)
        blank.clear()
        yield _jsonl_row(line, text, encoding, fields)


def _jsonl_row(line: int, text: str, encoding: str, fields: tuple[str, str]) -> InputRow:
    problem = _undecoded(text, encoding)
    content: Any = {}
    expected = f'expected one object a line, such as {{"{fields[0]}": "...", "{fields[1]}": "..."}}'
    if problem is None:
        try:
            content = json.loads(text.rstrip("\r\n"))  # else its end is column 1 of the next line
        except json.JSONDecodeError as error:
            problem = f"invalid JSON: {error.msg} at column {error.colno}; {expected}"
        except RecursionError:
            problem = f"invalid JSON: nested too deeply; {expected}"
        except ValueError as error:  # a number with thousands of digits
            problem = f"invalid JSON: {error}"
    if not isinstance(content, dict):
        problem = f"{expected}, but got {_JSON_NAMES[type(content)]}"
        content = {}
    return _row(line, _usable_id(content.get("id"), line), content, fields, problem)


_JSON_NAMES = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _usable_id(row_id: Any, line: int) -> Any:
    """Return a row's id, or its line number where it has none that JSON can write."""
    try:
        json.dumps(row_id, allow_nan=False)
    except (ValueError, RecursionError):
        return line
    return line if row_id is None else row_id


def _parse_csv(
    file: TextIO, name: str, encoding: str, fields: tuple[str, str]
) -> Iterator[InputRow]:
    csv.field_size_limit(2**31 - 1)  # the default refuses documents over 128 KiB
    reader = csv.reader(file, strict=True)  # else an open quote swallows the rest unnoticed
    try:
        header = next((cells for cells in reader if cells), [])
    except csv.Error as error:
        raise InputError(f"the header of {name} cannot be read: {_csv_problem(error)}") from error
    missing = [field for field in fields if field not in header]
    if missing:
        raise InputError(
            f"{name} has no column {missing[0]!r}, but {', '.join(map(repr, header)) or 'none'}; "
            "name the right ones with --document-field and --summary-field"
        )
    twice = [field for field in (*fields, "id") if header.count(field) > 1]
    if twice:
        raise InputError(
            f"{name} must have one column {twice[0]!r}, but has {header.count(twice[0])}; "
            "rename all but one"
        )
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield InputRow(line=line, id=line, fields={}, problem=_csv_problem(error))
            continue
        if cells is None:
            return
        if not cells:
            continue
        problem: str | None = _undecoded("".join(cells), encoding)
        if len(cells) != len(header):
            problem = (
                f"expected {len(header)} cells as in the header, but got {len(cells)}; put quotes "
                "around a cell that holds a comma or a line break"
            )
        content = dict(zip(header, cells, strict=False))
        yield _row(line, content.get("id") or line, content, fields, problem)


def _csv_problem(error: csv.Error) -> str:
    return (
        f"invalid CSV: {error}; put quotes around a cell that holds a quote, a comma or a line "
        "break, double each quote inside it, and close it"
    )


def _row(
    line: int, row_id: Any, content: dict[str, Any], fields: tuple[str, str], problem: str | None
) -> InputRow:
    missing = [field for field in fields if field not in content]
    if problem is None and missing:
        problem = (
            f"expected a key {missing[0]!r}, but got {', '.join(map(repr, content)) or 'none'}; "
            "name the right ones with --document-field and --summary-field"
        )
    if problem is not None:
        return InputRow(line=line, id=row_id, fields=content, problem=problem)
    document, summary = (content[field] for field in fields)
    return InputRow(line=line, id=row_id, fields=content, document=document, summary=summary)


def _undecoded(text: str, encoding: str) -> str | None:
    """Return the problem of a text with bytes that did not decode, or None."""
    found = _UNDECODED.search(text)
    if found is None:
        return None
    return (
        f"expected {encoding}, but got the byte 0x{ord(found[0]) - 0xDC00:02X}; pass the file's "
        "--encoding, for example latin-1, or repair this row"
    )


def _open(path: str, name: str, encoding: str, newline: str) -> TextIO:
    try:
        "".encode(encoding)
        known = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise InputError(
            f"`--encoding` must be one that Python knows, such as utf-8, utf-16, latin-1 or "
            f"cp1252, but got {encoding!r}"
        ) from None
    binary: Any
    if path == "-":
        binary = sys.stdin.buffer
    elif path.endswith(".gz"):
        binary = gzip.GzipFile(path)
    else:
        binary = Path(path).open("rb")  # noqa: SIM115 - the caller closes it
    buffered = io.BufferedReader(binary)
    start = buffered.peek(4)
    likely = _utf16_variant(start)
    if likely is not None and not known.startswith(("utf-16", "utf-32")):
        raise InputError(f"{name} looks like UTF-16, not {encoding}; pass --encoding {likely}")
    if known == "utf-8":
        encoding = "utf-8-sig"
    # Bytes that do not decode become lone surrogates, so that only their own row is lost.
    return io.TextIOWrapper(buffered, encoding=encoding, errors="surrogateescape", newline=newline)


def _utf16_variant(start: bytes) -> str | None:
    """Return the encoding of a text that starts so, if it looks like UTF-16."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if start[:2].count(0) != 1:
        return None
    return "utf-16-le" if start[0] else "utf-16-be"
