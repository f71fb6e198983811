"""The manifest of an exported folder: what its files are, and that they are still those.

Nothing of the folder is executed but its graphs, and those only if their checksums are right.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quals_fast.models.checkpoint import EXPORT, CheckpointError, is_plain_name, read_json, sha256

MANIFEST = EXPORT
FORMAT = 4  # of the folder: names, inputs and outputs of the graphs
WEIGHTS = "weights.bin"  # external data of all graphs, which share what they have in common
LARGEST_SUMS = "largest_sums"  # graph of an int8 export, see `integers.largest_sums`
DTYPES = ("float32", "float16", "int8")
_FACTS = {"model": str, "digest": str, "dtype": str, "graphs": dict, "spare_candidates": int}


def write_manifest(folder: Path, facts: dict[str, Any], names: Iterable[str]) -> None:
    """Write the manifest over the files that are named; `facts` must have those of `_FACTS`."""
    files = {name: sha256(folder / name) for name in names}
    content = {"format": FORMAT, **facts, "files": files}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def is_exported(folder: Path) -> bool:
    """Return whether a folder says that it was exported."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest and check every file that it names.

    Raises:
        CheckpointError: no manifest, one of another format or that lacks something, or a file that
            is missing or changed.
    """
    if not is_exported(folder):
        raise CheckpointError(
            f"{folder} has no {MANIFEST}, so it is not an exported model; make one with "
            f"quals-fast export {folder} OUT"
        )
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} was exported in format {manifest.get('format')!r} by quals_fast "
            f"{manifest.get('quals_fast')!r}, but this version reads format {FORMAT}; export the "
            "model again"
        )
    for key, kind in _FACTS.items():
        if not isinstance(manifest.get(key), kind):
            raise CheckpointError(
                f"{folder / MANIFEST}: `{key}` must be of type {kind.__name__}, but got "
                f"{manifest.get(key)!r}; export the model again"
            )
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(is_plain_name(name) for name in files):
        raise CheckpointError(f"{folder / MANIFEST} must list its files; export the model again")
    for name in (WEIGHTS, *manifest["graphs"].values()):
        if str(name) not in files:
            raise CheckpointError(
                f"{folder / MANIFEST} must have a checksum of every file, but has none of {name}; "
                "export the model again"
            )
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            what = "the external data of its graphs" if name == WEIGHTS else "a part of the model"
            raise CheckpointError(f"{path} is missing, {what}; export the model again")
        actual = sha256(path)
        if actual != expected:
            raise CheckpointError(
                f"{path} is changed or truncated: expected SHA-256 {str(expected)[:12]}..., but "
                f"got {actual[:12]}...; export the model again"
            )
    return manifest
