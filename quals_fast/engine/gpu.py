"""PyTorch on a GPU: fixed shapes, CUDA graphs, and no wait for a value within a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from quals_fast.config import DecodingConfig, check_integer
from quals_fast.engine.base import TorchEngine
from quals_fast.engine.fused import FusedPass
from quals_fast.engine.generation import begin_search, read_back
from quals_fast.engine.protocol import Scored, TextPair
from quals_fast.models.loading import TorchModel
from quals_fast.models.memory import SourceMemory
from quals_fast.results import Hypothesis

BATCH_TOKENS = 327_680  # 64 pairs of BART-large: a GPU idles on fewer


class GpuEngine(TorchEngine):
    """Scores on a GPU; on a CPU too, which tests use.

    Args:
        model: loaded for a GPU.
        max_batch_tokens: tokens that the network holds at once.
        cache_bytes: room for encoded documents; 0 keeps none.
        graph_bytes: GPU memory that CUDA graphs may hold between calls; None for a quarter of the
            GPU's, 0 for no graphs.
    """

    def __init__(
        self,
        model: TorchModel,
        *,
        max_batch_tokens: int = BATCH_TOKENS,
        cache_bytes: int = 0,
        graph_bytes: int | None = None,
    ) -> None:
        super().__init__(model, max_batch_tokens=max_batch_tokens, cache_bytes=cache_bytes)
        if graph_bytes is None:
            graph_bytes = _memory_of(model.device) // 4
        check_integer("graph_bytes", graph_bytes, 0)
        self._graph_bytes = graph_bytes
        self._pass: FusedPass | None = None

    def search_encoded(
        self,
        memory: SourceMemory,
        decoding: DecodingConfig,
        on_choice: Callable[[Any], None] | None = None,
    ) -> Iterator[list[Hypothesis]]:
        """As in `TorchEngine`."""
        return read_back(begin_search(self.model, memory, decoding, on_choice).run())

    def score(
        self,
        pairs: Sequence[TextPair],
        decoding: DecodingConfig,
        max_pairs: int | None,
        on_progress: Callable[[int], None],
    ) -> list[Scored]:
        """As in `Engine`; progress counts summaries that were scored."""
        return self.fused_pass(decoding, max_pairs).score(pairs, on_progress)

    def fused_pass(self, decoding: DecodingConfig, max_pairs: int | None) -> FusedPass:
        """Return the pass for some settings; its graphs are kept until the settings change."""
        kept = self._pass
        if kept is None or (kept.decoding, kept.max_pairs) != (decoding, max_pairs):
            budgets = self.max_batch_tokens, self._graph_bytes
            kept = self._pass = FusedPass(self.model, decoding, max_pairs, *budgets, self.cache)
        return kept


def _memory_of(device: torch.device) -> int:
    """Return a GPU's memory in bytes; 0 for a CPU."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory)
