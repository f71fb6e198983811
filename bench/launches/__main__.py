"""How many kernels does the GPU path launch? Counts operation by operation, without a GPU.

    python -m bench.launches                                    BART-large, 1, 8 and 32 pairs
    python -m bench.launches --device cuda --model bart-large   with the profiler's own count

The GPU pass runs on tensors without data (PyTorch's ``meta`` device), and every operation that
reaches the dispatcher is looked up: views and allocations launch nothing, composite operations are
decomposed, a Triton launcher counts each kernel that it launches, and all other operations count as
one kernel unless kernels.py says otherwise. Copies and fills on the device count as kernels. One
thing is not known in advance: cuBLAS may split a product along its inner dimension and add a kernel
that sums the parts, or set a counter to zero before a product. It adds at most one kernel per
product, so products are counted separately.

With ``--device cuda``, a pass of each size is profiled, and what cuBLAS adds is counted separately.
If the profiler's count of all other kernels differs by 5 % or more, the counter is wrong: the
command says so, and the exit code is 1.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

from bench.launches.counting import (
    BART_LARGE,
    BART_LARGE_CONVENTIONS,
    Count,
    byte_level_tokenizer,
    count,
    without_data,
)
from bench.recipes.grow import folder_of
from bench.shared.common import finish, texts_of
from bench.shared.options import command_line
from bench.shared.weights import weights_of
from bench.shared.workloads import load_workload
from quals_fast import DecodingConfig, QualsScorer
from quals_fast.decoding import graph
from quals_fast.decoding.diverse_beam import Search
from quals_fast.engine import fused
from quals_fast.engine.graphs import Captured

BATCHES = (1, 8, 32)
GAP = 0.05  # between the profiler's count and ours
# In the names of what cuBLAS adds: sums of split products, and counters that it sets to zero.
ADDED_BY_CUBLAS = ("splitkreduce", "memset")


def profile(scorer: QualsScorer, documents: list[str], summaries: list[str]) -> dict[str, Any]:
    """Profile one batch, warm; return its kernels, its steps, and where the time goes.

    `kernels` are those that can be counted beforehand, without what cuBLAS adds. `seconds` are the
    profiled batch's, which launches more slowly, `plain_seconds` the same batch's before that.

    On a CPU, operations take the place of kernels, so that the command can be tried there.
    """
    is_gpu = torch.cuda.is_available()
    for _ in range(3):  # the second time graphs are captured
        begin = time.perf_counter()
        scorer.score(documents, summaries)
        plain_seconds = time.perf_counter() - begin
    calls: Counter[str] = Counter()

    def counted(owner: type, method: str) -> Any:
        run = getattr(owner, method)

        def named(self: Any, *arguments: Any) -> Any:
            calls[method] += 1
            return run(self, *arguments)

        return mock.patch.object(owner, method, named)

    activity = torch.profiler.ProfilerActivity
    with (
        counted(torch.cuda.CUDAGraph, "replay"),
        counted(Captured, "__call__"),
        counted(Search, "step"),
        counted(fused.FusedPass, "_on_host"),
        torch.profiler.profile(
            activities=[activity.CUDA] if is_gpu else [activity.CPU]
        ) as profiler,
    ):
        begin = time.perf_counter()
        scorer.score(documents, summaries)
        if is_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    place = "CUDA" if is_gpu else "CPU"
    of_device = [event for event in profiler.events() if event.device_type.name == place]
    kernels = [e for e in of_device if not e.name.startswith(("Memcpy HtoD", "Memcpy DtoH"))]
    spent: Counter[str] = Counter()
    number: Counter[str] = Counter()
    for event in kernels:
        spent[event.name] += event.time_range.elapsed_us()
        number[event.name] += 1
    of_search = calls["replay"] - calls["__call__"]
    n_added = sum(
        n for name, n in number.items() if any(part in name.lower() for part in ADDED_BY_CUBLAS)
    )
    return {
        "kernels": len(kernels) - n_added,
        "added_by_cublas": n_added,
        "steps": min(of_search * graph.STEPS, scorer.decoding.max_length + 1) + calls["step"],
        "redone_on_host": calls["_on_host"],
        "seconds": seconds,
        "plain_seconds": plain_seconds,
        "busy_seconds": sum(spent.values()) / 1e6,
        "longest": [
            {"name": name, "n": number[name], "share": us / sum(spent.values())}
            for name, us in spent.most_common(20)
        ],
    }


def as_result(of: Count) -> dict[str, Any]:
    """Return a count with its figures by name."""
    return {
        "step_early": of.early,
        "step": of.usual,
        "step_products": of.products,
        "stop": of.stop,
        "outside": of.outside,
        "launched_outside": of.launched,
        "copies_in": of.copies_in,
        "blocking_reads": of.blocking_reads,
        "flags_a_step": 1 / graph.STEPS if of.graph_bytes else 1,
        "graph_mib": of.graph_bytes / 2**20,
    }


def show(counts: dict[int, Count]) -> None:
    """Print a table of the counts."""
    table = Table(title="kernels launched by the pass of a GPU")
    for batch_size, of in counts.items():
        row = {
            "pairs": batch_size,
            "a step, early": of.early,
            "a step": of.usual,
            "of these products": of.products,
            "stop test": f"{of.stop} a {'graph' if of.graph_bytes else 'step'}",
            "outside": " + ".join(
                f"{number} {part}" for part, number in of.outside.items() if number
            ),
            "launched outside": of.launched,
            "blocking reads": of.blocking_reads,
            "copies in": of.copies_in,
            "graphs hold": f"{of.graph_bytes / 2**20:,.0f} MiB" if of.graph_bytes else "no graphs",
        }
        if not table.columns:
            for head in row:
                table.add_column(head, justify="right")
        table.add_row(*map(str, row.values()))
    Console(width=160).print(table)


def main() -> None:
    """Count, on a GPU profile, and print one line of JSON last."""
    parser = command_line(__doc__, data=None)
    parser.add_argument(
        "--batches",
        type=int,
        nargs="+",
        default=[*BATCHES],
        help="pairs per batch (default: 1 8 32)",
    )
    parser.add_argument("--model", help="model to profile and count, such as bart-large")
    parser.add_argument("--device", default="cpu", help="cuda also profiles")
    arguments = parser.parse_args()
    if min(arguments.batches) < 1:
        parser.error(f"--batches must be 1 or more, but got {min(arguments.batches)}")
    if arguments.model is None:
        tokenizer = byte_level_tokenizer(BART_LARGE_CONVENTIONS)
        shaped = without_data(BART_LARGE, BART_LARGE_CONVENTIONS, tokenizer)
        name, scorer = "shape of BART-large, byte-level", None
    else:
        name = arguments.model
        scorer = QualsScorer.from_pretrained(folder_of(name), device=arguments.device)
        real = scorer.engine.model
        shaped = without_data(real.shape, real.conventions, real.tokenizer)
    config = DecodingConfig()
    counts = {size: count(shaped, config, size) for size in arguments.batches}
    show(counts)
    result: dict[str, Any] = {
        "model": name,
        "kernels_per_step": {size: of.usual for size, of in counts.items()},
        "kernels_outside": {size: of.of_outside for size, of in counts.items()},
        "counts": {size: as_result(of) for size, of in counts.items()},
    }
    wrong = []
    if scorer is not None:
        result["profiles"] = {}
        for size, of in counts.items():
            pairs = load_workload("long", arguments.data, size)
            seen = profile(scorer, *texts_of(pairs))
            if arguments.device.startswith("cuda"):
                seen["counted"] = of.total(seen["steps"])
                # What the host does again is not in the count.
                if not seen["redone_on_host"] and abs(seen["kernels"] / seen["counted"] - 1) > GAP:
                    wrong.append(f"{size} pairs: {seen['counted']} counted, {seen['kernels']} seen")
            result["profiles"][size] = seen
    weights = weights_of(name) if scorer is not None else {}
    finish("launches", result, arguments.device, weights=weights)
    if wrong:
        sys.exit(f"the counter is wrong by more than {GAP:.0%}: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
