"""BART as the language model that a beam search asks."""

from __future__ import annotations

import torch
from torch import Tensor

from quals_fast.models.bart import Bart
from quals_fast.models.lm_head import LMHead
from quals_fast.models.slots import DenseSlots, Slots


class BartBeams:
    """K slots over each of B encoded sources; implements `decoding.diverse_beam.LanguageModel`.

    Args:
        bart: the network.
        head: its LM head.
        slots: the sources and what has been decoded.
    """

    def __init__(self, bart: Bart, head: LMHead, slots: Slots) -> None:
        self._bart, self._head, self._slots = bart, head, slots

    def advance(
        self, token_ids: Tensor, beam_idx: Tensor | None, live: Tensor | None, t: int
    ) -> Tensor:
        """Move the slots and decode one token of each row: ``(B, K')`` to ``(R, d)``."""
        rows = self._slots.arrange(token_ids, beam_idx, live, t)
        return self._slots.trim(self._bart.decode_step(rows, t, self._slots))

    def topk(
        self, hidden: Tensor, k: int, suppressed: tuple[int, ...], *, exact_edge: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the k likeliest next tokens: log-probabilities and ids, ``(B, K', k)``."""
        logprobs, ids = self._head.topk(hidden, k, suppressed, exact_edge=exact_edge)
        return self._slots.spread(logprobs), self._slots.spread(ids)

    def logprob_of(self, hidden: Tensor, token_id: int) -> Tensor:
        """Return one token's log-probability as the next, ``(B, K')``."""
        targets = torch.full(hidden.shape[:1], token_id, device=hidden.device)
        return self._slots.spread(self._head.logprob(hidden, targets))

    def tensors(self) -> list[Tensor]:
        """Return what changes from step to step beside the stored keys and values."""
        assert isinstance(self._slots, DenseSlots)  # graphs have fixed shapes
        return self._slots.tensors()
