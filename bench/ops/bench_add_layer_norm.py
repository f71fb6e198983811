"""Time the norm of a residual sum: ``python -m bench.ops.bench_add_layer_norm``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from quals_fast_kernels.add_layer_norm import add_layer_norm_ref, add_layer_norm_triton
from torch import Tensor

from bench.ops.common import DEVICE, DTYPE, Case, compiled, main

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
                providers={
                    "triton": partial(add_layer_norm_triton, *arguments),
                    "eager": partial(add_layer_norm_ref, *arguments),
                    "compile": compiled(add_layer_norm_ref, *arguments),
                },
                agree=partial(_error, *arguments),
            )


def _error(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> float:
    """Return the error to float64, over twice that of eager and a floor."""
    doubles = (part.double() for part in (x, residual, weight, bias))
    truth = add_layer_norm_ref(next(doubles), next(doubles), next(doubles), next(doubles), eps)
    ours, theirs = (
        (normalise(x, residual, weight, bias, eps).double() - truth).abs().max().item()
        for normalise in (add_layer_norm_triton, add_layer_norm_ref)
    )
    return ours / (2 * theirs + 1e-5)


if __name__ == "__main__":
    main("add_layer_norm", cases)
