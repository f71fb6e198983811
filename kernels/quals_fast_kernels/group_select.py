"""One step of diverse beam search: the groups choose in order, each penalised by those before it.

    for g in groups:  s = logprobs[g] - penalty * count[token] + beam_scores[g]
                      choose the 2n best of s;  count[chosen] += 1

Which of the chosen tokens count is the rule: ``fairseq09`` counts all 2n, ``hamming`` the n that
continue the group (EOS never does), and only while the group is active.
Slots are interleaved: slot = rank * G + g. Source: docs/semantics.md 1.1; arXiv 1610.02424.

Shapes: B sentences, K = n * G slots, C candidates a slot. Bytes: 12 B*K*C are read, 56 B*K are
written and 2 B*V of counts are zeroed; what takes time is G short steps, one after the other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quals_fast_kernels._compat import tl, triton
from quals_fast_kernels._launch import check_tensor, next_power_of_2, on_device_of, require_triton

_RULES = ("fairseq09", "hamming")


class GroupChoice(NamedTuple):
    """The 2n best candidates of each group, best first; each tensor is ``(B, 2n, G)``."""

    scores: Tensor  # float32: beam score with this step's penalised log-probability
    token_ids: Tensor  # int64
    beam_idx: Tensor  # int64: the slot that the candidate continues
    candidate_idx: Tensor  # int64: its column among the slot's candidates


def group_select_ref(
    logprobs: Tensor,  # (B, K, C) float32
    token_ids: Tensor,  # (B, K, C) int64, ascending in each row
    beam_scores: Tensor,  # (B, K) float32
    active: Tensor | None,  # (B, G) bool
    *,
    rule: str,
    num_beam_groups: int,
    penalty: float,
    eos_token_id: int,
    vocab_size: int,
) -> GroupChoice:
    """Choose the candidates of every group; eager torch, one short loop over the groups.

    Args:
        logprobs: candidates' log-probabilities, nats. Shape ``(B, K, C)``.
        token_ids: the candidates, ascending in each row, so that position breaks ties.
        beam_scores: search score of each slot; -inf for a slot that may not be continued.
        active: groups that still search, for ``hamming``. Shape ``(B, G)``; None for all.
        rule: ``fairseq09`` or ``hamming``.
        num_beam_groups: G.
        penalty: nats for each use of a token in an earlier group.
        eos_token_id: never counted by ``hamming``.
        vocab_size: V, to count in.

    Returns:
        The choice of each group. Of equal scores the lowest (row, token) wins.
    """
    batch, num_beams, width = logprobs.shape
    groups, size = num_beam_groups, num_beams // num_beam_groups
    count = logprobs.new_zeros(batch, vocab_size)
    chosen = []
    for g in range(groups):
        tokens = token_ids[:, g::groups].flatten(1)  # (B, n*C)
        scores = logprobs[:, g::groups].flatten(1) - penalty * count.gather(1, tokens)
        scores = scores + beam_scores[:, g::groups].repeat_interleave(width, 1)
        best, position = scores.sort(dim=-1, descending=True, stable=True)
        best, position = best[:, : 2 * size], position[:, : 2 * size]  # (B, 2n)
        picked = tokens.gather(1, position)
        if rule == "fairseq09":
            count.scatter_add_(1, picked, (best > -torch.inf).float())
        else:
            is_eos, order = (picked == eos_token_id).sort(dim=-1, stable=True)
            continues = ~is_eos[:, :size]
            if active is not None:
                continues = continues & active[:, g, None]
            count.scatter_add_(1, picked.gather(1, order[:, :size]), continues.float())
        rank = position // width
        chosen.append((best, picked, rank * groups + g, position % width))
    return GroupChoice(*(torch.stack(part, -1) for part in zip(*chosen, strict=True)))


@triton.jit
def _load_group(
    logprobs_ptr: tl.tensor,  # (K, C), of one sentence as all here
    token_ids_ptr: tl.tensor,  # (K, C)
    beam_scores_ptr: tl.tensor,  # (K,)
    g: int,
    G: int,
    C: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Load the candidates of group g, flat as (rank, column); nothing where g is not below G."""
    position = tl.arange(0, BLOCK)
    inside = position < tl.where(g < G, N * C, 0)
    if N == 1:
        at = g * C + position
        beam_scores = tl.load(beam_scores_ptr + g, mask=g < G, other=0.0)
    else:
        slot = position // C * G + g
        at = slot * C + position % C
        beam_scores = tl.load(beam_scores_ptr + slot, mask=inside, other=0.0)
    logprobs = tl.load(logprobs_ptr + at, mask=inside, other=-float("inf"))
    tokens = tl.load(token_ids_ptr + at, mask=inside, other=-1).to(tl.int32)
    return logprobs, tokens, beam_scores


@triton.jit
def _group_select_kernel(
    logprobs_ptr: tl.tensor,  # (B, K, C) float32
    token_ids_ptr: tl.tensor,  # (B, K, C) int64
    beam_scores_ptr: tl.tensor,  # (B, K) float32
    active_ptr: tl.tensor | None,  # (B, G) uint8
    count_ptr: tl.tensor,  # (B, V) int16, zeros: uses of each token by earlier groups
    scores_ptr: tl.tensor,  # (B, 2n, G) float32, out
    picked_ptr: tl.tensor,  # (B, 2n, G) int64, out: tokens
    beam_idx_ptr: tl.tensor,  # (B, 2n, G) int64, out
    column_ptr: tl.tensor,  # (B, 2n, G) int64, out
    penalty: float,
    eos_token_id: int,
    vocab_size: int,
    G: int,
    C: tl.constexpr,
    N: tl.constexpr,  # beams a group
    BLOCK: tl.constexpr,  # power of two, at least N * C
    IS_FAIRSEQ09: tl.constexpr,
    HAS_ACTIVE: tl.constexpr,
) -> None:
    """Let all groups of one sentence choose, in order.

    What a group reads is asked for before its turn: candidates two groups ahead, counts one ahead.
    A count that was read too early lacks the picks of one group; those are added in registers.
    """
    b = tl.program_id(0).to(tl.int64)
    logprobs_ptr += b * N * G * C
    token_ids_ptr += b * N * G * C
    beam_scores_ptr += b * N * G
    count_ptr += b * vocab_size
    out = b * 2 * N * G
    position = tl.arange(0, BLOCK)
    count = tl.zeros((BLOCK,), tl.int32)
    logprobs, tokens, beam_scores = _load_group(
        logprobs_ptr, token_ids_ptr, beam_scores_ptr, 0, G, C, N, BLOCK
    )
    logprobs_1, tokens_1, beam_scores_1 = _load_group(
        logprobs_ptr, token_ids_ptr, beam_scores_ptr, 1, G, C, N, BLOCK
    )
    for g in range(G):
        count_1 = tl.load(count_ptr + tokens_1, mask=tokens_1 >= 0, other=0).to(tl.int32)
        logprobs_2, tokens_2, beam_scores_2 = _load_group(
            logprobs_ptr, token_ids_ptr, beam_scores_ptr, g + 2, G, C, N, BLOCK
        )
        room = N  # picks that count, where not all do
        if HAS_ACTIVE:
            room = tl.where(tl.load(active_ptr + b * G + g) != 0, N, 0)
        tl.debug_barrier()  # no count is raised below before all have been read above

        score = (logprobs - penalty * count.to(tl.float32)) + beam_scores
        score = tl.where(score == 0.0, 0.0, score)  # -0.0 ties with 0.0
        bits = score.to(tl.int32, bitcast=True)
        key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # ordered as the floats are
        key = tl.where(position < N * C, key, -0x80000000)  # below -inf
        for rank in range(2 * N):
            best = tl.max(key, 0)
            place = tl.min(tl.where(key == best, position, BLOCK), 0)
            is_place = position == place
            token = tl.sum(tl.where(is_place, tokens, 0), 0)
            key = tl.where(is_place, -0x80000000, key)
            best_score = tl.where(best < 0, best ^ 0x7FFFFFFF, best).to(tl.float32, bitcast=True)
            if IS_FAIRSEQ09:
                uses = (best_score > -float("inf")).to(tl.int32)
            else:
                uses = ((token != eos_token_id) & (room > 0)).to(tl.int32)
                room -= uses
            # One thread stores all of these, in order, so a token's last count stays.
            tl.store(count_ptr + token, tl.sum(tl.where(is_place, count, 0), 0) + uses)
            count += tl.where(tokens == token, uses, 0)
            count_1 += tl.where(tokens_1 == token, uses, 0)
            at = out + rank * G + g
            row = place // C if N > 1 else 0
            tl.store(scores_ptr + at, best_score)
            tl.store(picked_ptr + at, token)
            tl.store(beam_idx_ptr + at, row * G + g)
            tl.store(column_ptr + at, place - row * C)
        tl.debug_barrier()  # no count is read in the next turn before all have been raised

        logprobs, tokens, beam_scores, count = logprobs_1, tokens_1, beam_scores_1, count_1
        logprobs_1, tokens_1, beam_scores_1 = logprobs_2, tokens_2, beam_scores_2


def group_select_triton(
    logprobs: Tensor,  # (B, K, C) float32
    token_ids: Tensor,  # (B, K, C) int64, ascending in each row
    beam_scores: Tensor,  # (B, K) float32
    active: Tensor | None,  # (B, G) bool
    *,
    rule: str,
    num_beam_groups: int,
    penalty: float,
    eos_token_id: int,
    vocab_size: int,
) -> GroupChoice:
    """Choose as `group_select_ref` does, bit for bit, in one launch of one program a sentence.

    Nothing is read by the host, so a CUDA graph can hold it. Token ids must lie in ``[0, V)``, as
    they address a table of counts; that is not tested. Log-probabilities must not be NaN.

    Args:
        logprobs: as `group_select_ref` takes them.
        token_ids: likewise.
        beam_scores: likewise.
        active: likewise.
        rule: likewise.
        num_beam_groups: likewise.
        penalty: likewise; rounded to float32.
        eos_token_id: likewise.
        vocab_size: likewise.

    Returns:
        The choice of each group, as `group_select_ref` returns it.

    Raises:
        ValueError: a shape, device or rule that does not fit.
        TypeError: a dtype that does not fit.
    """
    require_triton()
    _check(logprobs, token_ids, beam_scores, active, rule, num_beam_groups)
    batch, num_beams, width = logprobs.shape
    groups, size = num_beam_groups, num_beams // num_beam_groups
    block = next_power_of_2(size * width)
    active = None if active is None or rule != "hamming" else active.contiguous().view(torch.uint8)
    count = torch.zeros(batch, vocab_size, dtype=torch.int16, device=logprobs.device)
    scores = logprobs.new_empty(batch, 2 * size, groups)
    picked, beam_idx, column = (token_ids.new_empty(batch, 2 * size, groups) for _ in range(3))
    with on_device_of(logprobs):
        _group_select_kernel[(batch,)](
            logprobs_ptr=logprobs.contiguous(),
            token_ids_ptr=token_ids.contiguous(),
            beam_scores_ptr=beam_scores.contiguous(),
            active_ptr=active,
            count_ptr=count,
            scores_ptr=scores,
            picked_ptr=picked,
            beam_idx_ptr=beam_idx,
            column_ptr=column,
            penalty=float(penalty),
            eos_token_id=eos_token_id,
            vocab_size=vocab_size,
            G=groups,
            C=width,
            N=size,
            BLOCK=block,
            IS_FAIRSEQ09=rule == "fairseq09",
            HAS_ACTIVE=active is not None,
            # Within a warp a maximum takes no trip through shared memory.
            num_warps=min(max(block // 256, 1), 16),
            num_stages=1,  # counts must not be read ahead of the stores that raise them
            enable_fp_fusion=False,  # a fused multiply-add would not round as eager torch does
        )
    return GroupChoice(scores, picked, beam_idx, column)


def _check(
    logprobs: Tensor,
    token_ids: Tensor,
    beam_scores: Tensor,
    active: Tensor | None,
    rule: str,
    num_beam_groups: int,
) -> None:
    if rule not in _RULES:
        raise ValueError(f"`rule` must be 'fairseq09' or 'hamming', but got {rule!r}")
    device = logprobs.device
    check_tensor(
        "logprobs", logprobs, shape=(None, None, None), dtypes=(torch.float32,), device=device
    )
    batch, num_beams, width = logprobs.shape
    if num_beam_groups < 1 or num_beams < 1 or num_beams % num_beam_groups:
        raise ValueError(
            f"`num_beam_groups` must divide the {num_beams} slots of `logprobs`, "
            f"but got {num_beam_groups}"
        )
    if width < 2:
        raise ValueError(
            "`logprobs` must have at least 2 candidates a slot, as a group of n chooses 2n, "
            f"but got {width}"
        )
    shape = (batch, num_beams, width)
    check_tensor("token_ids", token_ids, shape=shape, dtypes=(torch.int64,), device=device)
    check_tensor(
        "beam_scores", beam_scores, shape=shape[:2], dtypes=(torch.float32,), device=device
    )
    if active is not None:
        check_tensor(
            "active", active, shape=(batch, num_beam_groups), dtypes=(torch.bool,), device=device
        )
