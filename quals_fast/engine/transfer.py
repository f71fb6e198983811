"""Results on their way from a GPU to the host: one copy for many tensors, and one wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors of one device to the host and wait for them."""
    return CopiesToHost(tensors).wait()


class CopiesToHost:
    """Tensors of one device on their way to the host: one copy, and one wait.

    Args:
        tensors: of any types. They may be written to again as soon as the stream comes to that.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._like = [x.to("meta") for x in tensors]
        self._copy = joined_bytes(tensors)
        self._done: torch.cuda.Event | None = None
        if self._copy.is_cuda:
            on_device = self._copy
            self._copy = torch.empty(
                on_device.shape, dtype=torch.uint8, device="cpu", pin_memory=True
            )
            self._copy.copy_(on_device, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record(torch.cuda.current_stream(on_device.device))

    def wait(self) -> list[Tensor]:
        """Wait for the copy; return the tensors on the host."""
        if self._done is not None:
            self._done.synchronize()
        return parted_bytes(self._copy, self._like)


def joined_bytes(tensors: Sequence[Tensor]) -> Tensor:
    """Join tensors of any types; those of wide elements come first, so that all are aligned."""
    widest_first = sorted(tensors, key=lambda x: -x.element_size())
    parts = [x.reshape(-1).view(torch.uint8) for x in widest_first]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def parted_bytes(joined: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return views of the tensors that `joined_bytes` joined.

    Args:
        joined: their bytes, on any device.
        like: tensors of their shapes and types.
    """
    widest_first = sorted(range(len(like)), key=lambda i: -like[i].element_size())
    parts = joined.split([like[i].nbytes for i in widest_first])
    bytes_of = dict(zip(widest_first, parts, strict=True))
    return [bytes_of[i].view(x.dtype).view(x.shape) for i, x in enumerate(like)]
