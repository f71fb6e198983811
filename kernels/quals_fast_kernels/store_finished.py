"""Store the hypotheses that end at a step, with their lengths and scores.

    finished[b, row[b, m]] = history[b, beam_idx[b, m]], then candidate m at position t

The last row of `finished` takes what is dropped: several candidates may go there, and its content
is undefined. No two candidates of a sentence go to the same other row.
Shapes: B sentences, K slots, M candidates, R rows, T positions. Bytes: 16 T are read and as many
written for each candidate that is kept. What takes time is launches: 1, and 13 in eager torch.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from quals_fast_kernels._compat import tl, triton
from quals_fast_kernels._histories import (
    Candidates,
    Histories,
    check_extended,
    copy_extended,
    extended,
    sizes_of,
)
from quals_fast_kernels._launch import check_tensor, on_device_of, require_triton

# Token ids (B, R, T) int64, lengths (B, R) int64, log-probabilities and those of the search
# (B, R, T) float32, sums of the latter (B, R) float32, normalised scores (B, R) float64.
Finished: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def store_finished_ref(
    finished: Finished,
    histories: Histories,
    chosen: Candidates,
    normalised: Tensor,  # (B, M) float64
    row: Tensor,  # (B, M) int64
    t: int | Tensor,
) -> None:
    """Write hypotheses that end at step `t` to rows of `finished`, in place; eager torch.

    Args:
        finished: R rows for each sentence, see `Finished`.
        histories: of the slots, ``(B, K, T)``.
        chosen: the candidates that end them, ``(B, M)``; their scores become the sums.
        normalised: their scores with the length penalty. Shape ``(B, M)``, float64.
        row: where each goes; R - 1 drops it. Shape ``(B, M)``, int64.
        t: position of the new tokens; in an exported loop a tensor without dimensions.
    """
    token_ids, lengths, logprobs, search_logprobs, sums, scores = finished
    beam_idx = chosen.beam_idx
    length = (t + 1).expand_as(row) if isinstance(t, Tensor) else torch.full_like(row, t + 1)
    wide = row[:, :, None].expand(-1, -1, token_ids.shape[2])
    token_ids.scatter_(1, wide, extended(histories.token_ids, beam_idx, t, chosen.token_ids))
    logprobs.scatter_(1, wide, extended(histories.logprobs, beam_idx, t, chosen.logprobs))
    search = extended(histories.search_logprobs, beam_idx, t, chosen.search_logprobs)
    search_logprobs.scatter_(1, wide, search)
    lengths.scatter_(1, row, length)
    sums.scatter_(1, row, chosen.scores)
    scores.scatter_(1, row, normalised)


@triton.jit
def _store_finished_kernel(
    out_token_ids_ptr: tl.tensor,  # (B, R, T) int64
    out_lengths_ptr: tl.tensor,  # (B, R) int64
    out_logprobs_ptr: tl.tensor,  # (B, R, T) float32
    out_search_logprobs_ptr: tl.tensor,  # (B, R, T) float32
    out_sums_ptr: tl.tensor,  # (B, R) float32
    out_scores_ptr: tl.tensor,  # (B, R) float64
    token_ids_ptr: tl.tensor,  # (B, K, T) int64
    logprobs_ptr: tl.tensor,  # (B, K, T) float32
    search_logprobs_ptr: tl.tensor,  # (B, K, T) float32
    last_token_ptr: tl.tensor,  # (B, M) int64
    beam_idx_ptr: tl.tensor,  # (B, M) int64
    last_logprob_ptr: tl.tensor,  # (B, M) float32
    last_search_logprob_ptr: tl.tensor,  # (B, M) float32
    sums_ptr: tl.tensor,  # (B, M) float32
    normalised_ptr: tl.tensor,  # (B, M) float64
    row_ptr: tl.tensor,  # (B, M) int64
    t: int,
    R: int,
    K: int,
    candidate_stride: int,
    normalised_stride: int,
    row_stride: int,
    T: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    m = tl.program_id(0).to(tl.int64)
    b = tl.program_id(1).to(tl.int64)
    row = tl.load(row_ptr + b * row_stride + m)
    if row < R - 1:  # dropped ones write nothing, so no two programs share a row
        target = b * R + row
        candidate = b * candidate_stride + m
        normalised = tl.load(normalised_ptr + b * normalised_stride + m)
        tl.store(out_lengths_ptr + target, t + 1)
        tl.store(out_sums_ptr + target, tl.load(sums_ptr + candidate))
        tl.store(out_scores_ptr + target, normalised)
        token = tl.load(last_token_ptr + candidate)
        logprob = tl.load(last_logprob_ptr + candidate)
        search_logprob = tl.load(last_search_logprob_ptr + candidate)
        source = b * K + tl.load(beam_idx_ptr + candidate)
        mask = tl.arange(0, BLOCK) < T
        copy_extended(token_ids_ptr, out_token_ids_ptr, source, target, token, t, mask, T, BLOCK)
        copy_extended(logprobs_ptr, out_logprobs_ptr, source, target, logprob, t, mask, T, BLOCK)
        copy_extended(
            search_logprobs_ptr, out_search_logprobs_ptr,
            source, target, search_logprob, t, mask, T, BLOCK,
        )  # fmt: skip


def store_finished_triton(
    finished: Finished,
    histories: Histories,
    chosen: Candidates,
    normalised: Tensor,  # (B, M) float64
    row: Tensor,  # (B, M) int64
    t: int,
) -> None:
    """Store as `store_finished_ref` does, bit for bit, in one launch of one program a candidate.

    The last row of `finished` stays as it was. Slots and rows address memory; whether they are in
    range is not tested.

    Args:
        finished: as `store_finished_ref` takes it; contiguous.
        histories: likewise.
        chosen: likewise, all with the same strides.
        normalised: likewise.
        row: likewise.
        t: likewise, as an int.

    Raises:
        ValueError: a shape, device, stride or step that does not fit.
        TypeError: a dtype that does not fit.
    """
    require_triton()
    check_extended(histories, chosen, t)
    _check(finished, histories, chosen, normalised, row)
    batch, num_beams, length = histories.token_ids.shape
    if not row.numel():
        return
    token_ids, logprobs, search_logprobs = (part.contiguous() for part in histories)
    with on_device_of(row):
        _store_finished_kernel[(row.shape[1], batch)](
            out_token_ids_ptr=finished[0],
            out_lengths_ptr=finished[1],
            out_logprobs_ptr=finished[2],
            out_search_logprobs_ptr=finished[3],
            out_sums_ptr=finished[4],
            out_scores_ptr=finished[5],
            token_ids_ptr=token_ids,
            logprobs_ptr=logprobs,
            search_logprobs_ptr=search_logprobs,
            last_token_ptr=chosen.token_ids,
            beam_idx_ptr=chosen.beam_idx,
            last_logprob_ptr=chosen.logprobs,
            last_search_logprob_ptr=chosen.search_logprobs,
            sums_ptr=chosen.scores,
            normalised_ptr=normalised,
            row_ptr=row,
            t=t,
            R=finished[0].shape[1],
            K=num_beams,
            candidate_stride=chosen.token_ids.stride(0),
            normalised_stride=normalised.stride(0),
            row_stride=row.stride(0),
            **sizes_of(length),
        )


def _check(
    finished: Finished, histories: Histories, chosen: Candidates, normalised: Tensor, row: Tensor
) -> None:
    device, candidates = histories.token_ids.device, tuple(chosen.token_ids.shape)
    check_tensor("row", row, shape=candidates, dtypes=(torch.int64,), device=device)
    check_tensor("normalised", normalised, shape=candidates, dtypes=(torch.float64,), device=device)
    batch, _, length = histories.token_ids.shape
    shape: tuple[int | None, ...] = (batch, None, length)
    dtypes = (torch.int64,) * 2 + (torch.float32,) * 3 + (torch.float64,)
    for i, (part, dtype, ndim) in enumerate(zip(finished, dtypes, (3, 2, 3, 3, 2, 2), strict=True)):
        name = f"finished[{i}]"
        check_tensor(name, part, shape=shape[:ndim], dtypes=(dtype,), device=device)
        if not part.is_contiguous():
            raise ValueError(
                f"`{name}` must be contiguous, since it is written to in place, "
                f"but got strides {part.stride()}"
            )
        shape = tuple(finished[0].shape)
