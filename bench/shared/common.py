"""What the benchmarks share: inputs, the machine's description, where results go."""

from __future__ import annotations

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

from bench.shared import load
from quals_fast.jobs.files import read_rows

ROOT = Path(__file__).parents[2]
RESULTS = Path(os.environ.get("BENCH_RESULTS") or ROOT / "bench" / "results")
EXAMPLES = ROOT / "examples" / "pairs.jsonl"
QAGS_MODELS = ROOT / "bench" / "qags_models"  # of this checkout, wherever quals_fast is installed
# Results are written and pages pasted while the code stays as it is.
_CODE = (".", ":!bench/results", ":!*.md", ":!*.svg")
_INSTRUCTIONS = ("avx2", "avx_vnni", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16")
PACKAGES = ("quals-fast", "torch", "transformers", "tokenizers", "numpy", "triton", "ctranslate2")


class Pair(NamedTuple):
    """A document and a summary of it, with its name and, where known, its human label."""

    id: str
    document: str
    summary: str
    label: float | None


def texts_of(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    """Return the documents and the summaries, as a scorer takes them."""
    return [pair.document for pair in pairs], [pair.summary for pair in pairs]


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


def is_gpu(device: str) -> bool:
    """Return whether a device, by torch's name of it, is a GPU."""
    return device.startswith("cuda")


def synchronize() -> None:
    """Wait for the GPU where one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """Describe what the numbers were measured on.

    The commit is ``$BENCH_COMMIT`` (as `git describe --always --dirty` prints it) or git's own
    answer; it is "unknown" where there is neither, and then `dirty` is None. Results and pages are
    no uncommitted changes. `load` is what other processes took so far (bench/shared/load.py).
    """
    commit = os.environ.get("BENCH_COMMIT") or head()
    capabilities = torch.cpu.get_capabilities()
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
        "instructions": [name for name in _INSTRUCTIONS if capabilities.get(name)],
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        **_card(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": commit.removesuffix("-dirty") or "unknown",
        "dirty": commit.endswith("-dirty") or bool(changed_since("HEAD")) if commit else None,
        "load": load.current(),
    }


def head() -> str:
    """Return the commit of the work tree, without its changes; nothing where git is missing."""
    return _output("git", "describe", "--always", "--exclude=*")


def changed_since(commit: str) -> list[str] | None:
    """Return the files that the work tree has otherwise than a commit, but for results and pages.

    None says that there is no such commit, or no git.
    """
    if not _output("git", "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"):
        return None
    return _output("git", "diff", "--name-only", commit, "--", *_CODE).splitlines()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest with their number."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }


def result_name(name: str, device: str) -> str:
    """Return the name of a result: a GPU's ends with ``_gpu``, so that it replaces no CPU's."""
    return f"{name}_gpu" if is_gpu(device) else name


def finish(
    name: str, result: Mapping[str, Any], device: str = "cpu", *, weights: Mapping[str, Any]
) -> None:
    """Write a result to ``<name>.json``, or ``<name>_gpu.json``, and print it as the last line.

    Args:
        name: of the benchmark.
        result: what was measured; a longer benchmark may write after each of its cases.
        device: where it was measured.
        weights: that it was measured with, as `bench.shared.weights` describes them; none where no
            model was loaded.
    """
    content = {"benchmark": name, "weights": weights, **result, "machine": machine()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{result_name(name, device)}.json"
    # A benchmark may be stopped while it writes: what it wrote before must stay readable.
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    scratch.replace(path)
    print(json.dumps(content))


def peak_mib(_: object = None) -> float:
    """Return the peak memory of this process up to now, MiB; on a GPU that of the GPU.

    What it is given is ignored, so that an arm's process can be asked for it.
    """
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


def _card() -> dict[str, Any]:
    """Describe the GPU: name, memory in GiB, driver; None where there is none."""
    if not torch.cuda.is_available():
        return {"gpu": None, "gpu_gib": None, "driver": None}
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpu_gib": torch.cuda.get_device_properties(0).total_memory / 2**30,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
    }


def _output(*command: str) -> str:
    """Return what a command prints; nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
