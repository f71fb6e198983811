"""Means of resampled documents, and of exchanged ones: exact, fast, and in bounded memory.

As fast as drawing random numbers is: the values are taken in parts that fit a processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

_PART = 4096  # values at once; below 2 ** 16
_DRAWS = 32  # draws at once


def resampled_means(values: Floats, n_resamples: int, seed: int) -> Floats:
    """Return means of as many values, drawn with replacement.

    How many of a draw come from each part is drawn first, and then these; so every draw has the
    distribution of one that is drawn from all values at once.

    Args:
        values: shape ``(n,)``; at least one.
        n_resamples: number of draws.
        seed: random seed.

    Returns:
        Shape ``(n_resamples,)``.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    # Of similar sizes, so that no draw leaves one out: with 2,048 values, that has a chance of
    # exp(-2048).
    parts = np.array_split(values, -(-len(values) // _PART))
    shares = [len(part) / len(values) for part in parts]
    counts = rng.multinomial(len(values), shares, size=n_resamples)  # (n_resamples, parts)
    sums = np.zeros(n_resamples)
    for part, of_part in zip(parts, counts.T, strict=True):
        for batch in _batches(n_resamples):
            ends = of_part[batch].cumsum()
            drawn = part[rng.integers(len(part), size=ends[-1], dtype=np.uint16)]
            sums[batch] += np.add.reduceat(drawn, ends - of_part[batch])
    return sums / len(values)


def exchange_p_value(differences: Floats, n_resamples: int, seed: int) -> float:
    """Return the two-sided p value of the paired randomisation test.

    That is how often the mean is at least as far from 0 if the sign of each difference is random:
    if the two scores of each document change places at random. It is exact if all ``2 ** n`` ways
    are at most `n_resamples`; otherwise these are drawn, and the p value is never 0.

    Args:
        differences: shape ``(n,)``.
        n_resamples: number of draws.
        seed: random seed.
    """
    import numpy as np

    n, rng = len(differences), np.random.default_rng(seed)
    is_exact = n < 63 and 2**n <= n_resamples
    n_draws = 2**n if is_exact else n_resamples
    flipped = np.zeros(n_draws)  # sums of the differences whose sign changes
    for start in range(0, n, _PART):
        part = differences[start : start + _PART]
        for batch in _batches(n_draws):
            flips: NDArray[Any]  # 1 or 0, (draws, len(part))
            if is_exact:  # each number below 2 ** n is a way, with a bit for each difference
                flips = np.arange(batch.start, batch.stop)[:, None] >> np.arange(n) & 1
            else:
                shape = (batch.stop - batch.start, -(-len(part) // 8))
                bits = rng.integers(256, size=shape, dtype=np.uint8)
                flips = np.unpackbits(bits, axis=1, count=len(part))
            flipped[batch] += flips @ part
    total = differences.sum()
    # Sums that are equal but for rounding count as equal.
    least = abs(total) - 1e-12 * abs(differences).sum()
    as_large = int((abs(total - 2 * flipped) >= least).sum())
    return as_large / n_draws if is_exact else (as_large + 1) / (n_draws + 1)


def _batches(n_draws: int) -> Iterator[slice]:
    for start in range(0, n_draws, _DRAWS):
        yield slice(start, min(start + _DRAWS, n_draws))
