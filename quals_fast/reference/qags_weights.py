"""The weights of QAGS's two networks, as they lie in their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from quals_fast.models.checkpoint import CheckpointError, read_json
from quals_fast.models.loading import read_weights

_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json")


def read_qags_weights(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """Read a folder as Hugging Face saves it, its weights in safetensors or in our int8 storage.

    Args:
        folder: with ``config.json``, ``model.safetensors`` and a tokenizer.

    Returns:
        The config (``generation_config.json`` adds what it lacks); the weights by Hugging Face's
        names; the tokenizer's file: ``tokenizer.json``, ``vocab.txt`` (WordPiece), or
        ``vocab.json`` with ``merges.txt`` beside it.

    Raises:
        CheckpointError: a file is missing or cannot be read; the message says what to do.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    config = read_json(folder / "config.json")
    if (folder / "generation_config.json").is_file():
        # transformers 5 moves forced_bos_token_id and the like there; what config.json says counts.
        config = read_json(folder / "generation_config.json") | config
    weights = read_weights(folder)
    for name in _TOKENIZERS:
        if (folder / name).is_file():
            return config, weights, folder / name
    raise CheckpointError(
        f"{folder} has no tokenizer: expected {', '.join(_TOKENIZERS[:-1])}, or vocab.json with "
        "merges.txt; save it there with transformers' tokenizer.save_pretrained()"
    )
