"""Weights on disk as int8, with a scale for every 128 columns of a row and one for each column.

    weight[i, j] ~ int8[i, j] * scale[i, j // 128] * column[j]

    column[j] = root of the mean square of weight[:, j],   scale = max |group / column| / 127

A matrix ``name`` is stored as int8 under its own name, with ``name.scale`` and ``name.columns``
beside it: a quarter of float32's size. Without a scale for each column, the few large columns of
the embeddings would ruin the others. Vectors and position tables are stored in float16.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SCALE, _COLUMNS = ".scale", ".columns"
_GROUP_COLUMNS = 128
_MIN_SCALE = 1e-4  # of a column, and of a group against it; below 1e-2 float16 scales lose digits


def quantize(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as they are stored."""
    stored: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.ndim != 2 or weight.shape[1] % _GROUP_COLUMNS or "embed_positions" in name:
            stored[name] = weight.half()
            continue
        columns = weight.float().square().mean(0).sqrt().clamp_min(_MIN_SCALE).half()
        groups = (weight.float() / columns.float()).unflatten(1, (-1, _GROUP_COLUMNS))
        scale = (groups.abs().amax(2).clamp_min(_MIN_SCALE) / 127).half()
        whole = (groups / scale.float()[:, :, None]).round().clamp(-127, 127)
        stored[name] = whole.to(torch.int8).flatten(1)
        stored[name + _SCALE], stored[name + _COLUMNS] = scale, columns
    return stored


def dequantize(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo `quantize`; weights that were never quantised pass through as they are.

    Columns may have no scales: older files do not.

    Raises:
        ValueError: int8 weights without scales that fit them.
    """
    quantized = {name for name, tensor in stored.items() if tensor.dtype == torch.int8}
    scales = {name + kind for name in quantized for kind in (_SCALE, _COLUMNS)}
    weights = {name: tensor for name, tensor in stored.items() if name not in scales}
    for name, tensor in weights.items():
        if tensor.dtype == torch.int8:
            scale = stored.get(name + _SCALE)
            fits = (
                (tensor.shape[0], tensor.shape[-1] / _GROUP_COLUMNS) if tensor.ndim == 2 else None
            )
            if scale is None or tuple(scale.shape) != fits:
                shape = "none" if scale is None else f"one of shape {tuple(scale.shape)}"
                raise ValueError(
                    f"{name} is int8 of shape {tuple(tensor.shape)}, so {name}{_SCALE} must have a "
                    f"number for every {_GROUP_COLUMNS} columns of a row, but there is {shape}; "
                    "save the weights as floating-point numbers instead"
                )
            groups = tensor.float().unflatten(1, (-1, _GROUP_COLUMNS))
            weight = (groups * scale.float()[:, :, None]).flatten(1)
            columns = stored.get(name + _COLUMNS)
            if columns is not None:
                if columns.shape != tensor.shape[1:]:
                    raise ValueError(
                        f"{name}{_COLUMNS} must have a number for each of the {tensor.shape[1]} "
                        f"columns of {name}, but has the shape {tuple(columns.shape)}; save the "
                        "weights as floating-point numbers instead"
                    )
                weight *= columns.float()
            weights[name] = weight
    return weights
