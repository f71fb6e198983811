"""Keys and values of the sources for the decoder: computed once per text, never copied to beams."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SourceMemory(NamedTuple):
    """Keys and values of B encoded sources.

    Attributes:
        keys: one tensor a layer. Shape ``(B, H, S, D)``.
        values: likewise.
        mask: True for source tokens. Shape ``(B, 1, 1, S)``.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor

    def first(self, batch_size: int) -> SourceMemory:
        """Return views of the first sources."""
        keys, values = ([x[:batch_size] for x in part] for part in (self.keys, self.values))
        return SourceMemory(keys, values, self.mask[:batch_size])

    def clone(self) -> SourceMemory:
        """Return a copy."""
        keys, values = ([x.clone() for x in part] for part in (self.keys, self.values))
        return SourceMemory(keys, values, self.mask.clone())

    def copy_(self, other: SourceMemory) -> None:
        """Take over other sources of the same shape."""
        torch._foreach_copy_([*self.keys, *self.values], [*other.keys, *other.values])
        self.mask.copy_(other.mask)

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
