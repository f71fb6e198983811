"""The GPU pass: search, filter, select and rescore a batch of pairs, with two reads.

Shapes are fixed and nothing is read before the pairs are selected, so the GPU never waits for the
host. The first read is the number of tokens of the selected pairs, so that only these are rescored;
the second, at the end, is all results. What the device cannot decide (text that only the host can
read) is done again by the host's functions, which give the same results.

Each part is a function of tensors. Small batches run it as a CUDA graph (`engine.graphs`), so they
are padded to few sizes: with the last summary and document, and with empty texts, for which no pair
is kept.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from itertools import islice
from threading import Thread
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from quals_fast.batching import is_out_of_memory, padded, run_batches, size_from
from quals_fast.config import DecodingConfig
from quals_fast.decoding.diverse_beam import Search
from quals_fast.decoding.graph import GraphedSearch, held_bytes
from quals_fast.decoding.rules import Hypotheses
from quals_fast.engine.filtering import KeptPair, keep_pairs, split_at_sep
from quals_fast.engine.generation import HypothesisReader, begin_search
from quals_fast.engine.graphs import Captured, GraphCache, Key
from quals_fast.engine.protocol import Scored, TextPair
from quals_fast.engine.rescoring import logprobs_of_targets, rescore
from quals_fast.engine.selection import PairSelector, Sequences, Summaries
from quals_fast.engine.transfer import CopiesToHost, to_host
from quals_fast.models.cache import EncodingCache, hidden_states
from quals_fast.models.loading import TorchModel
from quals_fast.models.memory import SourceMemory
from quals_fast.models.slots import DenseSlots, Stores
from quals_fast.models.tokenizer import Source
from quals_fast.results import Hypothesis

R = TypeVar("R")

MAX_GRAPH_BATCH = 64  # larger ones are hardly faster per pair, and wait longer for the slowest
MIN_GRAPH_BATCH = 16  # if graphs must be smaller than this, large batches without graphs are faster
MAX_PART_BATCH = 8  # for encoding and rescoring: above, they take the GPU longer than the host
_SOURCE_MULTIPLE = 128  # lengths of sources are padded to a multiple, so that few shapes occur
_SEARCH = "search"  # begins the keys of its graphs
_ROW_MULTIPLE = 16  # rescored rows are padded to a multiple: attention copies other masks

NOTHING = Source("", [], array("i"), 0, 0)  # pads batches: it contains no answer


class Chosen(NamedTuple):
    """The pairs that are kept, of B summaries with N hypotheses each."""

    order: Tensor  # (B, N) int64: as in `Selection`
    n_kept: Tensor  # (B,) int64
    unsure: Tensor  # (B,) bool
    token_ids: Tensor  # (B, N, T) int64: in that order
    lengths: Tensor  # (B, N) int64: 0 behind the kept ones
    sizes: Tensor  # (2,) int64: tokens that are kept of all summaries, and the most of any


class Launched(NamedTuple):
    """A batch whose results are on their way to the host."""

    n_summaries: int
    copies: CopiesToHost


# None where the host has to do it again, of these hypotheses.
Read: TypeAlias = tuple[Scored | None, list[Hypothesis]]


class FusedPass:
    """Scores batches of pairs on one device.

    Args:
        model: the model.
        decoding: settings of the search.
        max_pairs: as in `ScoringConfig`.
        max_batch_tokens: a pair counts as its document, its summary and all that its beams may
            decode.
        graph_bytes: that CUDA graphs may hold between calls; 0 for none. Three quarters are for
            the keys and values of the beams, which the searches of all shapes share.
        cache: of encoded documents.
    """

    def __init__(
        self,
        model: TorchModel,
        decoding: DecodingConfig,
        max_pairs: int | None,
        max_batch_tokens: int,
        graph_bytes: int,
        cache: EncodingCache | None = None,
    ) -> None:
        self.decoding, self.max_pairs = decoding, max_pairs
        self._model, self._cache, self._max_batch_tokens = model, cache, max_batch_tokens
        self._beam_tokens = decoding.num_beams * (decoding.max_length + 1)
        self._device = model.device
        is_gpu = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if is_gpu else None
        self._capturing = torch.cuda.Stream(self._device) if is_gpu else None
        # cuBLAS has one workspace a stream, which graphs that run side by side must not share.
        self._capturing_beside = self._stream
        self._graphs = GraphCache(graph_bytes // 4 if is_gpu else 0)
        self._stores: Stores | None = None  # what the beams of all graphs decode into
        of_token = model.shape.stored_per_token * model.network.dtype.itemsize
        self._store_bytes = of_token * self._beam_tokens

    @property
    def _graph_batch(self) -> int:
        """The largest batch that graphs can hold; a power of two, or 0."""
        fitting = 3 * self._graphs.max_bytes // self._store_bytes
        return min(MAX_GRAPH_BATCH, 1 << fitting.bit_length() >> 1)

    @cached_property
    def _selector(self) -> PairSelector:
        """The selection on the device, made when it is first asked for: it takes a second."""
        model = self._model
        return PairSelector(
            model.tokenizer, model.conventions, self._device, model.kernels.span_match
        )

    def score(self, pairs: Sequence[TextPair], on_progress: Callable[[int], None]) -> list[Scored]:
        """Score each summary against its document; arguments as for `Engine.score`."""
        # Like documents together: they differ most in length.
        most = self._graph_batch
        least = self._max_batch_tokens // most if most >= MIN_GRAPH_BATCH else 0
        costs = [
            max(least, len(d.input_ids) + len(s.input_ids) + self._beam_tokens) for d, s in pairs
        ]

        def run(batch: list[int]) -> list[tuple[Future[list[Read]], int]]:
            launched = self._launch_again([pairs[i] for i in batch])
            reading = _in_a_thread(partial(self._read, launched))
            return [(reading, row) for row in range(len(batch))]

        scored_rows: dict[int, Scored] = {}
        waiting: deque[tuple[int, Future[list[Read]], int]] = deque()

        def collect() -> None:
            i, reading, row = waiting.popleft()
            scored, hypotheses = reading.result()[row]
            if scored is None:
                scored = self._on_host(pairs[i], hypotheses)
            scored_rows[i] = scored
            on_progress(1)

        for i, (reading, row) in run_batches(costs, self._max_batch_tokens, run):
            waiting.append((i, reading, row))
            while waiting[0][1] is not reading:  # read while this batch was launched
                collect()
        while waiting:
            collect()
        return [scored_rows[i] for i in range(len(pairs))]

    def _launch_again(self, pairs: Sequence[TextPair]) -> Launched:
        """Launch a batch; where memory runs out, once more without what is held between calls."""
        try:
            return self._launch(pairs)
        except RuntimeError as error:
            if not (is_out_of_memory(error) and self._let_go()):
                raise
        return self._launch(pairs)

    def _let_go(self) -> bool:
        """Drop graphs, their stores and encoded documents; return whether there were any."""
        had_graphs = self._graphs.n_bytes > 0
        had_any = had_graphs or self._stores is not None
        if had_graphs:  # with less for them, it need not run out in each call
            self._graphs.give_way("in a batch")
        self._stores = None
        if self._cache is not None:
            had_any = had_any or self._cache.stats.n_documents > 0
            self._cache.clear()
        return had_any

    def _launch(self, pairs: Sequence[TextPair]) -> Launched:
        """Launch all that a batch needs, and the copies of what is found."""
        count, summaries = len(pairs), [pair.summary for pair in pairs]
        missing = (filled_up(count) if self._graphs_pay(count) else count) - count
        texts = self._selector.pad_summaries([*summaries, *[NOTHING] * missing])
        documents = [tuple(pair.document.input_ids) for pair in pairs]
        row_of = {ids: row for row, ids in enumerate(dict.fromkeys(documents))}
        rows = [row_of[ids] for ids in documents]
        encoded = self._encode_beside([*row_of])
        ids = [s.input_ids for s in [*summaries, *[summaries[-1]] * missing]]
        hypotheses = self._search(ids, count)
        sequences = Sequences(*hypotheses[:2], hypotheses.sums)
        chosen = self._part(self._select, [*sequences, *texts], most=MAX_GRAPH_BATCH)
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        logprobs = self._rescore(*encoded, rows, chosen)
        of_pairs = [chosen.order, chosen.n_kept, chosen.unsure, chosen.lengths, logprobs]
        return Launched(count, CopiesToHost([*hypotheses, *of_pairs]))

    def _read(self, launched: Launched) -> list[Read]:
        """Wait for what was launched and make objects of what is kept; launches nothing."""
        *parts, order, n_kept, unsure, lengths, logprobs = launched.copies.wait()
        reader = HypothesisReader(Hypotheses(*parts))
        read = (x[: launched.n_summaries].tolist() for x in (order, n_kept, unsure, lengths))
        values = iter(logprobs.tolist())
        results: list[Read] = []
        for b, (places, n, must_redo, n_tokens) in enumerate(zip(*read, strict=True)):
            of_pairs = [tuple(islice(values, length)) for length in n_tokens[:n]]
            n_found = reader.counts[b]
            if must_redo or n_found < self.decoding.num_beams:
                results.append((None, reader.all_of(b)))
                continue
            pairs = [self._as_pair(reader.one(b, place)) for place in places[:n]]
            results.append((Scored(pairs, n_found, of_pairs), []))
        return results

    def _graphs_pay(self, batch_size: int, most: int = MAX_GRAPH_BATCH) -> bool:
        return filled_up(batch_size) <= min(most, self._graph_batch)

    def _part(
        self,
        function: Callable[..., R],
        inputs: Sequence[Tensor],
        *sizes: int,
        most: int = MAX_PART_BATCH,
        beside: bool = False,
    ) -> R:
        """Run a part of the pass, by its graph where there is one.

        What a graph returns is valid until the part runs again.

        Args:
            function: takes the sizes, then the inputs on the device.
            inputs: on the device or the host.
            sizes: on which shapes within the part depend.
            most: rows of the inputs up to which a graph pays.
            beside: whether it runs beside other parts, on a stream of its own.
        """
        run = partial(function, *sizes)

        def capture() -> Captured[R]:
            stream = self._capturing_beside if beside else self._capturing
            assert stream is not None  # there are no graphs without a GPU
            return Captured(run, inputs, self._device, stream)

        if self._graphs_pay(max(map(len, inputs)), most):
            key = (function.__name__, *sizes, *(x.shape for x in inputs))
            graph = self._graphs.get(key, capture)
            if graph is not None:
                return graph(*inputs)
        return run(*(x.to(self._device, non_blocking=True) for x in inputs))

    def _padded(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Pad sources on the host, with -1; ``(B, S)`` int64."""
        positions = self._model.shape.max_position_embeddings
        return torch.from_numpy(padded(ids, -1, _SOURCE_MULTIPLE, positions)[0])

    def _read_padded(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input ids and the mask of what `_padded` returned."""
        is_token = ids >= 0
        return torch.where(is_token, ids, self._model.conventions.pad_token_id), is_token

    def _encode_summaries(self, ids: Tensor) -> SourceMemory:
        return self._model.network.encode(*self._read_padded(ids))

    def _encode_documents(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        input_ids, mask = self._read_padded(ids)
        return self._model.document_network.encode_hidden(input_ids, mask), mask

    def _encode_beside(self, documents: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Encode documents during the search, if the device can do both.

        Returns:
            As from `hidden_states`; more rows where a graph's batch was filled up.
        """

        def encode(ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
            size = filled_up(len(ids)) if self._graphs_pay(len(ids), MAX_PART_BATCH) else len(ids)
            ids = [*ids, *[ids[-1]] * (size - len(ids))]
            return self._part(self._encode_documents, [self._padded(ids)], beside=True)

        if self._stream is None:
            return hidden_states(self._model, self._cache, documents, _SOURCE_MULTIPLE, encode)
        # Waiting for the batch before also makes its memory safe to take again.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            return hidden_states(self._model, self._cache, documents, _SOURCE_MULTIPLE, encode)

    def _search(self, ids: list[list[int]], count: int) -> Hypotheses:
        """Search hypotheses of summaries, of which the first `count` matter."""
        memory = self._part(self._encode_summaries, [self._padded(ids)])
        graphs = self._graphs_of_search(memory) if self._graphs_pay(len(ids)) else None
        if graphs is None:
            return begin_search(self._model, memory, self.decoding).run()
        wanted: list[SourceMemory] = []

        def smaller(memory: SourceMemory) -> GraphedSearch | None:
            kept = self._graphs.kept(_key_of_search(memory))
            if kept is None:
                wanted.append(memory)
            return kept

        hypotheses = graphs.run(memory, count, smaller)
        if wanted:  # not captured before the search is over, which uses the same stores
            self._graphs_of_search(wanted[0])
        return hypotheses

    def _graphs_of_search(self, memory: SourceMemory) -> GraphedSearch | None:
        n_bytes = held_bytes(memory, self.decoding, self._model.shape.vocab_size)

        def start(memory: SourceMemory, stores: Stores) -> Search:
            return begin_search(self._model, memory, self.decoding, stores=stores)

        def capture() -> GraphedSearch:
            assert self._capturing is not None  # there are no graphs without a GPU
            stores = self._stores_for(memory)
            return GraphedSearch(start, memory, stores, self.decoding, self._capturing, n_bytes)

        graphs = self._graphs.get(_key_of_search(memory), capture, n_bytes)
        if not self._graphs.n_bytes:  # none yet, or all were dropped for want of memory
            self._stores = None
        return graphs

    def _stores_for(self, memory: SourceMemory) -> Stores:
        """Return stores for so many sentences; larger ones replace those of all graphs."""
        if self._stores is None or self._stores.batch_size < memory.batch_size:
            self._graphs.drop(_SEARCH)
            self._stores = None  # before the next ones are taken
            sizes = memory.batch_size, self.decoding.num_beams, self.decoding.max_length + 1
            self._stores = DenseSlots.new_stores(memory, *sizes)
            # The captures' warm-up reads positions that it has not written.
            torch._foreach_zero_([*self._stores.keys, *self._stores.values])
        return self._stores

    def _select(
        self, token_ids: Tensor, lengths: Tensor, sums: Tensor, symbols: Tensor, in_text: Tensor
    ) -> Chosen:
        """Select pairs; arguments are fields of `Sequences`, then of `Summaries`."""
        sequences, texts = Sequences(token_ids, lengths, sums), Summaries(symbols, in_text)
        order, n_kept, unsure = self._selector.select(sequences, texts, self.max_pairs)
        rank = torch.arange(order.shape[1], device=order.device)
        lengths = lengths.gather(1, order) * (rank < n_kept[:, None])
        of_summary = lengths.sum(1)
        return Chosen(
            order,
            n_kept,
            unsure,
            token_ids.gather(1, order[:, :, None].expand_as(token_ids)),
            lengths,
            torch.stack([of_summary.sum(), of_summary.amax()]),
        )

    def _rescore(self, states: Tensor, mask: Tensor, rows: list[int], chosen: Chosen) -> Tensor:
        """Rescore the kept hypotheses; wait for how many tokens they have.

        Args:
            states: of the documents, from `hidden_states`.
            mask: likewise.
            rows: which document belongs to each summary; to those that fill up, any.
            chosen: the hypotheses.

        Returns:
            The log-probabilities of their tokens, one after the other in the order of `chosen`, and
            more behind them. Shape ``(R,)``.
        """
        (sizes,) = to_host([chosen.sizes])
        n_tokens, most = sizes.tolist()
        if not n_tokens:
            return torch.empty(0, device=self._device)
        size = len(chosen.lengths)
        fit = size_from if self._graphs_pay(size, MAX_PART_BATCH) else _multiple
        n_rows, n_slots = (fit(max(2 * _ROW_MULTIPLE, count)) for count in (n_tokens, most))
        inputs = [states, mask, chosen.token_ids, chosen.lengths]
        if len(states) != size or rows != [*range(len(rows))]:
            inputs.append(torch.tensor([*rows, *[0] * (size - len(rows))], device="cpu"))
        return self._part(self._logprobs, inputs, n_rows, n_slots)

    def _logprobs(
        self,
        n_rows: int,
        n_slots: int,
        states: Tensor,
        mask: Tensor,
        token_ids: Tensor,
        lengths: Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the log-probabilities of targets, packed into so many rows."""
        if rows is not None:
            states, mask = states[rows], mask[rows]
        return logprobs_of_targets(
            self._model, states, mask, token_ids, lengths, n_rows=n_rows, n_slots=n_slots
        )

    def _as_pair(self, hypothesis: Hypothesis) -> KeptPair:
        parts = split_at_sep(hypothesis.token_ids, self._model.conventions)
        assert parts is not None  # it was selected
        question, answer = map(self._model.tokenizer.decode, parts)
        return KeptPair(question, answer, hypothesis)

    def _on_host(self, pair: TextPair, hypotheses: list[Hypothesis]) -> Scored:
        """Filter, select and rescore one summary again as on a CPU."""
        model = self._model
        kept = keep_pairs(
            hypotheses, pair.summary, model.tokenizer, model.conventions, self.max_pairs
        )
        targets = [[one.hypothesis.token_ids for one in kept]]
        (logprobs,) = rescore(
            model, [pair.document.input_ids], targets, self._max_batch_tokens, self._cache
        )
        return Scored(kept, len(hypotheses), logprobs)


def _in_a_thread(function: Callable[[], R]) -> Future[R]:
    """Call a function while this thread continues.

    An executor refuses work when the main thread has ended, and waits for ever after a fork.
    """
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # raised where the result is wanted
            future.set_exception(error)

    Thread(target=run, name="quals_fast").start()
    return future


def filled_up(batch_size: int) -> int:
    """Return the size that a batch for graphs is filled up to, so that few shapes occur."""
    return 1 << (batch_size - 1).bit_length()


def _key_of_search(memory: SourceMemory) -> Key:
    return _SEARCH, *memory.shape


def _multiple(count: int) -> int:
    return -(-count // _ROW_MULTIPLE) * _ROW_MULTIPLE
