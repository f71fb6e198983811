"""Keys and values of what rows have decoded, as the step graph reads them at every step.

On a CPU they are arrays that the host writes into. On a GPU they stay where they are: a graph of
their own gathers them, and the host does not see them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from quals_fast.decoding.histories import moved_rows
from quals_fast.exported.loading import OnnxModel
from quals_fast.exported.session import Graph

_POSITIONS_AT_ONCE = 16  # by which the room for them grows


class Store(Protocol):
    """Keys and values, layer by layer."""

    def feeds(self, n_rows: int) -> dict[str, Any]:
        """Return ``past_*`` ``(R, H, T, D)`` and ``is_past`` ``(T,)``, as the step graph asks."""
        ...

    def move_on(self, outputs: Mapping[str, Any], parents: np.ndarray) -> None:
        """Append what a step decoded, then let the next rows take over what they continue.

        Args:
            outputs: of the step graph; ``new_*`` of its rows are ``(R, H, D)``.
            parents: the row that each of the next continues. Shape ``(R',)``.
        """
        ...


def make_store(model: OnnxModel, batch_size: int, num_beams: int) -> Store:
    """Return an empty store that suits the place where the graphs run.

    Args:
        model: the loaded export.
        batch_size: B, rows of the first step.
        num_beams: K; there are B * K rows at most.
    """
    graph = model.graphs["grow"]
    rows = batch_size if graph.is_bound else batch_size * num_beams
    positions = 1 if graph.is_bound else _POSITIONS_AT_ONCE
    past = {}
    for name, dtype in graph.types.items():
        if name.startswith("new_"):
            _, heads, size = graph.sizes[name]
            past[name.replace("new", "past")] = np.zeros((rows, heads, positions, size), dtype)
    return BoundStore(graph, past) if graph.is_bound else HostStore(past)


class HostStore:
    """Arrays of the host, with room for more rows and positions than there are.

    Positions that no row has decoded yet stay zero: the step graph gives them no weight, but NaN
    times no weight would be NaN.

    Args:
        past: zeros ``(B * K, H, T, D)`` by input of the step graph.
    """

    def __init__(self, past: dict[str, np.ndarray]) -> None:
        self._past, self._t = past, 0

    def feeds(self, n_rows: int) -> dict[str, Any]:
        """As in `Store`; arrays are views."""
        (room,) = {part.shape[2] for part in self._past.values()}
        past = {name: part[:n_rows] for name, part in self._past.items()}
        return {**past, "is_past": np.arange(room) < self._t}

    def move_on(self, outputs: Mapping[str, Any], parents: np.ndarray) -> None:
        """As in `Store`; a row that keeps its parent's number is only appended to."""
        moved = moved_rows(parents)
        t = self._t
        self._t += 1
        for name, part in self._past.items():
            new = outputs[name.replace("past", "new")]
            if t == part.shape[2]:
                part = _widened(part, len(new))
                self._past[name] = part
            part[: len(new), :, t] = new
            decoded = part[:, :, : t + 1]
            decoded[moved] = decoded[parents[moved]]


def _widened(part: np.ndarray, n_rows: int) -> np.ndarray:
    """Return an array with room for more positions; only so many of its rows are copied."""
    rows, heads, room, size = part.shape
    wider = np.zeros((rows, heads, room + _POSITIONS_AT_ONCE, size), part.dtype)
    wider[:n_rows, :, :room] = part[:n_rows]
    return wider


class BoundStore:
    """Tensors that stay where the graphs run.

    Args:
        grow: the graph that moves them.
        past: zeros ``(B, H, 1, D)`` by input of the step graph: a position that is no row's past,
            since there has to be one. The first step takes them to the device.
    """

    def __init__(self, grow: Graph, past: dict[str, Any]) -> None:
        self._grow, self._past, self._t = grow, past, 0

    def feeds(self, n_rows: int) -> dict[str, Any]:
        """As in `Store`."""
        return {**self._past, "is_past": np.arange(self._t + 1) > 0}

    def move_on(self, outputs: Mapping[str, Any], parents: np.ndarray) -> None:
        """As in `Store`."""
        self._t += 1
        old = {name.replace("past", "old"): part for name, part in self._past.items()}
        new = {name: part for name, part in outputs.items() if name.startswith("new_")}
        grown = self._grow.run({**old, **new, "source": parents})
        self._past = {name.replace("grown", "past"): part for name, part in grown.items()}
