"""T5 checkpoints of a few thousand parameters, written to a folder as Hugging Face would."""

from __future__ import annotations

import json
import lzma
from dataclasses import fields
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_models import WORDS
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from bench.recipes.tiny import train
from quals_fast.models.shape import T5Shape
from quals_fast.models.t5 import T5

CONFIG = {  # T5 1.0
    "model_type": "t5",
    "d_model": 16,
    "d_kv": 5,
    "d_ff": 32,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
T5_1_1 = {
    **CONFIG,
    "num_layers": 1,
    "num_decoder_layers": 3,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}


@cache
def charsmap() -> bytes:
    """T5's table of characters, nmt_nfkc, as sentencepiece 0.2.3 puts it into a model.

    Source: google/sentencepiece (Apache-2.0), `SentencePieceTrainer` with its default
    `normalization_rule_name`; the field `normalizer_spec.precompiled_charsmap` of the result.
    """
    return lzma.decompress(Path(__file__).with_name("nmt_nfkc.bin.xz").read_bytes())


def unigram_tokenizer() -> Tokenizer:
    """T5's tokenizer, over a few words and the letters: <pad> 0, </s> 1, <unk> 2, <sep> last."""
    words = [word for word in WORDS if word.isalnum()]
    pieces = [(f"▁{word}", -3.0) for word in words]
    letters = sorted({*"".join(words), *"0123456789?.,-▁"})
    pieces += [(letter, -8.0) for letter in letters]
    special = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    extra = [f"<extra_id_{i}>" for i in reversed(range(100))]
    vocab = [*special, *pieces, *((token, 0.0) for token in extra)]
    tokenizer = as_sentencepiece(models.Unigram(vocab, unk_id=2, byte_fallback=False))
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False) for token in ("<pad>", "</s>", "<unk>", *extra)]
    )
    tokenizer.add_special_tokens([AddedToken("<sep>", normalized=False)])
    return tokenizer


def bpe_tokenizer() -> Tokenizer:
    """A SentencePiece tokenizer with a BPE over the same words, and the same special ids."""
    tokenizer = as_sentencepiece(models.BPE(unk_token="<unk>", fuse_unk=True))
    words = [word for word in WORDS if word.isalnum()]
    trainer = trainers.BpeTrainer(
        vocab_size=200,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=[*"0123456789?.,-"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(words)], trainer)
    tokenizer.add_special_tokens([AddedToken("<sep>", normalized=False)])
    return tokenizer


def as_sentencepiece(model: models.Model) -> Tokenizer:
    """A tokenizer of a model, with what transformers puts around SentencePiece's."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Precompiled(charsmap())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    return tokenizer


def shape_of(config: dict) -> T5Shape:
    names = [field.name for field in fields(T5Shape)]
    return T5Shape(**{name: config[name] for name in names})


def write_t5(
    folder: Path,
    config: dict | None = None,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
    trained_on: str | None = None,
) -> Path:
    """Write what transformers' save_pretrained() writes of model and tokenizer; return the folder.

    With `trained_on`, the weights are trained to generate pairs of words of that text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or unigram_tokenizer()
    size = tokenizer.get_vocab_size()
    config = {"vocab_size": -(-size // 128) * 128, **(config or CONFIG)}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"sep_token": "<sep>", "eos_token": "</s>", "model_max_length": 40})
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(seed)
    network = T5(shape_of(config)).eval().requires_grad_(False)
    for name, weight in network.named_parameters():
        if weight.ndim == 2:
            weight.normal_(0, 0.25 if "layer" in name else 0.5)
    if trained_on is not None:
        torch.manual_seed(1)
        words = sorted(set(tokenizer.encode(trained_on).ids))
        special = {**config, "sep_token_id": size - 1}
        train(network, special, words, source_words=8, question_words=2, steps=200)
    weights = network.state_dict()
    del weights["final_logits_bias"]
    save_file({name: w.contiguous() for name, w in weights.items()}, folder / "model.safetensors")
    return folder
