"""What the decoder attends to in the sources: computed once a text, never copied to beams."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class SourceMemory(NamedTuple):
    """Keys and values of B encoded sources.

    Attributes:
        keys: one tensor a layer. Shape ``(B, H, S, D)``.
        values: likewise.
        mask: True where a source token stands. Shape ``(B, 1, 1, S)``.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in one order."""
        return [*self.keys, *self.values, self.mask]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one layer's keys, ``(B, H, S, D)``."""
        return tuple(self.keys[0].shape)

    @property
    def batch_size(self) -> int:
        """Number of sources, B."""
        return self.mask.shape[0]
