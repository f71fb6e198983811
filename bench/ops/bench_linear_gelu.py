"""Time the first half of a feed-forward: ``python -m bench.ops.bench_linear_gelu``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from quals_fast_kernels.linear_gelu import linear_gelu_ref, linear_gelu_triton

from bench.ops.common import DEVICE, DTYPE, Case, error, layer_inputs, main, providers


def cases(tiny: bool) -> Iterator[Case]:
    """Yield the sizes of `layer_inputs`; a feed-forward is four times as wide inside."""
    for x in layer_inputs(tiny):
        rows, width = x.shape
        weight = torch.randn(4 * width, width, device=DEVICE, dtype=DTYPE) / width**0.5
        arguments = x, weight, torch.randn(4 * width, device=DEVICE, dtype=DTYPE)
        config = f"N={rows} d={width} M={4 * width}"
        yield Case(
            name=config,
            config=config,
            providers=providers(linear_gelu_triton, linear_gelu_ref, *arguments),
            agree=partial(error, linear_gelu_triton, linear_gelu_ref, *arguments),
        )


if __name__ == "__main__":
    main("linear_gelu", cases)
