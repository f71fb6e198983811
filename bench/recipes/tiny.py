"""A checkpoint of some thousand parameters that asks and answers, for dry runs of the benchmarks.

Its tokens are characters. In a few seconds it learns to ask with tokens of its source and to answer
with another one, `w w w w w w w [SEP0] w [SEP]`, so that pairs are kept and every part of a
benchmark has something to do.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch.nn import functional as F

from quals_fast.models.bart import Bart
from quals_fast.models.network import Network
from quals_fast.models.shape import BartShape

SPECIAL = ("[PAD]", "[SEP0]", "[UNK]", "[CLS]", "[SEP]")  # ids 0 to 4; 1 separates, 4 ends
QUESTION_WORDS = 7  # with answer and end above the search's least length
SHARPNESS = 5.0  # of its distributions, so that searches end after some ten steps
CONFIG: dict[str, Any] = {
    "model_type": "bart",
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 1024,
    "activation_function": "gelu",
    "scale_embedding": False,
    "bos_token_id": 3,
    "eos_token_id": 4,
    "pad_token_id": 0,
    "decoder_start_token_id": 4,
    "sep_token_id": 1,
}


def write_tiny(texts: list[str], folder: Path) -> None:
    """Train a checkpoint on texts and write it as Hugging Face would.

    Args:
        texts: whose characters are its vocabulary, with those of ASCII.
        folder: does not exist yet.
    """
    tokenizer = character_tokenizer(texts)
    config = {**CONFIG, "vocab_size": tokenizer.get_vocab_size()}
    names = BartShape.__dataclass_fields__
    # Its random numbers are its own: making it changes nothing in the program that asks for it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bart = Bart(BartShape(**{name: config[name] for name in names if name in config}))
        for name, weight in bart.named_parameters():
            if weight.ndim == 2:
                weight.data.normal_(0, 0.02 if "positions" in name else 0.3)
        words = list(range(len(SPECIAL), config["vocab_size"]))
        train(bart, config, words, source_words=12, question_words=QUESTION_WORDS, steps=300)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = bart.state_dict()
    last = config["decoder_layers"] - 1
    weights[f"model.decoder.layers.{last}.final_layer_norm.weight"] *= SHARPNESS
    weights["final_logits_bias"] = weights["final_logits_bias"][None]  # as Hugging Face has it
    save_file({n: w.contiguous() for n, w in weights.items()}, folder / "model.safetensors")


def character_tokenizer(texts: list[str]) -> Tokenizer:
    """Return a WordPiece tokenizer that spells words, with the characters of texts and of ASCII."""
    normalizer = normalizers.BertNormalizer()
    occurring = set(normalizer.normalize_str("".join([*texts, string.printable])))
    characters = sorted(one for one in occurring if not one.isspace())
    pieces = [*SPECIAL, *characters, *(f"##{one}" for one in characters)]
    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


def train(
    network: Network,
    config: Mapping[str, Any],
    words: list[int],
    *,
    source_words: int,
    question_words: int,
    steps: int,
) -> None:
    """Teach questions and an answer of words of the source: `w ... w SEP w EOS`.

    Args:
        network: is changed.
        config: names the special tokens.
        words: ids that sources are made of.
        source_words: of each source.
        question_words: of each question.
        steps: of Adam.
    """
    sep, end = config["sep_token_id"], config["eos_token_id"]
    start = [config["forced_bos_token_id"]] if config.get("forced_bos_token_id") else []
    # In float64, where processors' roundings differ too little to lead to other weights.
    network.double().requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(steps):
        source = torch.tensor(words)[torch.randint(len(words), (16, source_words))]
        picked = source.gather(1, torch.randint(source_words, (16, question_words + 1)))
        question, answer = picked[:, :-1], picked[:, -1:]
        first, between, last = (
            torch.tensor(ids).long().expand(16, -1) for ids in (start, [sep], [end])
        )
        labels = torch.cat([first, question, between, answer, last], 1)
        inputs = labels.roll(1, 1)
        inputs[:, 0] = config["decoder_start_token_id"]
        memory = network.encode(source, torch.ones_like(source, dtype=torch.bool))
        hidden = network.decode_teacher_forced(inputs[:, None], memory)[:, 0]
        logits = hidden.flatten(0, 1) @ network.lm_head_weight.T + network.final_logits_bias
        optimizer.zero_grad()
        F.cross_entropy(logits, labels.flatten()).backward()
        optimizer.step()
    network.float().requires_grad_(False)
