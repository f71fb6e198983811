"""PyTorch on a CPU: stage by stage, with looks at the values so that only what matters is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from quals_fast.config import DecodingConfig
from quals_fast.engine.base import TorchEngine
from quals_fast.engine.generation import search_on_host
from quals_fast.engine.protocol import Scored, TextPair
from quals_fast.engine.staged import score_in_stages
from quals_fast.models.loading import TorchModel
from quals_fast.models.memory import SourceMemory
from quals_fast.results import Hypothesis

BATCH_TOKENS = 32_768
MAX_RESCORED_TOKENS = 2048  # with more, layers leave the processor's cache


class CpuEngine(TorchEngine):
    """Scores on a CPU.

    Args:
        model: loaded for a CPU and its own operations.
        max_batch_tokens: tokens that the network holds at once.
        cache_bytes: room for encoded documents; 0 keeps none.
    """

    def __init__(
        self, model: TorchModel, *, max_batch_tokens: int = BATCH_TOKENS, cache_bytes: int = 0
    ) -> None:
        super().__init__(model, max_batch_tokens=max_batch_tokens, cache_bytes=cache_bytes)

    def search_encoded(
        self,
        memory: SourceMemory,
        decoding: DecodingConfig,
        on_choice: Callable[[Any], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """As in `TorchEngine`."""
        return search_on_host(self.model, memory, decoding, on_choice)

    @property
    def _rescored_tokens(self) -> int:
        return min(self.max_batch_tokens, MAX_RESCORED_TOKENS)

    def score(
        self,
        pairs: Sequence[TextPair],
        decoding: DecodingConfig,
        max_pairs: int | None,
        on_progress: Callable[[int], None],
    ) -> list[Scored]:
        """As in `Engine`; progress counts summaries that were searched."""
        return score_in_stages(self, pairs, decoding, max_pairs, on_progress)
