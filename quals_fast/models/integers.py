"""Matrix products in 8-bit integers at nearly the precision of float32, on a CPU with VNNI.

    x = a (256 x1 + x0),  w = b (256 w1 + w0),  x1, x0, w1, w0 in [-128, 127]
    x . w = a b (65,536 x1.w1 + 256 (x0.w1 + x1.w0) + x0.w0)

One scale `a` a row of x and one `b` a row of w. The last term is dropped: it is below the rounding
of 16-bit numbers. Three integer products take a third of the time of one in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 127 * 256 + 127  # the largest 16-bit number whose two halves fit
_COLUMNS = 4096  # outputs at once, so that the three products are added up in the cache


def has_fast_int8() -> bool:
    """Return whether this processor multiplies 8-bit integers fast (VNNI), and torch can use it."""
    return torch.cpu._is_vnni_supported() and hasattr(torch.ops.onednn, "qlinear_pointwise")


def split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split rows into two 8-bit halves and a scale: ``(N, d)`` to int8, int8 and ``(N, 1)``."""
    scale = x.abs().amax(-1, keepdim=True).div_(_LARGEST).clamp_min_(torch.finfo(x.dtype).tiny)
    number = (x / scale).round_()
    high = ((number + 128) / 256).floor_()
    low = number.sub_(high, alpha=256)
    return high.to(torch.int8), low.to(torch.int8), scale


class SplitLinear:
    """``x @ weight.T`` by integer products.

    Args:
        weight: float32. Shape ``(V, d)``.
    """

    def __init__(self, weight: Tensor) -> None:
        self._parts = []
        for rows in weight.split(_COLUMNS):
            high, low, scale = split(rows)
            pack = torch.ops.onednn.qlinear_prepack
            zeros = torch.zeros(len(rows), dtype=torch.int32)
            self._parts.append((pack(high, None), pack(low, None), scale[:, 0], zeros))

    def __call__(self, x: Tensor) -> Tensor:
        """Map ``(N, d)`` float32 to ``(N, V)`` float32."""
        # oneDNN takes unsigned states: 128 is their zero.
        high, low, scale = split(x)
        high, low = high.view(torch.uint8) ^ 128, low.view(torch.uint8) ^ 128
        found = []
        for weight_high, weight_low, weight_scale, zeros in self._parts:
            out = _product(high, 1.0, weight_low, weight_scale, zeros)
            out = _product(low, 1.0, weight_high, weight_scale, zeros, add_to=out)
            found.append(_product(high, 256.0, weight_high, weight_scale, zeros, add_to=out))
        return torch.cat(found, 1).mul_(scale * 256)


def _product(
    x: Tensor,
    x_scale: float,
    weight: Tensor,
    weight_scale: Tensor,
    zeros: Tensor,
    add_to: Tensor | None = None,
) -> Tensor:
    """Multiply 8-bit integers, ``(N, d)`` by packed ``(V, d)``; float32, added to `add_to`."""
    factors = x, x_scale, 128, weight, weight_scale, zeros
    out: Tensor
    if add_to is None:
        out = torch.ops.onednn.qlinear_pointwise(
            *factors, None, 1.0, 0, torch.float32, "none", [], ""
        )
    else:
        out = torch.ops.onednn.qlinear_pointwise.binary(
            *factors, add_to, None, 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", [], ""
        )
    return out
