"""What the service takes, and how it refuses the rest."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, fields
from pathlib import Path

from quals_fast.config import check_integer, check_number
from quals_fast.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of requests, queue and batches.

    Attributes:
        max_body: bytes of a request's body.
        max_request_pairs: pairs of document and summary in a request.
        max_characters: characters of a text.
        queue: pairs that may wait while others are scored.
        max_wait_ms: for which a pair waits for others while nothing is scored, milliseconds.
        max_batch: pairs that are scored together; None takes as many as the engine's token budget
            holds.

    Raises:
        ValueError: a number is out of range, or the queue is too short for a request.
    """

    max_body: int = 4 * 2**20
    max_request_pairs: int = 64
    max_characters: int = 100_000
    queue: int = 256
    max_wait_ms: float = 2.0
    max_batch: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_body", "max_request_pairs", "max_characters", "queue", "max_batch"):
            value = getattr(self, name)
            if name != "max_batch" or value is not None:
                check_integer(name, value, 1)
        check_number("max_wait_ms", self.max_wait_ms, 0.0, 60_000.0)
        if self.queue < self.max_request_pairs:
            raise ValueError(
                f"`queue` must be at least `max_request_pairs`, but got {self.queue} and "
                f"{self.max_request_pairs}; a longer request could never be taken"
            )

    def to_dict(self) -> dict[str, int | float | None]:
        """Return a dictionary for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Refused(Exception):
    """A request that is not answered with a score.

    Args:
        status: HTTP status code.
        message: what is wrong and what to do about it; it has no text of the request.
        field: the field that is wrong, such as ``pairs[3].summary``.
        headers: headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field
        self.headers = headers

    def to_dict(self) -> dict[str, str]:
        """Return the body of the response."""
        content = {"error": self.message}
        return content if self.field is None else content | {"field": self.field}


def check_token(token: str, where: str) -> str:
    """Return a bearer token without the white space around it.

    Raises:
        InputError: it is empty, or has characters that no HTTP header can carry.
    """
    token = token.strip()
    if not token or not all("!" <= character <= "~" for character in token):
        raise InputError(
            f"{where} must hold one token of visible ASCII characters, but is empty or has others; "
            "make one with: openssl rand -hex 32"
        )
    return token


def read_token(path: str) -> str:
    """Read a bearer token from a file that only its owner can read.

    Raises:
        InputError: the file cannot be read, others can read it, or it holds no token.
    """
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise InputError(
                    f"the token file must be private, but others may use {path} (mode {mode:o}); "
                    f"run: chmod 600 {path}"
                )
            return check_token(file.read(), path)
    except OSError as error:
        raise InputError(f"cannot read the token file {path}: {error.strerror}") from error
