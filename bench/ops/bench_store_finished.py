"""Time how a step stores finished ones: ``python -m bench.ops.bench_store_finished``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from quals_fast_kernels._histories import Candidates, Histories
from quals_fast_kernels.store_finished import (
    Finished,
    store_finished_ref,
    store_finished_triton,
)
from torch import Tensor

from bench.ops.bench_move_slots import LENGTH, NUM_BEAMS, STEP, histories_and_candidates
from bench.ops.common import DEVICE, Case, inequality, main, providers


def cases(tiny: bool) -> Iterator[Case]:
    """Yield a step in the middle of the published search, of 1, 16 and 64 summaries."""
    beams = 6 if tiny else NUM_BEAMS
    for batch in (1,) if tiny else (1, 16, 64):
        histories, chosen = histories_and_candidates(batch, beams, beams)
        normalised = chosen.scores.double() / (STEP + 1)
        for share in (0.0, 0.05):  # of the candidates, which end a hypothesis
            ends = torch.rand(batch, beams, device=DEVICE) < share
            row = torch.where(ends, ends.cumsum(1) - 1, beams)
            arguments = histories, chosen, normalised, row
            finished = _finished(batch, beams)
            yield Case(
                name=f"B={batch} ends={share}",
                config=f"B={batch} K={beams} T={LENGTH} ends={share}",
                providers=providers(
                    store_finished_triton, store_finished_ref, finished, *arguments, STEP
                ),
                agree=partial(_disagreement, *arguments),
                dtype="float32",
            )


def _finished(batch: int, beams: int) -> Finished:
    """Return room for the hypotheses of B sentences, and for what is dropped."""
    shape = batch, beams + 1
    ids = torch.zeros(*shape, LENGTH, dtype=torch.int64, device=DEVICE)
    numbers = torch.zeros(*shape, LENGTH, device=DEVICE)
    lengths, sums = torch.zeros_like(ids[..., 0]), torch.zeros_like(numbers[..., 0])
    return ids, lengths, numbers, numbers.clone(), sums, sums.double()


def _disagreement(
    histories: Histories, chosen: Candidates, normalised: Tensor, row: Tensor
) -> float:
    """Return 0 where all rows but the last are equal to the bit, as they must be."""
    ours, theirs = (_finished(*row.shape) for _ in range(2))
    store_finished_triton(ours, histories, chosen, normalised, row, STEP)
    store_finished_ref(theirs, histories, chosen, normalised, row, STEP)
    return inequality([x[:, :-1] for x in ours], [y[:, :-1] for y in theirs])


if __name__ == "__main__":
    main("store_finished", cases)
