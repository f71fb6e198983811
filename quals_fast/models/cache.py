"""The decoder's memory: its own keys and values by slot, and those of the source, shared."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SourceMemory(NamedTuple):
    """What the decoder attends to in the sources: computed once a text, never copied to beams.

    Attributes:
        keys: one tensor a layer. Shape ``(B, H, S, D)``.
        values: likewise.
        mask: True where a source token stands. Shape ``(B, 1, 1, S)``.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor

    @property
    def batch_size(self) -> int:
        """Number of sources, B."""
        return self.mask.shape[0]


class DecoderCache:
    """Keys and values of the tokens that each slot has decoded, in memory taken once.

    Tensors are ``(B, K, H, T, D)``, one pair a layer.
    """

    def __init__(
        self,
        layers: int,
        shape: tuple[int, int, int, int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]
        self._slots = torch.arange(shape[1], device=device)

    def update(self, layer: int, t: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store position `t` ``(B, K', H, D)`` and return the first t + 1 of all slots.

        K' = 1 stores the one row for all slots, which is how step 0 computes one row only.
        """
        self.keys[layer][:, :, :, t] = key
        self.values[layer][:, :, :, t] = value
        rows = key.shape[1]
        return self.keys[layer][:, :rows, :, : t + 1], self.values[layer][:, :rows, :, : t + 1]

    def reorder(self, beam_idx: Tensor, length: int) -> None:
        """Let slot k continue what slot ``beam_idx[b, k]`` holds, ``(B, K)``, up to `length`.

        On a CPU nothing is copied where no slot moved; on a GPU the test would cost a wait.
        """
        if not beam_idx.is_cuda and bool((beam_idx == self._slots).all()):
            return
        for store in (*self.keys, *self.values):
            prefix = store[:, :, :, :length]
            index = beam_idx[:, :, None, None, None].expand(-1, -1, *prefix.shape[2:])
            store[:, :, :, :length] = prefix.gather(1, index)
