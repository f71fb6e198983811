"""What the slots of a beam search have decoded, and how one decoder step attends to it.

`DenseSlots` has fixed shapes and never looks at a value, for GPUs. `DistinctSlots` computes each
distinct history of a sentence once, and only of what still searches, for CPUs, where a look at the
values costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from quals_fast.decoding.histories import Histories, moved_rows
from quals_fast.models.linear import padded_rows
from quals_fast.models.memory import SourceMemory
from quals_fast.ops import Kernels

_ROWS_AT_ONCE = 64  # of attention, so that what it reads stays in the processor's cache
_MIN_FUSED_POSITIONS = 24  # below these, PyTorch's attention takes longer than products and sums


class Slots(Protocol):
    """What the rows of a decoder step attend to: one for each slot, or for several alike."""

    def self_attention(
        self, layer: int, t: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Store position `t` and attend to all up to it: all are ``(R', H, D)``.

        The bias is added to the scores of all rows, ``(H, t + 1)``.
        """
        ...

    def cross_attention(self, layer: int, q: Tensor) -> Tensor:
        """Attend to the sources, ``(R', H, D)`` to ``(R', H, D)``."""
        ...


class Stores(NamedTuple):
    """Keys and values of what slots have decoded, one tensor a layer."""

    keys: list[Tensor]
    values: list[Tensor]

    @classmethod
    def new(cls, shape: tuple[int, ...], memory: SourceMemory) -> Stores:
        """Take memory for so many layers as `memory` has, in its type and place."""
        like = memory.keys[0]
        keys, values = (
            [torch.empty(shape, dtype=like.dtype, device=like.device) for _ in memory.keys]
            for _ in range(2)
        )
        return cls(keys, values)

    @property
    def batch_size(self) -> int:
        """Number of sentences, B."""
        return len(self.keys[0])

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(store.nbytes for part in self for store in part)

    def first(self, batch_size: int) -> Stores:
        """Return views of the first sentences' rows."""
        return Stores(*([store[:batch_size] for store in part] for part in self))

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy sentences' rows to the places of others, ``(N,)`` each."""
        for store in (*self.keys, *self.values):
            store.index_copy_(0, target, store.index_select(0, source))


class DenseSlots:
    """All K slots of all B sentences, in fixed shapes.

    The cache is never reordered: a table says which slot wrote what slot k reads at position s.

    Args:
        memory: of the B sources.
        num_beams: K.
        max_length: T, positions that a slot may decode.
        kernels: what computes the attention.
        stores: of B sentences, from `new_stores`; by default new ones.
    """

    def __init__(
        self,
        memory: SourceMemory,
        num_beams: int,
        max_length: int,
        kernels: Kernels,
        stores: Stores | None = None,
    ) -> None:
        batch, device = memory.batch_size, memory.mask.device
        self._memory, self._kernels = memory, kernels
        self._keys, self._values = stores or self.new_stores(memory, batch, num_beams, max_length)
        self._slots = torch.arange(num_beams, device=device)
        self._index = torch.zeros(batch, num_beams, max_length, dtype=torch.int64, device=device)
        self._width = 1

    @staticmethod
    def new_stores(
        memory: SourceMemory, batch_size: int, num_beams: int, max_length: int
    ) -> Stores:
        """Take memory for the keys and values of so many sentences, ``(B, K, H, T, D)`` each."""
        _, heads, _, size = memory.shape
        return Stores.new((batch_size, num_beams, heads, max_length, size), memory)

    def tensors(self) -> list[Tensor]:
        """Return the table."""
        return [self._index]

    def arrange(self, token_ids: Tensor, beam_idx: Tensor | None, t: int) -> Tensor:
        """Move the table's rows and return the tokens of all slots, ``(B * K',)``.

        Args:
            token_ids: Shape ``(B, K')``; K' = 1 while all slots are alike.
            beam_idx: the slot that each goes on from. Shape ``(B, K)``; None where none has moved.
            t: position of the tokens, from 0.
        """
        self._width = token_ids.shape[1]
        if beam_idx is not None:
            self._index = self._index.gather(1, beam_idx[:, :, None].expand_as(self._index))
        if self._width > 1:
            self._index[:, :, t] = self._slots
        return token_ids.flatten()

    def self_attention(
        self, layer: int, t: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Store position `t` and attend to all up to it: ``(R, H, D)`` each, to ``(R, H, D)``."""
        new = (x.unflatten(0, (-1, self._width)) for x in (q, k, v))
        stored = self._keys[layer], self._values[layer], self._index[:, : self._width]
        return self._kernels.beam_attention(*new, *stored, t + 1, bias).flatten(0, 1)

    def cross_attention(self, layer: int, q: Tensor) -> Tensor:
        """Attend with a sentence's slots as one query each to its source."""
        memory = self._memory
        query = q.unflatten(0, (-1, self._width))  # (B, K', H, D)
        source = memory.keys[layer], memory.values[layer], memory.mask
        return self._kernels.source_attention(query, *source).flatten(0, 1)

    def spread(self, rows: Tensor) -> Tensor:
        """Give each slot its row: ``(B * K', ...)`` to ``(B, K', ...)``."""
        return rows.unflatten(0, (-1, self._width))


class DistinctSlots:
    """One row for each distinct history; none for what no longer searches.

    Args:
        memory: of the B sources.
        num_beams: K.
        max_length: T, positions that a slot may decode.
    """

    def __init__(self, memory: SourceMemory, num_beams: int, max_length: int) -> None:
        batch, heads, _, size = memory.shape
        self._histories = Histories(batch, num_beams)
        # Positions before heads, so that what a row has decoded is one piece of memory.
        self._stores = Stores.new((batch * num_beams, max_length, heads, size), memory)
        lengths = memory.mask.sum(-1).flatten().tolist()
        self._sources = [
            [(k[b : b + 1, :, :s], v[b : b + 1, :, :s]) for b, s in enumerate(lengths)]
            for k, v in zip(memory.keys, memory.values, strict=True)
        ]

    def arrange(
        self, token_ids: np.ndarray, beam_idx: np.ndarray, live: np.ndarray, t: int
    ) -> Tensor:
        """Give each distinct history a row.

        Args:
            token_ids: Shape ``(B, K)``.
            beam_idx: the slot that each goes on from. Shape ``(B, K)``.
            live: slots whose hypotheses still matter. Shape ``(B, K)``.
            t: position of the tokens, from 0; there all slots are alike.

        Returns:
            The rows' tokens. Shape ``(R',)``; behind the R rows that are asked for some fill up to
            a size.
        """
        tokens, parents = self._histories.move_on(token_ids, beam_idx, live)
        self._copy(parents, t)
        of = self._histories.sentence_of_row
        self._rows_of = [_as_slice(np.flatnonzero(of == b)) for b in range(len(token_ids))]
        # Rows that nobody reads, for few sizes: see `padded_rows`.
        return F.pad(torch.from_numpy(tokens), (0, padded_rows(len(tokens)) - len(tokens)))

    def self_attention(
        self, layer: int, t: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Store position `t` and attend to all up to it: all are ``(R', H, D)``."""
        count = self._histories.n_rows
        keys, values = (part[layer][:count, : t + 1] for part in self._stores)
        keys[:, t], values[:, t] = k[:count], v[:count]
        out = torch.zeros_like(q)
        for first in range(0, count, _ROWS_AT_ONCE):
            some = slice(first, min(first + _ROWS_AT_ONCE, count))
            out[some] = _attend(q[some], keys[some], values[some], bias)
        return out

    def cross_attention(self, layer: int, q: Tensor) -> Tensor:
        """Attend with a sentence's rows as one query each to its source."""
        out = torch.zeros_like(q)
        for rows, source in zip(self._rows_of, self._sources[layer], strict=True):
            query = q[rows].transpose(0, 1)[None]
            if query.shape[2]:
                out[rows] = F.scaled_dot_product_attention(query, *source)[0].transpose(0, 1)
        return out

    def trim(self, rows: Tensor) -> Tensor:
        """Drop what fills up: ``(R', ...)`` to ``(R, ...)``."""
        return rows[: self._histories.n_rows]

    def spread(self, rows: Tensor) -> np.ndarray:
        """Give each slot its row's values: ``(R, ...)`` to ``(B, K, ...)``."""
        spread: np.ndarray = rows.numpy()[self._histories.row_of_slot]
        return spread

    def _copy(self, parents: np.ndarray, t: int) -> None:
        """Copy what rows that do not keep their parent's number have decoded before `t`."""
        moved = moved_rows(parents)
        if len(moved):
            source, target = torch.from_numpy(parents[moved]), torch.from_numpy(moved)
            for store in (*self._stores.keys, *self._stores.values):
                rows = store[:, :t].flatten(1)  # a view
                rows.index_copy_(0, target, rows.index_select(0, source))


def _as_slice(rows: np.ndarray) -> slice | Tensor:
    """Return ascending indices as a slice, which copies nothing, where they are without gaps."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return torch.from_numpy(rows)


def _attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Attend with one query a row: ``(N, H, D)`` to histories ``(N, T, H, D)``; bias ``(H, T)``."""
    if keys.shape[1] < _MIN_FUSED_POSITIONS:
        scores = (query[:, None] * keys).sum(-1) * query.shape[-1] ** -0.5
        scores = scores if bias is None else scores + bias.T
        return (scores.softmax(1)[..., None] * values).sum(1)
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    mask = None if bias is None else bias[:, None]  # (H, 1, T)
    return F.scaled_dot_product_attention(query[:, :, None], keys, values, mask)[:, :, 0]
