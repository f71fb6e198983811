"""CUDA graphs of the search: its launches recorded once per shape, then replayed.

One graph holds a few steps, so that the host can stop between two of them. Their results are read
from where the graphs leave them, before the next search of that shape.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from quals_fast.batching import is_out_of_memory
from quals_fast.config import DecodingConfig
from quals_fast.decoding.diverse_beam import Search, StopTest
from quals_fast.decoding.rules import Hypotheses
from quals_fast.models.cache import SourceMemory
from quals_fast.processes import this_thread

STEPS = 4  # of one graph: at most three are taken too many at the end
LAG = 0  # graphs launched before the host waits for a flag: its wait is short beside four steps


class GraphedSearch:
    """One search as CUDA graphs, for sources of one shape.

    Args:
        start: begins a search of encoded sources.
        memory: sources of that shape; `run` writes others into a copy of them.
        length: steps at most.
        stream: the one that all of a device's searches are captured on, so that they share a
            workspace of cuBLAS that outlives each of them.
    """

    def __init__(
        self,
        start: Callable[[SourceMemory], Search],
        memory: SourceMemory,
        length: int,
        stream: torch.cuda.Stream,
    ) -> None:
        self._memory = SourceMemory(
            [keys.clone() for keys in memory.keys],
            [values.clone() for values in memory.values],
            memory.mask.clone(),
        )
        self._device = memory.mask.device
        self._graphs: list[tuple[torch.cuda.CUDAGraph, Hypotheses, Tensor]] = []
        with torch.cuda.device(self._device):
            self._warm_up(start, length, stream)
            # torch.cuda.graph leaves its stream the current one where the end of a capture fails.
            with torch.cuda.stream(stream):
                self._capture(start, length, stream)

    def run(self, memory: SourceMemory) -> Hypotheses:
        """Search other sources of the same shape; what is returned is valid until the next run."""
        with torch.cuda.device(self._device):
            mine = self._memory
            torch._foreach_copy_([*mine.keys, *mine.values], [*memory.keys, *memory.values])
            mine.mask.copy_(memory.mask)
            stop = StopTest(self._device, LAG)
            for graph, found, done in self._graphs:
                graph.replay()
                if stop.saw_true(done):
                    return found
            return self._graphs[-1][1]

    def _warm_up(
        self, start: Callable[[SourceMemory], Search], length: int, stream: torch.cuda.Stream
    ) -> None:
        """Compile the kernels, all of whose variants occur within a search, off the graph."""
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            search = start(self._memory)
            for t in range(length):
                search.step(t)
            search.state.sorted(length)
        torch.cuda.current_stream().wait_stream(stream)

    def _capture(
        self, start: Callable[[SourceMemory], Search], length: int, stream: torch.cuda.Stream
    ) -> None:
        pool = torch.cuda.graph_pool_handle()
        search: Search | None = None
        for first in range(0, length, STEPS):
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile: a data loader, a training step.
            with torch.cuda.graph(
                graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                search = search or start(self._memory)
                last = min(first + STEPS, length)
                for t in range(first, last):
                    search.step(t)
                found, done = search.state.sorted(last), search.state.all_done()
            self._graphs.append((graph, found, done))


class SearchGraphs:
    """Graphed searches by the shape of their sources, bounded in bytes.

    A shape is captured when it comes the second time; the least recently used go first. A thread
    that may not capture (`processes.this_thread`) uses what others have captured.

    Args:
        capture: makes the graphs for sources of one shape.
        count_bytes: returns what these would hold.
        max_bytes: bound on the sum; 0 for no graphs at all.

    Attributes:
        max_bytes: the bound, halved whenever memory ran out in a capture.
    """

    def __init__(
        self,
        capture: Callable[[SourceMemory], GraphedSearch],
        count_bytes: Callable[[SourceMemory], int],
        max_bytes: int,
    ) -> None:
        self.max_bytes = max_bytes
        self._capture, self._count_bytes = capture, count_bytes
        self._seen: set[tuple[int, ...]] = set()
        self._kept: OrderedDict[tuple[int, ...], tuple[GraphedSearch, int]] = OrderedDict()

    @property
    def n_bytes(self) -> int:
        """Bytes held now, as they are counted."""
        return sum(held for _, held in self._kept.values())

    def get(self, memory: SourceMemory) -> GraphedSearch | None:
        """Return the graphs for sources of this shape, or None where the search runs without.

        Memory that does not suffice for a capture is no failure: all graphs are dropped, half as
        much may be held from then on, and a warning says so.
        """
        shape = memory.shape
        if shape in self._kept:
            self._kept.move_to_end(shape)
            return self._kept[shape][0]
        held = self._count_bytes(memory)
        if held > self.max_bytes or not this_thread.captures_graphs:
            return None
        if shape not in self._seen:  # a shape that may not come again is not worth its graphs
            self._seen.add(shape)
            return None
        while self.n_bytes + held > self.max_bytes:
            self._kept.popitem(last=False)
        try:
            self._kept[shape] = self._capture(memory), held
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self.drop()
            self.max_bytes //= 2
            logging.getLogger("quals_fast").warning(
                "out of memory while a search was captured: all CUDA graphs were dropped, and they "
                "may hold %d MiB from now on",
                self.max_bytes // 2**20,
            )
            return None
        return self._kept[shape][0]

    def drop(self) -> bool:
        """Drop all graphs; return whether there were any."""
        had_some = bool(self._kept)
        self._kept.clear()
        self._seen.clear()
        return had_some


def held_bytes(memory: SourceMemory, config: DecodingConfig, vocab_size: int) -> int:
    """Count what the graphs of a search hold on the device.

    Sources, the keys and values that the beams decode, one step's logits with their maxima, and
    four copies of the histories (searching and finished, before and after a step).
    """
    batch, heads, _, width = memory.keys[0].shape
    rows, length = batch * config.num_beams, config.max_length + 1
    sources = sum(x.nbytes for x in memory.tensors())
    a_position = heads * width * memory.keys[0].element_size()
    stores = 2 * len(memory.keys) * rows * length * a_position
    logits = rows * vocab_size * 4 * 17 // 16
    histories = 4 * rows * length * 16  # an id and two log-probabilities a token
    return sources + stores + logits + histories
