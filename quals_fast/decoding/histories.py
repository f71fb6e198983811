"""Which slots have decoded the same so far: each distinct history is one row, computed once."""

from __future__ import annotations

import numpy as np


class Histories:
    """The rows of a batch: one for each distinct history, none for what no longer searches.

    Slots with equal histories have equal distributions, and early on most slots are alike. A row's
    number is also where its keys and values are stored. A row takes over the number of the row that
    it continues where it can, so only histories that part, or fill a gap, have to be copied.

    Args:
        batch_size: B.
        num_beams: K.

    Attributes:
        row_of_slot: Shape ``(B, K)``; slots that are not live have some row, of any sentence.
        sentence_of_row: Shape ``(R,)``; one row a sentence before the first step.
    """

    def __init__(self, batch_size: int, num_beams: int) -> None:
        self.sentence_of_row: np.ndarray = np.arange(batch_size)
        self.row_of_slot: np.ndarray = self.sentence_of_row[:, None].repeat(num_beams, 1)

    @property
    def n_rows(self) -> int:
        """Number of rows, R."""
        return len(self.sentence_of_row)

    def move_on(
        self, token_ids: np.ndarray, beam_idx: np.ndarray, live: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replace the rows by those of the slots' next tokens.

        Args:
            token_ids: Shape ``(B, K)``.
            beam_idx: the slot that each continues. Shape ``(B, K)``.
            live: slots whose hypotheses still matter. Shape ``(B, K)``, bool.

        Returns:
            The new rows' tokens and the old rows that they continue. Shape ``(R,)`` each.
        """
        parent_of_slot = np.take_along_axis(self.row_of_slot, beam_idx, 1)[live]
        distinct, of_slot = distinct_histories(parent_of_slot, token_ids[live])
        numbers = _numbers(distinct >> 32)
        distinct = distinct[numbers.argsort()]
        tokens, parents = distinct & 0xFFFFFFFF, distinct >> 32
        self.row_of_slot = np.zeros_like(self.row_of_slot)
        self.row_of_slot[live] = numbers[of_slot]
        self.sentence_of_row = self.sentence_of_row[parents]
        return tokens, parents


def distinct_histories(parents: np.ndarray, token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct pairs of parent and token, and which of them each of N slots has.

    Args:
        parents: the row that each slot continues. Shape ``(N,)``, int64.
        token_ids: what it continues it with. Shape ``(N,)``, int64.

    Returns:
        ``parent << 32 | token``, ascending, ``(R,)`` (one number sorts faster than a pair), and
        each slot's index among them, ``(N,)``.
    """
    return np.unique(parents << 32 | token_ids, return_inverse=True)


def moved_rows(parents: np.ndarray) -> np.ndarray:
    """Return the new rows that must copy what the row they continue has decoded.

    Args:
        parents: as `Histories.move_on` returns them. Shape ``(R,)``.
    """
    return np.flatnonzero(parents != np.arange(len(parents)))


def _numbers(parents: np.ndarray) -> np.ndarray:
    """Return the numbers of the new rows, 0 to R - 1 in some order.

    The first child of each parent keeps its number. The others get numbers that no row continues,
    so no copy overwrites what another reads, and all copies can be made at once.

    Args:
        parents: the old row that each continues. Shape ``(R,)``.
    """
    numbers = np.full(len(parents), -1)
    kept, first_child = np.unique(parents, return_index=True)
    fits = kept < len(parents)
    numbers[first_child[fits]] = kept[fits]
    numbers[numbers < 0] = np.setdiff1d(np.arange(len(parents)), kept[fits], assume_unique=True)
    return numbers
