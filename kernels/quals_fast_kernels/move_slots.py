"""Move the slots of a beam search on: each takes a candidate, with its history and its score.

    new_history[b, k] = history[b, beam_idx[b, c]], then candidate c at position t;  c = go_on[b, k]

Shapes: B sentences, K slots, C candidates (2K in a search), T positions. Bytes: 16 B*K*T are read
and as many written. What takes time is launches: 1, and 11 in eager torch.
"""

from __future__ import annotations

from typing import NamedTuple

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


class MovedSlots(NamedTuple):
    """The slots after a step."""

    histories: Histories
    token_ids: Tensor  # (B, K) int64: the newest
    beam_idx: Tensor  # (B, K) int64: the slot that each continues
    scores: Tensor  # (B, K) float32


def move_slots_ref(
    histories: Histories, chosen: Candidates, go_on: Tensor, t: int | Tensor
) -> MovedSlots:
    """Let slot k go on with candidate ``go_on[b, k]``; eager torch.

    Args:
        histories: of the slots, ``(B, K, T)``.
        chosen: the candidates, ``(B, C)``.
        go_on: the candidate of each slot, from 0 to C - 1. Shape ``(B, K)``, int64.
        t: position of the new tokens; in an exported loop a tensor without dimensions.

    Returns:
        The slots in new tensors.
    """
    token_ids, beam_idx = chosen.token_ids.gather(1, go_on), chosen.beam_idx.gather(1, go_on)
    scores = chosen.scores.gather(1, go_on)
    moved = Histories(
        extended(histories.token_ids, beam_idx, t, token_ids),
        extended(histories.logprobs, beam_idx, t, chosen.logprobs.gather(1, go_on)),
        extended(histories.search_logprobs, beam_idx, t, chosen.search_logprobs.gather(1, go_on)),
    )
    return MovedSlots(moved, token_ids, beam_idx, scores)


@triton.jit
def _move_slots_kernel(
    token_ids_ptr: tl.tensor,  # (B, K, T) int64
    logprobs_ptr: tl.tensor,  # (B, K, T) float32
    search_logprobs_ptr: tl.tensor,  # (B, K, T) float32
    last_token_ptr: tl.tensor,  # (B, C) int64
    beam_idx_ptr: tl.tensor,  # (B, C) int64
    last_logprob_ptr: tl.tensor,  # (B, C) float32
    last_search_logprob_ptr: tl.tensor,  # (B, C) float32
    scores_ptr: tl.tensor,  # (B, C) float32
    go_on_ptr: tl.tensor,  # (B, K) int64
    out_token_ids_ptr: tl.tensor,  # (B, K, T), as are the next two
    out_logprobs_ptr: tl.tensor,
    out_search_logprobs_ptr: tl.tensor,
    out_last_token_ptr: tl.tensor,  # (B, K), as are the next two
    out_beam_idx_ptr: tl.tensor,
    out_scores_ptr: tl.tensor,
    t: int,
    candidate_stride: int,
    go_on_stride: int,
    T: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    k = tl.program_id(0).to(tl.int64)
    b = tl.program_id(1).to(tl.int64)
    first = b * tl.num_programs(0)  # of the sentence's slots
    target = first + k
    candidate = b * candidate_stride + tl.load(go_on_ptr + b * go_on_stride + k)
    slot = tl.load(beam_idx_ptr + candidate)
    token = tl.load(last_token_ptr + candidate)
    tl.store(out_beam_idx_ptr + target, slot)
    tl.store(out_last_token_ptr + target, token)
    tl.store(out_scores_ptr + target, tl.load(scores_ptr + candidate))
    logprob = tl.load(last_logprob_ptr + candidate)
    search_logprob = tl.load(last_search_logprob_ptr + candidate)
    source = first + slot
    mask = tl.arange(0, BLOCK) < T
    copy_extended(token_ids_ptr, out_token_ids_ptr, source, target, token, t, mask, T, BLOCK)
    copy_extended(logprobs_ptr, out_logprobs_ptr, source, target, logprob, t, mask, T, BLOCK)
    copy_extended(
        search_logprobs_ptr, out_search_logprobs_ptr,
        source, target, search_logprob, t, mask, T, BLOCK,
    )  # fmt: skip


def move_slots_triton(
    histories: Histories, chosen: Candidates, go_on: Tensor, t: int
) -> MovedSlots:
    """Move as `move_slots_ref` does, bit for bit, in one launch of one program a slot.

    Slots and candidates address memory; whether they are in range is not tested.

    Args:
        histories: as `move_slots_ref` takes them.
        chosen: likewise, all with the same strides.
        go_on: likewise.
        t: likewise, as an int.

    Returns:
        As `move_slots_ref` does; contiguous.

    Raises:
        ValueError: a shape, device, stride or step that does not fit.
        TypeError: a dtype that does not fit.
    """
    require_triton()
    check_extended(histories, chosen, t)
    batch, num_beams, length = histories.token_ids.shape
    device = histories.token_ids.device
    check_tensor("go_on", go_on, shape=(batch, num_beams), dtypes=(torch.int64,), device=device)
    moved = _empty(histories, chosen)
    if not moved.token_ids.numel():
        return moved
    token_ids, logprobs, search_logprobs = (part.contiguous() for part in histories)
    with on_device_of(token_ids):
        _move_slots_kernel[(num_beams, batch)](
            token_ids_ptr=token_ids,
            logprobs_ptr=logprobs,
            search_logprobs_ptr=search_logprobs,
            last_token_ptr=chosen.token_ids,
            beam_idx_ptr=chosen.beam_idx,
            last_logprob_ptr=chosen.logprobs,
            last_search_logprob_ptr=chosen.search_logprobs,
            scores_ptr=chosen.scores,
            go_on_ptr=go_on,
            out_token_ids_ptr=moved.histories.token_ids,
            out_logprobs_ptr=moved.histories.logprobs,
            out_search_logprobs_ptr=moved.histories.search_logprobs,
            out_last_token_ptr=moved.token_ids,
            out_beam_idx_ptr=moved.beam_idx,
            out_scores_ptr=moved.scores,
            t=t,
            candidate_stride=chosen.token_ids.stride(0),
            go_on_stride=go_on.stride(0),
            **sizes_of(length),
        )
    return moved


def _empty(histories: Histories, chosen: Candidates) -> MovedSlots:
    shape = histories.token_ids.shape
    return MovedSlots(
        Histories(*(part.new_empty(shape) for part in histories)),
        *(part.new_empty(shape[:2]) for part in (chosen.token_ids, chosen.beam_idx, chosen.scores)),
    )
