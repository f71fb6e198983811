"""Attention of one new token a slot to its past, which other slots may have stored.

    out[b, k, h] = softmax(query[b, k, h] . key[s] / sqrt(D)) value[s],  s = 0 .. length - 1
    key[s] = keys[b, index[b, k, s], h, s];  value[s] likewise

Whoever moves the slots permutes ``index`` and leaves keys and values where they were written, so
a step moves 4 bytes a position and slot in place of 4*H*D in each layer.
Shapes: B sentences, K slots, M stored slots (M = K but in tests and first steps), H heads, T room.
Bytes: B*K*H*length*2*D elements are read, of which slots with a common past share those in the
cache; at least B*H*2*D for each stored (slot, position) that is used. Source: the cache indirection
of FasterTransformer's decoder attention.
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

_MAX_HEAD_DIM = 128
_TILE = 1024  # numbers a turn, BLOCK_T * BLOCK_D: 16 positions of 64, so that short pasts fill it


def beam_attention_ref(
    query: Tensor,  # (B, K, H, D)
    keys: Tensor,  # (B, M, H, T, D)
    values: Tensor,  # (B, M, H, T, D)
    index: Tensor,  # (B, K, >= length) int32 or int64
    length: int,
) -> Tensor:
    """Attend to the first `length` positions through the slot index; eager torch.

    Args:
        query: of the newest token, whose own key and value are already stored.
        keys: as stored. What stands at positions from `length` on does not matter.
        values: likewise.
        index: the stored slot that holds each position of slot k's past; from 0 to M - 1.
        length: positions to attend to, from 1 to T.

    Returns:
        What `F.scaled_dot_product_attention` gives, in the query's dtype. Shape ``(B, K, H, D)``.
    """
    heads, width = query.shape[2:]
    rows = index[:, :, None, :length, None].long().expand(-1, -1, heads, -1, width)
    key, value = (store[:, :, :, :length].gather(1, rows) for store in (keys, values))
    attended = F.scaled_dot_product_attention(
        query.flatten(0, 1)[:, :, None], key.flatten(0, 1), value.flatten(0, 1)
    )  # (B*K, H, 1, D)
    return attended.reshape(query.shape)


@triton.jit
def _beam_attention_kernel(
    query_ptr: tl.tensor,  # (B, K, H, D)
    keys_ptr: tl.tensor,  # (B, M, H, T, D)
    values_ptr: tl.tensor,  # (B, M, H, T, D), strides of keys
    index_ptr: tl.tensor,  # (B, K, >= length)
    out_ptr: tl.tensor,  # (B, K, H, D), contiguous
    length: int,
    scale: float,
    query_stride_b: int,
    query_stride_k: int,
    query_stride_h: int,
    store_stride_b: int,
    store_stride_k: int,
    store_stride_h: int,
    store_stride_t: int,
    index_stride_b: int,
    index_stride_k: int,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
) -> None:
    # Slots vary fastest: those of one sentence and head run together and share what they read.
    k = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    query_ptr += b * query_stride_b + k * query_stride_k + h * query_stride_h
    query = tl.load(query_ptr + d, mask=d < D, other=0.0).to(tl.float32) * scale
    index_ptr += b * index_stride_b + k * index_stride_k
    store = b * store_stride_b + h * store_stride_h
    highest = -float("inf")
    total = 0.0
    attended = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, length, BLOCK_T):
        position = start + tl.arange(0, BLOCK_T)
        is_past = position < length
        slot = tl.load(index_ptr + position, mask=is_past, other=0).to(tl.int64)
        at = (store + slot * store_stride_k + position.to(tl.int64) * store_stride_t)[:, None] + d[
            None, :
        ]
        mask = is_past[:, None] & (d < D)[None, :]
        key = tl.load(keys_ptr + at, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(values_ptr + at, mask=mask, other=0.0).to(tl.float32)
        score = tl.where(is_past, tl.sum(key * query[None, :], axis=1), -float("inf"))
        before = highest
        highest = tl.maximum(before, tl.max(score, axis=0))
        weight = tl.exp(score - highest)
        fade = tl.exp(before - highest)
        total = total * fade + tl.sum(weight, axis=0)
        attended = attended * fade + tl.sum(weight[:, None] * value, axis=0)
    row = (b * tl.num_programs(0) + k) * tl.num_programs(1) + h
    attended = (attended / total).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * D + d, attended, mask=d < D)


def beam_attention_triton(
    query: Tensor,  # (B, K, H, D)
    keys: Tensor,  # (B, M, H, T, D)
    values: Tensor,  # (B, M, H, T, D)
    index: Tensor,  # (B, K, >= length) int32 or int64
    length: int,
) -> Tensor:
    """Attend as `beam_attention_ref` does, without a copy of the past; float32 inside.

    A slot's result does not depend on the others'. Entries of `index` must lie in ``[0, M)``, which
    is not tested.

    Args:
        query: float32, float16 or bfloat16; D a multiple of 8, at most 128.
        keys: the query's dtype.
        values: the query's dtype and the keys' strides.
        index: as `beam_attention_ref` takes it.
        length: likewise.

    Returns:
        In the query's dtype, contiguous. Shape ``(B, K, H, D)``.

    Raises:
        ValueError: a shape, device, stride or length that does not fit.
        TypeError: a dtype that does not fit.
    """
    require_triton()
    _check(query, keys, values, index, length)
    batch, num_beams, heads, width = query.shape
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    block_d = next_power_of_2(width)
    block_t = min(max(next_power_of_2(keys.shape[3]), 16), _TILE // block_d)
    if not out.numel():
        return out
    with on_device_of(query):
        _beam_attention_kernel[(num_beams, heads, batch)](
            query_ptr=query,
            keys_ptr=keys,
            values_ptr=values,
            index_ptr=index,
            out_ptr=out,
            length=length,
            scale=width**-0.5,
            query_stride_b=query.stride(0),
            query_stride_k=query.stride(1),
            query_stride_h=query.stride(2),
            store_stride_b=keys.stride(0),
            store_stride_k=keys.stride(1),
            store_stride_h=keys.stride(2),
            store_stride_t=keys.stride(3),
            index_stride_b=index.stride(0),
            index_stride_k=index.stride(1),
            D=width,
            BLOCK_D=block_d,
            BLOCK_T=block_t,
            num_warps=min(max(block_d * block_t // 1024, 1), 4),
            num_stages=1,
        )
    return out


def _check(query: Tensor, keys: Tensor, values: Tensor, index: Tensor, length: int) -> None:
    device, same = query.device, (query.dtype,)
    check_tensor("query", query, shape=(None,) * 4, dtypes=FLOATS, device=device)
    batch, num_beams, heads, width = query.shape
    if width % 8 or not 0 < width <= _MAX_HEAD_DIM:
        raise ValueError(
            f"`query` must have a head size that is a multiple of 8 up to {_MAX_HEAD_DIM}, "
            f"but got {width}"
        )
    stored = (batch, None, heads, None, width)
    check_tensor("keys", keys, shape=stored, dtypes=same, device=device)
    check_tensor("values", values, shape=tuple(keys.shape), dtypes=same, device=device)
    if values.stride() != keys.stride():
        raise ValueError(
            f"`values` must have the strides of `keys`, {keys.stride()}, but got {values.stride()}"
        )
    dtypes = (torch.int32, torch.int64)
    check_tensor("index", index, shape=(batch, num_beams, None), dtypes=dtypes, device=device)
    if not 1 <= length <= min(keys.shape[3], index.shape[2]):
        raise ValueError(
            f"`length` must be from 1 to the {keys.shape[3]} positions of `keys` and the "
            f"{index.shape[2]} of `index`, but got {length}"
        )


@torch.library.custom_op("quals_fast::beam_attention", mutates_args=())
def beam_attention_op(
    query: Tensor, keys: Tensor, values: Tensor, index: Tensor, length: int
) -> Tensor:
    """`beam_attention_triton` as an operation that the compiler sees as one."""
    return beam_attention_triton(query, keys, values, index, length)


@beam_attention_op.register_fake
def _beam_attention_fake(
    query: Tensor, keys: Tensor, values: Tensor, index: Tensor, length: int
) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)
