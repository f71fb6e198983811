"""What does cuDNN's attention cost, which builds a plan for each new shape?

    python -m bench.gpu.attention --device cuda --model qagen-mini

Since version 2.11, PyTorch prefers cuDNN's attention on Hopper cards in half precision; the engine
excludes it. Each arm has its own scorer and scores the same pairs: first once each, when all shapes
are new, then again. On a CPU both arms run the same kernels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.recipes.grow import folder_of
from bench.shared.common import Pair, finish, spread
from bench.shared.engines import torch_model
from bench.shared.options import command_line
from bench.shared.weights import weights_of
from bench.shared.workloads import load_workload
from quals_fast import QualsScorer
from quals_fast.engine.base import GPU_ATTENTION
from quals_fast.engine.gpu import GpuEngine

ARMS = {
    "without_cudnn": GPU_ATTENTION,
    "with_cudnn": [SDPBackend.CUDNN_ATTENTION, *GPU_ATTENTION],
}


def seconds_of_rounds(
    scorer: QualsScorer, pairs: Sequence[Pair], backends: list[SDPBackend], rounds: int
) -> list[float]:
    """Score the pairs one by one, round after round.

    Args:
        scorer: has not seen the pairs yet.
        pairs: the rows.
        backends: of attention, the preferred ones first.
        rounds: the first one meets new shapes.

    Returns:
        Seconds a pair of each round.
    """
    seconds = []
    with (
        mock.patch("quals_fast.engine.base.GPU_ATTENTION", backends),
        sdpa_kernel(backends, set_priority=True),
    ):
        for _ in range(rounds):
            start = time.perf_counter()
            for pair in pairs:
                scorer.score([pair.document], [pair.summary])
            seconds.append((time.perf_counter() - start) / len(pairs))
    return seconds


def main() -> None:
    """Measure and write bench/results/attention.json."""
    parser = command_line(__doc__, data=None, device="cuda", model="qagen-mini", rows=4)
    parser.add_argument(
        "--rounds", type=int, default=5, help="number of rounds; the first two are for warm-up"
    )
    arguments = parser.parse_args()
    pairs = load_workload("short", arguments.data, arguments.rows + 1)
    base = QualsScorer.from_pretrained(folder_of(arguments.model), device=arguments.device)
    # Compiles the kernels, so that the first arm does not pay for them.
    base.score([pairs[0].document], [pairs[0].summary])
    arms: dict[str, dict[str, Any]] = {}
    for name, backends in ARMS.items():
        scorer = QualsScorer(GpuEngine(torch_model(base)))
        seconds = seconds_of_rounds(scorer, pairs[1:], backends, arguments.rounds)
        arms[name] = {
            "first_s": seconds[0],
            "second_s": seconds[1],
            "later_s": spread(seconds[2:]),
        }
    finish(
        "attention",
        {
            "model": arguments.model,
            "rows": arguments.rows,
            "signature": base.signature,
            "first_ratio": arms["with_cudnn"]["first_s"] / arms["without_cudnn"]["first_s"],
            "seconds_a_pair": arms,
        },
        arguments.device,
        weights=weights_of(arguments.model),
    )


if __name__ == "__main__":
    main()
