"""CUDA graphs: parts of the GPU pass, recorded once per shape, and which of them are kept.

A replay costs the host one launch. If a launch takes 45 us, as measured on a virtual machine, the
host needs 9 ms for the 202 kernels of both encodings, while an H100 needs about 2.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from quals_fast.batching import is_out_of_memory
from quals_fast.processes import this_thread

R = TypeVar("R")
Key: TypeAlias = tuple[Hashable, ...]  # the name of the part, and all shapes


class Graphed(Protocol):
    """What a `GraphCache` keeps."""

    @property
    def n_bytes(self) -> int:
        """Bytes that it holds on the device between calls."""
        ...


G = TypeVar("G", bound=Graphed)


class Captured(Generic[R]):
    """A function of tensors as one CUDA graph, for inputs of one shape.

    Args:
        function: launches kernels and nothing else; reads no value, and makes no tensor from
            Python's numbers.
        inputs: on the device or the host, of the shapes and types that all later ones have.
        device: where the function runs.
        stream: the one to capture on. Graphs that are captured on one stream share a workspace of
            cuBLAS, which outlives each of them, so they must not run side by side.
    """

    def __init__(
        self,
        function: Callable[..., R],
        inputs: Sequence[Tensor],
        device: torch.device,
        stream: torch.cuda.Stream,
    ) -> None:
        self._device = device
        self._inputs = [torch.empty(x.shape, dtype=x.dtype, device=device) for x in inputs]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            self._copy_in(inputs)
            stream.wait_stream(torch.cuda.current_stream())
            # torch.cuda.graph leaves its stream the current one where the end of a capture fails.
            with torch.cuda.stream(stream):
                function(*self._inputs)  # compiles kernels and makes handles, off the graph
                # Other threads may use the device meanwhile: a data loader, a training step.
                with torch.cuda.graph(
                    self._graph, stream=stream, capture_error_mode="thread_local"
                ):
                    self._outputs = function(*self._inputs)
            torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, *inputs: Tensor) -> R:
        """Run with other inputs; what is returned is valid until the next call."""
        with torch.cuda.device(self._device):
            self._copy_in(inputs)
            self._graph.replay()
        return self._outputs

    @property
    def n_bytes(self) -> int:
        """Bytes of its memory pool, as PyTorch's allocator says, and of its inputs."""
        segments = torch.cuda.memory_snapshot(self._graph.pool())
        in_pool: int = sum(segment["total_size"] for segment in segments)
        return in_pool + sum(x.nbytes for x in self._inputs)

    def _copy_in(self, inputs: Sequence[Tensor]) -> None:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)  # what is not pinned is staged at once


class GraphCache:
    """CUDA graphs by key, bounded in bytes.

    What has a key is captured when the key comes the second time; the least recently used go first.
    A thread that may not capture (`processes.this_thread`) uses what others have captured.

    Args:
        max_bytes: bound on the sum of what they hold; 0 for no graphs at all.

    Attributes:
        max_bytes: the bound, halved whenever memory ran out.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._seen: set[Key] = set()
        self._sizes: dict[Key, int] = {}  # bytes, as far as they are known
        self._kept: OrderedDict[Key, Graphed] = OrderedDict()

    @property
    def n_bytes(self) -> int:
        """Bytes held now."""
        return sum(self._sizes[key] for key in self._kept)

    def get(self, key: Key, capture: Callable[[], G], n_bytes: int = 0) -> G | None:
        """Return the graphs of a key, or None where their work has to be done without.

        Memory that does not suffice for a capture is no failure: all graphs are dropped, half as
        much may be held from then on, and a warning says so.

        Args:
            key: says what is captured, and all shapes.
            capture: makes the graphs.
            n_bytes: what they will hold at least, as far as that is known before.
        """
        if (kept := self.kept(key)) is not None:
            return kept
        n_bytes = self._sizes.get(key, n_bytes)
        if not self.max_bytes or n_bytes > self.max_bytes or not this_thread.captures_graphs:
            return None
        if key not in self._seen:  # what may not come again is not worth its graphs
            self._seen.add(key)
            return None
        self._make_room(n_bytes)
        try:
            graphs = capture()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self.give_way("while a CUDA graph was captured")
            return None
        self._sizes[key] = graphs.n_bytes
        if graphs.n_bytes > self.max_bytes:
            return None
        self._make_room(graphs.n_bytes)
        self._kept[key] = graphs
        return graphs

    def kept(self, key: Key) -> Any:
        """Return the graphs of a key, which are used by that, or None; captures nothing."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def drop(self, kind: Hashable = None) -> bool:
        """Drop all graphs, or those whose keys begin so; return whether there were any."""
        dropped = [key for key in self._kept if kind is None or key[0] == kind]
        for key in dropped:
            del self._kept[key]
        if kind is None:
            self._seen.clear()
        return bool(dropped)

    def give_way(self, when: str) -> None:
        """Drop all graphs for want of memory; half as much may be held from then on.

        Args:
            when: memory ran out, for the warning.
        """
        self.drop()
        self.max_bytes //= 2
        logging.getLogger("quals_fast").warning(
            "out of memory %s: all CUDA graphs were dropped, and they may hold %d MiB from now on",
            when,
            self.max_bytes // 2**20,
        )

    def _make_room(self, n_bytes: int) -> None:
        """Drop the least recently used until there is room for so many bytes."""
        while self._kept and self.n_bytes + n_bytes > self.max_bytes:
            self._kept.popitem(last=False)
