"""The first half of a feed-forward: linear and GELU in one kernel.

    out[n, m] = z * (1 + erf(z / sqrt(2))) / 2,  z = x[n] @ weight[m] + bias[m]

Shapes: N rows of width d to width M. The product stays in registers until it is activated, which
saves writing and reading N*M elements, and a launch. cuBLAS fuses only the approximation by tanh.
Source: arXiv 1606.08415.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from quals_fast_kernels._compat import tl, triton
from quals_fast_kernels._launch import cdiv, on_device_of, require_triton
from quals_fast_kernels._linear import Tiles, check_linear, linear_tile, tiles_of


def linear_gelu_ref(
    x: Tensor,  # (..., d)
    weight: Tensor,  # (M, d)
    bias: Tensor,  # (M,)
) -> Tensor:
    """Return the GELU of a linear layer; eager torch.

    Returns:
        Shape ``(..., M)``, in the dtype of `x`.
    """
    return F.gelu(F.linear(x, weight, bias))


@triton.jit
def _linear_gelu_kernel(
    x_ptr: tl.tensor,  # (N, d)
    weight_ptr: tl.tensor,  # (M, d)
    bias_ptr: tl.tensor,  # (M,)
    out_ptr: tl.tensor,  # (N, M), contiguous
    num_rows: int,
    out_width: int,
    width: int,
    x_stride: int,
    weight_stride: int,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IS_EVEN_D: tl.constexpr,
) -> None:
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.program_id(1).to(tl.int64) * BLOCK_V + tl.arange(0, BLOCK_V)
    z = linear_tile(
        x_ptr,
        weight_ptr,
        bias_ptr,
        rows,
        columns,
        num_rows,
        out_width,
        width,
        x_stride,
        weight_stride,
        BLOCK_N=BLOCK_N,
        BLOCK_V=BLOCK_V,
        BLOCK_D=BLOCK_D,
        IS_EVEN_D=IS_EVEN_D,
    )
    activated = 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))
    at = rows[:, None] * out_width + columns[None, :]
    inside = (rows < num_rows)[:, None] & (columns < out_width)[None, :]
    tl.store(out_ptr + at, activated.to(out_ptr.dtype.element_ty), mask=inside)


def linear_gelu_triton(
    x: Tensor,  # (..., d)
    weight: Tensor,  # (M, d)
    bias: Tensor,  # (M,)
) -> Tensor:
    """Return the GELU of a linear layer; Triton.

    The product stays in float32 until it is activated, where the reference rounds it to the dtype
    of `x`. A row's result is the same to the last bit whatever rows are beside it. Rows that do not
    lie at equal distances are copied first.

    Args:
        x: float32, float16 or bfloat16.
        weight: the dtype of `x`; rows may be strided.
        bias: likewise.

    Returns:
        In the dtype of `x`, contiguous. Shape ``(..., M)``.

    Raises:
        TypeError: a dtype that is not taken.
        ValueError: shapes or devices that do not fit, or a last dimension that is not contiguous.
        ModuleNotFoundError: Triton is not installed.
    """
    rows = x.reshape(-1, x.shape[-1])
    check_linear(rows, weight, bias, name="x", bias_dtype=x.dtype)
    require_triton()
    out = x.new_empty(*x.shape[:-1], len(weight))
    if not out.numel():
        return out
    tiles = _tiles_of(rows)
    with on_device_of(x):
        # Row blocks first: those that run together read the same part of the weights.
        _linear_gelu_kernel[cdiv(len(rows), tiles.BLOCK_N), cdiv(len(weight), tiles.BLOCK_V)](
            x_ptr=rows,
            weight_ptr=weight,
            bias_ptr=bias,
            out_ptr=out,
            num_rows=len(rows),
            out_width=len(weight),
            width=x.shape[-1],
            x_stride=rows.stride(0),
            weight_stride=weight.stride(0),
            **tiles._asdict(),
        )
    return out


def _tiles_of(rows: Tensor) -> Tiles:
    """Return tiles as `tiles_of` does, but narrow ones where a single block holds all rows.

    With the 60 beams of one summary, a width of 4,096 is shared by 128 programs then, not by 32.
    Each reads the weights in more stages, since it has a multiprocessor for itself; these take
    72 to 80 KB of shared memory.
    """
    tiles = tiles_of(rows)
    if len(rows) > tiles.BLOCK_N:
        return tiles
    return tiles._replace(BLOCK_V=32, num_stages=6 if tiles.BLOCK_N == 64 else 4)
