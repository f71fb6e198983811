"""Attention of one new token a slot to its past, which other slots may have stored, and to itself.

    out[b, k, h] = softmax(query[b, k, h] . past_key[s] / sqrt(D) + bias[h, s]) past_value[s],
    s < length
    past_key[s] = keys[b, index[b, k, s], h, s] for s < length - 1, then key[b, k, h]
    keys[b, k, h, length - 1] = key[b, k, h];  values likewise

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
    check_head_size,
    check_tensor,
    next_power_of_2,
    on_device_of,
    require_triton,
)

_TILE = 1024  # numbers a turn, BLOCK_T * BLOCK_D: 16 positions of 64, so that short pasts fill it


def beam_attention_ref(
    query: Tensor,  # (B, K, H, D)
    key: Tensor,  # (B, K, H, D)
    value: Tensor,  # (B, K, H, D)
    keys: Tensor,  # (B, M, H, T, D)
    values: Tensor,  # (B, M, H, T, D)
    index: Tensor,  # (B, K, >= length) int32 or int64
    length: int,
    bias: Tensor | None = None,  # (H, length)
) -> Tensor:
    """Store the newest token's key and value and attend to all positions; eager torch.

    Args:
        query: of the newest token.
        key: of the newest token.
        value: likewise.
        keys: as stored, M >= K. Position ``length - 1`` of the first K slots is written to; what
            stands there and behind it does not matter.
        values: likewise.
        index: the stored slot that holds each position of slot k's past; from 0 to M - 1. Entries
            from ``length - 1`` on do not matter: the newest token is slot k's own.
        length: positions to attend to, the newest one included; from 1 to T.
        bias: added to the scores of all slots; None for nothing.

    Returns:
        What `F.scaled_dot_product_attention` gives, in the query's dtype. Shape ``(B, K, H, D)``.
    """
    _, num_beams, heads, width = query.shape
    newest = length - 1
    rows = index[:, :, None, :newest, None].long().expand(-1, -1, heads, -1, width)

    def stored(store: Tensor, new: Tensor) -> Tensor:
        store[:, :num_beams, :, newest] = new
        past = store[:, :, :, :newest].gather(1, rows)
        return torch.cat([past, new[:, :, :, None]], 3).flatten(0, 1)  # (B*K, H, length, D)

    attended = F.scaled_dot_product_attention(
        query.flatten(0, 1)[:, :, None],
        stored(keys, key),
        stored(values, value),
        attn_mask=None if bias is None else bias[:, None],
    )  # (B*K, H, 1, D)
    return attended.reshape(query.shape)


@triton.jit
def _beam_attention_kernel(
    query_ptr: tl.tensor,  # (B, K, H, D)
    key_ptr: tl.tensor,  # (B, K, H, D), strides of query
    value_ptr: tl.tensor,  # (B, K, H, D), strides of query
    keys_ptr: tl.tensor,  # (B, M, H, T, D)
    values_ptr: tl.tensor,  # (B, M, H, T, D), strides of keys
    index_ptr: tl.tensor,  # (B, K, >= length)
    bias_ptr: tl.tensor,  # (H, length); not read without HAS_BIAS
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
    bias_stride_h: int,
    D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
) -> None:
    # Slots vary fastest: those of one sentence and head run together and share what they read.
    k = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    new = b * query_stride_b + k * query_stride_k + h * query_stride_h + d
    query = tl.load(query_ptr + new, mask=d < D, other=0.0).to(tl.float32) * scale
    new_key = tl.load(key_ptr + new, mask=d < D, other=0.0)
    new_value = tl.load(value_ptr + new, mask=d < D, other=0.0)
    index_ptr += b * index_stride_b + k * index_stride_k
    store = b * store_stride_b + h * store_stride_h
    # No other program reads what is written here: every past ends one position before.
    newest = store + k * store_stride_k + (length - 1) * store_stride_t + d
    tl.store(keys_ptr + newest, new_key, mask=d < D)
    tl.store(values_ptr + newest, new_value, mask=d < D)
    highest = tl.sum(new_key.to(tl.float32) * query, axis=0)
    if HAS_BIAS:
        bias_ptr += h * bias_stride_h
        highest += tl.load(bias_ptr + length - 1).to(tl.float32)
    total = 1.0
    attended = new_value.to(tl.float32)
    for start in range(0, length - 1, BLOCK_T):
        position = start + tl.arange(0, BLOCK_T)
        is_past = position < length - 1
        slot = tl.load(index_ptr + position, mask=is_past, other=0).to(tl.int64)
        at = (store + slot * store_stride_k + position.to(tl.int64) * store_stride_t)[:, None] + d[
            None, :
        ]
        mask = is_past[:, None] & (d < D)[None, :]
        key = tl.load(keys_ptr + at, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(values_ptr + at, mask=mask, other=0.0).to(tl.float32)
        score = tl.sum(key * query[None, :], axis=1)
        if HAS_BIAS:
            score += tl.load(bias_ptr + position, mask=is_past, other=0.0).to(tl.float32)
        score = tl.where(is_past, score, -float("inf"))
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
    key: Tensor,  # (B, K, H, D)
    value: Tensor,  # (B, K, H, D)
    keys: Tensor,  # (B, M, H, T, D)
    values: Tensor,  # (B, M, H, T, D)
    index: Tensor,  # (B, K, >= length) int32 or int64
    length: int,
    bias: Tensor | None = None,  # (H, length)
) -> Tensor:
    """Store and attend as `beam_attention_ref` does, without a copy of the past; float32 inside.

    A slot's result does not depend on the others'. Entries of `index` must lie in ``[0, M)``, which
    is not tested.

    Args:
        query: float32, float16 or bfloat16; D a multiple of 8, at most 128.
        key: the query's dtype and strides.
        value: likewise.
        keys: the query's dtype. Written to as the reference does.
        values: the query's dtype and the keys' strides.
        index: as `beam_attention_ref` takes it.
        length: likewise.
        bias: float32, float16 or bfloat16; None for nothing.

    Returns:
        In the query's dtype, contiguous. Shape ``(B, K, H, D)``.

    Raises:
        ValueError: a shape, device, stride or length that does not fit.
        TypeError: a dtype that does not fit.
    """
    require_triton()
    _check(query, key, value, keys, values, index, length, bias)
    batch, num_beams, heads, width = query.shape
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    block_d = next_power_of_2(width)
    block_t = min(max(next_power_of_2(keys.shape[3]), 16), _TILE // block_d)
    if not out.numel():
        return out
    with on_device_of(query):
        _beam_attention_kernel[(num_beams, heads, batch)](
            query_ptr=query,
            key_ptr=key,
            value_ptr=value,
            keys_ptr=keys,
            values_ptr=values,
            index_ptr=index,
            bias_ptr=out if bias is None else bias,
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
            bias_stride_h=0 if bias is None else bias.stride(0),
            D=width,
            HAS_BIAS=bias is not None,
            BLOCK_D=block_d,
            BLOCK_T=block_t,
            num_warps=min(max(block_d * block_t // 1024, 1), 4),
            num_stages=1,
        )
    return out


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    index: Tensor,
    length: int,
    bias: Tensor | None,
) -> None:
    device, same = query.device, (query.dtype,)
    check_tensor("query", query, shape=(None,) * 4, dtypes=FLOATS, device=device)
    check_head_size("query", query)
    batch, num_beams, heads, width = query.shape
    check_tensor("key", key, shape=tuple(query.shape), dtypes=same, device=device)
    check_tensor("value", value, shape=tuple(query.shape), dtypes=same, device=device)
    stored = (batch, None, heads, None, width)
    check_tensor("keys", keys, shape=stored, dtypes=same, device=device)
    check_tensor("values", values, shape=tuple(keys.shape), dtypes=same, device=device)
    pairs = (("key", key, "query", query), ("value", value, "query", query))
    for name, tensor, other, like in (*pairs, ("values", values, "keys", keys)):
        if tensor.stride() != like.stride():
            raise ValueError(
                f"`{name}` must have the strides of `{other}`, {like.stride()}, but got "
                f"{tensor.stride()}"
            )
    if keys.shape[1] < num_beams:
        raise ValueError(
            f"`keys` must have room for the {num_beams} slots of `query`, but got {keys.shape[1]}"
        )
    dtypes = (torch.int32, torch.int64)
    check_tensor("index", index, shape=(batch, num_beams, None), dtypes=dtypes, device=device)
    if not 1 <= length <= min(keys.shape[3], index.shape[2]):
        raise ValueError(
            f"`length` must be from 1 to the {keys.shape[3]} positions of `keys` and the "
            f"{index.shape[2]} of `index`, but got {length}"
        )
    if bias is not None:
        check_tensor("bias", bias, shape=(heads, length), dtypes=FLOATS, device=device)
