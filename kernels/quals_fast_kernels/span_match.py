"""Which needles are a contiguous run of their row's haystack: answers in a summary.

    found[b, n] = any over s: haystack[b, s : s + length[b, n]] == needles[b, n, : length[b, n]]

Bytes moved: each program reads its needle once and its haystack once from memory; further reads of
the haystack, one for each token of the needle that still matches somewhere, come from the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from quals_fast_kernels._compat import tl, triton
from quals_fast_kernels._launch import check_tensor, on_device_of, require_triton

_BLOCK_S = 256  # starts that one program looks at together


def span_match_ref(
    haystack: Tensor,  # (B, S) int32 or int64
    haystack_lengths: Tensor,  # (B,) int64
    needles: Tensor,  # (B, N, T), the haystack's dtype
    needle_lengths: Tensor,  # (B, N) int64
) -> Tensor:
    """Return which needles stand in their row's haystack; eager torch.

    Args:
        haystack: token ids or code points. What stands behind its length does not matter.
        haystack_lengths: from 0 to S.
        needles: N of them for each haystack. What stands behind a length does not matter.
        needle_lengths: from 0 to T; an empty needle is not found.

    Returns:
        Bool. Shape ``(B, N)``.
    """
    width, longest = haystack.shape[1], needles.shape[2]
    starts = torch.arange(width, device=haystack.device)
    room = haystack_lengths[:, None] - needle_lengths  # (B, N): the last start that fits
    alive = (starts <= room[:, :, None]) & (needle_lengths > 0)[:, :, None]  # (B, N, S)
    padded = F.pad(haystack, (0, longest))
    for k in range(min(width, longest)):  # a longer needle has no room anyway
        same = padded[:, None, k : k + width] == needles[:, :, k, None]
        alive &= same | (k >= needle_lengths)[:, :, None]
    return alive.any(-1)


@triton.jit
def _span_match_kernel(
    haystack_ptr: tl.tensor,  # (B, S), last dimension contiguous
    haystack_lengths_ptr: tl.tensor,  # (B,)
    needles_ptr: tl.tensor,  # (B, N, T), last dimension contiguous
    needle_lengths_ptr: tl.tensor,  # (B, N), contiguous
    found_ptr: tl.tensor,  # (B, N) bool, contiguous
    num_needles: int,  # N
    haystack_stride: int,
    needle_stride_b: int,
    needle_stride_n: int,
    BLOCK_S: tl.constexpr,
) -> None:
    program = tl.program_id(0).to(tl.int64)
    b = program // num_needles
    n = program % num_needles
    length = tl.load(needle_lengths_ptr + program)
    last = tl.load(haystack_lengths_ptr + b) - length
    last = tl.where(length > 0, last, -1)
    row = haystack_ptr + b * haystack_stride
    needle = needles_ptr + b * needle_stride_b + n * needle_stride_n
    hits = 0
    start = last * 0
    while start <= last:
        starts = start + tl.arange(0, BLOCK_S)
        alive = (starts <= last).to(tl.int32)
        k = length * 0
        end = length
        while k < end:
            token = tl.load(needle + k)
            seen = tl.load(row + starts + k, mask=alive > 0, other=0)
            alive = tl.where(seen == token, alive, 0)
            k += 1
            end = tl.where(tl.max(alive, axis=0) > 0, end, 0)  # nobody is left: stop
        hits = tl.maximum(hits, tl.max(alive, axis=0))
        # One match is enough: then the next block lies behind the last start.
        start = tl.where(hits > 0, last + 1, start + BLOCK_S)
    tl.store(found_ptr + program, hits > 0)


def span_match_triton(
    haystack: Tensor, haystack_lengths: Tensor, needles: Tensor, needle_lengths: Tensor
) -> Tensor:
    """Return which needles stand in their row's haystack; one program a needle.

    Arguments and result as of `span_match_ref`. Lengths must be within their bounds: nothing here
    looks at them.

    Raises:
        TypeError: a dtype that the operation does not take.
        ValueError: shapes, devices or strides that do not fit.
        ModuleNotFoundError: there is no Triton.
    """
    require_triton()
    batch, device = haystack.shape[0], haystack.device
    check_tensor(
        "haystack", haystack, shape=(None, None), dtypes=(torch.int32, torch.int64), device=device
    )
    check_tensor(
        "needles", needles, shape=(batch, None, None), dtypes=(haystack.dtype,), device=device
    )
    num_needles = needles.shape[1]
    for name, lengths, shape in (
        ("haystack_lengths", haystack_lengths, (batch,)),
        ("needle_lengths", needle_lengths, (batch, num_needles)),
    ):
        check_tensor(name, lengths, shape=shape, dtypes=(torch.int64,), device=device)
    found = torch.empty(batch, num_needles, dtype=torch.bool, device=device)
    if found.numel():
        with on_device_of(haystack):
            _span_match_kernel[(found.numel(),)](
                haystack_ptr=haystack,
                haystack_lengths_ptr=haystack_lengths.contiguous(),
                needles_ptr=needles,
                needle_lengths_ptr=needle_lengths.contiguous(),
                found_ptr=found,
                num_needles=num_needles,
                haystack_stride=haystack.stride(0),
                needle_stride_b=needles.stride(0),
                needle_stride_n=needles.stride(1),
                BLOCK_S=_BLOCK_S,
            )
    return found
