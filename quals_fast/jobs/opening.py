"""Open input as text: a file or standard input, compressed or not."""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from quals_fast.errors import InputError

if TYPE_CHECKING:
    from hashlib import _Hash

_GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
_UNPACK = "decompress it first"
_SAVE = "save it as CSV or JSON lines"
# How files begin that are not text.
_REFUSED = {
    b"PK\x03\x04": ("an Excel workbook or another zip archive", f"{_SAVE}, or {_UNPACK}"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", _SAVE),
    b"ARROW1": ("an Arrow file", _SAVE),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", _UNPACK),
    b"\xfd7zXZ": ("compressed with xz", _UNPACK),
    b"BZh": ("compressed with bzip2", _UNPACK),
}


def shown_name(path: str) -> str:
    """Return what messages call a file; ``-`` is standard input."""
    return "standard input" if path == "-" else path


@contextmanager
def read_errors(name: str) -> Iterator[None]:
    """Name the file that cannot be read, or is a gzip file that is damaged."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{name} is not a complete gzip file: {error}; check it with gzip -t, or remove .gz "
            "from its name if it is not compressed"
        ) from error
    except OSError as error:
        problem = error.strerror or " ".join(str(error).split())  # pyarrow's may have several lines
        raise InputError(f"cannot read {name}: {problem}") from error


class _HashedFile(io.FileIO):
    """A file whose bytes go into a hash as they are read, each of them once and in order."""

    def __init__(self, path: str, digest: _Hash) -> None:
        super().__init__(path)
        self._digest = digest

    def readinto(self, buffer: Any) -> int:
        n = super().readinto(buffer)
        self._digest.update(memoryview(buffer)[:n])
        return n

    def readall(self) -> bytes:
        data = super().readall()
        self._digest.update(data)
        return data


@contextmanager
def open_binary(path: str, name: str, digest: _Hash | None = None) -> Iterator[Any]:
    """Open a file that can be peeked into, or standard input for ``-``; gzip is decompressed.

    Args:
        path: its name.
        name: what messages call it.
        digest: gets all bytes of the file, those that the caller has not read at the end.

    Raises:
        InputError: the file is of an unsupported kind, or standard input is closed.
        OSError: it cannot be opened.
    """
    # A GzipFile does not close the file that it reads; this does.
    with _standard_input() if path == "-" else _open_file(path, digest) as packed:
        is_gzip = path.endswith(".gz") or packed.peek(2).startswith(_GZIP)
        file = gzip.GzipFile(fileobj=packed) if is_gzip else packed
        start = file.peek(8)
        if start.startswith(PARQUET) and (is_gzip or path == "-" or not packed.seekable()):
            raise InputError(
                f"{name} is a Parquet file, which cannot be read "
                f"{'compressed; decompress it first' if is_gzip else 'from a pipe; give its name'}"
            )
        for beginning, (kind, advice) in _REFUSED.items():
            if start.startswith(beginning):
                raise InputError(f"{name} is {kind}, which is not supported; {advice}")
        yield file
        while digest is not None and packed.read(2**20):
            pass  # pyarrow reads Parquet by itself


def as_text(file: Any, name: str, encoding: str, newline: str) -> TextIO:
    """Decode a file; invalid bytes become lone surrogates, so that only their own row is lost.

    Raises:
        InputError: the encoding is unknown, or the file looks like UTF-16 and the encoding is not.
    """
    known = known_encoding(encoding)
    likely = _utf16_variant(file.peek(4))
    if likely is not None and not known.startswith(("utf-16", "utf-32")):
        raise InputError(f"{name} looks like UTF-16, not {encoding}; use --encoding {likely}")
    if known == "utf-8":
        encoding = "utf-8-sig"
    return io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline=newline)


def known_encoding(encoding: str) -> str:
    """Return Python's own name of a text encoding.

    Raises:
        InputError: there is none.
    """
    try:
        "".encode(encoding)
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise InputError(
            f"`--encoding` must be an encoding that Python knows, such as utf-8, utf-16, latin-1 "
            f"or cp1252, but got {encoding!r}"
        ) from None


def _open_file(path: str, digest: _Hash | None) -> Any:
    if digest is None:
        return Path(path).open("rb")
    return io.BufferedReader(_HashedFile(path, digest))


def _standard_input() -> Any:
    if sys.stdin is None:
        raise InputError("cannot read standard input: it is closed")
    try:
        # Not sys.stdin itself, whose lock a thread waiting for input would still hold at exit.
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except io.UnsupportedOperation:  # a stand-in that is not a real file
        return io.BufferedReader(sys.stdin.buffer)


def _utf16_variant(start: bytes) -> str | None:
    """Return the encoding of a text that starts so, if it looks like UTF-16."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if start[:2].count(0) != 1:
        return None
    return "utf-16-le" if start[0] else "utf-16-be"
