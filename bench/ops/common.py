"""Time the providers of an operation on a GPU, agreement first, and keep tidy rows.

A provider is timed by CUDA events around one call. Before each call a buffer larger than the L2
cache is overwritten: it leaves the cache cold, and the device busy while the host launches.
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from quals_fast_kernels._compat import triton_version

from bench.common import RESULTS, machine

WARMUP, ROUNDS = 10, 50
FLUSH_BYTES = 2**30


class Case(NamedTuple):
    """One workload of an operation, and the implementations to time on it."""

    name: str
    config: str  # what the numbers depend on, as in "N=60 V=28216 d=384 k=120"
    providers: dict[str, Callable[[], Any]]  # "triton", "eager", "compile": each one call
    agree: Callable[[], float]  # largest error over what is allowed; above 1 nothing is timed
    dtype: str = "bfloat16"


def run(op: str, cases: Iterable[Case]) -> None:
    """Time each case and append its rows to ``bench/results/ops.csv``.

    Args:
        op: stem of the operation's file.
        cases: may be a generator, whose inputs then live one case at a time. It is not touched
            where there is no GPU: that is said in one line, and nothing is written.

    Raises:
        RuntimeError: a case disagrees; what was measured before it is kept.
    """
    if not torch.cuda.is_available():
        print(f"{op}: this machine has no CUDA device; nothing measured, nothing written")
        return
    for case in cases:
        error = case.agree()
        if not error <= 1:  # so that nan fails, too
            raise RuntimeError(f"{op} {case.name}: error is {error:.3g} of what is allowed")
        print(f"{op} {case.name}: error is {error:.3g} of what is allowed")
        for provider, call in case.providers.items():
            _append(op, case, provider, _measure_ms(provider, call))


def _measure_ms(provider: str, call: Callable[[], Any]) -> list[float]:
    """Return the device time of each round; compiling and warming up are printed apart."""
    start = time.perf_counter()
    for _ in range(WARMUP):
        call()
    torch.cuda.synchronize()
    print(f"  {provider}: {WARMUP} warm-up calls took {time.perf_counter() - start:.2f} s")
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    elapsed_ms = []
    for _ in range(ROUNDS):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        before.record()
        call()
        after.record()
        after.synchronize()
        elapsed_ms.append(before.elapsed_time(after))
    return elapsed_ms


def _append(op: str, case: Case, provider: str, elapsed_ms: list[float]) -> None:
    """Write one tidy row and print it."""
    fifths = statistics.quantiles(elapsed_ms, n=5, method="inclusive")
    about = machine()
    row: dict[str, object] = {
        "op": op,
        "provider": provider,
        "dtype": case.dtype,
        "config": case.config,
        "unit": "ms",
        "p50": f"{statistics.median(elapsed_ms):.4f}",
        "p20": f"{fifths[0]:.4f}",
        "p80": f"{fifths[3]:.4f}",
        "n": len(elapsed_ms),
        "device": about["gpu"],
        "torch": torch.__version__,
        "triton": triton_version(),
        "commit": about["commit"] + ("+dirty" if about["dirty"] else ""),
    }
    path = RESULTS / "ops.csv"
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)
    print(f"  {provider}: {row['p50']} ms ({row['p20']} to {row['p80']}, n {row['n']})")
