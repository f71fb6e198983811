"""CUDA graphs of the search: its launches recorded once per shape, then replayed.

One graph holds a few steps, so that the host can stop between two of them. Their results are read
from where the graphs leave them, before the next search of that shape.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quals_fast.decoding.diverse_beam import Search, StopTest
from quals_fast.decoding.rules import Hypotheses

STEPS = 4  # of one graph: as many as are taken too many at the end


class GraphedSearch:
    """One search as CUDA graphs, for sources of one shape.

    Args:
        start: begins a search of the sources whose memory stands in `inputs`.
        inputs: what a search reads; `run` writes new sources there.
        length: steps at most.
    """

    def __init__(self, start: Callable[[], Search], inputs: list[Tensor], length: int) -> None:
        self._inputs = inputs
        self._device = inputs[0].device
        self._graphs: list[tuple[torch.cuda.CUDAGraph, Hypotheses, Tensor]] = []
        self._warm_up(start, length)
        pool = torch.cuda.graph_pool_handle()
        search: Search | None = None
        for first in range(0, length, STEPS):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                search = search or start()
                last = min(first + STEPS, length)
                for t in range(first, last):
                    search.step(t)
                found, done = search.state.sorted(last), search.state.all_done()
            self._graphs.append((graph, found, done))

    def run(self, inputs: list[Tensor]) -> Hypotheses:
        """Search other sources of the same shape; what is returned is valid until the next run."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        stop = StopTest(self._device)
        for graph, found, done in self._graphs:
            graph.replay()
            if stop.saw_true(done):
                return found
        return self._graphs[-1][1]

    def _warm_up(self, start: Callable[[], Search], length: int) -> None:
        """Compile the kernels, all of whose variants occur within a search, off the graph."""
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            search = start()
            for t in range(length):
                search.step(t)
            search.state.sorted(length)
        torch.cuda.current_stream(self._device).wait_stream(stream)
