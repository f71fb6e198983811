"""Time the layer norm of a residual sum: ``python -m bench.ops.bench_add_layer_norm``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from quals_fast_kernels.add_layer_norm import add_layer_norm_ref, add_layer_norm_triton

from bench.ops.common import DEVICE, DTYPE, Case, error, main, providers

EPS = 1e-5


def cases(tiny: bool) -> Iterator[Case]:
    """Yield widths of the models that we run, with 60 beams of 1, 16 and 64 summaries."""
    for width in (24,) if tiny else (384, 768, 1024):
        for rows in (6,) if tiny else (60, 960, 3840):
            x, residual = torch.randn(2, rows, width, device=DEVICE, dtype=DTYPE)
            weight, bias = torch.randn(2, width, device=DEVICE, dtype=DTYPE)
            arguments = x, residual, weight, bias, EPS
            yield Case(
                name=f"N={rows} d={width}",
                config=f"N={rows} d={width}",
                providers=providers(add_layer_norm_triton, add_layer_norm_ref, *arguments),
                agree=partial(error, add_layer_norm_triton, add_layer_norm_ref, *arguments),
            )


if __name__ == "__main__":
    main("add_layer_norm", cases)
