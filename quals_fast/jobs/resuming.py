"""A file of results that is whole or not there, from a job that can be killed and resumed.

Rows go to NAME.part, which is renamed to NAME when all of them are there. Each time a window has
been written, NAME.resume records how many rows and bytes of the part are valid, and what the job
is. A resumed job cuts off the rest, such as half a line, and goes on at that window.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, BinaryIO, Self

from quals_fast.errors import InputError
from quals_fast.jobs.output import check_name, named_errors


class ResumableFile:
    """A file of results, opened by `open`.

    Args:
        path: its name when it is whole.
        inputs: what the job reads, which must be other files.
        resume: go on where an earlier job stopped, or begin if there was none. The record is kept,
            so that the same job finds its output done.
        overwrite: replace what an earlier job wrote.

    Attributes:
        n_rows: rows that earlier jobs have written.
        state: what they gave to `commit` with these rows; None if there are none.
        part: name of the file while it is not whole.

    Raises:
        InputError: there is an output already, and neither `resume` nor `overwrite` is set, or
            nothing tells what it was made from.
    """

    def __init__(
        self, path: str, *, inputs: tuple[str, ...], resume: bool, overwrite: bool
    ) -> None:
        self._name = path
        self._path = Path(os.path.realpath(path))  # a link keeps pointing to the results
        self._part = self._path.with_name(f"{self._path.name}.part")
        self._record = self._path.with_name(f"{self._path.name}.resume")
        for own in (path, str(self._part), str(self._record)):
            check_name(own, inputs)
        self.part = self._part.name
        self._resume = resume
        self._job: dict[str, Any] | None = None
        self._file: BinaryIO | None = None
        self._waiting: list[str] = []
        self._n_bytes = 0
        self.n_rows = 0
        self.state: Any = None
        with named_errors(path):
            if self._path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not os.access(self._path.parent, os.W_OK | os.X_OK):  # for the part
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            is_there, is_known = self._path.exists(), self._record.exists()
            has_part = self._part.exists() and self._part.stat().st_size > 0
        if resume and not is_known and (has_part or is_there):
            raise InputError(
                f"cannot resume {path}: what it was made from is not known, since there is no "
                f"{self._record.name}; start over with --overwrite"
            )
        if resume or overwrite:
            return
        if has_part:
            raise InputError(
                f"{self.part} has rows of a job that did not finish; go on with --resume, or "
                "start over with --overwrite"
            )
        if is_there:
            raise InputError(f"{path} exists; replace it with --overwrite, or choose another name")

    def open(self, job: dict[str, Any] | None, n_rows: int | None) -> Self:
        """Create the file, or find out how far an earlier job came.

        Args:
            job: what must be equal on resume, by its name in messages; None for a job that cannot
                be resumed, since it reads a stream.
            n_rows: rows of the whole job, if known.

        Raises:
            InputError: another job wrote the file, is writing it now, or it cannot be written.
        """
        self._job = job
        if self._resume and self._record.exists():
            rows, size, state = self._read(job or {})
            if self._part.exists():
                if self._part.stat().st_size < size:
                    raise self._refusal(f"{self.part} is shorter than when it was written")
                self.n_rows, self._n_bytes, self.state = rows, size, state
            elif self._path.exists():
                if (rows, size) != (n_rows, self._path.stat().st_size):
                    raise self._refusal("it has changed since it was written")
                self.n_rows, self._n_bytes, self.state = rows, size, state
                return self  # it is whole
        with named_errors(self._name):
            self._file = self._part.open("ab")
            lock(self._file, self.part)
            self._save()  # before anything is cut off: what comes after these bytes is not valid
            self._file.truncate(self._n_bytes)
        return self

    def write(self, text: str) -> int:
        """Add a text, which goes to the file with `commit`."""
        self._waiting.append(text)
        return len(text)

    def commit(self, n_rows: int, state: Any) -> None:
        """Write the texts to the disk and record that they are there.

        Args:
            n_rows: rows of the file, with these.
            state: what the job wants back when it is resumed; JSON must be able to hold it.

        Raises:
            InputError: the disk is full, or the file cannot be written for another reason.
        """
        with named_errors(self._name, f"; {self.advice}"):
            self._write()
            self.n_rows, self.state = n_rows, state
            self._save()

    def finish(self) -> None:
        """Give the file its name."""
        if self._file is None:
            return
        self.commit(self.n_rows, self.state)
        with named_errors(self._name, f"; {self.advice}"):
            self._file.close()
            os.replace(self._part, self._path)
            if not self._resume:
                self._record.unlink(missing_ok=True)

    @property
    def advice(self) -> str:
        """Where the rows are as long as the file is not whole, and how to go on."""
        how = "" if self._job is None else "; go on with --resume"
        return f"{self.part} has {self.n_rows} rows{how}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is None or self._file.closed:
            return
        if kind is None:  # the job stopped within a window; its rows are for the reader only
            with named_errors(self._name):
                self._write()
        with suppress(OSError):  # again what could not be written before
            self._file.close()

    def _write(self) -> None:
        assert self._file is not None
        # backslashreplace: a lone surrogate in an id comes out as its JSON escape.
        data = "".join(self._waiting).encode("utf-8", "backslashreplace")
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._waiting.clear()
        self._n_bytes += len(data)

    def _save(self) -> None:
        """Replace the record at once."""
        if self._job is None:
            return
        record = {
            "job": self._job, "rows": self.n_rows, "bytes": self._n_bytes, "state": self.state
        }  # fmt: skip
        new = self._record.with_name(f"{self._record.name}.new")
        with new.open("w", encoding="utf-8") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._record)

    def _read(self, job: dict[str, Any]) -> tuple[int, int, Any]:
        """Return rows, bytes and state of an earlier job, which must be the same."""
        try:
            record = json.loads(self._record.read_text("utf-8"))
            old, found = record["job"], (record["rows"], record["bytes"], record["state"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._refusal(f"{self._record.name} cannot be read ({error})") from error
        changed = difference(old, job)
        if changed is not None:
            raise self._refusal(changed)
        return found

    def _refusal(self, problem: str) -> InputError:
        return InputError(
            f"cannot resume {self._name}: {problem}; resume with the same input and options as "
            "before, or start over with --overwrite"
        )


def difference(old: dict[str, Any], job: dict[str, Any]) -> str | None:
    """Return the first thing in which a job is not the earlier one, or None."""
    for name, now in job.items():
        before = old.get(name)
        if before == now:
            continue
        if isinstance(before, list) and isinstance(now, list):
            pairs = zip_longest(before, now, fillvalue="no file")
            before, now = next(both for both in pairs if both[0] != both[1])
        return f"{name} was {before}, but is now {now}"
    return None


def lock(file: IO[Any], name: str) -> None:
    """Refuse a second job on the same file, where the system can tell."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"another job is writing {name}; wait for it, or stop it") from None
    except (ImportError, OSError):  # not on Windows, nor on every network disk
        pass
