"""Folders of QAGS's networks: plain, packed, adapters, and what is said of damaged ones."""

import hashlib
import json
import re

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from quals_fast.models.checkpoint import CheckpointError
from quals_fast.models.storage import dequantize, quantize
from quals_fast.qags.weights import (
    ADAPTER,
    dequantize_nibbles,
    quantize_nibbles,
    read_qags_weights,
)

EMBEDDING = "bert.embeddings.word_embeddings.weight"
LAYER = "bert.encoder.layer.0.output.dense.weight"
ADAPTED = "model.encoder.layers.0.fc1"
WEIGHTS = "model.safetensors"


def write_json(path, **content):
    path.write_text(json.dumps(content))


def write_sums(folder, *names):
    sums = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}" for n in names]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")


def fails(folder, message):
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_qags_weights(folder)


@pytest.fixture
def plain(tmp_path):
    """A BERT-like folder with float16 weights."""
    folder = tmp_path / "plain"
    folder.mkdir()
    torch.manual_seed(0)
    weights = {EMBEDDING: torch.randn(9, 128), LAYER: torch.randn(6, 256), "bias": torch.randn(5)}
    save_file({name: w.half() for name, w in weights.items()}, folder / WEIGHTS)
    write_json(folder / "config.json", model_type="bert", vocab_size=9)
    (folder / "vocab.txt").write_text("[PAD]\n")
    return folder


@pytest.fixture
def packed(plain):
    """The same, as `bench.recipes.qags_training` packs it."""
    weights = load_file(plain / WEIGHTS)
    levels, scale = quantize_nibbles(weights.pop(EMBEDDING))
    stored = quantize(weights) | {EMBEDDING: levels, f"{EMBEDDING}.scale": scale}
    save_file(stored, plain / WEIGHTS)
    write_sums(plain, WEIGHTS, "config.json", "vocab.txt")
    return plain


@pytest.fixture
def adapter(tmp_path):
    """A rank-2 change of one layer of a tiny BART next to it."""
    base = tmp_path / "base"
    tiny_models.write_checkpoint(base)
    folder = tmp_path / "adapter"
    folder.mkdir()
    torch.manual_seed(1)
    low = {f"{ADAPTED}.lora_A": torch.randn(2, 16), f"{ADAPTED}.lora_B": torch.randn(32, 2)}
    save_file({name: w.half() for name, w in low.items()}, folder / ADAPTER)
    about = {
        "base": "../base",
        "base_sha256": hashlib.sha256((base / WEIGHTS).read_bytes()).hexdigest(),
        "scale": 2.0,
    }
    write_json(folder / "config.json", adapter=about, qg_source="passage_sep_answer")
    return folder


@pytest.mark.parametrize("shape", [(1, 32), (7, 96), (3, 384)], ids=str)
def test_nibbles_are_within_half_a_level(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    levels, scale = quantize_nibbles(weight)
    assert levels.dtype == torch.uint8
    assert levels.shape == (shape[0], shape[1] // 2)
    assert scale.shape == (shape[0], shape[1] // 32)
    error = (dequantize_nibbles(levels, scale) - weight).abs().unflatten(1, (-1, 32))
    # The 15 levels beside -8 end one short on the far side: at most a whole level off there.
    assert (error <= scale.float().abs()[:, :, None] * 1.001 + 1e-3).all()
    assert error.median() < scale.float().abs().median() / 2


def test_nibbles_meet_extremes_and_zero():
    weight = torch.zeros(2, 32)
    weight[0, 3], weight[0, 4] = 4.0, -2.0
    assert torch.equal(dequantize_nibbles(*quantize_nibbles(weight)), weight)


def test_quantising_twice_changes_nothing():
    torch.manual_seed(0)
    once = dequantize_nibbles(*quantize_nibbles(torch.randn(50, 64)))
    assert torch.equal(dequantize_nibbles(*quantize_nibbles(once)), once)


def test_plain_folder(plain):
    config, weights, tokenizer = read_qags_weights(plain)
    assert config["vocab_size"] == 9
    assert tokenizer == plain / "vocab.txt"
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert torch.equal(weights[LAYER], load_file(plain / WEIGHTS)[LAYER].float())


def test_packed_folder(packed):
    stored = load_file(packed / WEIGHTS)
    _, weights, _ = read_qags_weights(packed)
    assert weights.keys() == {EMBEDDING, LAYER, "bias"}
    assert {w.dtype for w in weights.values()} == {torch.float32}
    embedding = dequantize_nibbles(stored[EMBEDDING], stored[f"{EMBEDDING}.scale"])
    assert torch.equal(weights[EMBEDDING], embedding)
    assert torch.equal(weights[LAYER], dequantize(stored)[LAYER])


def test_adapter_is_added_to_its_base(adapter):
    config, weights, tokenizer = read_qags_weights(adapter)
    base_config, base, base_tokenizer = read_qags_weights(adapter / "../base")
    low = load_file(adapter / ADAPTER)
    change = 2 * low[f"{ADAPTED}.lora_B"].float() @ low[f"{ADAPTED}.lora_A"].float()
    name = f"{ADAPTED}.weight"
    assert torch.equal(weights[name], base[name] + change)
    assert all(torch.equal(weights[n], base[n]) for n in base if n != name)
    assert config == base_config | {k: config[k] for k in ("adapter", "qg_source")}
    assert tokenizer == base_tokenizer


def test_generation_config_adds_what_config_lacks(plain):
    write_json(plain / "generation_config.json", vocab_size=1, forced_bos_token_id=0)
    config, _, _ = read_qags_weights(plain)
    assert (config["vocab_size"], config["forced_bos_token_id"]) == (9, 0)


def test_no_folder(tmp_path):
    fails(tmp_path / "none", "none is not a folder")


def test_no_tokenizer(plain):
    (plain / "vocab.txt").unlink()
    fails(plain, "has no tokenizer: expected tokenizer.json, vocab.txt, or vocab.json")


def test_no_weights(plain):
    (plain / WEIGHTS).unlink()
    fails(plain, "has no weights: expected model.safetensors")


def test_cut_off_weights(plain):
    content = (plain / WEIGHTS).read_bytes()
    (plain / WEIGHTS).write_bytes(content[: len(content) // 2])
    fails(plain, "is not a readable safetensors file")


def test_wrong_checksum(packed):
    content = bytearray((packed / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (packed / WEIGHTS).write_bytes(content)
    fails(packed, "model.safetensors is damaged: expected SHA-256")


def test_listed_file_is_missing(packed):
    (packed / "vocab.txt").unlink()
    fails(packed, "vocab.txt is missing; download it again")


def test_a_damaged_list(packed):
    (packed / "SHA256SUMS").write_bytes(b"\xff\xfe\n")
    fails(packed, "SHA256SUMS is missing or damaged; download it again")


def test_nibbles_without_scale(packed):
    stored = load_file(packed / WEIGHTS)
    del stored[f"{EMBEDDING}.scale"]
    save_file(stored, packed / WEIGHTS)
    write_sums(packed, WEIGHTS)
    fails(packed, f"{EMBEDDING} is stored in 4 bits")


def test_changed_base(adapter):
    path = adapter / "../base" / WEIGHTS
    weights = load_file(path)
    weights[f"{ADAPTED}.weight"] += 1
    save_file(weights, path)
    fails(adapter, "the base model has changed: train the adapter again")


def test_base_without_weights(adapter):
    (adapter / "../base" / WEIGHTS).unlink()
    fails(adapter, "the base model has changed: train the adapter again")


def test_missing_base(adapter):
    config = json.loads((adapter / "config.json").read_text())
    config["adapter"]["base"] = "../nothing"
    write_json(adapter / "config.json", **config)
    fails(adapter, "is neither bundled")


def test_adapter_without_particulars(adapter):
    write_json(adapter / "config.json", adapter={"base": "../base"})
    fails(adapter, "`adapter` must have base, base_sha256, scale")


def test_missing_adapter(adapter):
    (adapter / ADAPTER).unlink()
    fails(adapter, "has no adapter.safetensors")


def test_cut_off_adapter(adapter):
    (adapter / ADAPTER).write_bytes((adapter / ADAPTER).read_bytes()[:40])
    fails(adapter, "adapter.safetensors is not a readable safetensors file")


@pytest.mark.parametrize(
    "low",
    [
        {f"{ADAPTED}.lora_A": torch.ones(2, 16)},
        {f"{ADAPTED}.lora_A": torch.ones(2, 16), f"{ADAPTED}.lora_B": torch.ones(31, 2)},
        {f"{ADAPTED}.lora_A": torch.ones(3, 16), f"{ADAPTED}.lora_B": torch.ones(32, 2)},
        {f"{ADAPTED}.lora_A": torch.ones(16), f"{ADAPTED}.lora_B": torch.ones(32)},
        {"model.none.lora_A": torch.ones(2, 16), "model.none.lora_B": torch.ones(32, 2)},
    ],
    ids=["half", "shape", "rank", "vectors", "name"],
)
def test_adapter_that_does_not_fit(adapter, low):
    save_file(low, adapter / ADAPTER)
    fails(adapter, "must have lora_A and lora_B that fit")
