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

STEPS = 4  # of one graph: up to twice as many are taken too many at the end


class GraphedSearch:
    """One search as CUDA graphs, for sources of one shape.

    Args:
        start: begins a search of the sources whose memory stands in `inputs`.
        inputs: what a search reads; `run` writes new sources there.
        length: steps at most.
        stream: the one that all of a device's searches are captured on, so that they share a
            workspace of cuBLAS that outlives each of them.
    """

    def __init__(
        self,
        start: Callable[[], Search],
        inputs: list[Tensor],
        length: int,
        stream: torch.cuda.Stream,
    ) -> None:
        self._inputs = inputs
        self._device = inputs[0].device
        self._graphs: list[tuple[torch.cuda.CUDAGraph, Hypotheses, Tensor]] = []
        with torch.cuda.device(self._device):
            self._warm_up(start, length, stream)
            self._capture(start, length, stream)

    def run(self, inputs: list[Tensor]) -> Hypotheses:
        """Search other sources of the same shape; what is returned is valid until the next run."""
        with torch.cuda.device(self._device):
            for mine, given in zip(self._inputs, inputs, strict=True):
                mine.copy_(given)
            stop = StopTest(self._device, lag=1)
            for graph, found, done in self._graphs:
                graph.replay()
                if stop.saw_true(done):
                    return found
            return self._graphs[-1][1]

    def _warm_up(self, start: Callable[[], Search], length: int, stream: torch.cuda.Stream) -> None:
        """Compile the kernels, all of whose variants occur within a search, off the graph."""
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            search = start()
            for t in range(length):
                search.step(t)
            search.state.sorted(length)
        torch.cuda.current_stream().wait_stream(stream)

    def _capture(self, start: Callable[[], Search], length: int, stream: torch.cuda.Stream) -> None:
        pool = torch.cuda.graph_pool_handle()
        search: Search | None = None
        for first in range(0, length, STEPS):
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile: a data loader, a training step.
            with torch.cuda.graph(
                graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                search = search or start()
                last = min(first + STEPS, length)
                for t in range(first, last):
                    search.step(t)
                found, done = search.state.sorted(last), search.state.all_done()
            self._graphs.append((graph, found, done))
