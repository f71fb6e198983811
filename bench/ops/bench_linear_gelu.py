"""Time the first half of a feed-forward: ``python -m bench.ops.bench_linear_gelu``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from quals_fast_kernels.linear_gelu import linear_gelu_ref, linear_gelu_triton

from bench.ops.common import DEVICE, DTYPE, Case, error, main, providers


def cases(tiny: bool) -> Iterator[Case]:
    """Yield widths of the models that we run, with 60 beams of 1, 16 and 64 summaries."""
    for width in (24,) if tiny else (384, 768, 1024):
        for rows in (6,) if tiny else (60, 960, 3840):
            x = torch.randn(rows, width, device=DEVICE, dtype=DTYPE)
            weight = torch.randn(4 * width, width, device=DEVICE, dtype=DTYPE) / width**0.5
            bias = torch.randn(4 * width, device=DEVICE, dtype=DTYPE)
            config = f"N={rows} d={width} M={4 * width}"
            yield Case(
                name=config,
                config=config,
                providers=providers(linear_gelu_triton, linear_gelu_ref, x, weight, bias),
                agree=partial(error, linear_gelu_triton, linear_gelu_ref, x, weight, bias),
            )


if __name__ == "__main__":
    main("linear_gelu", cases)
