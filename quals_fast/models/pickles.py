"""Read the tensors of a PyTorch file (``pytorch_model.bin``) without running what it holds.

Such a file is a pickle, which can name any function to be called. PyTorch's own reader for weights
calls none but those that build tensors; whatever else a file holds is refused.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from quals_fast.models.checkpoint import CheckpointError

_REFUSED = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message: what the file would have called


def read_pickled(path: Path) -> dict[str, Tensor]:
    """Read a file's tensors by name, memory-mapped unless PyTorch wrote it before version 1.6.

    Raises:
        CheckpointError: it holds anything but tensors, or cannot be read.
    """
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # a damaged pickle raises whatever its reader stumbles over
        if refused := _REFUSED.search(str(error)):
            raise CheckpointError(
                f"{path} must hold tensors and nothing else, but holds {refused[1]}, which could "
                "run code and was not run; get the weights as safetensors, from someone you trust"
            ) from error
        raise CheckpointError(
            f"{path} is not a readable PyTorch file; it may be incomplete, or a Git LFS pointer: "
            "download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} must hold tensors by name, but holds a {type(content).__name__}; save the "
            "model with transformers' save_pretrained()"
        )
    for name, tensor in content.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise CheckpointError(
                f"{path} must hold tensors and nothing else, but its {name!r} is no "
                "plain tensor; save the model with transformers' save_pretrained()"
            )
    return {name: tensor.detach() for name, tensor in content.items()}


def _is_plain(value: object) -> bool:
    """Return whether a value is a tensor that has all its numbers, one beside the other."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not (value.is_quantized or value.is_meta)
    )
