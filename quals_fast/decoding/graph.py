"""CUDA graphs of the search: its launches recorded once per shape, then replayed.

A graph holds a few steps, so that the host sees between two of them which sentences have finished.
When few enough still search, they go on in the graphs of a smaller batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from quals_fast.config import DecodingConfig
from quals_fast.decoding.diverse_beam import Search
from quals_fast.decoding.rules import Hypotheses
from quals_fast.models.memory import SourceMemory
from quals_fast.models.slots import Stores

STEPS = 4  # of each graph: at most three are taken too many at the end
FIRST_STEPS = 16  # before these the host does not wait: hardly any search ends earlier
SHRINK = 4  # the next smaller batch has a quarter of the sentences: each size has to be captured
LEAST_BATCH = 4  # fewer sentences save little
WARM_UP_STEPS = 18  # lengths of 1, of 16 and others: Triton compiles for each kind

Start: TypeAlias = Callable[[SourceMemory, Stores], Search]


class _Part(NamedTuple):
    """A graph of some steps and what it leaves behind, in place."""

    graph: torch.cuda.CUDAGraph
    hypotheses: Hypotheses  # in all steps so far
    is_live: Tensor  # whether a sentence still searches. Shape (B,)
    state: list[Tensor]  # what the next steps read, B rows each


class GraphedSearch:
    """One search as CUDA graphs, for sources of one shape.

    Args:
        start: begins a search of encoded sources, whose slots decode into the stores.
        memory: sources of that shape; `run` writes others into a copy of them.
        stores: for B sentences or more. All graphs share them, one search at a time.
        config: settings of the search.
        stream: as for `graphs.Captured`.
        n_bytes: that it holds, from `held_bytes`.
    """

    def __init__(
        self,
        start: Start,
        memory: SourceMemory,
        stores: Stores,
        config: DecodingConfig,
        stream: torch.cuda.Stream,
        n_bytes: int,
    ) -> None:
        self.n_bytes = n_bytes
        self._memory, self._stores = memory.clone(), stores
        is_gpu = memory.mask.is_cuda
        self._flags = torch.empty(
            memory.batch_size, dtype=torch.bool, device="cpu", pin_memory=is_gpu
        )
        self._parts: list[_Part] = []
        own = stores.first(memory.batch_size)
        with torch.cuda.device(memory.mask.device):
            self._warm_up(start(self._memory, own), config, stream)
            # torch.cuda.graph leaves its stream the current one where the end of a capture fails.
            with torch.cuda.stream(stream):
                self._capture(lambda: start(self._memory, own), config.max_length + 1, stream)
            # A capture computes nothing, and a search that takes over from another one begins
            # behind the first graph, which makes what all steps read and none changes.
            self._parts[0].graph.replay()

    def run(
        self,
        memory: SourceMemory,
        n_sources: int,
        smaller: Callable[[SourceMemory], GraphedSearch | None],
    ) -> Hypotheses:
        """Search other sources of the same shape; what is returned is valid until the next run.

        Args:
            memory: the sources.
            n_sources: how many of them count; the others fill the batch up.
            smaller: returns the graphs for fewer sources of the same length, or None.
        """
        with torch.cuda.device(memory.mask.device):
            self._memory.copy_(memory)
            graphs = self
            sources = list(range(n_sources))  # that the rows of `graphs` stand for
            hypotheses: Hypotheses | None = None  # of all sources, once they have moved
            last = len(self._parts) - 1
            for number in range(last + 1):
                graphs._parts[number].graph.replay()
                if STEPS * (number + 1) < FIRST_STEPS or number == last:
                    continue  # the host need not wait for this one
                is_live = graphs._read_flags(number)
                live = [row for row in range(len(sources)) if is_live[row]]
                if not live:
                    break
                size = len(is_live) // SHRINK
                if not LEAST_BATCH <= size >= len(live):
                    continue
                fewer = smaller(graphs._memory.first(size))
                if fewer is not None:
                    hypotheses = graphs._gather(hypotheses, sources, number)
                    row_of = _rows_to_keep(live, size)
                    fewer._take_over(graphs, row_of, number)
                    graphs, sources = fewer, [sources[row] for row in row_of]
            if hypotheses is None:
                return graphs._parts[number].hypotheses
            return graphs._gather(hypotheses, sources, number)

    def _read_flags(self, number: int) -> list[bool]:
        """Wait for a graph to end; return which sentences still search."""
        self._flags.copy_(self._parts[number].is_live, non_blocking=True)
        event = torch.cuda.Event()  # waited for by spinning: a blocking one wakes the host late
        event.record()
        event.synchronize()
        return list(self._flags.tolist())

    def _gather(
        self, hypotheses: Hypotheses | None, sources: Sequence[int], number: int
    ) -> Hypotheses:
        """Put the hypotheses up to a graph's end in the rows of its sources."""
        mine = self._parts[number].hypotheses
        if hypotheses is None:  # nothing has moved yet
            return Hypotheses(*(part.clone() for part in mine))
        index = _to_device(sources, mine.lengths.device)
        for all_of_it, part in zip(hypotheses, mine, strict=True):
            all_of_it.index_copy_(0, index, part)
        return hypotheses

    def _take_over(self, other: GraphedSearch, row_of: Sequence[int], number: int) -> None:
        """Stand where another search stood at a graph's end, with some of its rows."""
        moved = [(row, place) for place, row in enumerate(row_of) if row != place]
        device = self._memory.mask.device
        if moved:
            self._stores.move(*(_to_device(rows, device) for rows in zip(*moved, strict=True)))
        index = _to_device(row_of, device)
        mine = [*self._memory.tensors(), *self._parts[number].state]
        theirs = [*other._memory.tensors(), *other._parts[number].state]
        for target, source in zip(mine, theirs, strict=True):
            target.copy_(source.index_select(0, index))

    def _warm_up(self, search: Search, config: DecodingConfig, stream: torch.cuda.Stream) -> None:
        """Compile the kernels off the graph, in all variants that occur within a search."""
        usual = range(config.min_length + WARM_UP_STEPS)  # storing begins at min_length
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for t in range(config.max_length + 1):
                if t in usual or t == config.max_length:
                    search.step(t)
            search.state.sorted(config.max_length + 1)
        torch.cuda.current_stream().wait_stream(stream)

    def _capture(self, start: Callable[[], Search], length: int, stream: torch.cuda.Stream) -> None:
        pool = torch.cuda.graph_pool_handle()
        search: Search | None = None
        for first, last in pairwise([*range(0, length, STEPS), length]):
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile: a data loader, a training step.
            with torch.cuda.graph(
                graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                search = search or start()
                for t in range(first, last):
                    search.step(t)
                hypotheses, is_live = search.state.sorted(length), search.state.live().any(1)
            state = search.tensors() if last < length else []
            self._parts.append(_Part(graph, hypotheses, is_live, state))


def _rows_to_keep(live: Sequence[int], size: int) -> list[int]:
    """Return the row that each of the first places gets: live ones stay where they can.

    Places that no live row needs keep theirs, which has finished.
    """
    row_of = list(range(size))
    free = (place for place in row_of if place not in set(live))
    for row in live:
        if row >= size:
            row_of[next(free)] = row
    return row_of


def _to_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Copy numbers to the device without a wait."""
    pinned = torch.tensor(numbers, device="cpu", pin_memory=device.type == "cuda")
    return pinned.to(device, non_blocking=True)


def held_bytes(memory: SourceMemory, config: DecodingConfig, vocab_size: int) -> int:
    """Count what the graphs of a search hold on the device beside the stores.

    Sources, one step's logits with their maxima, and histories (searching and finished, and where
    their keys and values are): before and after a step, and once for each graph.
    """
    rows, length = memory.batch_size * config.num_beams, config.max_length + 1
    sources = sum(x.nbytes for x in memory.tensors())
    logits = rows * vocab_size * 4 * 17 // 16
    an_id, a_logprob = 8, 4
    searching = rows * length * (2 * an_id + 2 * a_logprob)
    finished = rows * length * (an_id + 2 * a_logprob)
    graphs = len(range(0, length, STEPS))
    return sources + logits + (graphs + 1) * (searching + finished)
