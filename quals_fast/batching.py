"""Batches of texts of like length, under a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Group indices so that each batch, padded to its longest, stays within the budget.

    Args:
        lengths: tokens of each item, whatever the caller counts.
        max_batch_tokens: the budget; an item above it gets a batch of its own.

    Returns:
        Lists of indices into `lengths`, the longest items first, so that a batch which does not
        fit into memory fails at once.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_batch_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def pad(
    sequences: Sequence[Sequence[int]], value: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pad sequences at the end; return ids ``(B, S)`` and True where a token stands."""
    longest = max(map(len, sequences))
    rows = [[*sequence, *[value] * (longest - len(sequence))] for sequence in sequences]
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    mask = torch.arange(longest) < lengths[:, None]
    return torch.tensor(rows, device=device), mask.to(device)
