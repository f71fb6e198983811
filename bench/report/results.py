"""Results as the report reads them: one that lacks what a page needs is refused by its name."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.gpu.stages import STAGES
from bench.shared import common

_STAGE_OF = {str(stage.result).split(".")[0]: name for name, stage in STAGES.items()}
_COMMANDS = {
    "attention": "bench.gpu.attention",
    "model_settings": "bench.model --settings",
    "parity_fairseq09": "bench.parity",
    "parity_hamming": "bench.parity",
    "qags_models": "bench.qags_training evaluate",
    "settings": "bench.gpu.settings",
}


class StaleResultError(RuntimeError):
    """A file of bench/results is not there, or is older than the page that needs it."""


class Result(dict[str, Any]):
    """A result, or a part of one.

    Args:
        content: what the file says.
        path: of the file.

    Raises:
        StaleResultError: on a key that it lacks.
    """

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        super().__init__(content)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise StaleResultError(
            f"{self._path} has no {key!r}, which the page needs. It was written by another "
            f"version; write it anew with `{command_of(self._path)}`"
        )


def command_of(path: Path) -> str:
    """Return the command that writes a result."""
    name = path.stem
    if name.endswith("_gpu"):
        return f"bench/gpu.sh {_STAGE_OF[name.removesuffix('_gpu')]}"
    return f"python -m {_COMMANDS.get(name, f'bench.{name}')}"


def load(name: str) -> Result:
    """Read a result.

    Raises:
        StaleResultError: there is none.
    """
    path = common.RESULTS / f"{name}.json"
    if not path.is_file():
        raise StaleResultError(
            f"there is no {path}, which the page needs. Write it with `{command_of(path)}`"
        )

    def part(content: dict[str, Any]) -> Result:
        return Result(content, path)

    content: Result = json.loads(path.read_text("utf-8"), object_hook=part)
    return content


def of_gpu(name: str) -> Result | None:
    """Return a result that was measured on a GPU, where there is one."""
    is_measured = (common.RESULTS / f"{name}_gpu.json").is_file()
    return load(f"{name}_gpu") if is_measured else None


def operations() -> list[Result]:
    """Return the timings of the GPU operations, where there are any."""
    path = common.RESULTS / "ops_gpu.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [Result(line, path) for line in csv.DictReader(file)]
