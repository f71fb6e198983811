"""What the step graph reads at every step: keys and values of the sources and of decoded nodes.

On a CPU they are arrays that the host writes new nodes into. On a GPU they stay where they are: a
graph of their own gathers them, and the host sees neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from quals_fast.exported.loading import OnnxModel

_FIRST_CAPACITY = 64  # nodes of a sentence
_CAPACITY_STEP = 128  # by which the room for them grows


class Store(Protocol):
    """Keys and values, layer by layer.

    Attributes:
        tensors: ``cross_*`` ``(B, H, S, D)`` and ``past_*`` ``(B, H, N, D)``, as the step graph
            takes them.
        capacity: N, nodes that a sentence has room for.
    """

    tensors: dict[str, Any]
    capacity: int

    def append(
        self, outputs: Mapping[str, Any], nodes: Sequence[int], counts: Sequence[int]
    ) -> None:
        """Add a step's rows to the nodes, sentence by sentence.

        Args:
            outputs: of the step graph; ``new_*`` of the rows are ``(R, H, D)``.
            nodes: that each sentence has.
            counts: rows of each sentence, R in all.
        """
        ...

    def keep(self, kept: np.ndarray) -> None:
        """Forget all sentences but those with these indices."""
        ...


def make_store(model: OnnxModel, memory: Mapping[str, Any], batch_size: int) -> Store:
    """Return a store without nodes that suits the place where the graphs run.

    Args:
        model: the loaded export.
        memory: outputs of the encoder graph.
        batch_size: B.
    """
    shape, graph = model.shape, model.graphs["grow"]
    heads = shape.decoder_attention_heads
    sizes = batch_size, heads, _FIRST_CAPACITY, shape.d_model // heads
    past = {
        name.replace("cross", "past"): np.zeros(sizes, graph.types["new_key_0"]) for name in memory
    }
    if graph.is_bound:
        return BoundStore(model, dict(memory), past)
    return HostStore({**memory, **past})


class HostStore:
    """Arrays of the host.

    Args:
        tensors: sources and empty nodes.
    """

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors, self.capacity = tensors, _FIRST_CAPACITY

    def append(
        self, outputs: Mapping[str, Any], nodes: Sequence[int], counts: Sequence[int]
    ) -> None:
        """Write the rows behind each sentence's nodes."""
        past = {name: part for name, part in self.tensors.items() if name.startswith("past")}
        capacity = _capacity(self.capacity, nodes, counts)
        if capacity > self.capacity:
            widen = (0, 0), (0, 0), (0, capacity - self.capacity), (0, 0)
            past = {name: np.pad(part, widen) for name, part in past.items()}
            self.tensors |= past
            self.capacity = capacity
        for name, part in past.items():
            new, first = outputs[name.replace("past", "new")], 0
            for b, (start, count) in enumerate(zip(nodes, counts, strict=True)):
                part[b, :, start : start + count] = new[first : first + count].transpose(1, 0, 2)
                first += count

    def keep(self, kept: np.ndarray) -> None:
        """Forget all sentences but those with these indices."""
        self.tensors = {name: part[kept] for name, part in self.tensors.items()}


class BoundStore:
    """Tensors that stay where the graphs run.

    Args:
        model: the loaded export.
        memory: the sources.
        past: the empty nodes.
    """

    def __init__(
        self, model: OnnxModel, memory: dict[str, Any], past: dict[str, np.ndarray]
    ) -> None:
        self._graph = model.graphs["grow"]
        self._none = {name.replace("past", "new"): part[:, :, 0][:0] for name, part in past.items()}
        self.tensors = {**memory, **past}  # the first step takes the nodes to the device
        self.capacity = _FIRST_CAPACITY

    def append(
        self, outputs: Mapping[str, Any], nodes: Sequence[int], counts: Sequence[int]
    ) -> None:
        """Let the graph gather nodes and rows into tensors with room for both."""
        batch, before = len(nodes), self.capacity
        self.capacity = _capacity(before, nodes, counts)
        source = np.zeros((batch, self.capacity), np.int64)
        source[:, :before] = np.arange(batch * before).reshape(batch, before)
        first_rows = accumulate(counts, initial=batch * before)
        for b, (first, start, count) in enumerate(zip(first_rows, nodes, counts, strict=False)):
            source[b, start : start + count] = np.arange(first, first + count)
        self._gather("past", source, {name: outputs[name] for name in self._none})

    def keep(self, kept: np.ndarray) -> None:
        """Forget all sentences but those with these indices."""
        length = self.tensors["cross_key_0"].shape()[2]
        for what, width in (("cross", length), ("past", self.capacity)):
            self._gather(what, kept[:, None] * width + np.arange(width), self._none)

    def _gather(self, what: str, source: np.ndarray, new: Mapping[str, Any]) -> None:
        """Replace sources or nodes by what stands at these places of them and the new rows."""
        names = {name: name.replace("new", what) for name in new}
        old = {name.replace("new", "old"): self.tensors[kept] for name, kept in names.items()}
        gathered = self._graph.run({**old, **new, "source": source})
        for name, kept in names.items():
            self.tensors[kept] = gathered[name.replace("new", "grown")]


def _capacity(capacity: int, nodes: Sequence[int], counts: Sequence[int]) -> int:
    """Return the room that the nodes need with so many more, if that is more than there is."""
    needed = max(n + count for n, count in zip(nodes, counts, strict=True))
    return capacity if needed <= capacity else -(-needed // _CAPACITY_STEP) * _CAPACITY_STEP
