"""Read rows of documents and summaries from a file.

A row that cannot be read keeps its place and gets a message; only a file that cannot be used at all
raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from quals_fast.errors import InputError
from quals_fast.jobs.opening import (
    PARQUET,
    as_text,
    known_encoding,
    open_binary,
    read_errors,
    shown_name,
)
from quals_fast.jobs.parquet import read_parquet
from quals_fast.jobs.parsing import InputRow, has_columns, parse_csv, parse_json

if TYPE_CHECKING:
    from hashlib import _Hash

FileFormat = Literal["auto", "jsonl", "csv", "parquet"]


def read_rows(
    path: str,
    *,
    file_format: FileFormat = "auto",
    encoding: str = "utf-8",
    document_field: str = "document",
    summary_field: str = "summary",
    digest: _Hash | None = None,
) -> Iterator[InputRow]:
    """Read rows one by one.

    Args:
        path: a file, or ``-`` for standard input; gzip is decompressed.
        file_format: ``jsonl`` for JSON lines, a JSON array, or objects over several lines; ``csv``
            for columns separated by commas, semicolons or tabs; ``parquet``; ``auto`` by name
            and content: CSV if the name ends in ``.csv`` or ``.tsv`` or the text begins with a
            header, JSON if it is neither that nor Parquet.
        encoding: of the text; Parquet has its own.
        document_field: key or column of the document.
        summary_field: key or column of the summary.
        digest: gets the bytes of the file, all of them once the last row has been read.

    Raises:
        InputError: the file cannot be opened or decoded, is of an unsupported kind, or its header
            lacks a column.
    """
    fields = (document_field, summary_field)
    name = shown_name(path)
    known_encoding(encoding)
    try:
        with read_errors(name), open_binary(path, name, digest) as binary:
            is_parquet = path.lower().endswith(".parquet") or binary.peek(4).startswith(PARQUET)
            if file_format != "auto" and is_parquet != (file_format == "parquet"):
                raise InputError(
                    f"{name} is {'' if is_parquet else 'not '}a Parquet file, but got --format "
                    f"{file_format}; leave it out"
                )
            if is_parquet:
                yield from read_parquet(path, fields)
                return
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
