"""Histograms: bins at round numbers, the same for all groups, and where to draw them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_MOST_BINS = 50  # about, as is the next
_FEWEST_BINS = 10
_SMALLEST_SPAN = 0.1  # of an axis, so that equal scores do not make it a point


class Bin(NamedTuple):
    """A bar of a histogram.

    Attributes:
        low: its lower edge.
        high: its upper edge.
        label: which scores it holds, in words.
        n: how many there are.
    """

    low: float
    high: float
    label: str
    n: int


class Axis:
    """An axis of scores, cut into bins at multiples of a round number.

    Far outliers would squeeze all others into a few bins. They go into the first or the last bin,
    whose labels say so.

    Args:
        scores: all that are to be shown, at least one; shape ``(N,)``.
    """

    def __init__(self, scores: Floats) -> None:
        import numpy as np

        near_low, near_high = map(float, np.quantile(scores, [0.01, 0.99]))
        reach = (near_high - near_low) / 2
        smallest, largest = float(scores.min()), float(scores.max())
        low, high = max(smallest, near_low - reach), min(largest, near_high + reach)
        missing = max(0.0, _SMALLEST_SPAN - (high - low)) / 2
        low, high = low - missing, high + missing
        n_bins = min(_MOST_BINS, max(_FEWEST_BINS, 2 * math.sqrt(len(scores))))
        self._width = _round_up((high - low) / n_bins)
        self._first = math.floor(round(low / self._width, 6))
        self._last = math.ceil(round(high / self._width, 6))
        self._has_lower = smallest < self._edge(self._first)
        self._has_higher = largest > self._edge(self._last)

    @property
    def low(self) -> float:
        """Where the axis begins."""
        return self._edge(self._first)

    @property
    def high(self) -> float:
        """Where the axis ends."""
        return self._edge(self._last)

    def place(self, score: float) -> float:
        """Return where a score is on the axis, in percent."""
        share = (score - self.low) / (self.high - self.low)
        return 100 * min(max(share, 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Return place and label of about five round numbers."""
        step = _round_up((self.high - self.low) / 6)
        first = math.ceil(round(self.low / step, 6))
        last = math.floor(round(self.high / step, 6))
        values = [n * step for n in range(first, last + 1)]
        return [(self.place(value), _label(value, step)) for value in values]

    def bins(self, scores: Floats) -> list[Bin]:
        """Count scores, shape ``(N,)``; none is left out."""
        import numpy as np

        edges = [self._edge(n) for n in range(self._first, self._last + 1)]
        counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)
        return [
            Bin(low, high, self._bin_label(low, high), count)
            for low, high, count in zip(edges, edges[1:], counts.tolist(), strict=False)
        ]

    def _bin_label(self, low: float, high: float) -> str:
        first, last = _label(low, self._width), _label(high, self._width)
        if low == self.low and self._has_lower:
            return f"below {last}"
        if high == self.high and self._has_higher:
            return f"{first} or more"
        return f"{first} to {last}"

    def _edge(self, n: int) -> float:
        return n * self._width


def count_ticks(highest: int) -> list[int]:
    """Return round numbers from 0 to at least `highest`, for an axis of counts."""
    step = max(1, round(_round_up(max(1, highest) / 4)))
    return list(range(0, highest + step, step))


def _round_up(value: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= value * (1 - 1e-9))


def _label(value: float, step: float) -> str:
    """Return a multiple of `step` with as many digits as its multiples need."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:z.{digits}f}"
