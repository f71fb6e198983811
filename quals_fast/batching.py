"""Batches of texts of similar length, within a token budget."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


def batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Group indices so that each batch, padded to its longest, stays within the budget.

    Args:
        lengths: tokens of each item, whatever the caller counts.
        max_batch_tokens: the budget; an item above it gets a batch of its own.

    Returns:
        Lists of indices into `lengths`, longest items first, so that a batch that does not fit
        into memory fails at once.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_batch_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def run_batches(
    lengths: Sequence[int], max_batch_tokens: int, run: Callable[[list[int]], Iterable[T]]
) -> Iterator[tuple[int, T]]:
    """Run batch by batch and yield each item's index with its result.

    If memory runs out, the budget is halved and the batch is tried again.

    Args:
        lengths: as for `batches`.
        max_batch_tokens: the budget to begin with.
        run: maps the indices of a batch to its results, in order.

    Raises:
        MemoryError: an item does not fit into memory even alone.
    """
    waiting = batches(lengths, max_batch_tokens)
    while waiting:
        batch = waiting.pop(0)
        try:
            results = list(run(batch))
        except (RuntimeError, MemoryError) as error:  # torch's is a RuntimeError, numpy's is not
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise MemoryError(
                    f"a single text of {lengths[batch[0]]} tokens (beams included) does not fit "
                    "into memory; use fewer `num_beams` or a shorter `max_length`"
                ) from error
            budget = len(batch) * lengths[batch[0]] // 2
            logging.getLogger("quals_fast").warning(
                "out of memory: continuing with batches of %d tokens", budget
            )
            rest = sorted([*batch, *(i for group in waiting for i in group)])
            regrouped = batches([lengths[i] for i in rest], budget)
            waiting = [[rest[i] for i in group] for group in regrouped]
        else:
            yield from zip(batch, results, strict=True)
            continue
        torch = sys.modules.get("torch")  # if it is not loaded, there is no cache to empty
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()  # outside `except`, whose traceback holds the tensors


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error means that memory ran out.

    Errors of CUDA's libraries and of the CPU have no type for it, so their words decide. The causes
    of an error count too: a CUDA graph that is abandoned for lack of memory raises another error.
    """
    words = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "Failed to allocate memory")
    while error is not None:
        if isinstance(error, MemoryError) or any(word in str(error) for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def size_from(count: int) -> int:
    """Round up to the next 2**k or 3 * 2**k, so that few sizes occur."""
    power: int = 1 << (count - 1).bit_length()
    return power * 3 // 4 if 2 < count <= power * 3 // 4 else power


def pad(
    sequences: Sequence[Sequence[int]],
    value: int,
    device: torch.device,
    multiple_of: int = 1,
    at_most: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Pad sequences at the end; return ids ``(B, S)`` and a mask that is True for tokens.

    Args:
        sequences: of any lengths.
        value: padding.
        device: where the tensors go.
        multiple_of: S is a multiple of this.
        at_most: upper bound of S that overrules `multiple_of`; no sequence is longer.
    """
    import torch

    ids, mask = padded(sequences, value, multiple_of, at_most)
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def padded(
    sequences: Sequence[Sequence[int]], value: int, multiple_of: int = 1, at_most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pad as `pad` does, without torch; ids are int64."""
    longest = -(-max(map(len, sequences)) // multiple_of) * multiple_of
    longest = longest if at_most is None else min(longest, at_most)
    rows = [[*sequence, *[value] * (longest - len(sequence))] for sequence in sequences]
    lengths = np.array([len(sequence) for sequence in sequences])
    return np.array(rows, np.int64), np.arange(longest) < lengths[:, None]
