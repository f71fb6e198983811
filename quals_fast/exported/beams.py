"""The step graph as the language model that `decoding.host_search` asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quals_fast.decoding.histories import Histories
from quals_fast.exported.loading import OnnxModel
from quals_fast.exported.store import make_store


class OnnxBeams:
    """K slots over each of B encoded sources; implements `decoding.host_search.HostModel`.

    Args:
        model: the loaded export.
        memory: outputs of the encoder graph.
        mask: True where a source token stands. Shape ``(B, S)``, bool.
        num_beams: K.
    """

    def __init__(
        self,
        model: OnnxModel,
        memory: Mapping[str, Any],
        mask: np.ndarray,
        num_beams: int,
    ) -> None:
        self._graph, self._conventions = model.graphs["step"], model.conventions
        self._spare = model.spare_candidates
        self._histories = Histories(len(mask), num_beams)
        self._store = make_store(model, len(mask), num_beams)
        self._sources = {**memory, "source_mask": mask}
        self._feeds: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}

    def advance(
        self, token_ids: np.ndarray, beam_idx: np.ndarray, live: np.ndarray, t: int
    ) -> None:
        """Give each distinct history a row."""
        tokens, parents = self._histories.move_on(token_ids, beam_idx, live)
        if t > 0:
            self._store.move_on(self._outputs, parents)
        self._outputs = {}
        self._feeds = {
            "token_ids": tokens,
            "position": np.array([t], np.int64),
            **self._places(),
            **self._sources,
            **self._store.feeds(len(tokens)),
        }

    def topk(
        self, k: int, suppressed: tuple[int, ...], *, exact_edge: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k likeliest next tokens: log-probabilities and ids, ``(B, K, k)``."""
        wanted = min(self._conventions.vocab_size, k + len(suppressed) + self._spare)
        self._run(wanted, self._conventions.eos_token_id)
        logprobs, ids = self._outputs["logprobs"], self._outputs["candidates"]
        if suppressed:
            logprobs = np.where(np.isin(ids, suppressed), np.float32(-np.inf), logprobs)
        if logprobs.shape[1] > k:  # of equals the lowest ids
            best = np.lexsort((ids, -logprobs), axis=-1)[:, :k]
            logprobs, ids = (np.take_along_axis(part, best, 1) for part in (logprobs, ids))
        order = ids.argsort(1)
        logprobs, ids = (np.take_along_axis(part, order, 1) for part in (logprobs, ids))
        return logprobs[self._histories.row_of_slot], ids[self._histories.row_of_slot]

    def logprob_of(self, token_id: int) -> np.ndarray:
        """Return one token's log-probability as the next. Shape ``(B, K)``."""
        self._run(1 + self._spare, token_id)
        logprobs: np.ndarray = self._outputs["target_logprob"][self._histories.row_of_slot]
        return logprobs

    def _run(self, k: int, target: int) -> None:
        k = min(self._conventions.vocab_size, k)
        targets = np.full(len(self._feeds["token_ids"]), target, np.int64)
        self._outputs = self._graph.run(
            {**self._feeds, "k": np.array([k], np.int64), "target_ids": targets}
        )

    def _places(self) -> dict[str, np.ndarray]:
        """Lay rows out by sentence, ``(B, P)``, for attention; places without a row read row 0."""
        sentences = self._histories.sentence_of_row
        counts = np.bincount(sentences, minlength=len(self._histories.row_of_slot))
        is_taken = np.arange(counts.max()) < counts[:, None]  # (B, P)
        by_sentence = sentences.argsort(kind="stable")
        row_of_place = np.zeros(is_taken.shape, np.int64)
        row_of_place[is_taken] = by_sentence
        place_of_row = np.empty_like(sentences)
        place_of_row[by_sentence] = np.flatnonzero(is_taken)
        return {"row_of_place": row_of_place, "place_of_row": place_of_row}
