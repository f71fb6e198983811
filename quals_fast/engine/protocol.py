"""The interface of an engine, and the types that scorer and engine share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from quals_fast.config import DecodingConfig
from quals_fast.engine.filtering import KeptPair
from quals_fast.models.model import Model
from quals_fast.models.tokenizer import Source
from quals_fast.results import CacheStats, Hypothesis, TokenLogprobs


class TextPair(NamedTuple):
    """A summary and its document."""

    document: Source
    summary: Source


class Scored(NamedTuple):
    """An engine's result for a `TextPair`."""

    kept: list[KeptPair]
    n_hypotheses: int
    document_logprobs: list[TokenLogprobs]  # of each kept pair


class Engine(Protocol):
    """A model with the code that runs it: `CpuEngine`, `GpuEngine` or `OnnxEngine`.

    `search`, `rescore` and `score` are called within `inference`.
    """

    @property
    def model(self) -> Model:
        """The model."""
        ...

    @property
    def cache_stats(self) -> CacheStats | None:
        """Statistics of the cache of encoded documents; None without a cache."""
        ...

    @property
    def max_batch_tokens(self) -> int:
        """How many tokens it processes at once, with all that beams may decode."""
        ...

    def inference(self) -> AbstractContextManager[None]:
        """Return a context for one thread at a time, without the caller's autograd and autocast."""
        ...

    def search(
        self, summaries: Sequence[Source], decoding: DecodingConfig
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Yield the index of each summary with its hypotheses, in the rule's order, batch by batch.

        Args:
            summaries: texts to generate question-answer sequences from.
            decoding: settings of the search.
        """
        ...

    def rescore(
        self, documents: Sequence[Source], targets: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[TokenLogprobs]]:
        """Return the log-probability of every token of every target, in nats, by teacher forcing.

        Args:
            documents: texts; equal ones are encoded once.
            targets: for each document, the token ids of any number of targets.
        """
        ...

    def score(
        self,
        pairs: Sequence[TextPair],
        decoding: DecodingConfig,
        max_pairs: int | None,
        on_progress: Callable[[int], None],
    ) -> list[Scored]:
        """Generate from each summary, keep pairs about it, and rescore them given its document.

        Args:
            pairs: documents and summaries.
            decoding: settings of the search.
            max_pairs: as in `ScoringConfig`.
            on_progress: called with the number of summaries that were just processed.
        """
        ...
