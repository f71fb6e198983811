"""Time the attention of one layer to the source: ``python -m bench.ops.bench_source_attention``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from quals_fast_kernels.source_attention import source_attention_ref, source_attention_triton

from bench.ops.common import DEVICE, DTYPE, Case, error, main, providers

SEARCH = 60, 128, 70  # queries, room and tokens of a summary: one query for each beam
RESCORING = 240, 896, 800  # of a document: 12 targets of 20 tokens


def cases(tiny: bool) -> Iterator[Case]:
    """Yield heads of the models that we run, in search and rescoring, in bfloat16."""
    for batch in (1,) if tiny else (1, 16, 64):
        for heads, width in ((1, 16),) if tiny else ((12, 64), (16, 64)):
            for queries, room, tokens in ((6, 40, 33),) if tiny else (SEARCH, RESCORING):
                query = torch.randn(batch, queries, heads, width, device=DEVICE, dtype=DTYPE)
                shape = (2, batch, room, heads, width)  # heads behind tokens, as projected
                keys, values = torch.randn(shape, device=DEVICE, dtype=DTYPE).transpose(2, 3)
                mask = torch.arange(room, device=DEVICE) < tokens
                arguments = query, keys, values, mask.expand(batch, 1, 1, -1).contiguous()
                yield Case(
                    name=f"B={batch} N={queries} H={heads} S={room}",
                    config=f"B={batch} N={queries} H={heads} D={width} S={room} tokens={tokens}",
                    providers=providers(source_attention_triton, source_attention_ref, *arguments),
                    agree=partial(error, source_attention_triton, source_attention_ref, *arguments),
                )


if __name__ == "__main__":
    main("source_attention", cases)
