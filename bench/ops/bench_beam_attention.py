"""Time one layer's attention of a decoding step: ``python -m bench.ops.bench_beam_attention``.

The provider "reorder" is what the kernel replaces: move the whole past of the slots, then attend.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from quals_fast_kernels.beam_attention import beam_attention_ref, beam_attention_triton
from torch import Tensor
from torch.nn import functional as F

from bench.ops.common import DEVICE, DTYPE, Case, error, main, providers

NUM_BEAMS, ROOM = 60, 64
MOVES = 0.2  # share of the slots that continue another one at a step


def cases(tiny: bool) -> Iterator[Case]:
    """Yield heads of the models that we run, early and late in the search, in bfloat16."""
    beams = 6 if tiny else NUM_BEAMS
    for batch in (1,) if tiny else (1, 16, 64):
        for heads, width in ((1, 16),) if tiny else ((12, 32), (12, 64), (16, 64)):
            shape = (batch, beams, heads, ROOM, width)
            keys, values = torch.randn(2, *shape, device=DEVICE, dtype=DTYPE)
            query, key, value = torch.randn_like(keys[:, :, :, :3]).unbind(3)
            for length in (8,) if tiny else (8, 32, 60):
                index = _index(batch, beams, length)
                arguments = (query, key, value, keys, values, index, length)
                # Its own copy: moving a past changes it.
                moved = (query, keys.clone(), values.clone(), index[:, :, -2].long(), length)
                yield Case(
                    name=f"B={batch} H={heads} D={width} length={length}",
                    config=f"B={batch} K={beams} H={heads} D={width} T={ROOM} length={length}",
                    providers=providers(beam_attention_triton, beam_attention_ref, *arguments)
                    | {"reorder": partial(_reorder_then_attend, *moved)},
                    agree=partial(error, beam_attention_triton, beam_attention_ref, *arguments),
                )


def _index(batch: int, beams: int, length: int) -> Tensor:
    """Return the slots ``(B, K, length)`` that a search would have written to."""
    own = torch.arange(beams, device=DEVICE).expand(batch, -1)
    index = torch.empty(batch, beams, 0, dtype=torch.int64, device=DEVICE)
    for _ in range(length):
        other = torch.randint(beams, (batch, beams), device=DEVICE)
        parent = torch.where(torch.rand(own.shape, device=DEVICE) < MOVES, other, own)
        index = index.gather(1, parent[:, :, None].expand_as(index))
        index = torch.cat([index, own[:, :, None]], -1)
    return index.int()


def _reorder_then_attend(
    query: Tensor, keys: Tensor, values: Tensor, beam_idx: Tensor, length: int
) -> Tensor:
    """Move the past of all slots, as a cache without an index has to, then attend to it."""
    for store in (keys, values):
        past = store[:, :, :, :length]
        rows = beam_idx[:, :, None, None, None].expand_as(past)
        store[:, :, :, :length] = past.gather(1, rows)
    attended = F.scaled_dot_product_attention(
        query.flatten(0, 1)[:, :, None],
        keys.flatten(0, 1)[:, :, :length],
        values.flatten(0, 1)[:, :, :length],
    )
    return attended.reshape(query.shape)


if __name__ == "__main__":
    main("beam_attention", cases)
