"""Tiny networks for QAGS, as Hugging Face saves them, and answer candidates without spaCy."""

from __future__ import annotations

import json
from pathlib import Path

import tiny_models
import torch
from safetensors.torch import load_file, save_file

from quals_fast.qags.answers import GivenAnswers

TOKENS = [*tiny_models.SPECIAL, *tiny_models.WORDS]
BERT = {
    "model_type": "bert",
    "vocab_size": len(TOKENS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
}
DOCUMENT = (
    "king closed the tower in 1969 . queen anne won . the town lost forty four lives by a river "
    "when queen anne opened the bridge of the town and king lost the game to anne ."
)
CANDIDATES = {
    "queen anne opened the bridge in 1962 .": ["queen anne", "1962", "the bridge"],
    "the town won forty four lives": ["the town", "forty four lives"],
    "king and queen lost score by a river .": ["king", "queen", "score", "a river"],
    "anne won the queen": [w for w in "anne queen king won lost game town tower a the".split()]
    + ["who", "1969"],
    "by . the": [],
}
SUMMARIES = list(CANDIDATES)


class WordAnswers(GivenAnswers):
    """Candidates of the tests' summaries."""

    def __init__(self, candidates: dict[str, list[str]] = CANDIDATES) -> None:
        super().__init__(candidates, name="words")


def write_folder(folder: Path, config: dict, weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tiny_models.wordpiece_tokenizer().save(str(folder / "tokenizer.json"))
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    return folder


def write_models(folder: Path, **changes: object) -> Path:
    """Write both networks under a folder; `changes` are of the generator's config."""
    from transformers import BertConfig, BertForQuestionAnswering

    torch.manual_seed(3)
    bert = BertForQuestionAnswering(BertConfig(**BERT))
    for weight in bert.parameters():
        if weight.ndim == 2:
            weight.data.normal_(0, 0.4)
    write_folder(folder / "question_answering", BERT, bert.state_dict())
    config = {**tiny_models.CONFIG, "vocab_size": len(TOKENS), **changes}
    generator = tiny_models.write_checkpoint(folder / "question_generation", config, seed=5)
    weights = load_file(generator / "model.safetensors")
    weights["final_logits_bias"][:, TOKENS.index("?")] += 4.0  # else it would ask nothing
    save_file(weights, generator / "model.safetensors")
    return folder
