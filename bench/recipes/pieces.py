"""Reassemble a folder that came back from another machine in pieces.

    python -m bench.pieces FOLDER -o runs

A machine that returns only small files writes folders as NAME.tar.00, NAME.tar.01, ... with their
checksums in NAME.sha256. All that FOLDER contains are verified, then unpacked.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from bench.shared.options import command_line
from quals_fast.models.checkpoint import sha256

PIECE_BYTES = 15 * 2**20


def split(root: Path, paths: Iterable[Path], target: Path, name: str) -> int:
    """Write files and folders as pieces; pieces of the same name from before are replaced.

    Args:
        root: what the paths are relative to when they are unpacked.
        paths: files and folders below it.
        target: folder for the pieces.
        name: theirs.

    Returns:
        The bytes of all pieces.
    """
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in sorted(paths):
            tar.add(path, path.relative_to(root))
    content = archive.getbuffer()
    target.mkdir(parents=True, exist_ok=True)
    for before in target.glob(f"{name}.tar.*"):
        before.unlink()
    sums = []
    for number, first in enumerate(range(0, len(content), PIECE_BYTES)):
        piece = target / f"{name}.tar.{number:02}"
        piece.write_bytes(content[first : first + PIECE_BYTES])
        sums.append(f"{sha256(piece)}  {piece.name}\n")
    (target / f"{name}.sha256").write_text("".join(sums), "ascii")
    return len(content)


def join(folder: Path, target: Path) -> list[str]:
    """Check all pieces in a folder and unpack them; files that are there already are replaced.

    Args:
        folder: what came back.
        target: where the folders go.

    Returns:
        The names of what was put together.

    Raises:
        ValueError: there are no pieces, one is missing, or one is damaged.
    """
    lists = sorted(folder.glob("*.sha256"))
    if not lists:
        raise ValueError(
            f"`folder` must contain pieces with their checksums, *.sha256, but {folder} has none"
        )
    for path in lists:
        content = bytearray()
        for expected, name in map(str.split, path.read_text("ascii").splitlines()):
            piece = folder / name
            if not piece.is_file():
                raise ValueError(f"{piece} is missing, but {path.name} lists it; get it, too")
            if sha256(piece) != expected:
                raise ValueError(f"{piece} does not match its checksum; get it again")
            content += piece.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            tar.extractall(target, filter="data")
    return [path.stem for path in lists]


def main() -> None:
    """Put together."""
    parser = command_line(__doc__)
    parser.add_argument("folder", type=Path, help="folder with the pieces")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to unpack into")
    arguments = parser.parse_args()
    try:
        names = join(arguments.folder, arguments.output)
    except ValueError as error:
        parser.error(str(error))
    print(f"{', '.join(names)}: unpacked into {arguments.output}")


if __name__ == "__main__":
    main()
