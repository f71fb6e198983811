"""A directory of results that is whole or not there, from a job that can be killed and resumed.

Files go to NAME.part/, which is renamed to NAME/ when all of them are there. Each holds the rows of
one chunk of the input and gets its name when it is complete, so a chunk that is scored twice is
there once, and a resumed job scores the chunks without a file.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self, TextIO
from uuid import uuid4

from quals_fast.errors import InputError
from quals_fast.jobs.output import check_name, named_errors
from quals_fast.jobs.resuming import difference, lock

RECORD = "_job.json"  # readers of directories skip names that begin with _ or .
_LOCK = ".lock"


class OutputDirectory:
    """A directory of results, opened by `open`.

    Args:
        path: its name when it is whole.
        inputs: what the job reads, which must be elsewhere.
        resume: go on where an earlier job stopped, or begin if there was none.
        overwrite: replace what an earlier job wrote.

    Attributes:
        part: the directory while it is not whole.
        summary: what `finish` got, if the directory is whole; else None.

    Raises:
        InputError: there is an output already, and neither `resume` nor `overwrite` is set; or it
            is not one of this program.
    """

    def __init__(self, path: str, *, inputs: Iterable[str], resume: bool, overwrite: bool) -> None:
        self._name = path
        self._path = Path(os.path.realpath(path))
        self.part = self._path.with_name(f"{self._path.name}.part")
        self.summary: Any = None
        self._resume = resume
        self._file: TextIO | None = None
        check_name(str(self._path), ())
        for one in (self._path, self.part):
            self._check(one, inputs)
        if resume or overwrite:
            return
        if self.part.exists():
            raise InputError(
                f"{self.part.name} has results of a job that did not finish; go on with --resume, "
                "or start over with --overwrite"
            )
        if self._path.exists():
            raise InputError(f"{path} exists; replace it with --overwrite, or choose another name")

    def open(self, job: dict[str, Any]) -> Self:
        """Create the directory, or find out what an earlier job has done.

        Args:
            job: what must be equal on resume, by its name in messages.

        Raises:
            InputError: another job wrote the directory, is writing it now, or it cannot be written.
        """
        if self._resume and not self.part.exists() and self._path.exists():
            self.summary = self._read(self._path, job)["summary"]
            return self
        with named_errors(self._name):
            self.part.mkdir(exist_ok=True)
            self._file = (self.part / _LOCK).open("a", encoding="utf-8")
            lock(self._file, self.part.name)
            if self._resume and (self.part / RECORD).exists():
                self._read(self.part, job)
            else:
                for one in self.part.iterdir():
                    if one.name != _LOCK:
                        one.unlink()
                self._save({"job": job})
        return self

    def files(self) -> list[str]:
        """Return the names of the files that are complete, in the order of the input."""
        return sorted(one.name for one in self.part.iterdir() if one.name.startswith("part-"))

    def finish(self, job: dict[str, Any], summary: Any) -> None:
        """Give the directory its name.

        Args:
            job: as for `open`.
            summary: what the next job gets that finds the directory whole; JSON must hold it.
        """
        if self._file is None:
            return
        old = self._path.with_name(f"{self._path.name}.old")
        with named_errors(self._name):
            self._save({"job": job, "summary": summary})
            for one in self.part.glob(".*"):  # the lock, and what killed workers were writing
                one.unlink()
            self._file.close()
            if self._path.exists():
                os.rename(self._path, old)
            os.rename(self.part, self._path)
            if old.exists():
                shutil.rmtree(old)

    @property
    def advice(self) -> str:
        """Where the results are as long as the directory is not whole, and how to go on."""
        n = len(self.files())
        return f"{self.part.name} has {n} file{'s' if n != 1 else ''}; go on with --resume"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _check(self, path: Path, inputs: Iterable[str]) -> None:
        """Check that what is there may be replaced or continued."""
        for one in inputs:
            if Path(one).resolve().is_relative_to(path):
                raise InputError(
                    f"the output must not contain INPUT, but {one} is in {path}; choose another "
                    "name"
                )
        if path.exists() and not path.is_dir():
            problem = os.strerror(errno.ENOTDIR)
            raise InputError(f"--runner ray writes a directory, but got {path}: {problem}")
        if path.exists() and any(path.iterdir()) and not (path / RECORD).exists():
            raise InputError(
                f"{path} is a directory that quals-fast score did not write; choose another name"
            )

    def _save(self, record: dict[str, Any]) -> None:
        write_whole(self.part / RECORD, json.dumps(record).encode())

    def _read(self, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
        """Return the record of an earlier job, which must be the same."""
        try:
            record: dict[str, Any] = json.loads((folder / RECORD).read_text("utf-8"))
            changed = difference(record["job"], job)
        except (OSError, ValueError, LookupError, TypeError) as error:
            changed = f"{RECORD} cannot be read ({error})"
        if changed is not None:
            raise InputError(
                f"cannot resume {self._name}: {changed}; resume with the same input and options as "
                "before, or start over with --overwrite"
            )
        return record


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there, whoever else writes the same one."""
    new = path.with_name(f".{path.name}.{uuid4().hex}")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
