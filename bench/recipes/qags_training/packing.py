"""Make the two folders of bench/qags_models from checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.recipes.qags_training.question_answering import EMBEDDING, LONGEST
from bench.recipes.qags_training.question_generation import RANK, SCALE
from bench.shared.common import ROOT
from quals_fast.models.checkpoint import read_json, sha256
from quals_fast.models.loading import BUNDLED
from quals_fast.models.storage import quantize
from quals_fast.qags.weights import ADAPTER, quantize_nibbles

MODELS = ROOT / "bench" / "qags_models"
ANSWERING = MODELS / "question_answering"
GENERATION = MODELS / "question_generation"


def pack_answering(checkpoint: Path, encoder: Path) -> None:
    """Store the network: embedding in 4 bits, other matrices in int8, the small rest in float16."""
    saved = _read(checkpoint)
    trained: dict[str, Tensor] = saved["weights"]
    embedding = load_file(encoder / "model.safetensors")[EMBEDDING.removeprefix("bert.")]
    packed, scale = quantize_nibbles(embedding)
    stored = {EMBEDDING: packed, f"{EMBEDDING}.scale": scale}
    inner = {n: w for n, w in trained.items() if n.startswith("bert.encoder.") and w.ndim == 2}
    stored |= quantize(inner)
    stored |= {name: w.half() for name, w in trained.items() if name not in inner}
    config = read_json(encoder / "config.json") | {
        "architectures": ["BertForQuestionAnswering"],
        "max_source_tokens": LONGEST,
        "training": saved["training"],
    }
    config.pop("_name_or_path", None)
    _start(ANSWERING)
    shutil.copyfile(encoder / "tokenizer.json", ANSWERING / "tokenizer.json")
    _compact_tokenizer(ANSWERING / "tokenizer.json")
    _finish(ANSWERING, config, stored, "model.safetensors")


def pack_generation(checkpoint: Path, base: Path) -> None:
    """Store the adapter in float16, with the base's name and checksum."""
    saved = _read(checkpoint)
    bundled = base.resolve().name in BUNDLED
    config = {
        "model_type": "bart",
        "qg_source": "passage_sep_answer",
        "adapter": {
            "base": base.resolve().name if bundled else str(base.resolve()),
            "base_sha256": sha256(base / "model.safetensors"),
            "rank": RANK,
            "scale": SCALE,
        },
        "training": saved["training"],
    }
    _start(GENERATION)
    _finish(GENERATION, config, {n: w.half() for n, w in saved["weights"].items()}, ADAPTER)


def _read(checkpoint: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    saved["training"] = {**saved["recipe"], "examples_seen": saved["done"]}
    return saved


def _start(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()


def _compact_tokenizer(path: Path) -> None:
    content = json.loads(path.read_text("utf-8"))
    content["truncation"] = content["padding"] = None
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")


def _finish(
    folder: Path, config: dict[str, Any], stored: dict[str, Tensor], weights_file: str
) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    save_file({n: w.contiguous() for n, w in stored.items()}, folder / weights_file)
    (folder / weights_file).chmod(0o644)
    paths = sorted(folder.iterdir())
    lines = [f"{sha256(path)}  {path.name}" for path in paths]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n", "ascii")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 2**20:.2f} MiB")
