"""Workloads of the operations on an LM head: beams, or rescored tokens, of 1, 16 and 64 texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bench.ops.common import DEVICE, DTYPE, ROWS

HEADS = ((28216, 384), (50265, 768), (50265, 1024))  # qagen-mini, BART-base, BART-large: V, d
TINY_ROWS, TINY_HEAD = 3, (203, 16)
TRUTH_ROWS = 240  # rows of float64 logits alive at once


class LmHead(NamedTuple):
    """States and head, and the log-probabilities that they should give."""

    hidden: Tensor  # (N, d)
    weight: Tensor  # (V, d)
    bias: Tensor  # (V,) float32

    @property
    def config(self) -> str:
        """Return the sizes, as the results name them."""
        return f"N={len(self.hidden)} V={len(self.weight)} d={self.hidden.shape[1]}"

    def truth(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows and their log-probabilities in float64, a part at a time."""
        weight, bias = self.weight.double(), self.bias.double()
        for start in range(0, len(self.hidden), TRUTH_ROWS):
            rows = slice(start, start + TRUTH_ROWS)
            yield rows, (self.hidden[rows].double() @ weight.T + bias).log_softmax(-1)


def lm_heads(tiny: bool) -> Iterator[LmHead]:
    """Yield each workload with random values, which a head's time does not depend on."""
    for vocab, width in (TINY_HEAD,) if tiny else HEADS:
        for rows in (TINY_ROWS,) if tiny else ROWS:
            torch.manual_seed(0)
            hidden = torch.randn(rows, width, device=DEVICE, dtype=DTYPE)
            weight = torch.randn(vocab, width, device=DEVICE, dtype=DTYPE)
            yield LmHead(hidden, weight.mul_(width**-0.5), torch.zeros(vocab, device=DEVICE))
