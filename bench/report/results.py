"""Results as the report reads them: refused by name if stale, or if measured with other weights."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.gpu.stages import STAGES
from bench.shared import common
from bench.shared.load import is_high, told
from bench.shared.weights import BUNDLED, FORMER, MODEL, UNKNOWN, Weights, bundled, origin

_STAGE_OF = {str(stage.result).split(".")[0]: name for name, stage in STAGES.items()}
_COMMANDS = {
    "attention": "bench.gpu.attention",
    "model_settings": "bench.model --settings",
    "parity_fairseq09": "bench.parity",
    "parity_hamming": "bench.parity",
    "parity_t5_fairseq09": "bench.parity --model t5-small",
    "parity_t5_hamming": "bench.parity --model t5-small",
    "qags_models": "bench.qags_training evaluate",
    "settings": "bench.gpu.settings",
    "train_qagen_gpu": "bench.train_qagen --device cuda",
    "training_cost_t5": "bench.training_cost --policy t5-small",
    "training_cost_t5_gpu": "bench.training_cost --policy flan-t5-base --device cuda",
}


DIRTY = " with uncommitted changes"
# Agreement, quality and memory, which do not depend on how busy the machine was.
_WITHOUT_TIMES = (
    "examples",
    "golden",
    "memory",
    "parity_fairseq09",
    "parity_hamming",
    "parity_t5_fairseq09",
    "parity_t5_hamming",
    "qags_models",
    "serve_memory",
    "spans",
)
_WITHOUT_WEIGHTS = ("install_size", "launches")  # results that no model's weights affect


class StaleResultError(RuntimeError):
    """A file of bench/results is missing, older than the page, or of weights unknown to it."""


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
    if name.endswith("_gpu") and name not in _COMMANDS:
        return f"bench/gpu.sh {_STAGE_OF[name.removesuffix('_gpu')]}"
    return f"python -m {_COMMANDS.get(name, f'bench.{name}')}"


class Reader:
    """Reads results for one block of a page, and knows which of them are of former models.

    Attributes:
        former: why a result is not of the bundled model, and the commits of the results it is
            true of.
        busy: what other processes took while results were measured, where it was much.
    """

    def __init__(self) -> None:
        self.former: dict[str, list[str]] = {}
        self.busy: list[str] = []

    def load(self, name: str) -> Result:
        """Read a result.

        Raises:
            StaleResultError: there is none, or it was measured with weights that are not the
                bundled ones, nor made of them by a recipe, nor those of a former version.
        """
        result, former = self._read(name)
        if former:
            self.former.setdefault(_named(former), []).extend(commits(result))
        return result

    def current(self, name: str) -> Result | None:
        """Read a result of the bundled model; None if it is of a former one."""
        result, former = self._read(name)
        return None if former else result

    def _read(self, name: str) -> tuple[Result, list[str]]:
        result, former = _read(name)
        for machine in _machines(result):
            load = machine.get("load")  # not in older results
            if load and is_high(load) and name not in _WITHOUT_TIMES:
                self.busy.append(f"`{name}`: {told(load)}")
        return result, former

    def where_measured(self, name: str) -> Result | None:
        """Read a result, where there is one."""
        return self.load(name) if _path(name).is_file() else None

    def of_gpu(self, name: str) -> Result | None:
        """Return a result that was measured on a GPU, where there is one."""
        return self.where_measured(f"{name}_gpu")

    def current_of_gpu(self, name: str) -> Result | None:
        """Return a result of the bundled model, or of it grown, on a GPU, where there is one."""
        return self.current(f"{name}_gpu") if _path(f"{name}_gpu").is_file() else None

    def operations(self) -> list[Result]:
        """Return the timings of the GPU operations, where there are any."""
        path = common.RESULTS / "ops_gpu.csv"
        if not path.is_file():
            return []
        with path.open(encoding="utf-8") as file:
            return [Result(line, path) for line in csv.DictReader(file)]

    def title(self) -> str:
        """Say which former models the figures are of; nothing where they are the bundled one's."""
        parts = [
            f"{why} (commit{'s' * (len(set(commits)) > 1)} {', '.join(dict.fromkeys(commits))})"
            for why, commits in self.former.items()
        ]
        return f"**{'; '.join(parts)}, until it is measured again:**" if parts else ""

    def note(self) -> str:
        """Say what was measured while other processes were busy; nothing on a quiet machine."""
        busy = "; ".join(dict.fromkeys(self.busy))
        return f"Measured under load, so slower than it should be. {busy}." if busy else ""


def _read(name: str) -> tuple[Result, list[str]]:
    """Return a result, and the former models that it was measured with."""
    path = _path(name)
    if not path.is_file():
        raise StaleResultError(
            f"there is no {path}, which the page needs. Write it with `{command_of(path)}`"
        )

    def part(content: dict[str, Any]) -> Result:
        return Result(content, path)

    result: Result = json.loads(path.read_text("utf-8"), object_hook=part)
    if not result["weights"] and name not in _WITHOUT_WEIGHTS:
        raise StaleResultError(
            f"{path} does not say which weights it was measured with; measure anew with "
            f"`{command_of(path)}`"
        )
    former = []
    for one, expected in not_bundled(result["weights"]):
        if one in FORMER or one.endswith(f"@{UNKNOWN}"):
            former.append(one)
        else:
            raise StaleResultError(
                f"{path} was measured with {one}, but the bundled model is {expected}: "
                "only figures of that one, of models made from it and of those in FORMER of "
                f"bench/shared/weights.py get into pages. Measure anew with `{command_of(path)}`"
            )
    return result, former


def not_bundled(weights: Weights) -> Iterator[tuple[str, str]]:
    """Yield each model that weights are or come from and that is not bundled now, and what is."""
    origins = {origin(model, described) for model, described in weights.items()}
    for one in sorted(filter(None, origins)):
        model = one.partition("@")[0]
        expected = bundled(model if model in BUNDLED else MODEL)
        if one != expected:
            yield one, expected


def _path(name: str) -> Path:
    return common.RESULTS / f"{name}.json"


def _named(former: list[str]) -> str:
    if any(one.endswith(f"@{UNKNOWN}") for one in former):
        return "Weights not recorded"
    return f"Former model{'s' * (len(former) > 1)} {', '.join(f'`{one}`' for one in former)}"


def machine_of(result: Result, model: str) -> dict[str, Any]:
    """Return what a model of `end_to_end` was measured on, which may be kept from another run."""
    machine: dict[str, Any] = result["cases"][model].get("machine", result["machine"])
    return machine


def commits(result: Mapping[str, Any]) -> list[str]:
    """Say at which commits a result was measured; models that it kept may be of earlier ones."""
    return [
        f"{machine['commit']}{DIRTY if machine['dirty'] else ''}" for machine in _machines(result)
    ]


def _machines(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    cases = result.get("cases", {}).values()
    own = [case["machine"] for case in cases if isinstance(case, dict) and "machine" in case]
    return own or [result["machine"]]
