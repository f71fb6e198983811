"""Resize a checkpoint: more positions, or a smaller vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from quals_fast.models.bart import POSITION_OFFSET
from quals_fast.training.qagen.settings import TrainingError

_BY_TOKEN = ("shared.weight", "embed_tokens.weight", "lm_head.weight", "final_logits_bias")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
              "sep_token_id", "forced_bos_token_id", "masked_token_ids")  # fmt: skip
_TEXTS_AT_ONCE = 4_096


def used_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> set[int]:
    """Return the ids of the tokens that texts are made of.

    Raises:
        TrainingError: the tokenizer is not a WordPiece; only its tokens are independent.
    """
    kind = type(tokenizer.model).__name__
    if kind != "WordPiece":
        raise TrainingError(
            f"`prune` needs a WordPiece vocabulary, but the tokenizer is a {kind}, whose merges "
            "need all tokens; leave it out"
        )
    unique = list(dict.fromkeys(texts))
    used: set[int] = set()
    for first in range(0, len(unique), _TEXTS_AT_ONCE):
        part = unique[first : first + _TEXTS_AT_ONCE]
        for encoding in tokenizer.encode_batch_fast(part, add_special_tokens=False):
            used.update(encoding.ids)
    return used


def prune(
    tokenizer: Tokenizer, config: dict[str, Any], weights: dict[str, Tensor], used: set[int]
) -> Tokenizer:
    """Remove unused tokens from config and weights; return the tokenizer without them.

    Texts of used tokens keep their tokens, under new ids in the old order: WordPiece takes the
    longest piece that fits, and no longer one fitted before. Other words are split into shorter
    pieces, or become UNK if they have a letter that no text had.

    Args:
        tokenizer: a WordPiece.
        config: of the checkpoint; changed in place.
        weights: by Hugging Face's names; changed in place.
        used: ids to keep, in addition to special tokens.
    """
    content = json.loads(tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    kept = used | {token["id"] for token in content["added_tokens"]}
    kept.add(vocabulary[content["model"]["unk_token"]])
    for name in _TOKEN_IDS:
        ids = config.get(name)
        kept.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    old = sorted(kept)
    new = {number: place for place, number in enumerate(old)}
    for name in _TOKEN_IDS:
        ids = config.get(name)
        if ids is not None:
            config[name] = [new[i] for i in ids] if isinstance(ids, list) else new[ids]
    config["vocab_size"] = len(old)
    take_tokens(weights, old)
    content["model"]["vocab"] = {
        token: new[number] for token, number in vocabulary.items() if number in new
    }
    for token in content["added_tokens"]:
        token["id"] = new[token["id"]]
    content["post_processor"] = None  # it adds special tokens by their old ids; not used here
    pruned = Tokenizer.from_str(json.dumps(content))
    pruned.encode_special_tokens = tokenizer.encode_special_tokens
    return pruned


def take_tokens(weights: dict[str, Tensor], ids: Sequence[int]) -> None:
    """Keep only the rows of the vocabulary with these ids, in their order.

    Args:
        weights: by Hugging Face's names; changed in place.
        ids: token ids; a new separator has no row yet, and gets none.
    """
    for name, weight in weights.items():
        if name.endswith(_BY_TOKEN):
            by_row = weight.T if "bias" in name else weight
            rows = by_row[[i for i in ids if i < len(by_row)]]
            weights[name] = rows.T if "bias" in name else rows


def add_positions(config: dict[str, Any], weights: dict[str, Tensor], positions: int) -> None:
    """Give encoder and decoder more positions, which start as copies of the first ones.

    Args:
        config: of the checkpoint; changed in place, with the length of its sources.
        weights: by Hugging Face's names; changed in place.
        positions: the new number.

    Raises:
        TrainingError: the model has more already.
    """
    there = config["max_position_embeddings"]
    if positions < there:
        raise TrainingError(
            f"`positions` must be at least the {there} that the model has, but got {positions}"
        )
    for name, weight in weights.items():
        if name.endswith("embed_positions.weight"):
            unused, own = weight[:POSITION_OFFSET], weight[POSITION_OFFSET:]
            copies = [own] * -(-positions // there)
            weights[name] = torch.cat((unused, torch.cat(copies)[:positions]))
    config["max_position_embeddings"] = config["max_source_tokens"] = positions
