"""What the slots of a beam search have decoded, and how one decoder step attends to it.

`DenseSlots` has fixed shapes and never looks at a value, for GPUs. `DistinctSlots` computes each
distinct history of a sentence once, and only of what still searches, for CPUs, where a look at the
values costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from quals_fast.decoding.histories import distinct_histories
from quals_fast.models.linear import padded_rows
from quals_fast.models.memory import SourceMemory
from quals_fast.ops import Kernels

_MIN_FUSED_POSITIONS = 24  # below these, PyTorch's attention takes longer than products and sums


class Slots(Protocol):
    """What the rows of a decoder step attend to: one for each slot, or for several alike."""

    def self_attention(self, layer: int, t: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store position `t` and attend to all up to it: all are ``(R', H, D)``."""
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

    def self_attention(self, layer: int, t: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store position `t` and attend to all up to it: ``(R, H, D)`` each, to ``(R, H, D)``."""
        new = (x.unflatten(0, (-1, self._width)) for x in (q, k, v))
        stored = self._keys[layer], self._values[layer], self._index[:, : self._width]
        return self._kernels.beam_attention(*new, *stored, t + 1).flatten(0, 1)

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
    """One row for each distinct history of a sentence; none for what no longer searches.

    Slots with equal histories have equal distributions, and early on most slots are alike. Rows of
    a sentence stand together. Each keeps the place in the cache that its history had, so that only
    histories which part, or fill a gap, are copied.

    Args:
        memory: of the B sources.
        num_beams: K.
        max_length: T, positions that a slot may decode.
    """

    def __init__(self, memory: SourceMemory, num_beams: int, max_length: int) -> None:
        batch, heads, _, size = memory.shape
        # Positions before heads, so that what a row has decoded is one piece of memory.
        self._keys, self._values = Stores.new((batch, num_beams, max_length, heads, size), memory)
        lengths = memory.mask.sum(-1).flatten().tolist()
        self._sources = [
            [(k[b : b + 1, :, :s], v[b : b + 1, :, :s]) for b, s in enumerate(lengths)]
            for k, v in zip(memory.keys, memory.values, strict=True)
        ]
        self._counts = [1] * batch  # rows of each sentence
        self._row: np.ndarray = np.arange(batch)[:, None].repeat(num_beams, 1)  # of each slot

    def arrange(
        self, token_ids: np.ndarray, beam_idx: np.ndarray, live: np.ndarray, t: int
    ) -> Tensor:
        """Find the distinct histories, give each a row and a place in the cache.

        Args:
            token_ids: Shape ``(B, K)``.
            beam_idx: the slot that each goes on from. Shape ``(B, K)``.
            live: slots whose hypotheses still matter. Shape ``(B, K)``.
            t: position of the tokens, from 0; there all slots are alike.

        Returns:
            The rows' tokens. Shape ``(R',)``; behind the R rows that are asked for some fill up to
            a size.
        """
        if t == 0:
            return _filled_up(torch.from_numpy(token_ids[:, 0].copy()))
        parent = np.take_along_axis(self._row, beam_idx, 1)
        before = [0, *accumulate(self._counts)]
        tokens: list[np.ndarray] = []
        row = np.zeros(beam_idx.shape, np.int64)  # what is not live reads some row, unused
        first = 0
        for b, mine in enumerate(live):
            distinct = distinct_histories(parent[b, mine] - before[b], token_ids[b, mine])
            place = _places(distinct.parents)
            self._copy(b, distinct.parents, place, t)
            self._counts[b] = len(place)
            row[b, mine] = first + place[distinct.of_slot]
            tokens.append(distinct.token_ids[np.argsort(place)])
            first += len(place)
        self._row = row
        return _filled_up(torch.from_numpy(np.concatenate(tokens)))

    def self_attention(self, layer: int, t: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store position `t` and attend to all up to it: all are ``(R', H, D)``."""
        out = torch.zeros_like(q)
        for b, rows in self._rows():
            query = q[rows]
            keys = self._keys[layer][b, : len(query), : t + 1]
            values = self._values[layer][b, : len(query), : t + 1]
            keys[:, t], values[:, t] = k[rows], v[rows]
            out[rows] = _attend(query, keys, values)
        return out

    def cross_attention(self, layer: int, q: Tensor) -> Tensor:
        """Attend with a sentence's rows as one query each to its source."""
        out = torch.zeros_like(q)
        for b, rows in self._rows():
            query = q[rows].transpose(0, 1)[None]
            attended = F.scaled_dot_product_attention(query, *self._sources[layer][b])
            out[rows] = attended[0].transpose(0, 1)
        return out

    def trim(self, rows: Tensor) -> Tensor:
        """Drop what fills up: ``(R', ...)`` to ``(R, ...)``."""
        return rows[: sum(self._counts)]

    def _rows(self) -> list[tuple[int, slice]]:
        """Return the sentences that have rows, and where these stand."""
        ends = zip(accumulate(self._counts), self._counts, strict=True)
        return [(b, slice(end - count, end)) for b, (end, count) in enumerate(ends) if count]

    def spread(self, rows: Tensor) -> np.ndarray:
        """Give each slot its row's values: ``(R, ...)`` to ``(B, K, ...)``."""
        spread: np.ndarray = rows.numpy()[self._row]
        return spread

    def _copy(self, b: int, parent: np.ndarray, place: np.ndarray, t: int) -> None:
        moved = np.flatnonzero(parent != place)
        if len(moved):
            source, target = torch.from_numpy(parent[moved]), torch.from_numpy(place[moved])
            for store in (*self._keys, *self._values):
                rows = store[b, :, :t].flatten(1)  # a view
                rows.index_copy_(0, target, rows.index_select(0, source))


def _filled_up(token_ids: Tensor) -> Tensor:
    """Add rows that nobody reads, for few sizes: see `padded_rows`."""
    return F.pad(token_ids, (0, padded_rows(len(token_ids)) - len(token_ids)))


def _attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with one query a row: ``(N, H, D)`` to histories ``(N, T, H, D)``."""
    if keys.shape[1] < _MIN_FUSED_POSITIONS:
        scores = (query[:, None] * keys).sum(-1) * query.shape[-1] ** -0.5
        return (scores.softmax(1)[..., None] * values).sum(1)
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    return F.scaled_dot_product_attention(query[:, :, None], keys, values)[:, :, 0]


def _places(parent: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the place of each new row; places of N rows are 0 to N - 1.

    The first child of a parent takes its place over. Nobody else reads from there, and a place
    that a child takes over is never one that others read, so copies may be made all at once.
    """
    count = len(parent)
    place = np.full(count, -1)
    taken = np.zeros(count, bool)
    for row, old in enumerate(parent):
        if old < count and not taken[old]:
            place[row], taken[old] = old, True
    place[place < 0] = np.flatnonzero(~taken)
    return place
