"""Matrix products in 8-bit integers, on a CPU that has the instructions for them (VNNI).

    x = a X + c,  w = b W,  X in [0, 255],  W in [-127, 127];  x . w = a b (X . W) + c sum(w)

One scale `a` and one offset `c` a row of x, and one scale `b` a row of w. Each product is off by
about a hundredth of its typical size: good enough to tell which few of many are large, what all the
small ones sum to, and how likely given targets are, but not to search.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quals_fast.models.linear import padded_rows

_TINY = torch.finfo(torch.float32).tiny  # no scale is 0


def has_fast_int8() -> bool:
    """Return whether this processor multiplies 8-bit integers fast, and torch can use it."""
    return torch.cpu._is_vnni_supported() and hasattr(torch.ops.onednn, "qlinear_pointwise")


class Int8Linear(nn.Module):
    """About `nn.Linear`, on float32.

    Args:
        weight: Shape ``(out, in)``.
        bias: Shape ``(out,)``; None for none.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        weight = weight.detach()
        scale = weight.abs().amax(1).div_(127).clamp_min_(_TINY)
        integers = (weight / scale[:, None]).round_()
        self.bias = bias
        self._weight = torch.ops.onednn.qlinear_prepack(integers.to(torch.int8), None)
        self._scale, self._sums = scale, integers.sum(1) * scale
        self._zeros = torch.zeros_like(scale, dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        rows = x.flatten(0, -2)
        product, scale, offset = self.parts(rows)
        if self.bias is None:
            product.mul_(scale)
        else:
            torch.addcmul(self.bias, product, scale, out=product)
        return product.addcmul_(offset, self._sums).unflatten(0, x.shape[:-1])

    def parts(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the product ``(N, out)`` of X alone; the rows' scales and offsets, ``(N, 1)``."""
        # Not `aminmax`, which takes twenty times as long.
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        scale = (high - low).div_(255).clamp_min_(_TINY)
        integers = (rows - low).div_(scale).round_().to(torch.uint8)
        count = len(rows)
        if missing := padded_rows(count) - count:
            integers = F.pad(integers, (0, 0, 0, missing))
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(integers, 1.0, 0, self._weight, self._scale, self._zeros),
            *(None, 1.0, 0, torch.float32, "none", [], ""),
        )
        return product[:count], scale, low


def use_int8(network: nn.Module, skip: tuple[str, ...] = ()) -> None:
    """Let 8-bit integers compute a network's linear layers; it then serves inference on a CPU only.

    Args:
        network: changed in place.
        skip: names of layers that are left as they are.
    """
    for module in [*network.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and name not in skip:
                setattr(module, name, Int8Linear(child.weight, child.bias))
