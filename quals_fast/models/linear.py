"""Linear layers on a CPU, by oneDNN.

torch computes float32 products with MKL, which uses only AVX2 on processors that are not Intel's.
There, oneDNN takes less than half of its time with AVX-512; on Intel's, about the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def onednn_pays() -> bool:
    """Return whether torch has oneDNN with a product for packed weights, and would take MKL."""
    has_product = torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    )
    return has_product and torch.backends.mkl.is_available()


def padded_rows(count: int) -> int:
    """Round a number of rows up to a multiple of 8, or of 2**k <= count / 8.

    oneDNN keeps code for every shape that it has met, half a MiB each, so there must be few.
    """
    step = 1 << max(3, count.bit_length() - 4)
    return -(-count // step) * step


class OneDnnLinear(nn.Module):
    """`nn.Linear` whose weight is kept in the order in which oneDNN reads it.

    Args:
        weight: Shape ``(out, in)``.
        bias: Shape ``(out,)``; None for none.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.bias = bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        rows = x.flatten(0, -2)
        count = len(rows)
        missing = padded_rows(count) - count
        padded = F.pad(rows, (0, 0, 0, missing)) if missing else rows
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            padded, self._weight, self.bias, "none", [], ""
        )
        return product[:count].unflatten(0, x.shape[:-1])


def use_onednn(network: nn.Module) -> None:
    """Let oneDNN compute a network's float32 layers; it then serves inference on the CPU only."""
    if not onednn_pays():
        return
    for module in [*network.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child.weight.dtype == torch.float32:
                setattr(module, name, OneDnnLinear(child.weight, child.bias))
