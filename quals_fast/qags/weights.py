"""Read the weights of QAGS's networks: a Hugging Face folder, possibly quantised, or an adapter.

A folder may hold float weights as transformers saves them; int8 weights as
`quals_fast.models.storage` stores them, possibly with some matrices in 4 bits (`quantize_nibbles`);
or ``adapter.safetensors``, a low-rank change of another model, which config.json names with its
checksum. The files that the folder's ``SHA256SUMS`` lists are verified.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quals_fast.models.checkpoint import CheckpointError, read_config, sha256, verify_checksums
from quals_fast.models.loading import BUNDLED, model_folder, read_safetensors, read_weights

ADAPTER = "adapter.safetensors"

_GROUP_COLUMNS = 32
_SCALE = ".scale"
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json")


def read_qags_weights(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """Read a network's folder.

    Args:
        folder: with config.json, weights and, unless they are an adapter, a tokenizer.

    Returns:
        The config (``generation_config.json`` adds what it lacks); the float32 weights by the names
        that transformers gives them, a tied embedding once, as ``model.shared.weight``; the
        tokenizer's file: ``tokenizer.json``, ``vocab.txt`` (WordPiece), or ``vocab.json`` with
        ``merges.txt`` beside it.

    Raises:
        CheckpointError: a file is missing or damaged, or an adapter's base has changed.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    if (folder / "SHA256SUMS").is_file():
        verify_checksums(folder, "download it again")
    config = read_config(folder)
    if "adapter" in config or (folder / ADAPTER).is_file():
        return _read_adapter(folder, config)
    weights = _dequantize(folder, read_weights(folder))
    for name, weight in weights.items():
        if weight.is_floating_point():
            weights[name] = weight.float()
    return config, weights, _tokenizer(folder)


def quantize_nibbles(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix in 4 bits, and a float16 scale for every 32 columns of a row.

    The largest number of a group by magnitude becomes level -8, so that all 16 levels are used;
    byte j holds column 2j in its low half.
    """
    groups = weight.float().unflatten(1, (-1, _GROUP_COLUMNS))
    extreme = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    extreme = torch.where(extreme.abs() < 1e-4, 1e-4, extreme)
    scale = (extreme / -8).half()
    levels = ((groups / scale.float()).round().clamp(-8, 7) + 8).to(torch.uint8).flatten(1)
    return levels[:, 0::2] | levels[:, 1::2] << 4, scale.squeeze(2)


def dequantize_nibbles(nibbles: Tensor, scale: Tensor) -> Tensor:
    """Undo `quantize_nibbles`."""
    levels = torch.stack((nibbles & 15, nibbles >> 4), 2).flatten(1)
    groups = (levels.float() - 8).unflatten(1, (-1, _GROUP_COLUMNS))
    return (groups * scale.float()[:, :, None]).flatten(1)


def _dequantize(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for name in [n for n, tensor in weights.items() if tensor.dtype == torch.uint8]:
        nibbles, scale = weights[name], weights.pop(name + _SCALE, None)
        fits = nibbles.ndim == 2 and nibbles.shape[1] * 2 % _GROUP_COLUMNS == 0
        shape = (nibbles.shape[0], nibbles.shape[-1] * 2 // _GROUP_COLUMNS)
        if scale is None or not fits or tuple(scale.shape) != shape:
            actual = "none" if scale is None else f"one of shape {tuple(scale.shape)}"
            raise CheckpointError(
                f"{folder}: {name} is stored in 4 bits, so {name}{_SCALE} must have a number for "
                f"every {_GROUP_COLUMNS} columns, but there is {actual}; download the weights again"
            )
        weights[name] = dequantize_nibbles(nibbles, scale)
    return weights


def _read_adapter(
    folder: Path, config: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    about = config.get("adapter")
    fields = {"base": str, "base_sha256": str, "scale": float}
    if not isinstance(about, dict) or not all(
        isinstance(about.get(name), kind) for name, kind in fields.items()
    ):
        raise CheckpointError(
            f"{folder / 'config.json'}: `adapter` must have {', '.join(fields)}, but got {about!r}"
        )
    base = model_folder(about["base"] if about["base"] in BUNDLED else folder / about["base"])
    weights_file = base / "model.safetensors"
    actual = sha256(weights_file) if weights_file.is_file() else "nothing"
    if actual != about["base_sha256"]:
        raise CheckpointError(
            f"{folder} adapts {about['base']} with SHA-256 {about['base_sha256'][:12]}..., but "
            f"{weights_file} has {actual[:12]}; the base model has changed: train the adapter "
            "again (see its README.md)"
        )
    base_config, weights, tokenizer = read_qags_weights(base)
    low = read_safetensors(folder / ADAPTER)
    layers = sorted({name.rpartition(".")[0] for name in low})
    for layer in layers:
        a, b = low.get(f"{layer}.lora_A"), low.get(f"{layer}.lora_B")
        weight = weights.get(f"{layer}.weight")
        shape = None if weight is None else tuple(weight.shape)
        fits = a is not None and b is not None and (*b.shape[:1], *a.shape[1:]) == shape
        if a is None or b is None or weight is None or not fits or a.shape[:1] != b.shape[1:]:
            raise CheckpointError(
                f"{folder / ADAPTER}: {layer} must have lora_A and lora_B that fit the base's "
                f"weight of shape {shape}; train the adapter again (see its README.md)"
            )
        weights[f"{layer}.weight"] = weight + about["scale"] * (b.float() @ a.float())
    own = any((folder / name).is_file() for name in _TOKENIZERS)
    return base_config | config, weights, _tokenizer(folder) if own else tokenizer


def _tokenizer(folder: Path) -> Path:
    for name in _TOKENIZERS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"{folder} has no tokenizer: expected {', '.join(_TOKENIZERS[:-1])}, or vocab.json with "
        "merges.txt; save it there with transformers' tokenizer.save_pretrained()"
    )
