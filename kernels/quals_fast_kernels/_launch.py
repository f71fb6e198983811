"""What launchers share: sizes, and checks of metadata that never look at a tensor's values."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from quals_fast_kernels._compat import HAS_TRITON

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MAX_HEAD_SIZE = 128


def cdiv(dividend: int, divisor: int) -> int:
    """Return the quotient, rounded up."""
    return -(-dividend // divisor)


def next_power_of_2(size: int) -> int:
    """Return the least power of two that is no smaller; a block of Triton must be one."""
    return 1 << (size - 1).bit_length()


def require_triton() -> None:
    """Raise where a launcher was called without Triton."""
    if not HAS_TRITON:
        raise ModuleNotFoundError(
            "Triton is not installed: run `pip install triton`, or take the eager reference"
        )


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Return the context to launch in: Triton launches on the current device, not the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def check_tensor(
    name: str,
    tensor: Tensor,
    *,
    shape: tuple[int | None, ...],
    dtypes: tuple[torch.dtype, ...],
    device: torch.device,
) -> None:
    """Raise unless rank, sizes, dtype, device and the last stride are as expected.

    Args:
        name: the argument's.
        tensor: to check.
        shape: expected sizes; None where any will do.
        dtypes: those taken.
        device: where it must be.

    Raises:
        TypeError: another dtype.
        ValueError: another shape or device, or a last dimension that is not contiguous.
    """
    if tensor.dtype not in dtypes:
        names = " or ".join(map(str, dtypes))
        raise TypeError(f"`{name}` must be {names}, but got {tensor.dtype}")
    if tensor.ndim != len(shape) or any(
        size not in (None, found) for size, found in zip(shape, tensor.shape, strict=True)
    ):
        sizes = str(tuple("any" if size is None else size for size in shape)).replace("'", "")
        raise ValueError(f"`{name}` must have shape {sizes}, but got {tuple(tensor.shape)}")
    if tensor.device != device:
        raise ValueError(f"`{name}` must be on {device}, but got {tensor.device}")
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(
            f"`{name}` must be contiguous in its last dimension, but got strides "
            f"{tensor.stride()}; call .contiguous() first"
        )


def takes_head_size(size: int) -> bool:
    """Return whether the kernels of attention take heads of a size."""
    return size % 8 == 0 and 0 < size <= MAX_HEAD_SIZE


def check_head_size(name: str, tensor: Tensor) -> None:
    """Raise unless the last dimension, a head's, has a size that the kernels of attention take."""
    size = tensor.shape[-1]
    if not takes_head_size(size):
        raise ValueError(
            f"`{name}` must have a head size that is a multiple of 8 up to {MAX_HEAD_SIZE}, "
            f"but got {size}"
        )
