"""Parse rows of text files: JSON lines, arrays, objects over several lines, and CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TextIO

from quals_fast.errors import InputError

_UNDECODED = re.compile("[\udc80-\udcff]")  # what errors="surrogateescape" makes of a byte
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_MAX_WHOLE = 250_000_000  # characters of JSON that is not one object per line


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRow:
    """One row of a file.

    Attributes:
        line: number of its first line, from 1; in a Parquet file, number of the row.
        id: the row's own id, or `line`.
        fields: all its fields.
        document: content of the document field; None if `problem` is set.
        summary: content of the summary field; None if `problem` is set.
        problem: why the row could not be read, or None.
        unit: what `line` counts, ``line`` or ``row``.
        file: its file, if a job reads several.
    """

    line: int
    id: Any
    fields: dict[str, Any]
    document: Any = None
    summary: Any = None
    problem: str | None = None
    unit: str = "line"
    file: str | None = None

    @property
    def place(self) -> str:
        """Where the row is, for messages."""
        return f"{'' if self.file is None else f'{self.file}, '}{self.unit} {self.line}"


def has_columns(start: str, fields: tuple[str, str]) -> bool:
    """Return whether a text begins with a header of separated columns."""
    lines = start.removeprefix("\ufeff").splitlines()
    first = next((line for line in lines if line.strip()), "")
    return any(set(fields) <= set(_cells(first, delimiter)) for delimiter in _DELIMITERS)


def parse_json(
    file: TextIO, name: str, encoding: str, fields: tuple[str, str]
) -> Iterator[InputRow]:
    """Yield a row for each line, or for each object of an array or over several lines.

    Raises:
        InputError: such arrays or objects cannot be read, or are too long to be held in memory.
    """
    before = _up_to_text(file)
    first = before[-1].strip() if before else ""
    is_array = first.startswith("[")
    if not is_array and not _goes_on(first):
        yield from _line_rows(chain(before, file), encoding, fields)
        return
    rest = file.read(_MAX_WHOLE)
    text = "".join(before) + rest
    if following := file.readline():
        if not _begins_with_object(rest):
            raise InputError(
                f"{name} must have one JSON object per line, but is an array or has objects over "
                f"several lines; those are read as a whole, up to {_MAX_WHOLE:,} characters; write "
                "one object per line, for example with jq -c '.[]' (an array) or jq -c . (objects)"
            )
        lines = chain(io.StringIO(text + following, "\n"), file)
        yield from _line_rows(lines, encoding, fields)
        return
    try:
        values = list(_values(text))
    except (ValueError, RecursionError) as error:
        # JSON lines, of which the first is broken.
        if _begins_with_object(rest) or not (is_array or first == "{"):
            yield from _line_rows(io.StringIO(text, "\n"), encoding, fields)
            return
        message = f"{name} is not valid JSON: {error}"
        if isinstance(error, json.JSONDecodeError):
            place = f"line {error.lineno}, column {error.colno}"
            message = f"{name} is not valid JSON: {error.msg.removesuffix(' at')} at {place}"
        raise InputError(f"{message}; fix it, or write one object per line") from error
    line = 1
    for at, (start, end, content) in zip([0, *(v[0] for v in values)], values, strict=False):
        line += text.count("\n", at, start)
        yield _json_row(line, content, fields, _undecoded(text[start:end], encoding))


def _up_to_text(file: TextIO) -> list[str]:
    """Read lines up to the first that is not blank."""
    lines = []
    for line in file:
        lines.append(line)
        if line.strip():
            break
    return lines


def _goes_on(line: str) -> bool:
    """Return whether a line starts a JSON object that continues on the next line."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return line.startswith("{") and error.pos == len(line)
    except (ValueError, RecursionError):
        pass
    return False


def _begins_with_object(text: str) -> bool:
    """Return whether the first line that is not blank is a JSON object."""
    first = next((line for line in io.StringIO(text, "\n") if line.strip()), "")
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _values(text: str) -> Iterator[tuple[int, int, Any]]:
    """Yield start, end and content of each element of an array, or of each of several values."""
    decode = json.JSONDecoder().raw_decode

    def skip(at: int) -> int:
        while text[at : at + 1].isspace():
            at += 1
        return at

    at = skip(0)
    is_array = text[at] == "["
    if is_array:
        at = skip(at + 1)
    is_over = is_array and text[at : at + 1] == "]"
    while not is_over:
        content, end = decode(text, at)
        yield at, end, content
        at = skip(end)
        is_over = text[at : at + 1] == "]" if is_array else at == len(text)
        if is_array and not is_over:
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            at = skip(at + 1)
    if is_array and skip(at + 1) < len(text):
        raise json.JSONDecodeError("Extra data", text, skip(at + 1))


def _line_rows(lines: Iterable[str], encoding: str, fields: tuple[str, str]) -> Iterator[InputRow]:
    """Yield a row for each line; blank lines count only where more lines follow."""
    blank: list[int] = []
    for line, text in enumerate(lines, 1):
        if not text.strip():
            blank.append(line)
            continue
        yield from (InputRow(line=n, id=n, fields={}, problem="the line is blank") for n in blank)
        blank.clear()
        yield _jsonl_row(line, text, encoding, fields)


def _jsonl_row(line: int, text: str, encoding: str, fields: tuple[str, str]) -> InputRow:
    problem = _undecoded(text, encoding)
    content: Any = {}
    if problem is None:
        try:
            content = json.loads(text.rstrip("\r\n"))  # else an error at the end is in column 1
        except (ValueError, RecursionError) as error:
            problem = f"{json_problem(error)}; {_expected(fields)}"
    return _json_row(line, content, fields, problem)


def json_problem(error: ValueError | RecursionError) -> str:
    """Return in words why a line is no JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"invalid JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "invalid JSON: nested too deeply"
    return f"invalid JSON: {str(error).partition(';')[0]}"  # a number with thousands of digits


def _json_row(line: int, content: Any, fields: tuple[str, str], problem: str | None) -> InputRow:
    if not isinstance(content, dict):
        problem = f"{_expected(fields)}, but got {_JSON_NAMES[type(content)]}"
        content = {}
    return make_row(line, usable_id(content.get("id"), line), content, fields, problem)


def _expected(fields: tuple[str, str]) -> str:
    return f'expected one object per line, such as {{"{fields[0]}": "...", "{fields[1]}": "..."}}'


_JSON_NAMES = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def group_name(value: Any) -> str:
    """Return a value of a column as the name of a group, such as a system: booleans as in JSON."""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def usable_id(row_id: Any, line: int) -> Any:
    """Return a row's id, or its line number if it has none that JSON can hold."""
    try:
        json.dumps(row_id, allow_nan=False)
    except (ValueError, RecursionError):
        return line
    return line if row_id is None else row_id


def parse_csv(
    file: TextIO, name: str, encoding: str, fields: tuple[str, str]
) -> Iterator[InputRow]:
    """Yield a row for each line of columns separated by commas, semicolons or tabs.

    Raises:
        InputError: the header lacks a column.
    """
    csv.field_size_limit(2**31 - 1)  # the default refuses documents over 128 KiB
    before = _up_to_text(file)
    delimiter = _delimiter(before[-1] if before else "", fields)
    # strict: otherwise an open quote would swallow the rest unnoticed.
    reader = csv.reader(chain(before, file), delimiter=delimiter, strict=True)
    try:
        header = next((cells for cells in reader if cells), [])
    except csv.Error as error:
        raise InputError(f"the header of {name} cannot be read: {_csv_problem(error)}") from error
    check_columns(name, header, fields)
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
                f"expected {len(header)} cells as in the header, but got {len(cells)}; quote cells "
                f"that contain a {_DELIMITERS[delimiter]} or a line break"
            )
        content = dict(zip(header, cells, strict=False))
        yield make_row(line, content.get("id") or line, content, fields, problem)


def check_columns(name: str, columns: list[str], fields: tuple[str, str]) -> None:
    """Check that a file has each column that is read once.

    Raises:
        InputError: it does not.
    """
    missing = [field for field in fields if field not in columns]
    if missing:
        raise InputError(
            f"{name} must have a column {missing[0]!r}, but has "
            f"{', '.join(map(repr, columns)) or 'none'}; name the right columns with "
            "--document-field and --summary-field"
        )
    twice = [field for field in (*fields, "id") if columns.count(field) > 1]
    if twice:
        raise InputError(
            f"{name} must have one column {twice[0]!r}, but has {columns.count(twice[0])}; rename "
            "the others"
        )


def _delimiter(header: str, fields: tuple[str, str]) -> str:
    """Return the delimiter with which the header has the fields, or else the most columns."""
    cells = {delimiter: _cells(header, delimiter) for delimiter in _DELIMITERS}
    return max(cells, key=lambda d: (set(fields) <= set(cells[d]), len(cells[d])))


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _csv_problem(error: csv.Error) -> str:
    return (
        f"invalid CSV: {error}; quote cells that contain a quote, a separator or a line break, and "
        "double each quote inside them"
    )


def make_row(
    line: int, row_id: Any, content: dict[str, Any], fields: tuple[str, str], problem: str | None
) -> InputRow:
    """Return a row with its two texts, or with the problem that it lacks one."""
    missing = [field for field in fields if field not in content]
    if problem is None and missing:
        problem = (
            f"expected a key {missing[0]!r}, but got {', '.join(map(repr, content)) or 'none'}; "
            "name the right keys with --document-field and --summary-field"
        )
    if problem is not None:
        return InputRow(line=line, id=row_id, fields=content, problem=problem)
    document, summary = (content[field] for field in fields)
    return InputRow(line=line, id=row_id, fields=content, document=document, summary=summary)


def _undecoded(text: str, encoding: str) -> str | None:
    """Return the problem of a text with bytes that could not be decoded, or None."""
    try:
        text.encode()  # several times as fast as the search
        return None
    except UnicodeEncodeError:
        found = _UNDECODED.search(text)
    if found is None:  # it holds other lone surrogates
        return None
    return (
        f"expected {encoding}, but got the byte 0x{ord(found[0]) - 0xDC00:02X}; give the file's "
        "--encoding, for example latin-1, or fix this row"
    )
