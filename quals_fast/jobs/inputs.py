"""The rows of a job: one or several files, from which some rows may be taken."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from quals_fast.errors import InputError
from quals_fast.jobs.files import FileFormat, read_rows
from quals_fast.jobs.opening import shown_name
from quals_fast.jobs.parsing import InputRow

if TYPE_CHECKING:
    from hashlib import _Hash

MAX_WINDOW_ROWS = 64  # scored together: enough to batch by length, few to lose


class Survey(NamedTuple):
    """What a first reading finds.

    Attributes:
        n_rows: number of rows.
        digests: name and hash of each file, to tell a later job whether it reads the same.
    """

    n_rows: int
    digests: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInput:
    """The rows of a job's files, one after the other; each iteration reads the files again.

    Attributes:
        paths: files, as for `read_rows`, like the next four.
        file_format: `auto`, `jsonl`, `csv` or `parquet`.
        encoding: of the text.
        document_field: key or column of the document.
        summary_field: key or column of the summary.
        ids: take only the rows with these ids; empty for all rows.
        check: raises `InputError` on a row that makes the job pointless.
    """

    paths: tuple[str, ...]
    file_format: FileFormat = "auto"
    encoding: str = "utf-8"
    document_field: str = "document"
    summary_field: str = "summary"
    ids: tuple[str, ...] = ()
    check: Callable[[InputRow], None] | None = None

    def __iter__(self) -> Iterator[InputRow]:
        """Yield the rows.

        Raises:
            InputError: a file cannot be read, or no row has one of `ids`.
        """
        return self._rows([None] * len(self.paths))

    def _rows(self, digests: Sequence[_Hash | None]) -> Iterator[InputRow]:
        missing = dict.fromkeys(self.ids)
        for row in self._all_rows(digests):
            if self.ids and str(row.id) not in self.ids:
                continue
            missing.pop(str(row.id), None)
            if self.check is not None:
                self.check(row)
            yield row
        if missing:
            raise InputError(
                f"no row of {self.name} has the id {' or '.join(missing)}; for a row without an "
                "id, give its line number"
            )

    def _all_rows(self, digests: Sequence[_Hash | None]) -> Iterator[InputRow]:
        for path, digest in zip(self.paths, digests, strict=True):
            for row in read_rows(path, **self.reading, digest=digest):
                yield row if len(self.paths) == 1 else replace(row, file=path)

    def survey(self) -> Survey | None:
        """Read all rows, which is cheap and finds a bad file before the work.

        Returns:
            None if rows can be read only once: from standard input, or from a pipe such as bash's
            <(...).
        """
        if self.is_stream:
            return None
        digests = [hashlib.sha256() for _ in self.paths]
        n_rows = sum(1 for _ in self._rows(digests))
        return Survey(n_rows, list(map(_named, self.paths, digests)))

    @property
    def reading(self) -> dict[str, Any]:
        """How `read_rows` reads a file, as its arguments."""
        names = ("file_format", "encoding", "document_field", "summary_field")
        return {name: getattr(self, name) for name in names}

    @property
    def is_stream(self) -> bool:
        """Whether rows can be read only once, and may arrive slowly."""
        return any(map(is_stream, self.paths))

    @property
    def name(self) -> str:
        """Name for messages."""
        return " ".join(map(shown_name, self.paths))


def _named(path: str, digest: _Hash) -> str:
    return f"{path}@{digest.hexdigest()[:12]}"


def is_stream(path: str) -> bool:
    """Return whether a name stands for a standard stream, a pipe or a device."""
    if path == "-":
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:  # opening it will tell
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def matching_files(names: tuple[str, ...], what: str = "INPUT") -> tuple[str, ...]:
    """Return the files that names and patterns such as ``in/*.jsonl`` stand for.

    They keep the order in which they are given; the files of a pattern are sorted.

    Args:
        names: as given.
        what: the argument that they come from, for messages.

    Raises:
        InputError: a pattern matches no file, or a file comes twice.
    """
    found: dict[Path, str] = {}
    for name in names:
        is_pattern = glob.has_magic(name) and not os.path.exists(name)
        files = sorted(glob.glob(name, recursive=True)) if is_pattern else [name]
        if not files:
            raise InputError(f"no file matches {name}")
        for file in files:
            real = Path(file).resolve()
            if real in found:
                raise InputError(
                    f"{what} must have each file once, but {found[real]} and {file} are the same; "
                    "leave one of them out"
                )
            found[real] = file
    return tuple(found.values())


def check_shard(shard: str | None, rows: JobInput) -> None:
    """Check that `shard_of` can take a part of the rows.

    Raises:
        InputError: `shard` is not ``i/n``, or the rows cannot be counted in advance.
    """
    if shard is None:
        return
    numbers = re.fullmatch(r"([0-9]+)/([0-9]+)", shard)
    if numbers is None or not 1 <= int(numbers[1]) <= int(numbers[2]):
        raise InputError(
            f"`--shard` must be i/n for the i-th of n parts, from 1/n to n/n, but got {shard!r}; "
            "number the tasks of a job array from 1"
        )
    if rows.is_stream:
        raise InputError(f"`--shard` needs files, but got {rows.name}; write it to a file first")


def shard_of(shard: str | None, n_rows: int) -> range:
    """Return the rows of a part of the job.

    Parts are of whole windows, so their rows have the same batch mates as in one job.

    Args:
        shard: ``i/n`` for the i-th of n parts, from 1; None for all rows.
        n_rows: rows of all parts.
    """
    i, n = (1, 1) if shard is None else map(int, shard.split("/"))
    n_windows = -(-n_rows // MAX_WINDOW_ROWS)
    first, end = (min(n_rows, MAX_WINDOW_ROWS * (n_windows * k // n)) for k in (i - 1, i))
    return range(first, end)
