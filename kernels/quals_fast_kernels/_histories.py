"""What the operations that extend the histories of a beam search have in common."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quals_fast_kernels._compat import tl, triton
from quals_fast_kernels._launch import check_tensor, next_power_of_2


class Histories(NamedTuple):
    """What each slot has decoded, step by step; each tensor is ``(B, K, T)``."""

    token_ids: Tensor  # int64
    logprobs: Tensor  # float32 nats, the model's
    search_logprobs: Tensor  # float32 nats, with penalties


class Candidates(NamedTuple):
    """Next tokens that the groups chose, by rank; each tensor is ``(B, C)``."""

    token_ids: Tensor  # int64
    beam_idx: Tensor  # int64: the slot that the candidate continues
    logprobs: Tensor  # float32 nats, the model's
    search_logprobs: Tensor  # float32 nats, with penalties
    scores: Tensor  # float32: beam score with this token


def extended(history: Tensor, beam_idx: Tensor, t: int | Tensor, last: Tensor) -> Tensor:
    """Return the histories ``(B, M, T)`` of the slots `beam_idx`, with `last` at position `t`."""
    rows = history.gather(1, beam_idx[:, :, None].expand(-1, -1, history.shape[2]))
    if isinstance(t, Tensor):
        last = last[:, :, None]
        return rows.scatter(2, t.expand_as(last), last)
    rows[:, :, t] = last
    return rows


@triton.jit
def copy_extended(
    history_ptr: tl.tensor,  # (rows, T)
    out_ptr: tl.tensor,  # (rows, T)
    source: tl.tensor,
    target: tl.tensor,
    last: tl.tensor,
    t: int,
    mask: tl.tensor,  # (BLOCK,): positions to copy, all below T
    T: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two, at least T
) -> None:
    """Copy row `source` to row `target`, with `last` at position `t`."""
    position = tl.arange(0, BLOCK)
    past = tl.load(history_ptr + source * T + position, mask=mask, other=0)
    tl.store(out_ptr + target * T + position, tl.where(position == t, last, past), mask=mask)


def sizes_of(length: int) -> dict[str, int]:
    """Return launch arguments for histories of T positions."""
    block = next_power_of_2(length)
    return {"T": length, "BLOCK": block, "num_warps": min(max(block // 256, 1), 8)}


def check_extended(histories: Histories, chosen: Candidates, t: int) -> None:
    """Raise unless the histories, the candidates and the step fit one another."""
    device = histories.token_ids.device
    _check_parts("histories", histories, (None, None, None), device)
    batch, _, length = histories.token_ids.shape
    _check_parts("chosen", chosen, (batch, None), device)
    stride = chosen.token_ids.stride()
    for field, part in zip(chosen._fields, chosen, strict=True):
        if batch > 1 and part.stride() != stride:
            raise ValueError(
                f"`chosen.{field}` must have the strides of `chosen.token_ids`, {stride}, "
                f"but got {part.stride()}"
            )
    if not 0 <= t < length:
        raise ValueError(f"`t` must be from 0 to {length - 1}, the last position, but got {t}")


def _check_parts(
    name: str,
    parts: Histories | Candidates,
    shape: tuple[int | None, ...],
    device: torch.device,
) -> None:
    for field, part in zip(parts._fields, parts, strict=True):
        dtype = torch.int64 if field in ("token_ids", "beam_idx") else torch.float32
        check_tensor(f"{name}.{field}", part, shape=shape, dtypes=(dtype,), device=device)
        shape = tuple(parts.token_ids.shape)
