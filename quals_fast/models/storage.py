"""Weights on disk as int8 with a scale for every 128 columns of a row: a quarter of float32.

    weight[i, j] ~ int8[i, j] * scale[i, j // 128],   scale = max |group| / 127

A matrix ``name`` is stored as int8 under its own name, with ``name.scale`` beside it. Vectors and
position tables stay float16: the tables are small, and their few large columns would ruin the rest
(one scale a row changed scores by 0.17 nats on average through the positions alone).
"""

from __future__ import annotations

import torch
from torch import Tensor

_SCALE = ".scale"
_GROUP = 128


def quantize(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as they are stored."""
    stored: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.ndim != 2 or weight.shape[1] % _GROUP or "embed_positions" in name:
            stored[name] = weight.half()
            continue
        groups = weight.float().unflatten(1, (-1, _GROUP))
        scale = (groups.abs().amax(2).clamp_min(1e-4) / 127).half()
        whole = (groups / scale.float()[:, :, None]).round().clamp(-127, 127)
        stored[name] = whole.to(torch.int8).flatten(1)
        stored[name + _SCALE] = scale
    return stored


def dequantize(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo `quantize`; weights that were never quantised pass through as they are.

    Raises:
        ValueError: int8 weights without scales that fit them.
    """
    quantized = {name for name, tensor in stored.items() if tensor.dtype == torch.int8}
    scales = {name + _SCALE for name in quantized}
    weights = {name: tensor for name, tensor in stored.items() if name not in scales}
    for name, tensor in weights.items():
        if tensor.dtype == torch.int8:
            scale = stored.get(name + _SCALE)
            fits = (tensor.shape[0], tensor.shape[-1] / _GROUP) if tensor.ndim == 2 else None
            if scale is None or tuple(scale.shape) != fits:
                shape = "none" if scale is None else f"one of shape {tuple(scale.shape)}"
                raise ValueError(
                    f"{name} is int8 of shape {tuple(tensor.shape)}, so {name}{_SCALE} must have a "
                    f"number for every {_GROUP} columns of a row, but there is {shape}; save the "
                    "weights as floating-point numbers instead"
                )
            groups = tensor.float().unflatten(1, (-1, _GROUP))
            weights[name] = (groups * scale.float()[:, :, None]).flatten(1)
    return weights
