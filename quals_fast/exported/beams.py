"""The step graph as the language model that `decoding.host_search` asks.

Keys and values are stored once for each distinct history, as one more node of its sentence's tree,
and slots that move leave them where they are: a mask says which nodes are a row's past. So the
cache is read as it lies, and a step returns only what is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np

from quals_fast.decoding.histories import distinct_histories
from quals_fast.exported.loading import OnnxModel
from quals_fast.exported.store import make_store


class OnnxBeams:
    """K slots over each of B encoded sources; implements `decoding.host_search.HostModel`.

    Slots with equal histories share a row, and what no longer searches has none.

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
        batch = len(mask)
        self._store, self._mask = make_store(model, memory, batch), mask
        self._held = np.arange(batch)  # sentences that these two are of
        self._counts = [1] * batch  # rows of each held sentence
        self._nodes = [0] * batch  # of each held sentence's tree, without the newest rows'
        self._past = [
            np.zeros((1, self._store.capacity), bool) for _ in range(batch)
        ]  # nodes of each row's past
        self._row = np.repeat(np.arange(batch)[:, None], num_beams, 1)  # of each slot
        self._feeds: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}

    def advance(
        self, token_ids: np.ndarray, beam_idx: np.ndarray, live: np.ndarray, t: int
    ) -> None:
        """Find the distinct histories and give each a row."""
        if t == 0:
            tokens = token_ids[:, 0]
        else:
            self._store_new()
            self._drop_finished(np.any(live, axis=1))
            tokens = self._arrange(token_ids, beam_idx, live)
        self._outputs = {}
        self._feeds = {
            "token_ids": tokens,
            "position": np.array([t], np.int64),
            **self._places(),
            "source_mask": self._mask,
            **self._store.tensors,
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
        return logprobs[self._row], ids[self._row]

    def logprob_of(self, token_id: int) -> np.ndarray:
        """Return one token's log-probability as the next. Shape ``(B, K)``."""
        self._run(1 + self._spare, token_id)
        logprobs: np.ndarray = self._outputs["target_logprob"][self._row]
        return logprobs

    def _run(self, k: int, target: int) -> None:
        k = min(self._conventions.vocab_size, k)
        targets = np.full(len(self._feeds["token_ids"]), target, np.int64)
        self._outputs = self._graph.run(
            {**self._feeds, "k": np.array([k], np.int64), "target_ids": targets}
        )

    def _store_new(self) -> None:
        """Append what the last step decoded to the sentences' trees."""
        before = self._store.capacity
        self._store.append(self._outputs, self._nodes, self._counts)
        if room := self._store.capacity - before:
            self._past = [np.pad(past, ((0, 0), (0, room))) for past in self._past]

    def _drop_finished(self, is_live: np.ndarray) -> None:
        """Forget sentences that have finished, once they are half of those held."""
        kept = np.flatnonzero(is_live[self._held])
        if not len(kept) or 2 * len(kept) > len(self._held):
            return
        before = [0, *accumulate(self._counts)]
        first = 0
        for i in kept:
            rows = self._row[self._held[i]]
            rows += first - before[i]
            first += self._counts[i]
        self._held = self._held[kept]
        for name in ("_counts", "_nodes", "_past"):
            values = getattr(self, name)
            setattr(self, name, [values[i] for i in kept])
        self._mask = self._mask[kept]
        self._store.keep(kept)

    def _arrange(self, token_ids: np.ndarray, beam_idx: np.ndarray, live: np.ndarray) -> np.ndarray:
        """Give each distinct history a row; return the rows' tokens."""
        parent = np.take_along_axis(self._row, beam_idx, 1)
        before = [0, *accumulate(self._counts)]
        tokens: list[np.ndarray] = []
        self._row = np.zeros_like(self._row)  # what is not live reads some row, unused
        first = 0
        for i, b in enumerate(self._held):
            mine = live[b]
            parents, new, of_slot = distinct_histories(
                parent[b, mine] - before[i], token_ids[b, mine]
            )
            past = self._past[i][parents]
            past[np.arange(len(parents)), self._nodes[i] + parents] = True
            self._past[i] = past
            self._nodes[i] += self._counts[i]
            self._counts[i] = len(parents)
            self._row[b, mine] = first + of_slot
            tokens.append(new)
            first += len(parents)
        return np.concatenate(tokens)

    def _places(self) -> dict[str, np.ndarray]:
        """Lay rows out by sentence, ``(B', P)``, for attention; places without a row read row 0."""
        batch, width = len(self._counts), max(self._counts)
        row_of_place = np.zeros((batch, width), np.int64)
        mask = np.zeros((batch, width, self._past[0].shape[1]), bool)
        place_of_row = []
        first = 0
        for i, count in enumerate(self._counts):
            row_of_place[i, :count] = np.arange(first, first + count)
            mask[i, :count] = self._past[i]
            place_of_row.append(np.arange(i * width, i * width + count))
            first += count
        return {
            "row_of_place": row_of_place,
            "place_of_row": np.concatenate(place_of_row),
            "past_mask": mask,
        }
