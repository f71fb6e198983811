"""Log-probability of given tokens: linear, log-softmax and gather.

    logprob[i] = log_softmax(hidden[i] @ weight.T + bias)[target[i]]

The kernel never writes the logits ``(N, V)``: a program computes one tile of them and leaves each
row's maximum and sum of exponentials there, 8 N V/128 bytes in all; a second kernel combines them.
Source: the online softmax (arXiv 1805.02867), its tiles taken side by side.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from quals_fast_kernels._compat import tl, triton
from quals_fast_kernels._launch import (
    cdiv,
    check_tensor,
    next_power_of_2,
    on_device_of,
    require_triton,
)
from quals_fast_kernels._linear import (
    check_linear,
    linear_tile,
    logsumexp_of_tiles,
    tile_sumexp,
    tiles_of,
)

_MAX_ROWS = 512  # rows of logits alive at once: 512 x 50,265 float32 are 103 MB


def linear_logprob_ref(
    hidden: Tensor,  # (N, d)
    weight: Tensor,  # (V, d)
    bias: Tensor,  # (V,) float32
    target_ids: Tensor,  # (N,) int64
) -> Tensor:
    """Return the log-probability of each row's target token; eager torch.

    Returns:
        Float32, nats. Shape ``(N,)``.
    """
    parts = []
    for rows, targets in zip(hidden.split(_MAX_ROWS), target_ids.split(_MAX_ROWS), strict=True):
        logits = F.linear(rows, weight).float().add_(bias)  # (_MAX_ROWS, V)
        chosen = logits.gather(-1, targets[:, None])[:, 0]
        parts.append(chosen - logits.logsumexp(-1))
    return torch.cat(parts)


@triton.jit
def _linear_logprob_kernel(
    hidden_ptr: tl.tensor,  # (N, d)
    weight_ptr: tl.tensor,  # (V, d)
    bias_ptr: tl.tensor,  # (V,) float32
    target_ptr: tl.tensor,  # (N,) int64
    largest_ptr: tl.tensor,  # (N, num_tiles) float32, written
    sumexp_ptr: tl.tensor,  # (N, num_tiles) float32, written
    chosen_ptr: tl.tensor,  # (N,) float32, written: the target's logit
    num_rows: int,
    vocab_size: int,
    width: int,
    hidden_stride: int,
    weight_stride: int,
    num_tiles: int,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IS_EVEN_D: tl.constexpr,
) -> None:
    """Reduce one tile of logits; the tile that holds a row's target also writes its logit."""
    tile = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tile * BLOCK_V + tl.arange(0, BLOCK_V)
    logits = linear_tile(
        hidden_ptr,
        weight_ptr,
        bias_ptr,
        rows,
        columns,
        num_rows,
        vocab_size,
        width,
        hidden_stride,
        weight_stride,
        BLOCK_N=BLOCK_N,
        BLOCK_V=BLOCK_V,
        BLOCK_D=BLOCK_D,
        IS_EVEN_D=IS_EVEN_D,
    )
    is_row = rows < num_rows
    largest = tl.max(logits, 1)
    tl.store(largest_ptr + rows * num_tiles + tile, largest, mask=is_row)
    sumexp = tile_sumexp(logits, largest)
    tl.store(sumexp_ptr + rows * num_tiles + tile, sumexp, mask=is_row)
    targets = tl.load(target_ptr + rows, mask=is_row, other=0)
    chosen = tl.max(tl.where(columns[None, :] == targets[:, None], logits, -float("inf")), 1)
    # An id outside the vocabulary belongs to an end tile, so that its row is written, too.
    owner = tl.minimum(tl.maximum(targets // BLOCK_V, 0), num_tiles - 1)
    tl.store(chosen_ptr + rows, chosen, mask=is_row & (owner == tile))


@triton.jit
def _combine_kernel(
    largest_ptr: tl.tensor,  # (N, num_tiles) float32
    sumexp_ptr: tl.tensor,  # (N, num_tiles) float32
    chosen_ptr: tl.tensor,  # (N,) float32
    logprob_ptr: tl.tensor,  # (N,) float32, written
    num_tiles: int,
    TILES: tl.constexpr,
) -> None:
    """Turn one row's target logit into its log-probability."""
    row = tl.program_id(0).to(tl.int64)
    lse = logsumexp_of_tiles(largest_ptr, sumexp_ptr, row, num_tiles, TILES=TILES)
    tl.store(logprob_ptr + row, tl.load(chosen_ptr + row) - lse)


def linear_logprob_triton(
    hidden: Tensor,  # (N, d)
    weight: Tensor,  # (V, d)
    bias: Tensor,  # (V,) float32
    target_ids: Tensor,  # (N,) int64
) -> Tensor:
    """Return the log-probability of each row's target token; Triton.

    Logits stay in float32 from the product on, where the reference rounds them to the dtype of
    `hidden`. A row's result is the same to the last bit whatever rows are beside it.

    Args:
        hidden: decoder states, float32, float16 or bfloat16. Shape ``(N, d)``; rows may be strided.
        weight: LM head, of the same dtype. Shape ``(V, d)``; rows may be strided.
        bias: added to the logits; -inf takes a token out of the vocabulary. Shape ``(V,)``.
        target_ids: below V, which is not checked: it would take a host read. The log-probability of
            any other id is -inf.

    Returns:
        Float32, nats. Shape ``(N,)``.

    Raises:
        TypeError: a dtype that is not taken.
        ValueError: shapes or devices that do not fit, or a last dimension that is not contiguous.
        ModuleNotFoundError: Triton is not installed.
    """
    check_linear(hidden, weight, bias)
    num_rows, width = hidden.shape
    check_tensor(
        "target_ids", target_ids, shape=(num_rows,), dtypes=(torch.int64,), device=hidden.device
    )
    require_triton()
    logprobs = torch.empty(num_rows, dtype=torch.float32, device=hidden.device)
    if not num_rows:
        return logprobs
    tiles = tiles_of(hidden)
    num_tiles = cdiv(weight.shape[0], tiles.BLOCK_V)
    largest, sumexp = torch.empty(
        (2, num_rows, num_tiles), dtype=torch.float32, device=hidden.device
    )
    chosen = torch.empty_like(logprobs)
    with on_device_of(hidden):
        # Row blocks first: those that run together read the same part of the weights.
        _linear_logprob_kernel[cdiv(num_rows, tiles.BLOCK_N), num_tiles](
            hidden_ptr=hidden,
            weight_ptr=weight,
            bias_ptr=bias,
            target_ptr=target_ids,
            largest_ptr=largest,
            sumexp_ptr=sumexp,
            chosen_ptr=chosen,
            num_rows=num_rows,
            vocab_size=weight.shape[0],
            width=width,
            hidden_stride=hidden.stride(0),
            weight_stride=weight.stride(0),
            num_tiles=num_tiles,
            **tiles._asdict(),
        )
        _combine_kernel[(num_rows,)](
            largest_ptr=largest,
            sumexp_ptr=sumexp,
            chosen_ptr=chosen,
            logprob_ptr=logprobs,
            num_tiles=num_tiles,
            TILES=next_power_of_2(num_tiles),
        )
    return logprobs
