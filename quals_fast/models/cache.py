"""A cache of encoded documents for many calls, bounded in bytes; drops the least recently used.

It keeps the encoder's last hidden state, not the keys and values made from it, which take 2 * L
times the memory for a decoder of L layers and are about a tenth of the work.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TypeAlias

import torch
from torch import Tensor

from quals_fast.batching import padded
from quals_fast.models.loading import TorchModel
from quals_fast.processes import ForkSafeLock
from quals_fast.results import CacheStats

Encode: TypeAlias = Callable[[Sequence[Sequence[int]]], tuple[Tensor, Tensor]]


class EncodingCache:
    """Hidden states of one model by document, bounded in bytes; safe to use from several threads.

    Args:
        max_bytes: bound on the sum of the tensors' sizes. A document above it is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._n_bytes = max_bytes, 0
        self._hits = self._misses = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = ForkSafeLock()

    @property
    def stats(self) -> CacheStats:
        """Hits and misses so far, and what is held."""
        with self._lock:
            return CacheStats(
                hits=self._hits,
                misses=self._misses,
                n_documents=len(self._kept),
                n_bytes=self._n_bytes,
                max_bytes=self._max_bytes,
            )

    def get(self, key: bytes) -> Tensor | None:
        """Return the hidden states ``(S, d)`` of a document, or None; count a hit or a miss."""
        with self._lock:
            if key not in self._kept:
                self._misses += 1
                return None
            self._hits += 1
            self._kept.move_to_end(key)
            return self._kept[key]

    def put(self, key: bytes, hidden: Tensor) -> None:
        """Keep the hidden states ``(S, d)`` of a document; drop the oldest documents if needed."""
        with self._lock:
            if hidden.nbytes > self._max_bytes or key in self._kept:
                return
            self._kept[key] = hidden
            self._n_bytes += hidden.nbytes
            while self._n_bytes > self._max_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._n_bytes -= oldest.nbytes

    def clear(self) -> None:
        """Drop all documents; hits and misses are kept."""
        with self._lock:
            self._kept.clear()
            self._n_bytes = 0


def hidden_states(
    model: TorchModel,
    cache: EncodingCache | None,
    documents: Sequence[Sequence[int]],
    multiple_of: int,
    encode: Encode,
) -> tuple[Tensor, Tensor]:
    """Return the encoder's last hidden states, or take them from a cache.

    Args:
        model: the model.
        cache: of its encoded documents.
        documents: input ids of B distinct documents.
        multiple_of: they are padded to a length S that is a multiple of this.
        encode: encodes documents; maps input ids to hidden states ``(B', S, d)`` and a mask
            ``(B', S)`` of which only the first rows count.

    Returns:
        Hidden states ``(B, S, d)`` and a mask that is True for tokens, ``(B, S)``; without a cache,
        what `encode` returns.
    """
    if cache is None:
        return encode(documents)
    positions, pad_token_id = model.shape.max_position_embeddings, model.conventions.pad_token_id
    mask = torch.from_numpy(padded(documents, pad_token_id, multiple_of, positions)[1])
    mask = mask.to(model.device, non_blocking=True)  # a wait would be for the batch before
    dtype = model.document_network.dtype
    states = torch.zeros(*mask.shape, model.shape.d_model, dtype=dtype, device=model.device)
    keys = [_key(document) for document in documents]
    kept = [cache.get(key) for key in keys]
    missing = [row for row, hidden in enumerate(kept) if hidden is None]
    if missing:
        encoded, _ = encode([documents[row] for row in missing])
        for row, hidden in zip(missing, encoded, strict=False):
            own = hidden[: len(documents[row])].clone()  # a view would keep the batch
            cache.put(keys[row], own)
            states[row, : len(own)] = own
    for row, hidden in enumerate(kept):
        if hidden is None:
            continue
        if hidden.is_cuda:  # it may go while a stream that did not make it still reads it
            hidden.record_stream(torch.cuda.current_stream(hidden.device))
        states[row, : len(hidden)] = hidden
    return states, mask


def _key(document: Sequence[int]) -> bytes:
    """Hash a document's token ids, as the model reads it."""
    return blake2b(array("q", document).tobytes(), digest_size=20).digest()
