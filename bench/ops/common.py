"""Check and time the providers of an operation on a GPU, and keep tidy rows.

A provider is timed by CUDA events around one call. Before each call, a buffer larger than the L2
cache is overwritten; this leaves the cache cold, and the device busy while the host launches.

Options of every command: `--no-compile` leaves out torch.compile, which takes minutes; `--tiny`
runs one small case, even on a CPU with TRITON_INTERPRET=1, where times are meaningless.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from quals_fast_kernels._compat import triton_version
from torch import Tensor

from bench.shared.common import RESULTS, machine, result_name, synchronize

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter multiplies bfloat16 wrongly, so on a CPU cases are in float32.
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
WARMUP, ROUNDS = 10, 50
TINY_WARMUP, TINY_ROUNDS = 1, 2
FLUSH_BYTES = 2**30
ROWS = (60, 960, 3840)  # 60 beams of 1, 16 and 64 summaries


class Case(NamedTuple):
    """One workload of an operation, and the implementations to time on it."""

    name: str
    config: str  # what the numbers depend on, as in "N=60 V=28216 d=384 k=120"
    providers: dict[str, Callable[[], Any]]  # "triton", "eager", "compile": each one call
    agree: Callable[[], float]  # largest error over what is allowed; above 1 nothing is timed
    dtype: str = str(DTYPE).removeprefix("torch.")


def layer_inputs(tiny: bool) -> Iterator[Tensor]:
    """Yield the states ``(N, d)`` that layers take, in the widths of the models that we run."""
    for width in (24,) if tiny else (384, 768, 1024):
        for rows in (6,) if tiny else ROWS:
            yield torch.randn(rows, width, device=DEVICE, dtype=DTYPE)


def compiled(function: Callable[..., Any], *arguments: Any, **settings: Any) -> Callable[[], Any]:
    """Return a call of a function that torch compiles for its shapes when it is first made."""

    @cache
    def compile_it() -> Callable[..., Any]:
        torch.compiler.reset()  # a function is compiled for eight shapes at most
        return torch.compile(function, dynamic=False)

    return lambda: compile_it()(*arguments, **settings)


def providers(
    triton: Callable[..., Any], eager: Callable[..., Any], *arguments: Any, **settings: Any
) -> dict[str, Callable[[], Any]]:
    """Return the kernel, its eager reference and that compiled, as calls with the same inputs."""
    return {
        "triton": partial(triton, *arguments, **settings),
        "eager": partial(eager, *arguments, **settings),
        "compile": compiled(eager, *arguments, **settings),
    }


def error(triton: Callable[..., Tensor], eager: Callable[..., Tensor], *arguments: Any) -> float:
    """Return a kernel's largest error to float64, over twice that of eager and a floor."""
    is_number = [isinstance(x, Tensor) and x.is_floating_point() for x in arguments]
    truth = eager(*(x.double() if n else x for x, n in zip(arguments, is_number, strict=True)))
    ours, theirs = (
        (run(*arguments).double() - truth).abs().max().item() for run in (triton, eager)
    )
    return ours / (2 * theirs + 1e-5)


def inequality(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Return 0 where all tensors are equal to the bit, as an operation without rounding must be."""
    same = zip(ours, theirs, strict=True)
    return 0.0 if all(torch.equal(mine, other) for mine, other in same) else math.inf


def main(op: str, cases: Callable[[bool], Iterable[Case]]) -> None:
    """Time each case and append its rows to ``bench/results/ops_gpu.csv``.

    Args:
        op: stem of the operation's file.
        cases: takes whether one tiny case is wanted; may be a generator, whose inputs then live one
            case at a time. It is not touched where there is no GPU, unless the case is to be tiny:
            that is said in one line, and nothing is written.

    Raises:
        RuntimeError: a case disagrees; what was measured before it is kept.
    """
    parser = argparse.ArgumentParser(description=f"Time {op} on a GPU.")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out torch.compile, which takes minutes"
    )
    parser.add_argument("--tiny", action="store_true", help="run one small case, even on a CPU")
    arguments = parser.parse_args()
    if DEVICE == "cpu" and not arguments.tiny:
        print(f"{op}: this machine has no CUDA device, so nothing was measured or written")
        return
    warmup, rounds = (TINY_WARMUP, TINY_ROUNDS) if arguments.tiny else (WARMUP, ROUNDS)
    torch.manual_seed(0)
    for case in cases(arguments.tiny):
        error = case.agree()
        if not error <= 1:  # so that nan fails, too
            raise RuntimeError(f"{op} {case.name}: error is {error:.3g} times the tolerance")
        print(f"{op} {case.name}: error is {error:.3g} times the tolerance")
        for provider, call in case.providers.items():
            if provider != "compile" or not arguments.no_compile:
                _append(op, case, provider, _measure_ms(provider, call, warmup, rounds))


def _measure_ms(provider: str, call: Callable[[], Any], warmup: int, rounds: int) -> list[float]:
    """Return the device time of each round; compiling and warming up are printed apart."""
    start = time.perf_counter()
    for _ in range(warmup):
        call()
    synchronize()
    print(f"  {provider}: {warmup} warm-up calls took {time.perf_counter() - start:.2f} s")
    return [_elapsed_ms(call) for _ in range(rounds)]


def _elapsed_ms(call: Callable[[], Any]) -> float:
    if DEVICE == "cpu":
        start = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - start)
    # The allocator keeps this buffer: only the first one takes time.
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=DEVICE)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    flush.zero_()
    before.record()
    call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after)


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
    path = RESULTS / f"{result_name('ops', DEVICE)}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)
    print(f"  {provider}: {row['p50']} ms ({row['p20']} to {row['p80']}, n {row['n']})")
