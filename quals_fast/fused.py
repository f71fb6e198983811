"""The pass of a GPU: search, filter, select and rescore a batch of pairs, with two reads.

Shapes are fixed and nothing is read before the pairs are selected, so the GPU never waits for the
host. Their number and the longest of them are read first, so that no more is rescored than there
is; all that was found is read at the end. What the device cannot decide (text that only the host
can read) is done again by the host's own functions, which say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from quals_fast.batching import is_out_of_memory, pad, run_batches
from quals_fast.config import DecodingConfig
from quals_fast.decoding.graph import GraphedSearch, SearchGraphs, held_bytes
from quals_fast.decoding.rules import Hypotheses
from quals_fast.filtering import KeptPair, keep_pairs, split_at_sep
from quals_fast.generation import begin_search, read_back
from quals_fast.models.cache import SourceMemory
from quals_fast.models.encodings import encode_documents
from quals_fast.models.loading import QAGenerator
from quals_fast.models.slots import DenseSlots, Stores
from quals_fast.models.tokenizer import Source
from quals_fast.rescoring import rescore
from quals_fast.results import Hypothesis
from quals_fast.selection import PairSelector, Selection
from quals_fast.staged import Scored

MAX_GRAPH_BATCH = 64  # larger ones are hardly faster a pair, and wait longer for the slowest
MIN_GRAPH_BATCH = 16  # where graphs can hold no more than fewer, large batches pay without them
_MULTIPLE = 128  # lengths of sources are padded to a multiple, so that few shapes occur


class FusedPass:
    """Scores batches of pairs on one device.

    Args:
        generator: the model.
        config: settings of the search.
        max_pairs: as in `ScoringConfig`.
        max_batch_tokens: a pair counts as its document, its summary and all that its beams may
            decode.
        graph_bytes: that CUDA graphs may hold between calls; 0 for none. Three quarters are for
            the keys and values that they share.
    """

    def __init__(
        self,
        generator: QAGenerator,
        config: DecodingConfig,
        max_pairs: int | None,
        max_batch_tokens: int,
        graph_bytes: int,
    ) -> None:
        self._generator, self._config = generator, config
        self._max_pairs, self._max_batch_tokens = max_pairs, max_batch_tokens
        self._beam_tokens = config.num_beams * (config.max_length + 1)
        self._device = generator.bart.device
        is_gpu = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if is_gpu else None
        self._capturing = torch.cuda.Stream(self._device) if is_gpu else None
        self._graphs = SearchGraphs(
            self._capture,
            lambda memory: held_bytes(memory, config, generator.shape.vocab_size),
            graph_bytes // 4 if is_gpu else 0,
        )
        self._stores: Stores | None = None  # what the beams of all graphs decode into
        shape, size = generator.shape, generator.bart.dtype.itemsize
        self._store_bytes = 2 * shape.decoder_layers * shape.d_model * size * self._beam_tokens

    @property
    def _graph_batch(self) -> int:
        """The largest batch that graphs can hold; a power of two, or 0."""
        fitting = 3 * self._graphs.max_bytes // self._store_bytes
        return min(MAX_GRAPH_BATCH, 1 << fitting.bit_length() >> 1)

    @cached_property
    def _selector(self) -> PairSelector:
        """The selection on the device, made when it is first asked for: it takes a second."""
        generator = self._generator
        return PairSelector(
            generator.tokenizer, generator.settings, self._device, generator.kernels.span_match
        )

    def score(
        self,
        documents: Sequence[Source],
        summaries: Sequence[str],
        sources: Sequence[Source],
        on_progress: Callable[[int], None],
    ) -> list[Scored]:
        """Score each summary against its document.

        Args:
            documents: tokens of each document.
            summaries: texts.
            sources: tokens of each summary.
            on_progress: called with the number of summaries that were just scored.
        """
        # Like documents together: they differ most in length.
        most = self._graph_batch
        least = self._max_batch_tokens // most if most >= MIN_GRAPH_BATCH else 0
        costs = [
            max(least, len(d.input_ids) + len(s.input_ids) + self._beam_tokens)
            for d, s in zip(documents, sources, strict=True)
        ]

        def run(batch: list[int]) -> list[Scored]:
            rows = (
                [documents[i] for i in batch],
                [summaries[i] for i in batch],
                [sources[i] for i in batch],
            )
            try:
                return self._run(*rows)
            except RuntimeError as error:
                if not (is_out_of_memory(error) and self._let_go()):
                    raise
            return self._run(*rows)  # with the memory that was held between calls

        found: dict[int, Scored] = {}
        for i, scored in run_batches(costs, self._max_batch_tokens, run):
            found[i] = scored
            on_progress(1)
        return [found[i] for i in range(len(summaries))]

    def _let_go(self) -> bool:
        """Drop graphs and encoded documents; return whether there were any."""
        cache = self._generator.cache
        had_documents = cache is not None and cache.stats.n_documents > 0
        if cache is not None:
            cache.clear()
        self._stores = None
        return self._graphs.drop() or had_documents

    def _run(
        self, documents: list[Source], summaries: list[str], sources: list[Source]
    ) -> list[Scored]:
        """Score a batch."""
        texts = self._selector.encode_summaries(summaries, [s.text_ids for s in sources])
        distinct = list(dict.fromkeys(tuple(d.input_ids) for d in documents))
        rows: Tensor | None = None  # of the distinct documents, where some are given twice
        if len(distinct) < len(documents):
            row_of = {ids: row for row, ids in enumerate(distinct)}
            named = [row_of[tuple(d.input_ids)] for d in documents]
            rows = torch.tensor(named, device=self._device)
        memory_of_documents = self._encode_beside(distinct)
        found = self._search([s.input_ids for s in sources])
        kept = self._selector.select(found, texts, self._max_pairs)
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        if rows is not None:
            memory_of_documents = memory_of_documents.rows(rows)
        order, logprobs = self._rescore(memory_of_documents, found, kept)
        *parts, order, n_kept, unsure, logprobs = to_host(
            [*found, order, kept.n_kept, kept.unsure, logprobs]
        )
        hypotheses = list(read_back(Hypotheses(*parts)))
        read = (x.tolist() for x in (order, n_kept, unsure, logprobs))
        results = []
        for b, (chosen, count, must_redo, values) in enumerate(zip(*read, strict=True)):
            mine = hypotheses[b]
            if must_redo or len(mine) < self._config.num_beams:
                results.append(self._on_host(documents[b], summaries[b], sources[b], mine))
                continue
            pairs = [self._as_pair(mine[i]) for i in chosen[:count]]
            lengths = [len(pair.hypothesis.token_ids) for pair in pairs]
            of_pairs = [tuple(row[:n]) for row, n in zip(values, lengths, strict=False)]
            results.append(Scored(pairs, len(mine), of_pairs))
        return results

    def _encode(self, ids: Sequence[Sequence[int]]) -> SourceMemory:
        bart, pad_token_id = self._generator.bart, self._generator.settings.pad_token_id
        positions = bart.shape.max_position_embeddings
        return bart.encode(*pad(ids, pad_token_id, self._device, _MULTIPLE, positions))

    def _encode_beside(self, ids: Sequence[Sequence[int]]) -> SourceMemory:
        """Encode documents while the search goes on, where the device can do both."""
        if self._stream is None:
            return encode_documents(self._generator, ids, _MULTIPLE)
        # Waiting for the batch before also makes its memory safe to take again.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            return encode_documents(self._generator, ids, _MULTIPLE)

    def _search(self, ids: list[list[int]]) -> Hypotheses:
        """Search hypotheses of summaries, by graphs where these can hold so many."""
        batch_size = len(ids)
        size = filled_up(batch_size)
        if size > self._graph_batch:
            return begin_search(self._generator, self._encode(ids), self._config).run()
        # Copies of a summary do not let the search take more steps.
        memory = self._encode([*ids, *[ids[-1]] * (size - batch_size)])
        graphs = self._graphs.get(memory)
        if not self._graphs.n_bytes:  # none yet, or all were dropped for want of memory
            self._stores = None
        if graphs is None:
            found = begin_search(self._generator, memory, self._config).run()
            return Hypotheses(*(part[:batch_size] for part in found))
        missing: list[SourceMemory] = []

        def smaller(memory: SourceMemory) -> GraphedSearch | None:
            kept = self._graphs.kept(memory)
            if kept is None:
                missing.append(memory)
            return kept

        found = graphs.run(memory, batch_size, smaller)
        found = Hypotheses(*(part[:batch_size] for part in found))
        if missing:  # not captured before the search is over: its stores are the same
            found = Hypotheses(*(part.clone() for part in found))
            self._graphs.get(missing[0])
        return found

    def _capture(self, memory: SourceMemory) -> GraphedSearch:
        assert self._capturing is not None  # there are no graphs without a GPU
        if self._stores is None or self._stores.batch_size < memory.batch_size:
            self._graphs.drop()  # with what they hold of the stores
            self._stores = None
            beams, length = self._config.num_beams, self._config.max_length + 1
            self._stores = DenseSlots.new_stores(memory, memory.batch_size, beams, length)
            # The captures' warm-up reads positions that it has not written.
            torch._foreach_zero_([*self._stores.keys, *self._stores.values])
        return GraphedSearch(
            lambda memory, stores: begin_search(
                self._generator, memory, self._config, stores=stores
            ),
            memory,
            self._stores,
            self._config,
            self._capturing,
        )

    def _rescore(
        self, memory: SourceMemory, found: Hypotheses, kept: Selection
    ) -> tuple[Tensor, Tensor]:
        """Rescore the kept hypotheses; wait for how many there are and how long they get.

        Returns:
            Which hypotheses they are, ``(B, Q)``, and the log-probabilities of their tokens,
            ``(B, Q, T)``; Q is the most that a summary has, T the longest.
        """
        generator = self._generator
        rank = torch.arange(kept.order.shape[1], device=self._device)
        lengths = found.lengths.gather(1, kept.order) * (rank < kept.n_kept[:, None])
        (sizes,) = to_host([torch.stack([kept.n_kept.max(), lengths.max()])])
        most, longest = sizes.tolist()
        order = kept.order[:, :most]
        index = order[:, :, None].expand(-1, -1, longest)
        labels = found.token_ids[:, :, :longest].gather(1, index)
        if not labels.numel():
            return order, torch.empty(labels.shape, device=self._device)
        inputs = labels.roll(1, 2)
        inputs[:, :, 0] = generator.settings.decoder_start_token_id
        hidden = generator.document_bart.decode_teacher_forced(inputs, memory)
        logprobs = generator.head.logprob(hidden.flatten(0, 2), labels.flatten())
        return order, logprobs.view(labels.shape)

    def _as_pair(self, hypothesis: Hypothesis) -> KeptPair:
        generator = self._generator
        parts = split_at_sep(hypothesis.token_ids, generator.settings)
        assert parts is not None  # it was selected
        question, answer = map(generator.tokenizer.decode, parts)
        return KeptPair(question, answer, hypothesis)

    def _on_host(
        self, document: Source, summary: str, source: Source, hypotheses: list[Hypothesis]
    ) -> Scored:
        """Filter, select and rescore one summary again as on a CPU."""
        generator = self._generator
        pairs = keep_pairs(
            hypotheses,
            summary,
            source.text_ids,
            generator.tokenizer,
            generator.settings,
            self._max_pairs,
        )
        targets = [[pair.hypothesis.token_ids for pair in pairs]]
        (logprobs,) = rescore(generator, [document.input_ids], targets, self._max_batch_tokens)
        return Scored(pairs, len(hypotheses), logprobs)


def filled_up(batch_size: int) -> int:
    """Return the size that a batch for graphs is filled up to, so that few shapes occur."""
    return 1 << (batch_size - 1).bit_length()


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors of one device to the host, with one wait for all of them."""
    if not tensors[0].is_cuda:
        return list(tensors)
    copies = [torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=True) for x in tensors]
    for copy, x in zip(copies, tensors, strict=True):
        copy.copy_(x, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return copies
