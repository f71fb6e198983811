"""Counts kernels operation by operation, whatever reaches the dispatcher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def _of_attention(arguments: Sequence[Any], named: dict[str, Any]) -> int:
    """Count one kernel, and three that turn a mask of bools into numbers: 2 fills and a choice."""
    mask = named.get("attn_mask", arguments[3] if len(arguments) > 3 else None)
    return 4 if mask is not None and mask.dtype == torch.bool else 1


# Kernels of operations that are not composite and launch another number than one.
KERNELS: dict[str, int | Callable[[Sequence[Any], dict[str, Any]], int]] = {
    **dict.fromkeys(("empty", "new_empty", "empty_like", "empty_strided", "lift_fresh"), 0),
    **dict.fromkeys(("_unsafe_view", "_reshape_alias", "new_empty_strided", "detach_"), 0),
    "linear": 1,  # the bias is added by the product's own kernel
    "scaled_dot_product_attention": _of_attention,
    "layer_norm": 1,
    "rms_norm": 1,  # PyTorch's own kernel on a GPU
    "sort": 4,  # values copied, places numbered, copied to each row, all sorted
    "constant_pad_nd": 2,  # a fill and a copy
    "masked_fill": 2,  # a copy and a fill
}
PRODUCTS = ("linear", "mm", "addmm", "bmm", "baddbmm", "_linear_gelu_kernel")


class Launches(TorchDispatchMode):
    """Counts kernels by the part of the pass that is running.

    Attributes:
        kernels: of each part, by operation.
        copies_in: copies from the host to the device.
        part: the one that is running.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: dict[str, Counter[str]] = {}
        self.copies_in = 0
        self.part = "other"

    def add(self, name: str, number: int = 1) -> None:
        """Count kernels of an operation."""
        if number:
            self.kernels.setdefault(self.part, Counter())[name] += number

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if name == "_to_copy" and args[0].device.type == "cpu":
            self.copies_in += kwargs.get("device", args[0].device).type != "cpu"
        elif name in KERNELS:
            number = KERNELS[name]
            self.add(name, number if isinstance(number, int) else number(args, kwargs))
            if name == "scaled_dot_product_attention":  # a GPU's puts heads behind positions
                return torch.empty_like(args[0].transpose(1, 2)).transpose(1, 2)
        else:
            with self:  # takes a composite operation apart
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            self.add(name, 0 if function.is_view else 1)
        return function(*args, **kwargs)

    @contextmanager
    def in_part(self, name: str) -> Iterator[None]:
        """Count under the name of a part meanwhile."""
        before, self.part = self.part, name
        try:
            yield
        finally:
            self.part = before

    def total(self, part: str) -> int:
        """Return the kernels of a part."""
        return sum(self.kernels.get(part, Counter()).values())
