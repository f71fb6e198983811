"""What the benchmarks share: inputs, the machine's description, where results go."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from quals_fast.files import read_rows

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
EXAMPLES = ROOT / "examples" / "pairs.jsonl"
_INSTRUCTIONS = ("avx2", "avx_vnni", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16")
PACKAGES = ("quals-fast", "torch", "transformers", "tokenizers", "numpy", "triton", "ctranslate2")


class Pair(NamedTuple):
    """A document and a summary of it, with its name and, where known, its human label."""

    id: str
    document: str
    summary: str
    label: float | None


def load_pairs(paths: Sequence[Path], limit: int | None = None) -> list[Pair]:
    """Read pairs from JSON lines; of more than `limit`, take that many at even distances."""
    pairs = []
    for path in paths:
        for row in read_rows(str(path)):
            if row.problem is not None:
                raise ValueError(f"{path}, line {row.line}: {row.problem}")
            name = f"{path.name.split('.')[0]}-{row.id}"
            pairs.append(Pair(name, row.document, row.summary, row.fields.get("label")))
    if limit is None or limit >= len(pairs):
        return pairs
    return [pairs[i * len(pairs) // limit] for i in range(limit)]


def fill_in(arguments: argparse.Namespace, defaults: Mapping[str, Any]) -> None:
    """Give options that were left out the defaults of the chosen mode."""
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)


def machine() -> dict[str, Any]:
    """Describe what the numbers were measured on."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "instructions": [name for name in _INSTRUCTIONS if torch.cpu.get_capabilities()[name]],
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _git("rev-parse", "--short", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest with their number."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }


def finish(name: str, result: dict[str, Any]) -> None:
    """Write a result to ``bench/results/<name>.json`` and print it as the last line."""
    content = {"benchmark": name, **result, "machine": machine()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    print(json.dumps(content))


def peak_mib() -> float:
    """Return the peak memory of this process up to now, MiB; on a GPU that of the GPU."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    # Not rusage's peak: a process inherits that of the one that started it.
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    found = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip()
