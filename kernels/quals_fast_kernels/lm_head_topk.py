"""LM head to candidates: the k likeliest tokens of each row, and their log-probabilities.

    logprobs = log_softmax(hidden @ weight.T + bias);  candidates = top k of logprobs

Only k of V columns leave the operation, since no search rule can ever choose another one
(the exact shortcut: penalties only lower scores, and at most k - 2n tokens are penalised).

The kernel writes the logits ``(N, V)`` in float32, 4 N V bytes (12 MB of 60 rows, which stay in the
L2 cache), and the maximum of every 16 of them. The k runs of 16 with the largest maxima, the lower
run first of equals, hold the k largest logits whatever these are: an element outside has k maxima
before it. So the choice is made twice, among V / 16 maxima and among 16 k logits, and reads no more
than that of each row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from quals_fast_kernels._compat import tl, triton
from quals_fast_kernels._launch import cdiv, next_power_of_2, on_device_of, require_triton
from quals_fast_kernels._linear import (
    check_linear,
    linear_tile,
    logsumexp_of_tiles,
    tile_sumexp,
    tiles_of,
)

RUN = 16  # logits under one maximum
DIGIT_BITS = 2  # of a key, settled by one pass of the selection
SELECT_WARPS = 8, 4  # a row, of up to 64 rows and of more: 6 % faster than 8 at 3,840 on an H100


def lm_head_topk_ref(
    hidden: Tensor,  # (N, d)
    weight: Tensor,  # (V, d)
    bias: Tensor,  # (V,) float32; -inf takes a token out of the vocabulary
    k: int,
    suppressed: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor]:
    """Return the k likeliest tokens of each row; eager torch.

    Args:
        hidden: decoder states. Shape ``(N, d)``. In half precision the logits are rounded to it, as
            `F.linear` does, before all else is done in float32.
        weight: LM head. Shape ``(V, d)``.
        bias: added to the logits in float32. Shape ``(V,)``.
        k: candidates a row; at most V.
        suppressed: token ids that get -inf *after* the softmax, so nothing is renormalised.

    Returns:
        Log-probabilities, float32 nats, and token ids, int64; both ``(N, k)``, in ascending
        order of token id. Of equal log-probabilities at the edge the lowest ids are in.
    """
    logits = F.linear(hidden, weight).float().add_(bias)  # (N, V)
    lse = logits.logsumexp(-1, keepdim=True)  # (N, 1)
    for token in suppressed:  # a list as index would be copied to the device
        logits[:, token].fill_(-torch.inf)
    values, token_ids = topk_lowest_id(logits, k)
    token_ids, order = token_ids.sort(-1)
    return values.gather(-1, order) - lse, token_ids


def topk_lowest_id(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row ``(N, V)``; of equals at the edge, the lowest columns.

    `torch.topk` breaks ties as it likes, which would let two backends disagree.
    """
    vocab_size = logits.shape[-1]
    if k == vocab_size:
        return logits, torch.arange(k, device=logits.device).expand(logits.shape[0], k)
    if not logits.is_cuda:  # a look at the values is free here, and ties at the edge are rare
        values, columns = logits.topk(k + 1)
        if not bool((values[:, k - 1] == values[:, k]).any()):
            return values[:, :k], columns[:, :k]
    bits = (logits + 0.0).view(torch.int32)  # + 0.0 makes -0.0 and 0.0 equal
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()  # same order as the floats
    reverse = torch.arange(vocab_size - 1, -1, -1, device=logits.device)
    columns = (ordered * 2**32 + reverse).topk(k).indices
    return logits.gather(-1, columns), columns


@triton.jit
def _lm_head_kernel(
    hidden_ptr: tl.tensor,  # (N, d)
    weight_ptr: tl.tensor,  # (V, d)
    bias_ptr: tl.tensor,  # (V,) float32
    logits_ptr: tl.tensor,  # (N, num_tiles * BLOCK_V) float32, written; -inf if suppressed
    run_max_ptr: tl.tensor,  # (N, num_tiles * BLOCK_V / RUN) float32, written; of these logits
    largest_ptr: tl.tensor,  # (N, num_tiles) float32, written; nothing suppressed
    sumexp_ptr: tl.tensor,  # (N, num_tiles) float32, written; nothing suppressed
    num_rows: int,
    vocab_size: int,
    width: int,
    hidden_stride: int,
    weight_stride: int,
    num_tiles: int,
    SUPPRESSED: tl.constexpr,  # tuple of token ids
    RUN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IS_EVEN_D: tl.constexpr,
) -> None:
    """Write one tile of logits, what the softmax needs of it, and the maxima of its runs."""
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
    for i in tl.static_range(len(SUPPRESSED)):
        logits = tl.where((columns == SUPPRESSED[i])[None, :], -float("inf"), logits)
    at = rows[:, None] * (num_tiles * BLOCK_V) + columns[None, :]
    tl.store(logits_ptr + at, logits, mask=is_row[:, None])
    RUNS: tl.constexpr = BLOCK_V // RUN
    run_max = tl.max(tl.reshape(logits, (BLOCK_N, RUNS, RUN)), 2)
    runs = tile * RUNS + tl.arange(0, RUNS)
    at = rows[:, None] * (num_tiles * RUNS) + runs[None, :]
    tl.store(run_max_ptr + at, run_max, mask=is_row[:, None])


@triton.jit
def _ordered_key(values: tl.tensor) -> tl.tensor:
    """Map float32 to uint32 in the same order; both zeros to one key, -inf above key 0."""
    bits = tl.where(values == 0.0, 0.0, values).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, ~bits, bits ^ -2147483648).to(tl.uint32, bitcast=True)


@triton.jit
def _place_of_top(keys: tl.tensor, k: int, DIGIT_BITS: tl.constexpr) -> tl.tensor:
    """Number the k largest keys from 0 in order of position; -1 for the others.

    Of equal keys the first positions are in. The k-th largest key is found digit by digit from the
    top: of the values a digit can take, the largest with k keys no smaller than what it makes.
    """
    digits = tl.arange(0, 1 << DIGIT_BITS).to(tl.uint32)
    columns = keys[:, None]
    kth = tl.full((), 0, tl.uint32)
    shift = tl.full((), 32, tl.uint32)
    for _ in range(32 // DIGIT_BITS):
        shift -= DIGIT_BITS
        trial = kth + (digits << shift)
        count = tl.sum((columns >= trial[None, :]).to(tl.int32), 0)
        digit = tl.sum((count >= k).to(tl.int32), 0) - 1
        kth += digit.to(tl.uint32) << shift
    is_above = keys > kth
    is_equal = keys == kth
    wanted = k - tl.sum(is_above.to(tl.int32), 0)  # of the equal ones
    # One scan for both counts: keys above in the high half, equal ones in the low half.
    step = (is_above.to(tl.int64) << 32) + is_equal.to(tl.int64)
    before = tl.cumsum(step, 0) - step
    equal_before = (before & 0xFFFFFFFF).to(tl.int32)
    place = (before >> 32).to(tl.int32) + tl.minimum(equal_before, wanted)
    return tl.where(is_above | (is_equal & (equal_before < wanted)), place, -1)


@triton.jit
def _select_kernel(
    logits_ptr: tl.tensor,  # (N, num_tiles * BLOCK_V) float32
    run_max_ptr: tl.tensor,  # (N, num_tiles * BLOCK_V / RUN) float32
    largest_ptr: tl.tensor,  # (N, num_tiles) float32
    sumexp_ptr: tl.tensor,  # (N, num_tiles) float32
    chosen_ptr: tl.tensor,  # (N, num_chosen) int32, scratch
    logprobs_ptr: tl.tensor,  # (N, k) float32, written
    token_ids_ptr: tl.tensor,  # (N, k) int64, written
    k: int,
    vocab_size: int,
    num_runs: int,  # that hold a token
    num_chosen: int,  # of them: k, or all where there are fewer
    num_tiles: int,
    TILES: tl.constexpr,
    RUNS: tl.constexpr,
    CHOSEN: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DIGIT_BITS: tl.constexpr,
) -> None:
    """Choose one row's runs, then its tokens among them."""
    row = tl.program_id(0).to(tl.int64)
    lse = logsumexp_of_tiles(largest_ptr, sumexp_ptr, row, num_tiles, TILES=TILES)

    runs = tl.arange(0, RUNS)
    is_run = runs < num_runs
    at = row * (num_tiles * (BLOCK_V // RUN)) + runs
    run_max = tl.load(run_max_ptr + at, mask=is_run, other=-float("inf"))
    # Key 0 is below that of -inf, and what lies beyond the end would lose a tie.
    keys = tl.where(is_run, _ordered_key(run_max), 0)
    place = _place_of_top(keys, num_chosen, DIGIT_BITS=DIGIT_BITS)
    tl.store(chosen_ptr + row * num_chosen + place, runs, mask=place >= 0)
    tl.debug_barrier()  # other threads of this program read what these wrote

    candidates = tl.arange(0, CHOSEN * RUN)
    slot = candidates // RUN
    run = tl.load(chosen_ptr + row * num_chosen + slot, mask=slot < num_chosen, other=0)
    token_ids = run.to(tl.int64) * RUN + candidates % RUN
    is_token = (slot < num_chosen) & (token_ids < vocab_size)
    at = row * (num_tiles * BLOCK_V) + token_ids
    logits = tl.load(logits_ptr + at, mask=is_token, other=-float("inf"))
    keys = tl.where(is_token, _ordered_key(logits), 0)
    place = _place_of_top(keys, k, DIGIT_BITS=DIGIT_BITS)
    tl.store(logprobs_ptr + row * k + place, logits - lse, mask=place >= 0)
    tl.store(token_ids_ptr + row * k + place, token_ids, mask=place >= 0)


def lm_head_topk_triton(
    hidden: Tensor,  # (N, d)
    weight: Tensor,  # (V, d)
    bias: Tensor,  # (V,) float32; -inf takes a token out of the vocabulary
    k: int,
    suppressed: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Return the k likeliest tokens of each row; Triton.

    Logits stay in float32 from the product on, where the reference rounds them to the dtype of
    `hidden`. A row's result is the same to the last bit whatever rows are beside it.

    Args:
        hidden: decoder states, float32, float16 or bfloat16. Shape ``(N, d)``; rows may be strided.
        weight: LM head, of the same dtype. Shape ``(V, d)``; rows may be strided.
        bias: added to the logits in float32. Shape ``(V,)``.
        k: candidates a row; at most V. Meant for hundreds: a program holds 16 k logits at once.
        suppressed: token ids that get -inf *after* the softmax, so nothing is renormalised. The
            kernel is compiled for them: meant for few tokens and few different tuples.

    Returns:
        Log-probabilities, float32 nats, and token ids, int64; both ``(N, k)``, in ascending
        order of token id. Of equal log-probabilities at the edge the lowest ids are in.

    Raises:
        TypeError: a dtype that is not taken.
        ValueError: shapes or devices that do not fit, a last dimension that is not contiguous, or
            `k` or a suppressed id out of range.
        ModuleNotFoundError: Triton is not installed.
    """
    check_linear(hidden, weight, bias)
    num_rows, width = hidden.shape
    vocab_size = weight.shape[0]
    if not 1 <= k <= vocab_size:
        raise ValueError(f"`k` must be from 1 to the {vocab_size} tokens of `weight`, but got {k}")
    if any(not 0 <= token < vocab_size for token in suppressed):
        raise ValueError(
            f"`suppressed` must hold token ids from 0 to {vocab_size - 1}, "
            f"but got {tuple(suppressed)}"
        )
    require_triton()

    def empty(columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty((num_rows, columns), dtype=dtype, device=hidden.device)

    logprobs, token_ids = empty(k), empty(k, torch.int64)
    if not num_rows:
        return logprobs, token_ids
    tiles = tiles_of(hidden)
    num_tiles = cdiv(vocab_size, tiles.BLOCK_V)
    num_runs = cdiv(vocab_size, RUN)
    num_chosen = min(k, num_runs)
    logits = empty(num_tiles * tiles.BLOCK_V)
    run_max = empty(num_tiles * (tiles.BLOCK_V // RUN))
    largest, sumexp = empty(num_tiles), empty(num_tiles)
    with on_device_of(hidden):
        # Row blocks first: those that run together read the same part of the weights.
        _lm_head_kernel[cdiv(num_rows, tiles.BLOCK_N), num_tiles](
            hidden_ptr=hidden,
            weight_ptr=weight,
            bias_ptr=bias,
            logits_ptr=logits,
            run_max_ptr=run_max,
            largest_ptr=largest,
            sumexp_ptr=sumexp,
            num_rows=num_rows,
            vocab_size=vocab_size,
            width=width,
            hidden_stride=hidden.stride(0),
            weight_stride=weight.stride(0),
            num_tiles=num_tiles,
            SUPPRESSED=tuple(suppressed),
            RUN=RUN,
            **tiles._asdict(),
        )
        _select_kernel[(num_rows,)](
            logits_ptr=logits,
            run_max_ptr=run_max,
            largest_ptr=largest,
            sumexp_ptr=sumexp,
            chosen_ptr=empty(num_chosen, torch.int32),
            logprobs_ptr=logprobs,
            token_ids_ptr=token_ids,
            k=k,
            vocab_size=vocab_size,
            num_runs=num_runs,
            num_chosen=num_chosen,
            num_tiles=num_tiles,
            TILES=next_power_of_2(num_tiles),
            RUNS=next_power_of_2(num_runs),
            CHOSEN=next_power_of_2(num_chosen),
            RUN=RUN,
            BLOCK_V=tiles.BLOCK_V,
            DIGIT_BITS=DIGIT_BITS,
            num_warps=SELECT_WARPS[num_rows > 64],
        )
    return logprobs, token_ids
