"""BART as the language model that a beam search asks."""

from __future__ import annotations

import torch
from torch import Tensor

from quals_fast.models.bart import Bart
from quals_fast.models.cache import SourceMemory


class BartBeams:
    """K slots over each of B encoded sources; implements `decoding.diverse_beam.LanguageModel`.

    Args:
        bart: the network.
        memory: the sources, encoded once; all slots look at the same copy.
        num_beams: K.
        max_length: tokens that a slot may decode.
    """

    def __init__(self, bart: Bart, memory: SourceMemory, num_beams: int, max_length: int) -> None:
        self._bart = bart
        self._memory = memory
        self._cache = bart.new_cache(memory.batch_size, num_beams, max_length)

    def advance(self, token_ids: Tensor, beam_idx: Tensor | None, t: int) -> Tensor:
        """Move the slots and decode one token of each: ``(B, K')`` to ``(B, K', d)``."""
        if beam_idx is not None:
            self._cache.reorder(beam_idx, t)
        return self._bart.decode_step(token_ids, t, self._cache, self._memory)

    def topk(self, hidden: Tensor, k: int, suppressed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the k likeliest next tokens: log-probabilities and ids, ``(B, K', k)``."""
        return self._bart.topk(hidden, k, suppressed)

    def logprob_of(self, hidden: Tensor, token_id: int) -> Tensor:
        """Return one token's log-probability as the next, ``(B, K')``."""
        rows = hidden.flatten(0, 1)
        targets = torch.full(rows.shape[:1], token_id, device=rows.device)
        return self._bart.logprob(rows, targets).unflatten(0, hidden.shape[:2])
