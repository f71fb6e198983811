"""Time the move of the slots after a step: ``python -m bench.ops.bench_move_slots``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from quals_fast_kernels._histories import Candidates, Histories
from quals_fast_kernels.move_slots import move_slots_ref, move_slots_triton

from bench.ops.common import DEVICE, Case, inequality, main, providers

NUM_BEAMS, LENGTH, STEP = 60, 61, 30


def cases(tiny: bool) -> Iterator[Case]:
    """Yield a step in the middle of the published search, of 1, 16 and 64 summaries."""
    beams = 6 if tiny else NUM_BEAMS
    for batch in (1,) if tiny else (1, 16, 64):
        histories, chosen = histories_and_candidates(batch, beams, 2 * beams)
        # A candidate in twenty ends a hypothesis; those behind it move up.
        ends = torch.rand(batch, 2 * beams, device=DEVICE) < 0.05
        go_on = ends.sort(dim=1, stable=True).indices[:, :beams]
        arguments = histories, chosen, go_on, STEP
        yield Case(
            name=f"B={batch}",
            config=f"B={batch} K={beams} T={LENGTH}",
            providers=providers(move_slots_triton, move_slots_ref, *arguments),
            agree=partial(_disagreement, *arguments),
            dtype="float32",
        )


def histories_and_candidates(
    batch: int, beams: int, candidates: int
) -> tuple[Histories, Candidates]:
    """Draw histories ``(B, K, T)`` and candidates ``(B, C)`` that continue them."""
    long, flat = (batch, beams, LENGTH), (batch, candidates)
    histories = Histories(
        torch.randint(50_265, long, device=DEVICE), *torch.randn(2, *long, device=DEVICE)
    )
    chosen = Candidates(
        torch.randint(50_265, flat, device=DEVICE),
        torch.randint(beams, flat, device=DEVICE),
        *torch.randn(3, *flat, device=DEVICE),
    )
    return histories, chosen


def _disagreement(*arguments: Any) -> float:
    ours, theirs = (move(*arguments) for move in (move_slots_triton, move_slots_ref))
    return inequality((*ours.histories, *ours[1:]), (*theirs.histories, *theirs[1:]))


if __name__ == "__main__":
    main("move_slots", cases)
