"""Time the layer norm of a residual sum: ``python -m bench.ops.bench_add_layer_norm``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from quals_fast_kernels.add_layer_norm import add_layer_norm_ref, add_layer_norm_triton

from bench.ops.common import DEVICE, DTYPE, Case, error, layer_inputs, main, providers

EPS = 1e-5


def cases(tiny: bool) -> Iterator[Case]:
    """Yield the sizes of `layer_inputs`."""
    for x in layer_inputs(tiny):
        rows, width = x.shape
        weight, bias = torch.randn(2, width, device=DEVICE, dtype=DTYPE)
        arguments = x, torch.randn_like(x), weight, bias, EPS
        yield Case(
            name=f"N={rows} d={width}",
            config=f"N={rows} d={width}",
            providers=providers(add_layer_norm_triton, add_layer_norm_ref, *arguments),
            agree=partial(error, add_layer_norm_triton, add_layer_norm_ref, *arguments),
        )


if __name__ == "__main__":
    main("add_layer_norm", cases)
