"""Tiles of a linear layer, `hidden @ weight.T + bias`: what its operations have in common.

The order of every sum does not depend on N, nor does an LM head's partition of V, so that a row's
result is the same to the last bit in whatever company it is computed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quals_fast_kernels._compat import tl, triton
from quals_fast_kernels._launch import FLOATS, check_tensor

BLOCK_V = 128  # columns a tile: tokens, for an LM head


class Tiles(NamedTuple):
    """Launch arguments of a kernel with such tiles; which they are may change its speed only."""

    BLOCK_N: int
    BLOCK_V: int
    BLOCK_D: int
    IS_EVEN_D: bool
    num_warps: int
    num_stages: int
    maxnreg: int | None


def tiles_of(hidden: Tensor) -> Tiles:
    """Return tile sizes for states ``(N, d)``; they depend on shape and dtype alone.

    In half precision three programs of 72 KB share a multiprocessor where N is small (so the 393
    tiles of 50,265 tokens run at once on an H200), two of 96 KB where it is large.
    """
    rows, width = hidden.shape
    is_half = hidden.dtype != torch.float32
    block_d = 64 if is_half else 32
    is_small = rows <= 64  # the 60 beams of one summary: bound by reading the weights
    return Tiles(
        BLOCK_N=64 if is_small else 128,
        BLOCK_V=BLOCK_V,
        BLOCK_D=block_d,
        IS_EVEN_D=width % block_d == 0,
        num_warps=4 if is_small else 8,
        num_stages=3,
        maxnreg=128 if is_half and not is_small else None,  # more would leave room for one only
    )


def check_linear(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    name: str = "hidden",
    bias_dtype: torch.dtype = torch.float32,
) -> None:
    """Raise unless states, called `name`, weight and bias fit one another; see `check_tensor`."""
    device = hidden.device
    check_tensor(name, hidden, shape=(None, None), dtypes=FLOATS, device=device)
    shape = (None, hidden.shape[1])
    check_tensor("weight", weight, shape=shape, dtypes=(hidden.dtype,), device=device)
    check_tensor("bias", bias, shape=weight.shape[:1], dtypes=(bias_dtype,), device=device)
    if not weight.numel():
        raise ValueError(f"`weight` must not be empty, but got shape {tuple(weight.shape)}")


@triton.jit
def linear_tile(
    hidden_ptr: tl.tensor,  # (N, d)
    weight_ptr: tl.tensor,  # (V, d)
    bias_ptr: tl.tensor,  # (V,)
    rows: tl.tensor,  # (BLOCK_N,) int64; from N on they repeat the last one
    columns: tl.tensor,  # (BLOCK_V,) int64; from V on their sums are -inf
    num_rows: int,
    out_width: int,
    width: int,
    hidden_stride: int,
    weight_stride: int,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IS_EVEN_D: tl.constexpr,
) -> tl.tensor:
    """Return a tile of ``hidden @ weight.T + bias``, float32, ``(BLOCK_N, BLOCK_V)``."""
    # Rows and columns beyond the end are clamped: a mask on every load would cost more.
    offsets = tl.arange(0, BLOCK_D)
    hidden_rows = hidden_ptr + tl.minimum(rows, num_rows - 1)[:, None] * hidden_stride
    weight_rows = weight_ptr + tl.minimum(columns, out_width - 1)[:, None] * weight_stride
    sums = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
    for start in range(0, width, BLOCK_D):
        at = (start + offsets)[None, :]
        if IS_EVEN_D:
            x = tl.load(hidden_rows + at)
            w = tl.load(weight_rows + at)
        else:
            x = tl.load(hidden_rows + at, mask=at < width, other=0.0)
            w = tl.load(weight_rows + at, mask=at < width, other=0.0)
        # TF32, the default of float32, keeps ten bits of the mantissa.
        sums = tl.dot(x, tl.trans(w), sums, input_precision="ieee")
    bias = tl.load(bias_ptr + columns, mask=columns < out_width, other=-float("inf"))
    return sums + bias[None, :]


@triton.jit
def tile_sumexp(logits: tl.tensor, largest: tl.tensor) -> tl.tensor:
    """Return each row's sum of ``exp(logits - largest)``; 0 for a row of -inf."""
    shift = tl.where(largest == -float("inf"), 0.0, largest)
    return tl.sum(tl.exp(logits - shift[:, None]), 1)


@triton.jit
def logsumexp_of_tiles(
    largest_ptr: tl.tensor,  # (N, num_tiles) float32
    sumexp_ptr: tl.tensor,  # (N, num_tiles) float32
    row: tl.tensor,  # scalar, int64
    num_tiles: int,
    TILES: tl.constexpr,
) -> tl.tensor:
    """Return the row's log-sum-exp from those of its tiles; -inf for a row of -inf."""
    at = tl.arange(0, TILES)
    inside = at < num_tiles
    at = row * num_tiles + at
    largest = tl.load(largest_ptr + at, mask=inside, other=-float("inf"))
    sumexp = tl.load(sumexp_ptr + at, mask=inside, other=0.0)
    top = tl.max(largest, 0)
    shift = tl.where(top == -float("inf"), 0.0, top)
    return shift + tl.log(tl.sum(sumexp * tl.exp(largest - shift), 0))
