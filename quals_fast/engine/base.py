"""What the two engines of PyTorch have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from quals_fast.batching import pad
from quals_fast.config import DecodingConfig, check_integer
from quals_fast.engine.protocol import Scored, TextPair
from quals_fast.engine.rescoring import rescore
from quals_fast.engine.staged import search_in_batches
from quals_fast.models.cache import EncodingCache
from quals_fast.models.loading import TorchModel
from quals_fast.models.memory import SourceMemory
from quals_fast.models.tokenizer import Source
from quals_fast.processes import ForkSafeLock, survive_fork
from quals_fast.results import CacheStats, Hypothesis, TokenLogprobs

# PyTorch prefers cuDNN's attention on recent GPUs in half precision, and that builds a plan for
# every new shape, which takes longer than many searches.
GPU_ATTENTION = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class TorchEngine(ABC):
    """Scores with PyTorch; implements `Engine`.

    Args:
        model: the model.
        max_batch_tokens: tokens that the network holds at once.
        cache_bytes: room for encoded documents; 0 keeps none.
    """

    def __init__(self, model: TorchModel, *, max_batch_tokens: int, cache_bytes: int = 0) -> None:
        check_integer("max_batch_tokens", max_batch_tokens, 1)
        check_integer("cache_bytes", cache_bytes, 0)
        self.model, self.max_batch_tokens = model, max_batch_tokens
        self.cache = EncodingCache(cache_bytes) if cache_bytes else None
        # Graphs and caches hold one batch at a time; a callback may score in its own thread.
        self._lock = ForkSafeLock()

    @property
    def cache_stats(self) -> CacheStats | None:
        """As in `Engine`."""
        return None if self.cache is None else self.cache.stats

    @contextmanager
    def inference(self) -> Iterator[None]:
        """As in `Engine`; the choice of attention holds for the whole process meanwhile."""
        device = self.model.device.type
        with self._lock:
            survive_fork(device)
            with (
                torch.inference_mode(),
                torch.autocast(device, enabled=False),
                sdpa_kernel(GPU_ATTENTION) if device == "cuda" else nullcontext(),
            ):
                yield

    @abstractmethod
    def search_encoded(
        self,
        memory: SourceMemory,
        decoding: DecodingConfig,
        on_choice: Callable[[Any], None] | None = None,
    ) -> Iterable[list[Hypothesis]]:
        """Search the hypotheses of encoded summaries, one list a summary.

        Args:
            memory: of the summaries.
            decoding: settings of the search.
            on_choice: called with what the groups chose at every step, a `HostChoice` or a
                `GroupChoice`.
        """

    def search(
        self, summaries: Sequence[Source], decoding: DecodingConfig
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """As in `Engine`."""
        model = self.model

        def search(sources: list[list[int]]) -> Iterable[list[Hypothesis]]:
            ids, mask = pad(sources, model.conventions.pad_token_id, model.device)
            return self.search_encoded(model.network.encode(ids, mask), decoding)

        return search_in_batches(summaries, decoding, self.max_batch_tokens, search)

    def rescore(
        self, documents: Sequence[Source], targets: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[TokenLogprobs]]:
        """As in `Engine`."""
        ids = [document.input_ids for document in documents]
        return rescore(self.model, ids, targets, self._rescored_tokens, self.cache)

    @property
    def _rescored_tokens(self) -> int:
        """Tokens of documents and targets that are rescored at once."""
        return self.max_batch_tokens

    @abstractmethod
    def score(
        self,
        pairs: Sequence[TextPair],
        decoding: DecodingConfig,
        max_pairs: int | None,
        on_progress: Callable[[int], None],
    ) -> list[Scored]:
        """As in `Engine`."""
