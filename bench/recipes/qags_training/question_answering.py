"""The extractive network: MiniLM with a span head, trained SQuAD-2 style."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertForQuestionAnswering

from bench.recipes.qags_training.data import unanswerable
from quals_fast.qags.weights import dequantize_nibbles, quantize_nibbles
from quals_fast.training.qagen.corpus import Corpus
from quals_fast.training.qagen.views import Example, sentence_window, whole_passage

EMBEDDING = "bert.embeddings.word_embeddings.weight"
LONGEST = 384
UNANSWERABLE = 0.18


class Encoded(NamedTuple):
    """Tokens of one example, as long as they are; `span` holds start and end token."""

    input_ids: list[int]
    type_ids: list[int]
    span: tuple[int, int]

    def __len__(self) -> int:
        return len(self.input_ids)


class AnswerTask:
    """Train spans on sentence windows at first, more and more on whole passages."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, encoder: Path) -> None:
        self._corpus, self.size = corpus, len(corpus.questions)
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.enable_truncation(LONGEST, strategy="only_second")
        self.network = new_network(encoder)

    def draw(self, question: int, rng: random.Random, progress: float) -> Encoded:
        """Put a question on a text, sometimes on one that does not answer it."""
        asked = self._corpus.questions[question]
        example: Example | None = None
        if rng.random() < UNANSWERABLE:
            example = unanswerable(self._corpus, asked, rng)
        elif rng.random() < 0.75 - 0.55 * progress:
            example = sentence_window(self._corpus, asked, rng, extra=3, longest=70)
        if example is None:
            example = whole_passage(self._corpus, asked, rng)
        return encode(self._tokenizer, example)

    def loss(self, batch: list[Encoded]) -> Tensor:
        """Return the mean cross-entropy of starts and ends."""
        longest = max(map(len, batch))
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, example in enumerate(batch):
            ids[row, : len(example)] = torch.tensor(example.input_ids)
            types[row, : len(example)] = torch.tensor(example.type_ids)
            mask[row, : len(example)] = 1
        span = torch.tensor([example.span for example in batch])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = self.network(input_ids=ids, token_type_ids=types, attention_mask=mask)
        total = torch.zeros(())
        for logits, place in ((out.start_logits, span[:, 0]), (out.end_logits, span[:, 1])):
            masked = logits.float().masked_fill(mask == 0, -1e4)
            total = total + nn.functional.cross_entropy(masked, place) / 2
        return total


def encode(tokenizer: Tokenizer, example: Example) -> Encoded:
    """Tokenise question and text; without an answer inside, the span is [CLS]."""
    encoding = tokenizer.encode(example.question, example.text)
    span = (0, 0)
    if example.start >= 0:
        end = example.start + len(example.answer)
        inside = [
            place
            for place, ((a, b), part) in enumerate(
                zip(encoding.offsets, encoding.sequence_ids, strict=True)
            )
            if part == 1 and a < end and b > example.start
        ]
        if inside:
            span = (inside[0], inside[-1])
    return Encoded(encoding.ids, encoding.type_ids, span)


def new_network(encoder: Path) -> Any:
    """Return the network with MiniLM's weights, the word embedding in 4 bits and frozen.

    Quantised before the training, the embedding costs no accuracy after it.
    """
    config = BertConfig.from_pretrained(encoder)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    config._attn_implementation = "eager"  # its backward pass is 1.4 times as fast on a CPU
    network = BertForQuestionAnswering(config)
    weights = {
        f"bert.{name}": weight
        for name, weight in load_file(encoder / "model.safetensors").items()
        if not name.startswith("pooler.") and not name.endswith("position_ids")
    }
    weights[EMBEDDING] = dequantize_nibbles(*quantize_nibbles(weights[EMBEDDING]))
    missing, unknown = network.load_state_dict(weights, strict=False)
    if unknown or set(missing) != {"qa_outputs.weight", "qa_outputs.bias"}:
        raise ValueError(f"{encoder} is not the expected BERT encoder: {missing[:3]} {unknown[:3]}")
    network.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    return network
