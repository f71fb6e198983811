"""The classifier's network, and what it is trained on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from bench.recipes.classifier.claims import Claim, changed, window, with_noise
from quals_fast.qags.weights import read_qags_weights

LABELS = ("CORRECT", "INCORRECT")  # FactCC's names in FactCC's order


class Rows(NamedTuple):
    """A correct and an incorrect claim with the same part of a document, tokenised.

    Attributes:
        correct: input of the network.
        incorrect: input of the network.
        span: first and last token of what the rule changed in the incorrect claim.
    """

    correct: Mapping[str, list[int]]
    incorrect: Mapping[str, list[int]]
    span: tuple[int, int]

    def __len__(self) -> int:
        return len(self.correct["input_ids"])


class ClaimTask:
    """Train on pairs of claims; documents are short at first, and grow longer."""

    def __init__(self, claims: Sequence[Claim], tokenizer: Any, network: Any) -> None:
        self._claims, self.size = claims, len(claims)
        self._tokenizer, self.network = tokenizer, network

    def draw(self, question: int, rng: random.Random, progress: float) -> Rows:
        """Return a claim and what one of the rules made of it."""
        claim = self._claims[question]
        text = window(claim, rng.uniform(30, 60 + 120 * progress), rng)
        both = (claim.text, rng.choice(list(claim.wrong.values())))
        if rng.random() < 0.5:
            both = with_noise(*both, rng)
        correct, incorrect = (self._tokenizer(text, one, truncation=True) for one in both)
        found = (incorrect.char_to_token(i, sequence_index=1) for i in range(*changed(*both)))
        tokens = [token for token in found if token is not None]
        return Rows(correct, incorrect, (tokens[0], tokens[-1]) if tokens else (0, 0))

    def loss(self, batch: list[Rows]) -> Tensor:
        """Return the mean cross-entropy of labels, plus that of spans; [CLS]: nothing changed."""
        rows = [*(pair.correct for pair in batch), *(pair.incorrect for pair in batch)]
        inputs = self._tokenizer.pad(rows, return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = self.network.bert(**inputs)
            logits = self.network.classifier(states.pooler_output)
            places = self.network.spans(states.last_hidden_state)
        labels = torch.arange(2).repeat_interleave(len(batch))
        spans = torch.tensor([*((0, 0) for _ in batch), *(pair.span for pair in batch)])
        is_padding = inputs["attention_mask"][:, :, None] == 0
        entropy = nn.functional.cross_entropy
        return entropy(logits.float(), labels) + entropy(
            places.float().masked_fill(is_padding, -1e4), spans
        )


def logits_of(network: Any, tokenizer: Any, rows: Sequence[Mapping[str, list[int]]]) -> Tensor:
    """Return the scores of both labels, ``(B, 2)`` float32, of tokenised pairs."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits: Tensor = network(**tokenizer.pad(list(rows), return_tensors="pt")).logits
    return logits.float()


def new_network(folder: Path) -> tuple[Any, Any]:
    """Return the network with the weights of an answering network, and its tokenizer.

    Its head for spans, which training needs, is the answering network's too.
    """
    config, weights, tokenizer_file = read_qags_weights(folder)
    positions = config["max_position_embeddings"]
    tokenizer = BertTokenizerFast(tokenizer_file=str(tokenizer_file), model_max_length=positions)
    own = {"architectures", "training", "max_source_tokens"}
    settings = BertConfig(**{name: value for name, value in config.items() if name not in own})
    settings.id2label = dict(enumerate(LABELS))
    settings.label2id = {label: i for i, label in enumerate(LABELS)}
    settings.hidden_dropout_prob = settings.attention_probs_dropout_prob = 0.0
    settings._attn_implementation = "eager"  # the faster backward pass on a CPU
    network = BertForSequenceClassification(settings)
    network.spans = nn.Linear(settings.hidden_size, 2)  # says where answers start and end
    heads = {name.replace("qa_outputs", "spans"): weight for name, weight in weights.items()}
    missing, _ = network.load_state_dict(heads, strict=False)
    if new := [name for name in missing if not name.startswith(("classifier.", "bert.pooler."))]:
        raise ValueError(f"{folder} must hold an answering BERT, but lacks {new[0]}")
    network.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    return network, tokenizer


def save(network: Any, tokenizer: Any, folder: Path) -> None:
    """Write a folder of transformers, without the head for spans."""
    del network.spans
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
