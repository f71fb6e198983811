"""Attention of many queries to the source that they share, some of whose tokens are padding.

    out[b, n, h] = softmax(query[b, n, h] . keys[b, h, s] / sqrt(D) + bias[h, s - n])
                   values[b, h, s],  mask[b, s]

Shapes: B sources, N queries each (beams, or the positions of all targets), H heads, S tokens.
Bytes: query and out once, keys and values once for every 64 queries, of which the cache serves all
but the first. Heads may lie anywhere, so neither a transposed copy nor a mask of numbers is made. A
bias depends on the distance alone: H*(N+S-1) numbers that stay in the cache, where one for each
pair of positions would be H*N*S.
Source: arXiv 2205.14135 (softmax in one pass, block by block).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from quals_fast_kernels._compat import tl, triton
from quals_fast_kernels._launch import (
    FLOATS,
    cdiv,
    check_head_size,
    check_tensor,
    next_power_of_2,
    on_device_of,
    require_triton,
)

_BLOCK_N = 64  # queries a program: the 60 beams of one summary
_BLOCK_S = 64  # source tokens a turn


def source_attention_ref(
    query: Tensor,  # (B, N, H, D)
    keys: Tensor,  # (B, H, S, D)
    values: Tensor,  # (B, H, S, D)
    mask: Tensor,  # (B, 1, 1, S)
    bias: Tensor | None = None,  # (H, N + S - 1)
) -> Tensor:
    """Attend with all queries of a row to the tokens of its source; eager torch.

    Args:
        query: N of each source.
        keys: of the sources.
        values: likewise.
        mask: True where a token stands, at least one in each row; or what to add to the scores.
        bias: added to the scores by distance, from 1 - N (the last query to the first token) to
            S - 1 (the first query to the last token). None for nothing; otherwise the mask must be
            bool.

    Returns:
        What `F.scaled_dot_product_attention` gives, in the query's dtype. Shape ``(B, N, H, D)``.
    """
    if bias is not None:
        num_queries, num_tokens = query.shape[1], keys.shape[2]
        n, s = (torch.arange(size, device=bias.device) for size in (num_queries, num_tokens))
        mask = torch.where(mask, bias[:, s - n[:, None] + num_queries - 1], -torch.inf)
    out = F.scaled_dot_product_attention(query.transpose(1, 2), keys, values, attn_mask=mask)
    return out.transpose(1, 2)


@triton.jit
def _source_attention_kernel(
    query_ptr: tl.tensor,  # (B, N, H, D)
    keys_ptr: tl.tensor,  # (B, H, S, D)
    values_ptr: tl.tensor,  # (B, H, S, D), strides of keys
    mask_ptr: tl.tensor,  # (B, 1, 1, S) bool
    bias_ptr: tl.tensor,  # (H, N + S - 1); not read without HAS_BIAS
    out_ptr: tl.tensor,  # (B, N, H, D), contiguous
    num_queries: int,
    num_tokens: int,
    scale: float,
    query_stride_b: int,
    query_stride_n: int,
    query_stride_h: int,
    source_stride_b: int,
    source_stride_h: int,
    source_stride_s: int,
    mask_stride_b: int,
    bias_stride_h: int,
    D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_MASK: tl.constexpr,
) -> None:
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    h = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    inside = (n < num_queries)[:, None] & (d < D)[None, :]
    query_ptr += b * query_stride_b + h * query_stride_h
    query = tl.load(query_ptr + n[:, None] * query_stride_n + d[None, :], mask=inside, other=0.0)
    mask_ptr += b * mask_stride_b
    # The padding behind the last token is not read, so that bits do not depend on its length.
    token = tl.arange(0, BLOCK_MASK)
    is_source = tl.load(mask_ptr + token, mask=token < num_tokens, other=0) != 0
    end = tl.max(tl.where(is_source, token + 1, 0), axis=0)
    source = b * source_stride_b + h * source_stride_h
    # Finite, since a block before the first token has no score: exp(-inf + inf) is NaN.
    highest = tl.full((BLOCK_N,), -1e38, tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    attended = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, end, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        stands = tl.load(mask_ptr + s, mask=s < end, other=0) != 0
        at = source + s.to(tl.int64)[:, None] * source_stride_s + d[None, :]
        loaded = stands[:, None] & (d < D)[None, :]
        key = tl.load(keys_ptr + at, mask=loaded, other=0.0)
        value = tl.load(values_ptr + at, mask=loaded, other=0.0)
        # TF32, the default of float32, keeps ten bits of the mantissa.
        score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        if HAS_BIAS:
            distance = s[None, :] - n[:, None]  # the lowest, 1 - N, comes first
            biased = stands[None, :] & (n < num_queries)[:, None]
            at = h * bias_stride_h + distance + num_queries - 1
            score += tl.load(bias_ptr + at, mask=biased, other=0.0).to(tl.float32)
        score = tl.where(stands[None, :], score, -float("inf"))
        before = highest
        highest = tl.maximum(before, tl.max(score, axis=1))
        weight = tl.exp(score - highest[:, None])
        fade = tl.exp(before - highest)
        total = total * fade + tl.sum(weight, axis=1)
        attended = tl.dot(
            weight.to(value.dtype), value, attended * fade[:, None], input_precision="ieee"
        )
    attended = (attended / total[:, None]).to(out_ptr.dtype.element_ty)
    row = (b * num_queries + n) * tl.num_programs(1) + h
    tl.store(out_ptr + row[:, None] * D + d[None, :], attended, mask=inside)


def source_attention_triton(
    query: Tensor,  # (B, N, H, D)
    keys: Tensor,  # (B, H, S, D)
    values: Tensor,  # (B, H, S, D)
    mask: Tensor,  # (B, 1, 1, S)
    bias: Tensor | None = None,  # (H, N + S - 1)
) -> Tensor:
    """Attend as `source_attention_ref` does; sums in float32.

    A query's result depends neither on the others nor on what is masked. Each row of the mask must
    be true somewhere, as no source is empty; this is not tested, and gives NaN otherwise.

    Args:
        query: float32, float16 or bfloat16; D a multiple of 8, at most 128.
        keys: the query's dtype.
        values: the query's dtype and the keys' strides.
        mask: bool, contiguous in S.
        bias: float32, float16 or bfloat16; None for nothing.

    Returns:
        In the query's dtype, contiguous. Shape ``(B, N, H, D)``.

    Raises:
        ValueError: a shape, device or stride that does not fit.
        TypeError: a dtype that does not fit.
    """
    require_triton()
    _check(query, keys, values, mask, bias)
    batch, num_queries, heads, width = query.shape
    num_tokens = keys.shape[2]
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    if not out.numel():
        return out
    with on_device_of(query):
        _source_attention_kernel[(cdiv(num_queries, _BLOCK_N), heads, batch)](
            query_ptr=query,
            keys_ptr=keys,
            values_ptr=values,
            mask_ptr=mask,
            bias_ptr=out if bias is None else bias,
            out_ptr=out,
            num_queries=num_queries,
            num_tokens=num_tokens,
            scale=width**-0.5,
            query_stride_b=query.stride(0),
            query_stride_n=query.stride(1),
            query_stride_h=query.stride(2),
            source_stride_b=keys.stride(0),
            source_stride_h=keys.stride(1),
            source_stride_s=keys.stride(2),
            mask_stride_b=mask.stride(0),
            bias_stride_h=0 if bias is None else bias.stride(0),
            D=width,
            HAS_BIAS=bias is not None,
            BLOCK_D=max(next_power_of_2(width), 16),  # the least that tl.dot takes
            BLOCK_N=_BLOCK_N,
            BLOCK_S=_BLOCK_S,
            BLOCK_MASK=next_power_of_2(num_tokens),
            num_warps=4,
            num_stages=2,
        )
    return out


def _check(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, bias: Tensor | None) -> None:
    device, same = query.device, (query.dtype,)
    check_tensor("query", query, shape=(None,) * 4, dtypes=FLOATS, device=device)
    check_head_size("query", query)
    batch, num_queries, heads, width = query.shape
    source = (batch, heads, None, width)
    check_tensor("keys", keys, shape=source, dtypes=same, device=device)
    check_tensor("values", values, shape=tuple(keys.shape), dtypes=same, device=device)
    if values.stride() != keys.stride():
        raise ValueError(
            f"`values` must have the strides of `keys`, {keys.stride()}, but got {values.stride()}"
        )
    if not keys.shape[2]:
        raise ValueError(f"`keys` must hold a token or more, but got shape {tuple(keys.shape)}")
    padding = (batch, 1, 1, keys.shape[2])
    check_tensor("mask", mask, shape=padding, dtypes=(torch.bool,), device=device)
    if bias is not None:
        distances = (heads, num_queries + keys.shape[2] - 1)
        check_tensor("bias", bias, shape=distances, dtypes=FLOATS, device=device)
