"""CUDA graphs of the search: its launches recorded once per shape, then replayed.

One graph holds a few steps, so that the host can stop between two of them. Their results are read
from where the graphs leave them, before the next search of that shape.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quals_fast.config import DecodingConfig
from quals_fast.decoding.diverse_beam import Search, StopTest
from quals_fast.decoding.rules import Hypotheses
from quals_fast.models.cache import SourceMemory

STEPS = 4  # of one graph: at most three are taken too many at the end
LAG = 0  # graphs launched before the host waits for a flag: its wait is short beside four steps


class GraphedSearch:
    """One search as CUDA graphs, for sources of one shape.

    Args:
        start: begins a search of encoded sources.
        memory: sources of that shape; `run` writes others into a copy of them.
        length: steps at most.
        stream: as for `graphs.Captured`.
        n_bytes: that it holds, from `held_bytes`.
    """

    def __init__(
        self,
        start: Callable[[SourceMemory], Search],
        memory: SourceMemory,
        length: int,
        stream: torch.cuda.Stream,
        n_bytes: int,
    ) -> None:
        self.n_bytes = n_bytes
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
