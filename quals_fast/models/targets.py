"""Targets to be rescored, packed without padding: all their tokens are the rows of one matrix.

Everything that a decoder does row by row is done on these rows alone. Only for attention are they
laid out in one row of slots per source, where a token sees the earlier tokens of the same target.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PackedTargets(NamedTuple):
    """Targets of B sources, their tokens packed into R rows; each source has M slots.

    The contents of rows after the last token, and of slots after a source's last one, are
    meaningless.
    """

    input_ids: Tensor  # (R,) int64: what the decoder reads
    labels: Tensor  # (R,) int64: what it is to predict
    positions: Tensor  # (R,) int64, from 0 within each target
    row_of_slot: Tensor  # (B, M) int64
    slot_of_row: Tensor  # (R,) int64, of all B * M
    sees: Tensor  # (B, 1, M, M) bool: whether a slot attends to another

    def to_slots(self, rows: Tensor) -> Tensor:
        """Lay out rows ``(R, ...)`` as ``(B, M, ...)``."""
        if self._is_identity:
            return rows[None]
        return rows[self.row_of_slot]

    def to_rows(self, slots: Tensor) -> Tensor:
        """Take rows ``(R, ...)`` back from ``(B, M, ...)``."""
        if self._is_identity:
            return slots[0]
        return slots.flatten(0, 1)[self.slot_of_row]

    @property
    def _is_identity(self) -> bool:
        """Whether slots are rows: one source has all of them."""
        return self.row_of_slot.shape == (1, len(self.labels))


def pack(
    token_ids: Tensor, lengths: Tensor, start_token_id: int, n_rows: int, n_slots: int
) -> PackedTargets:
    """Pack targets; no value is read, so their sizes must be known.

    Args:
        token_ids: Q targets of each source. Shape ``(B, Q, T)``, int64.
        lengths: tokens of each; 0 for none. Shape ``(B, Q)``, int64.
        start_token_id: what a decoder reads first.
        n_rows: R, at least the tokens of all targets.
        n_slots: M, at least the tokens that any source has.
    """
    n_sources, n_targets, longest = token_ids.shape
    flat = lengths.flatten()  # (B*Q,)
    ends = flat.cumsum(0)
    row = torch.arange(n_rows, device=token_ids.device)
    # Rows behind the last token count as the last target's.
    target = torch.searchsorted(ends, row, right=True).clamp(max=len(flat) - 1)  # (R,)
    positions = (row - (ends - flat)[target]).clamp(max=longest - 1)
    tokens = token_ids.flatten(0, 1)  # (B*Q, T)
    before = tokens[target, (positions - 1).clamp(min=0)]
    of_source = lengths.sum(1)  # (B,)
    first = of_source.cumsum(0) - of_source  # row of each source
    source = target // n_targets
    slot = torch.arange(n_slots, device=token_ids.device)
    row_of_slot = (first[:, None] + slot).clamp(max=n_rows - 1)
    target_of_slot = target[row_of_slot]  # (B, M)
    is_same = target_of_slot[:, :, None] == target_of_slot[:, None]
    return PackedTargets(
        input_ids=torch.where(positions == 0, start_token_id, before),
        labels=tokens[target, positions],
        positions=positions,
        row_of_slot=row_of_slot,
        slot_of_row=(source * n_slots + row - first[source]).clamp(max=n_sources * n_slots - 1),
        sees=(is_same & (slot <= slot[:, None]))[:, None],  # at least itself
    )
