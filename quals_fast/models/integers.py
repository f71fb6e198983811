"""Matrix products in 8-bit integers, on a CPU that has the instructions for them (VNNI).

    x = a X,  w = b W,  X and W in [-127, 127];  x . w = a b (X . W)

One scale `a` a row of x and one `b` a row of w. Each product is off by about a hundredth of its
typical size: good enough to tell which few of many are large, and what all the small ones sum to.
"""

from __future__ import annotations

import torch
from torch import Tensor


def has_fast_int8() -> bool:
    """Return whether this processor multiplies 8-bit integers fast, and torch can use it."""
    return torch.cpu._is_vnni_supported() and hasattr(torch.ops.onednn, "qlinear_pointwise")


class Int8Linear:
    """About ``x @ weight.T``.

    Args:
        weight: float32. Shape ``(V, d)``.
    """

    def __init__(self, weight: Tensor) -> None:
        integers, scale = _quantized(weight)
        self._weight = torch.ops.onednn.qlinear_prepack(integers, None)
        self._scale = scale[:, 0]
        self._zeros = torch.zeros_like(self._scale, dtype=torch.int32)

    def __call__(self, x: Tensor) -> Tensor:
        """Map ``(N, d)`` float32 to ``(N, V)`` float32."""
        integers, scale = _quantized(x)
        unsigned = integers.view(torch.uint8) ^ 128  # oneDNN takes these: 128 is their zero
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(unsigned, 1.0, 128, self._weight, self._scale, self._zeros),
            *(None, 1.0, 0, torch.float32, "none", [], ""),
        )
        return product.mul_(scale)


def _quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows ``(N, d)`` as int8, and their scales ``(N, 1)``."""
    scale = x.abs().amax(-1, keepdim=True).div_(127).clamp_min_(torch.finfo(x.dtype).tiny)
    return (x / scale).round_().to(torch.int8), scale
