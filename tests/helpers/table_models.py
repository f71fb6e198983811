"""Language models that are given as a table, for both searches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from quals_fast_kernels.lm_head_topk import topk_lowest_id
from torch import Tensor


class TableModel:
    """``logits[t, p]`` are the logits at step t after previous token p. Shape ``(T, V, V)``.

    Serves the reference (`next_logprobs`) and, for B equal sentences, the engine (the rest).
    """

    def __init__(
        self, logits: np.ndarray | Tensor, eos: int = 2, pad: int = 1, bos: int | None = None
    ) -> None:
        self.logprobs = torch.as_tensor(logits).float().log_softmax(-1)
        self.eos_token_id, self.pad_token_id = eos, pad
        self.decoder_start_token_id, self.forced_bos_token_id = eos, bos
        self._t = 0

    @property
    def conventions(self) -> SimpleNamespace:
        return SimpleNamespace(
            vocab_size=self.logprobs.shape[-1],
            eos_token_id=self.eos_token_id,
            pad_token_id=self.pad_token_id,
            decoder_start_token_id=self.decoder_start_token_id,
            forced_bos_token_id=self.forced_bos_token_id,
        )

    def next_logprobs(self, token_ids, beam_idx) -> Tensor:
        if beam_idx is None:
            self._t = 0
        row = self.logprobs[min(self._t, len(self.logprobs) - 1)][list(token_ids)]
        self._t += 1
        return row

    def advance(self, token_ids: Tensor, beam_idx: Tensor | None, t: int) -> Tensor:
        return self.logprobs[min(t, len(self.logprobs) - 1)][token_ids]

    def topk(
        self, hidden: Tensor, k: int, suppressed: tuple[int, ...], *, exact_edge: bool = True
    ) -> tuple[Tensor, Tensor]:
        masked = hidden.clone()
        masked[..., list(suppressed)] = -torch.inf
        rows = masked.flatten(0, -2)
        if exact_edge:
            values, ids = topk_lowest_id(rows, k)
        else:  # the worst that is allowed: of equals at the edge the highest ids
            values, ids = topk_lowest_id(rows.flip(-1), k)
            ids = rows.shape[-1] - 1 - ids
        ids, order = ids.sort(-1)
        values = values.gather(-1, order)
        return values.unflatten(0, hidden.shape[:2]), ids.unflatten(0, hidden.shape[:2])

    def logprob_of(self, hidden: Tensor, token_id: int) -> Tensor:
        return hidden[..., token_id]

    def on_host(self) -> HostTable:
        return HostTable(self)


class HostTable:
    """The same table for the search on the host."""

    def __init__(self, table: TableModel) -> None:
        self._table, self._hidden = table, None

    def advance(self, token_ids, beam_idx, live, t):
        self._hidden = self._table.advance(torch.from_numpy(token_ids.copy()), None, t)

    def topk(self, k, suppressed, *, exact_edge=True):
        found = self._table.topk(self._hidden, k, suppressed, exact_edge=exact_edge)
        return tuple(part.numpy() for part in found)

    def logprob_of(self, token_id):
        return self._hidden[..., token_id].numpy()
