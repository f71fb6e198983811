"""Make the bundled model from a Hugging Face folder: store weights as int8, with checksums.

python -m bench.bundle runs/qagen-mini
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import save_file

from quals_fast.models.bart import POSITION_OFFSET
from quals_fast.models.checkpoint import sha256
from quals_fast.models.loading import ASSETS, read_weights
from quals_fast.models.storage import quantize

POSITION_TABLES = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
COPIED = ("config.json", "generation_config.json", "tokenizer.json")


def store(source: Path, target: Path) -> None:
    """Write a model with its weights as int8: a quarter of its size, for `--init` and `--model`.

    Args:
        source: folder of a BART.
        target: a new folder.
    """
    target.mkdir(parents=True)
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    save_file(quantize(read_weights(source)), target / "model.safetensors")


def main() -> None:
    """Write ``quals_fast/models/assets/qagen-mini``; the model card is written by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with config, tokenizer and safetensors")
    parser.add_argument(
        "--target",
        type=Path,
        default=ASSETS / "qagen-mini",
        help="folder to write (default: the bundled model)",
    )
    arguments = parser.parse_args()
    target: Path = arguments.target
    target.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        content = json.loads((arguments.source / name).read_text(encoding="utf-8"))
        if name == "config.json":
            content["max_position_embeddings"] = positions = content["max_source_tokens"]
        compact = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        (target / name).write_text(compact + "\n", "utf-8")
    weights = read_weights(arguments.source)
    for name in POSITION_TABLES:  # positions that training never reached are not shipped
        weights[name] = weights[name][: positions + POSITION_OFFSET].contiguous()
    save_file(quantize(weights), target / "model.safetensors")
    (target / "model.safetensors").chmod(0o644)
    files = [*COPIED, "model.safetensors"]
    sums = [f"{sha256(target / name)}  {name}" for name in files]
    (target / "SHA256SUMS").write_text("\n".join(sums) + "\n", "ascii")
    total = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {total / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
