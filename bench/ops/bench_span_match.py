"""Time the lookup of answers in summaries on a GPU.

    python -m bench.ops.bench_span_match

Half of the answers occur in their summary; most of the others differ from it in the first symbol.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from quals_fast_kernels.span_match import span_match_ref, span_match_triton
from torch import Tensor

from bench.ops.common import DEVICE, Case, inequality, main

NUM_BEAMS = 60
# B, S, T, the longest answer, how many symbols there are
WORKLOADS = {
    "ids": (64, 128, 61, 12, 30_522),
    "letters": (64, 512, 488, 40, 64),
    "long letters": (16, 4096, 488, 40, 64),
}

TINY = {"tiny": (1, 16, 9, 3, 8)}


def inputs(
    batch: int, width: int, longest: int, answer: int, symbols: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw summaries and answers, the same ones in every run."""
    draw = torch.Generator(DEVICE).manual_seed(0)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=draw, device=DEVICE)

    haystack = integers(0, symbols, batch, width)
    lengths = integers(width // 2, width + 1, batch)
    needles = integers(0, symbols, batch, NUM_BEAMS, longest)
    needle_lengths = integers(1, answer + 1, batch, NUM_BEAMS)
    start = integers(0, width // 2 - answer, batch, NUM_BEAMS, 1)
    at = start + torch.arange(answer, device=DEVICE)  # (B, N, answer)
    cut = haystack[:, None].expand(-1, NUM_BEAMS, -1).gather(-1, at)
    is_cut = integers(0, 2, batch, NUM_BEAMS, 1).bool()
    needles[..., :answer] = torch.where(is_cut, cut, needles[..., :answer])
    return haystack.int(), lengths, needles.int(), needle_lengths


def cases(tiny: bool) -> Iterator[Case]:
    """Yield one case for each workload."""
    for name, sizes in (TINY if tiny else WORKLOADS).items():
        batch, width, longest, answer, symbols = sizes
        given = inputs(*sizes)

        yield Case(
            name,
            f"B={batch} N={NUM_BEAMS} S={width} T={longest} answer<={answer} V={symbols}",
            {
                "triton": partial(span_match_triton, *given),
                "eager": partial(span_match_ref, *given),
            },
            partial(_disagreement, *given),
            dtype="int32",
        )


def _disagreement(*given: Tensor) -> float:
    return inequality([span_match_triton(*given)], [span_match_ref(*given)])


if __name__ == "__main__":
    main("span_match", cases)
