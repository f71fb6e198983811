"""LayerNorm of a residual sum, in one pass.

    out[n] = (z - mean(z)) / sqrt(var(z) + eps) * weight + bias,  z = x[n] + residual[n]

Shapes: N rows of width d. Bytes: 3*N*d elements, where a sum that is stored takes 5*N*d.
Source: arXiv 1607.06450.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from quals_fast_kernels._compat import tl, triton
from quals_fast_kernels._launch import (
    FLOATS,
    check_tensor,
    next_power_of_2,
    on_device_of,
    require_triton,
)

_MAX_WIDTH = 8192  # a row is held in registers


def add_layer_norm_ref(
    x: Tensor,  # (..., d)
    residual: Tensor,  # (..., d)
    weight: Tensor,  # (d,)
    bias: Tensor,  # (d,)
    eps: float,
) -> Tensor:
    """Normalise the sum of two tensors along its last dimension; eager torch.

    Args:
        x: one of them.
        residual: the other; one of fewer dimensions is added to each of the first ones.
        weight: of the norm.
        bias: of the norm.
        eps: added to the variance.

    Returns:
        Shape ``(..., d)``, in the dtype of `x`.
    """
    return F.layer_norm(x + residual, weight.shape, weight, bias, eps)


@triton.jit
def _add_layer_norm_kernel(
    x_ptr: tl.tensor,  # (N, d)
    residual_ptr: tl.tensor,  # (M, d); row n adds row n mod M
    weight_ptr: tl.tensor,  # (d,)
    bias_ptr: tl.tensor,  # (d,)
    out_ptr: tl.tensor,  # (N, d), contiguous
    num_residuals: int,
    width: int,
    eps: float,
    x_stride: int,
    residual_stride: int,
    BLOCK_D: tl.constexpr,
) -> None:
    n = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    inside = d < width
    x = tl.load(x_ptr + n * x_stride + d, mask=inside, other=0.0).to(tl.float32)
    residual_ptr += (n % num_residuals) * residual_stride
    residual = tl.load(residual_ptr + d, mask=inside, other=0.0)
    weight = tl.load(weight_ptr + d, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + d, mask=inside, other=0.0).to(tl.float32)
    x += residual.to(tl.float32)
    centred = tl.where(inside, x - tl.sum(x, axis=0) / width, 0.0)
    variance = tl.sum(centred * centred, axis=0) / width
    normed = centred / tl.sqrt(variance + eps) * weight + bias
    tl.store(out_ptr + n * width + d, normed.to(out_ptr.dtype.element_ty), mask=inside)


def add_layer_norm_triton(
    x: Tensor,  # (..., d)
    residual: Tensor,  # (..., d)
    weight: Tensor,  # (d,)
    bias: Tensor,  # (d,)
    eps: float,
) -> Tensor:
    """Normalise as `add_layer_norm_ref` does; sum and statistics in float32.

    Rows that do not lie at equal distances are copied first.

    Args:
        x: float32, float16 or bfloat16; d at most 8192.
        residual: the dtype of `x`, and its shape or that of its last dimensions.
        weight: the dtype of `x`.
        bias: likewise.
        eps: added to the variance.

    Returns:
        In the dtype of `x`, contiguous. Shape ``(..., d)``.

    Raises:
        ValueError: a shape, device or stride that does not fit.
        TypeError: a dtype that does not fit.
    """
    require_triton()
    _check(x, residual, weight, bias)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if not out.numel():
        return out
    width = x.shape[-1]
    x, residual = x.reshape(-1, width), residual.reshape(-1, width)
    block = next_power_of_2(width)
    with on_device_of(x):
        _add_layer_norm_kernel[(len(x),)](
            x_ptr=x,
            residual_ptr=residual,
            weight_ptr=weight,
            bias_ptr=bias,
            out_ptr=out,
            num_residuals=len(residual),
            width=width,
            eps=eps,
            x_stride=x.stride(0),
            residual_stride=residual.stride(0),
            BLOCK_D=block,
            num_warps=min(max(block // 256, 1), 8),  # 16 bytes of float16 a thread
        )
    return out


def _check(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> None:
    if x.ndim < 2 or not 0 < x.shape[-1] <= _MAX_WIDTH:
        raise ValueError(
            f"`x` must have shape (..., d) with d from 1 to {_MAX_WIDTH}, but got {tuple(x.shape)}"
        )
    device, same = x.device, (x.dtype,)
    check_tensor("x", x, shape=tuple(x.shape), dtypes=FLOATS, device=device)
    shape = x.shape[-residual.ndim :] if residual.ndim else x.shape
    check_tensor("residual", residual, shape=tuple(shape), dtypes=same, device=device)
    for name, tensor in (("weight", weight), ("bias", bias)):
        check_tensor(name, tensor, shape=x.shape[-1:], dtypes=same, device=device)
