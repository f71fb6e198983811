"""PyTorch's global default dtype and device, set for a while."""

from contextlib import contextmanager

import torch

# "meta" stands for "cuda": any device that is not the scorer's.
DEFAULTS = [torch.float64, torch.bfloat16, torch.float16, "meta"]


@contextmanager
def default(value):
    if isinstance(value, torch.dtype):
        torch.set_default_dtype(value)
    else:
        torch.set_default_device(value)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
