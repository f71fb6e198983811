"""Rows of a Parquet file, read batch by batch with pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from quals_fast.errors import InputError
from quals_fast.jobs.parsing import InputRow, check_columns, make_row, usable_id

_BATCH_ROWS = 64  # in memory at once
_BUFFER_BYTES = 2**20  # of each column


def read_parquet(path: str, fields: tuple[str, str]) -> Iterator[InputRow]:
    """Yield the rows of a Parquet file.

    Raises:
        InputError: the file is damaged, a column is missing or holds no text, or pyarrow is not
            installed.
        OSError: it cannot be read.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise InputError(
            f'{path} is a Parquet file, which needs pyarrow: pip install ".[parquet]" in the '
            "checkout"
        ) from error
    try:
        # By default, pyarrow keeps whole row groups in memory.
        with ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
            schema = file.schema_arrow
            check_columns(path, schema.names, fields)
            for field in fields:
                if not _can_hold_text(schema.field(field).type):
                    raise InputError(
                        f"{path}: the column {field!r} must hold text, but its type is "
                        f"{schema.field(field).type}; convert it, or name another column"
                    )
            number = 0
            for batch in file.iter_batches(_BATCH_ROWS):
                for content in _contents(batch, path, number):
                    number += 1
                    row_id = usable_id(_plain(content.get("id")), number)
                    yield replace(make_row(number, row_id, content, fields, None), unit="row")
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is not a complete Parquet file: {error}") from error


def _can_hold_text(kind: Any) -> bool:
    """Return whether a type is text, text in a dictionary, or null (of a column without values)."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return any(test(kind) for test in tests)


def _contents(batch: Any, path: str, n_before: int) -> list[dict[str, Any]]:
    """Return the rows of a batch; times are texts, since Python's have other limits."""
    from pyarrow import types

    for i, field in enumerate(batch.schema):
        if types.is_temporal(field.type):
            batch = batch.set_column(i, field.name, batch.column(i).cast("string"))
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, rows {n_before + 1} to {n_before + batch.num_rows}: a text is not UTF-8, as "
            f"Parquet requires ({error}); write the file again with valid text"
        ) from error


def _plain(row_id: Any) -> Any:
    """Return a decimal number and whatever else JSON lacks as text."""
    return row_id if isinstance(row_id, str | int | float | None) else str(row_id)
