"""The pass of a GPU: search, filter, select and rescore a batch of pairs, and read once at the end.

Shapes are fixed and nothing is read before the end, so the GPU never waits for the host. What the
device cannot decide (text that only the host can read, more pairs than there is room for) is done
again by the host's own functions, which say the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from quals_fast.batching import pad, run_batches
from quals_fast.config import DecodingConfig
from quals_fast.decoding.graph import GraphedSearch
from quals_fast.decoding.rules import Hypotheses
from quals_fast.filtering import KeptPair, keep_pairs, split_at_sep
from quals_fast.generation import begin_search, read_back
from quals_fast.models.cache import SourceMemory
from quals_fast.models.encodings import encode_documents
from quals_fast.models.loading import QAGenerator
from quals_fast.models.tokenizer import Source
from quals_fast.rescoring import rescore
from quals_fast.results import Hypothesis
from quals_fast.selection import PairSelector
from quals_fast.staged import Scored

ROOM = 16  # pairs of a summary that are rescored; ten are asked for, and rarely more come
_MULTIPLE = 128  # lengths of sources are padded to a multiple, so that few shapes occur
_KEPT = 6  # full batches whose caches the kept graphs may hold


class FusedPass:
    """Scores batches of pairs on one device.

    Args:
        generator: the model.
        config: settings of the search.
        max_pairs: as in `ScoringConfig`.
        max_batch_tokens: a pair counts as its document, its summary and all that its beams may
            decode.
    """

    def __init__(
        self,
        generator: QAGenerator,
        config: DecodingConfig,
        max_pairs: int | None,
        max_batch_tokens: int,
    ) -> None:
        self._generator, self._config = generator, config
        self._max_pairs, self._max_batch_tokens = max_pairs, max_batch_tokens
        self._beam_tokens = config.num_beams * (config.max_length + 1)
        self._full_batch = max(1, max_batch_tokens // self._beam_tokens)
        self._device = generator.bart.device
        is_gpu = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if is_gpu else None
        self._capturing = torch.cuda.Stream(self._device) if is_gpu else None
        self._seen: set[tuple[int, ...]] = set()
        self._graphs: OrderedDict[tuple[int, ...], GraphedSearch] = OrderedDict()

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
        costs = [
            len(d.input_ids) + len(s.input_ids) + self._beam_tokens
            for d, s in zip(documents, sources, strict=True)
        ]

        def run(batch: list[int]) -> list[Scored]:
            try:
                return self._run(
                    [documents[i] for i in batch],
                    [summaries[i] for i in batch],
                    [sources[i] for i in batch],
                )
            except RuntimeError:  # perhaps for lack of memory, which these hold much of
                self._graphs.clear()
                if self._generator.cache is not None:
                    self._generator.cache.clear()
                raise

        found: dict[int, Scored] = {}
        for i, scored in run_batches(costs, self._max_batch_tokens, run):
            found[i] = scored
            on_progress(1)
        return [found[i] for i in range(len(summaries))]

    def _run(
        self, documents: list[Source], summaries: list[str], sources: list[Source]
    ) -> list[Scored]:
        """Score a batch; nothing that is computed is read before `read_back`."""
        texts = self._selector.encode_summaries(summaries, [s.text_ids for s in sources])
        distinct = list(dict.fromkeys(tuple(d.input_ids) for d in documents))
        row_of = {ids: row for row, ids in enumerate(distinct)}
        rows = torch.tensor([row_of[tuple(d.input_ids)] for d in documents], device=self._device)
        memory_of_documents = self._encode_beside(distinct)
        found = self._search(self._encode([s.input_ids for s in sources]))
        kept = self._selector.select(found, texts, self._max_pairs)
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        order = kept.order[:, :ROOM]
        logprobs = self._rescore(memory_of_documents.rows(rows), found, order)
        hypotheses = list(read_back(found))
        read = (x.tolist() for x in (order, kept.n_kept, kept.unsure, logprobs))
        results = []
        for b, (chosen, count, unsure, values) in enumerate(zip(*read, strict=True)):
            mine = hypotheses[b]
            if unsure or count > ROOM or len(mine) < self._config.num_beams:
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

    def _search(self, memory: SourceMemory) -> Hypotheses:
        if self._capturing is None:  # no GPU, no graphs
            return begin_search(self._generator, memory, self._config).run()
        shape = tuple(memory.keys[0].shape)
        inputs = [*memory.keys, *memory.values, memory.mask]
        if shape in self._graphs:
            self._graphs.move_to_end(shape)
            return self._graphs[shape].run(inputs)
        if shape not in self._seen:  # a shape that may not come again is not worth its graphs
            self._seen.add(shape)
            return begin_search(self._generator, memory, self._config).run()
        # Graphs hold their caches: keep no more than a few full batches have.
        rows = shape[0]
        while self._graphs and rows + sum(b for b, *_ in self._graphs) > _KEPT * self._full_batch:
            self._graphs.popitem(last=False)
        own = SourceMemory(
            [keys.clone() for keys in memory.keys],
            [values.clone() for values in memory.values],
            memory.mask.clone(),
        )
        self._graphs[shape] = GraphedSearch(
            lambda: begin_search(self._generator, own, self._config),
            [*own.keys, *own.values, own.mask],
            self._config.max_length + 1,
            self._capturing,
        )
        return self._graphs[shape].run(inputs)

    def _rescore(self, memory: SourceMemory, found: Hypotheses, order: Tensor) -> Tensor:
        """Return the log-probabilities of the chosen hypotheses' tokens, ``(B, ROOM, T)``."""
        generator = self._generator
        labels = found.token_ids.gather(
            1, order[:, :, None].expand(-1, -1, found.token_ids.shape[2])
        )
        inputs = labels.roll(1, 2)
        inputs[:, :, 0] = generator.settings.decoder_start_token_id
        hidden = generator.document_bart.decode_teacher_forced(inputs, memory)
        logprobs = generator.head.logprob(hidden.flatten(0, 2), labels.flatten())
        return logprobs.view(labels.shape)

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
