"""Passages in overlapping windows, as SQuAD's program for BERT cuts them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Window:
    """A run of a passage's tokens.

    Attributes:
        start: first token.
        length: L tokens.
        has_most_context: whether an answer may start at each token: in no other window does the
            token have more context on its poorer side. Shape ``(L,)``.
    """

    start: int
    length: int
    has_most_context: NDArray[np.bool_]


@lru_cache(maxsize=4096)
def cut_windows(n_tokens: int, room: int, stride: int) -> tuple[Window, ...]:
    """Cut a passage into windows.

    Args:
        n_tokens: of the passage; without any there is no window.
        room: tokens that a window holds, at least 1.
        stride: tokens from the start of a window to that of the next.

    Source: run_squad.py of google-research/bert, convert_examples_to_features.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    while n_tokens:
        length = min(n_tokens - start, room)
        spans.append((start, length))
        if start + length == n_tokens:
            break
        start += min(length, stride)
    # Starts are at least min(room, stride) apart, so windows farther off share no token.
    reach = -(-room // min(room, stride))
    return tuple(
        Window(*span, _most_context(spans, index, reach)) for index, span in enumerate(spans)
    )


def _most_context(spans: list[tuple[int, int]], index: int, reach: int) -> NDArray[np.bool_]:
    start, length = spans[index]
    tokens = np.arange(start, start + length)
    own = _context(tokens, *spans[index])
    best = np.ones(length, dtype=bool)
    for other in range(max(0, index - reach), min(len(spans), index + reach + 1)):
        theirs = _context(tokens, *spans[other])
        if other < index:  # which wins a tie
            best &= own > theirs
        elif other > index:
            best &= own >= theirs
    return best


def _context(tokens: NDArray[np.int64], start: int, length: int) -> NDArray[np.float64]:
    """Return the program's measure of context; negative for tokens outside of the window."""
    poorer_side = np.minimum(tokens - start, start + length - 1 - tokens)
    return np.where(poorer_side < 0, -1.0, poorer_side + 0.01 * length)
