"""Large batches and single pairs: pairs a second, and the time of one pair.

    python -m bench.throughput --device cuda [--model bart-large] [--data FILE]

Texts are the `long` workload; bart-large is the bundled model grown to that size (bench/grow.py).
Warm-up (kernels compiled, graphs captured) is reported apart. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from bench.common import finish, spread
from bench.grow import MODELS, folder_of
from bench.workloads import load_workload
from quals_fast import QualsScorer

BATCH, SINGLE = 256, 30  # pairs at once; pairs one after the other


def main() -> None:
    """Measure and write bench/results/throughput_<device>.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--model", choices=MODELS, default="bart-large")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    pairs = load_workload("long", arguments.data, arguments.rows)
    documents, summaries = [p.document for p in pairs], [p.summary for p in pairs]
    scorer = QualsScorer.from_pretrained(
        folder_of(arguments.model),
        device=arguments.device,
        dtype=arguments.dtype,
        max_batch_tokens=262_144,
    )
    is_gpu = scorer.generator.bart.device.type == "cuda"
    start = time.perf_counter()
    scorer.score(documents, summaries)
    scorer.score(documents[:1], summaries[:1])
    warm_up_s = time.perf_counter() - start
    rates = []
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        scorer.score(documents, summaries)
        rates.append(len(pairs) / (time.perf_counter() - start))
    single = []
    for document, summary in list(zip(documents, summaries, strict=True))[:SINGLE]:
        start = time.perf_counter()
        scorer.score([document], [summary])
        single.append(1000 * (time.perf_counter() - start))
    finish(
        f"throughput_{'gpu' if is_gpu else 'cpu'}",
        {
            "model": arguments.model,
            "workload": "long",
            "rows": len(pairs),
            "signature": scorer.signature,
            "warm_up_s": warm_up_s,
            "pairs_per_s": spread(rates),
            "one_pair_ms": spread(single) | {"p50": statistics.median(single)},
            "peak_gpu_mib": torch.cuda.max_memory_allocated() / 2**20 if is_gpu else None,
        },
    )


if __name__ == "__main__":
    main()
