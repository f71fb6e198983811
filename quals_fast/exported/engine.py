"""ONNX Runtime: search and rescoring by exported graphs, without torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np

from quals_fast.batching import padded
from quals_fast.config import DecodingConfig, check_integer
from quals_fast.decoding.host_search import host_search
from quals_fast.engine.protocol import Scored, TextPair
from quals_fast.engine.staged import score_in_stages, search_in_batches
from quals_fast.exported.beams import OnnxBeams
from quals_fast.exported.loading import OnnxModel
from quals_fast.models.tokenizer import Source
from quals_fast.processes import ForkSafeLock
from quals_fast.results import Hypothesis, TokenLogprobs

BATCH_TOKENS = 32_768
MAX_RESCORED_TOKENS = 1024  # at once: their logits are V numbers each


class OnnxEngine:
    """Scores by an exported model; implements `Engine`.

    Args:
        model: the export.
        max_batch_tokens: tokens that a search holds at once.
    """

    cache_stats = None

    def __init__(self, model: OnnxModel, *, max_batch_tokens: int = BATCH_TOKENS) -> None:
        check_integer("max_batch_tokens", max_batch_tokens, 1)
        self.model, self.max_batch_tokens = model, max_batch_tokens
        self._lock = ForkSafeLock()

    def inference(self) -> AbstractContextManager[None]:
        """As in `Engine`."""
        return self._lock

    def search(
        self, summaries: Sequence[Source], decoding: DecodingConfig
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """As in `Engine`."""
        model = self.model

        def search(sources: list[list[int]]) -> list[list[Hypothesis]]:
            ids, mask = padded(sources, model.conventions.pad_token_id)
            memory = model.graphs["encoder"].run({"input_ids": ids, "attention_mask": mask})
            beams = OnnxBeams(model, memory, mask, decoding.num_beams)
            return host_search(beams, model.conventions, decoding, len(sources))

        return search_in_batches(summaries, decoding, self.max_batch_tokens, search)

    def rescore(
        self, documents: Sequence[Source], targets: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[TokenLogprobs]]:
        """As in `Engine`; documents are encoded one at a time."""
        rows: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, document in enumerate(documents):
            if targets[row]:
                rows[tuple(document.input_ids)].append(row)
        logprobs: list[list[TokenLogprobs]] = [[] for _ in documents]
        for ids, mine in rows.items():
            remaining = self._rescore_one(ids, [target for row in mine for target in targets[row]])
            for row in mine:
                logprobs[row] = [next(remaining) for _ in targets[row]]
        return logprobs

    def _rescore_one(
        self, document: Sequence[int], targets: Sequence[Sequence[int]]
    ) -> Iterator[TokenLogprobs]:
        """Encode a document and yield its targets' log-probabilities, in slices."""
        conventions, graphs = self.model.conventions, self.model.graphs
        ids, source_mask = padded([document], conventions.pad_token_id)
        memory = graphs["document_encoder"].run({"input_ids": ids, "attention_mask": source_mask})
        budget = min(self.max_batch_tokens, MAX_RESCORED_TOKENS)
        at_once = max(1, budget // max(map(len, targets)))
        for first in range(0, len(targets), at_once):
            some = targets[first : first + at_once]
            labels, mask = padded(some, conventions.pad_token_id)  # (Q, T)
            inputs = np.roll(labels, 1, 1)
            inputs[:, 0] = conventions.decoder_start_token_id
            outputs = graphs["rescore"].run(
                {
                    "decoder_input_ids": inputs[None],
                    "token_rows": np.flatnonzero(mask),  # real tokens only
                    "labels": labels[mask],
                    "source_mask": source_mask,
                    **memory,
                }
            )
            ends = np.cumsum([len(target) for target in some])[:-1]
            for part in np.split(outputs["logprobs"], ends):
                yield tuple(part.tolist())

    def score(
        self,
        pairs: Sequence[TextPair],
        decoding: DecodingConfig,
        max_pairs: int | None,
        on_progress: Callable[[int], None],
    ) -> list[Scored]:
        """As in `Engine`; progress tells of summaries that were searched."""
        return score_in_stages(self, pairs, decoding, max_pairs, on_progress)
