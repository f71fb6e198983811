"""The network as the language model that a search asks, on tensors or on the host."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from quals_fast.models.lm_head import LMHead
from quals_fast.models.network import Network
from quals_fast.models.slots import DenseSlots, DistinctSlots


class TensorBeams:
    """K slots over each of B encoded sources; implements `decoding.diverse_beam.LanguageModel`.

    Args:
        network: the network.
        head: its LM head.
        slots: the sources and what has been decoded.
    """

    def __init__(self, network: Network, head: LMHead, slots: DenseSlots) -> None:
        self._network, self._head, self._slots = network, head, slots

    def advance(self, token_ids: Tensor, beam_idx: Tensor | None, t: int) -> Tensor:
        """Move the slots and decode one token of each: ``(B, K')`` to ``(B * K', d)``."""
        rows = self._slots.arrange(token_ids, beam_idx, t)
        return self._network.decode_step(rows, t, self._slots)

    def topk(self, hidden: Tensor, k: int, suppressed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the k likeliest next tokens: log-probabilities and ids, ``(B, K', k)``."""
        logprobs, ids = self._head.topk(hidden, k, suppressed)
        return self._slots.spread(logprobs), self._slots.spread(ids)

    def logprob_of(self, hidden: Tensor, token_id: int) -> Tensor:
        """Return one token's log-probability as the next, ``(B, K')``."""
        targets = torch.full(hidden.shape[:1], token_id, device=hidden.device)
        return self._slots.spread(self._head.logprob(hidden, targets))

    def tensors(self) -> list[Tensor]:
        """Return what changes from step to step beside the stored keys and values."""
        return self._slots.tensors()


class HostBeams:
    """The same for a search on the host; implements `decoding.host_search.HostModel`.

    Args:
        network: the network.
        head: its LM head.
        slots: the sources and what has been decoded.
    """

    def __init__(self, network: Network, head: LMHead, slots: DistinctSlots) -> None:
        self._network, self._head, self._slots = network, head, slots

    def advance(
        self, token_ids: np.ndarray, beam_idx: np.ndarray, live: np.ndarray, t: int
    ) -> None:
        """Find the distinct histories and decode one token of each."""
        rows = self._slots.arrange(token_ids, beam_idx, live, t)
        self._hidden = self._slots.trim(self._network.decode_step(rows, t, self._slots))

    def topk(
        self, k: int, suppressed: tuple[int, ...], *, exact_edge: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k likeliest next tokens: log-probabilities and ids, ``(B, K, k)``."""
        logprobs, ids = self._head.topk(self._hidden, k, suppressed, exact_edge=exact_edge)
        return self._slots.spread(logprobs), self._slots.spread(ids)

    def logprob_of(self, token_id: int) -> np.ndarray:
        """Return one token's log-probability as the next, ``(B, K)``."""
        targets = torch.full(self._hidden.shape[:1], token_id, device=self._hidden.device)
        return self._slots.spread(self._head.logprob(self._hidden, targets))
