"""Checkpoints of a few thousand parameters, written to a folder as Hugging Face would."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from bench.recipes.tiny import train
from quals_fast.models.bart import Bart
from quals_fast.models.shape import BartShape

WORDS = (
    "who what when where how many did was the a of in to by opened closed won lost queen king anne "
    "bridge tower town river 1962 1969 forty four lives score game ##s ##ed ##ing ? . , -"
).split()
SPECIAL = ["[PAD]", "[SEP0]", "[UNK]", "[CLS]", "[SEP]"]  # ids 0 to 4; 1 separates, 4 ends
CONFIG = {
    "model_type": "bart",
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "activation_function": "gelu",
    "scale_embedding": False,
    "bos_token_id": 3,
    "eos_token_id": 4,
    "pad_token_id": 0,
    "decoder_start_token_id": 4,
    "sep_token_id": 1,
}


def shape_of(config: dict) -> BartShape:
    names = BartShape.__dataclass_fields__
    return BartShape(**{name: value for name, value in config.items() if name in names})


def random_bart(config: dict, seed: int = 0) -> Bart:
    """A network with weights large enough that its distributions are far from flat."""
    torch.manual_seed(seed)
    bart = Bart(shape_of(config)).eval().requires_grad_(False)
    for name, weight in bart.named_parameters():
        if weight.ndim == 2:
            weight.normal_(0, 0.5 if "embed" in name or "shared" in name else 0.25)
    return bart


def wordpiece_tokenizer() -> Tokenizer:
    vocab = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


def byte_level_tokenizer() -> Tokenizer:
    """Byte-level BPE without merges: 256 byte tokens behind the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<sep>", "<mask>"]
    vocab = {token: i for i, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


FAIRSEQ_LIKE = {
    **CONFIG,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "sep_token_id": 4,
    "source_bos": False,
    "masked_token_ids": [5],
}


def write_checkpoint(
    folder: Path,
    config: dict | None = None,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
    trained_on: str | None = None,
) -> Path:
    """Write config.json, tokenizer.json and model.safetensors; return the folder.

    With `trained_on`, the weights are trained to generate pairs of words of that text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or wordpiece_tokenizer()
    config = {"vocab_size": tokenizer.get_vocab_size(), **(config or CONFIG)}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(folder / "tokenizer.json"))
    bart = random_bart(config, seed)
    if trained_on is not None:
        torch.manual_seed(1)
        words = sorted(set(tokenizer.encode(trained_on).ids))
        train(bart, config, words, source_words=8, question_words=2, steps=200)
    weights = dict(bart.state_dict())
    weights["final_logits_bias"] = weights["final_logits_bias"][None]  # as Hugging Face has it
    save_file({name: w.contiguous() for name, w in weights.items()}, folder / "model.safetensors")
    return folder


def write_asking(folder: Path) -> Path:
    """Write a checkpoint that asks for the queen: each position of its targets has its word."""
    write_checkpoint(folder, seed=2)
    words = [*SPECIAL, *WORDS]
    weights = load_file(folder / "model.safetensors")
    positions = weights["model.decoder.embed_positions.weight"]
    for place, word in enumerate(["who", "[SEP0]", "queen", "[SEP]"], start=2):
        positions[place] += 5 * weights["model.shared.weight"][words.index(word)]
    for name, weight in weights.items():
        if name.startswith("model.decoder.layers") and name.endswith(
            ("out_proj.weight", "fc2.weight")
        ):
            weight *= 0.4
    save_file(weights, folder / "model.safetensors")
    return folder
