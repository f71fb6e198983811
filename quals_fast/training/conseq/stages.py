"""Work in chunks that are saved to a JSON lines file, so that it resumes after an interruption."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

OnProgress: TypeAlias = Callable[[str, int, int], None]  # stage, items done, items in all


def run_stage(
    path: Path,
    header: dict[str, Any],
    n_rows: int,
    work: Callable[[range], list[Any]],
    *,
    chunk: int,
    on_progress: OnProgress,
) -> list[Any]:
    """Return one result per row: those in the file, then the rest, which are added to it.

    A chunk that was not written completely, as after kill -9, is done again.

    Args:
        path: the file; it begins with the header.
        header: everything that the results depend on.
        n_rows: number of rows in all.
        work: maps the indices of a chunk to their results, which json can write.
        chunk: number of rows at once.
        on_progress: called with the file's stem, the number of rows done, and `n_rows`.

    Raises:
        ValueError: the file belongs to another run.
    """
    done, size = _read(path, header, n_rows, chunk)
    on_progress(path.stem, len(done), n_rows)
    with path.open("ab") as file:
        file.truncate(size)
        if size == 0:
            file.write(_line(header))
        for first in range(len(done), n_rows, chunk):
            results = work(range(first, min(first + chunk, n_rows)))
            file.write(b"".join(map(_line, results)))
            file.flush()
            os.fsync(file.fileno())
            done += results
            on_progress(path.stem, len(done), n_rows)
    return done


def check_header(path: Path, stored: object, header: dict[str, Any]) -> None:
    """Check that a file belongs to this run.

    Raises:
        ValueError: it does not; the message names the first difference.
    """
    if stored == header:
        return
    old = stored if isinstance(stored, dict) else {}
    key = next(key for key in [*header, *old] if header.get(key) != old.get(key))
    raise ValueError(
        f"{path} was made with {key} {old.get(key)!r}, but now it is {header.get(key)!r}; use "
        "another output folder, or delete the file to start over"
    )


def _read(path: Path, header: dict[str, Any], n_rows: int, chunk: int) -> tuple[list[Any], int]:
    """Return the results of complete chunks, and their size in bytes with the header."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    if not lines:
        return [], 0
    check_header(path, json.loads(lines[0]), header)
    count = len(lines) - 1
    whole = count if count == n_rows else count // chunk * chunk
    kept = lines[1 : 1 + whole]
    return [json.loads(line) for line in kept], len(lines[0]) + sum(map(len, kept))


def _line(value: Any) -> bytes:
    return (json.dumps(value) + "\n").encode()


def write_whole(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, "utf-8")
    os.replace(part, path)


def digest(value: object) -> str:
    """Return a short hash of a value that json can write."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
