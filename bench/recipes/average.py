"""Average the weights of models that were trained from one another.

    python -m bench.average runs/first runs/second -o runs/average

If one model was trained from another, both lie in the same valley of the loss. Their mean is then a
working model, too, and often better on unseen data (Wortsman et al. 2022, "Model soups").

Config and tokenizer are taken from the last folder. The other models may have a larger vocabulary,
of which only the rows of the last one's tokens are used, or fewer positions: a position is averaged
over the models that have it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from bench.recipes.bundle import COPIED
from bench.shared.options import command_line
from quals_fast.models.loading import read_weights
from quals_fast.training.qagen.resizing import take_tokens

_SAME = ("d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim")


def average(folders: Sequence[Path], target: Path) -> None:
    """Write a folder with the mean of the weights of others.

    Args:
        folders: of models of one shape but for vocabulary and positions.
        target: folder to write.

    Raises:
        ValueError: the shapes differ, a token of the last model is unknown to another, or a
            vocabulary has gaps.
    """
    configs = [json.loads((folder / "config.json").read_text("utf-8")) for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        changed = [name for name in _SAME if config[name] != configs[-1][name]]
        if changed:
            raise ValueError(
                f"`{changed[0]}` of {folder} must be {configs[-1][changed[0]]}, as in "
                f"{folders[-1]}, but is {config[changed[0]]}"
            )
    tokens = _tokens(folders[-1])
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for folder in folders:
        known = {token: row for row, token in enumerate(_tokens(folder))}
        missing = [token for token in tokens if token not in known]
        if missing:
            raise ValueError(
                f"{folder} must have all tokens of {folders[-1]}, but lacks {missing[0]!r}"
            )
        rows = [known[token] for token in tokens]
        weights = read_weights(folder)
        take_tokens(weights, rows)
        for name, weight in weights.items():
            own = weight.double()
            if name not in sums or len(own) > len(sums[name]):  # more positions than those before
                sums[name] = _longer(sums.get(name), own)
                counts[name] = _longer(counts.get(name), own)
            sums[name][: len(own)] += own
            counts[name][: len(own)] += 1
    target.mkdir(parents=True)
    for name in COPIED:
        shutil.copyfile(folders[-1] / name, target / name)
    means = {name: (sums[name] / counts[name]).float() for name in sums}
    save_file(means, target / "model.safetensors", metadata={"format": "pt"})


def _tokens(folder: Path) -> list[str]:
    """Return the tokens in the order of their rows."""
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    if max(vocabulary.values()) >= len(vocabulary):
        raise ValueError(f"the tokens of {folder} must be numbered without gaps")
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _longer(before: Tensor | None, like: Tensor) -> Tensor:
    """Return zeros of a shape, with what was there before in the first rows."""
    filled = torch.zeros_like(like)
    if before is not None:
        filled[: len(before)] = before
    return filled


def main() -> None:
    """Average."""
    parser = command_line(__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of two or more models")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="new folder for the average"
    )
    arguments = parser.parse_args()
    if len(arguments.folders) < 2:
        parser.error("FOLDERS must be two models or more")
    average(arguments.folders, arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
