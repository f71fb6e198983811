"""The standard streams: a failure to write standard output ends the program with exit code 2."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click


class UsageFailure(click.ClickException):
    """A problem that the caller can fix: one line on standard error, exit code 2."""

    exit_code = 2


class Interrupted(click.ClickException):
    """Ctrl-C: one line on standard error, exit code 130."""

    exit_code = 130

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(self.message, err=True)


class _StandardOutput(io.FileIO):
    """Descriptor 1: the first failure raises and says what failed; later writes are dropped."""

    def __init__(self, *, is_open: bool) -> None:
        super().__init__(1, "wb", closefd=False)
        self._is_open, self._has_failed = is_open, False

    def write(self, data: Any, /) -> int:
        if self._has_failed:
            return len(data)
        try:
            if self._is_open:
                return super().write(data)
            problem = "it is closed"
        except BrokenPipeError:  # the reader has stopped, as in `| head`
            raise
        except OSError as error:
            problem = str(error.strerror)
        self._has_failed = True
        raise UsageFailure(f"cannot write standard output: {problem}")


class _StandardError(io.FileIO):
    """Descriptor 2: what cannot be written is dropped, since nobody would see a message."""

    def __init__(self) -> None:
        super().__init__(2, "wb", closefd=False)

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


@contextmanager
def guarded_output() -> Iterator[None]:
    """End the program with one line if standard output fails, even in the last flush.

    Standard error may be closed or full: results and exit code do not change.
    """
    _hold_descriptors()
    encoding = sys.stderr.encoding if sys.stderr else "utf-8"
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_StandardError()), encoding, "backslashreplace", line_buffering=True
    )
    before = sys.stdout
    encoding, errors = (before.encoding, before.errors) if before else ("utf-8", "strict")
    raw = _StandardOutput(is_open=before is not None)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors, line_buffering=bool(before) and before.isatty()
    )
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except UsageFailure as error:
        error.show()
        sys.exit(error.exit_code)


def _hold_descriptors() -> None:
    """Point closed standard streams to os.devnull; else the next file would get their numbers."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
