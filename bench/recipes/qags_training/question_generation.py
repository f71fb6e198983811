"""The question generator: a low-rank adapter on the bundled question-answer generator."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration

from quals_fast.models.checkpoint import Conventions, read_checkpoint
from quals_fast.models.loading import read_weights
from quals_fast.training.qagen import attention
from quals_fast.training.qagen.corpus import Corpus
from quals_fast.training.qagen.encoding import Pair, PairEncoder
from quals_fast.training.qagen.network import Collator, token_nats
from quals_fast.training.qagen.views import Example, sentence_window, whole_passage

RANK = 24
SCALE = 2.0
WHOLE_PASSAGES = 0.12


class LowRank(nn.Module):
    """A frozen linear layer and what is learnt on top: ``x W' + b + scale x A' B'``."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        self.lora_A = nn.Parameter(torch.randn(RANK, base.in_features) * base.in_features**-0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted layer's output."""
        rows = x.flatten(0, -2)
        low = rows @ self.lora_A.to(x.dtype).T
        y = torch.addmm(self.bias, rows, self.weight.T)
        y = torch.addmm(y, low, self.lora_B.to(x.dtype).T, alpha=SCALE)
        return y.unflatten(0, x.shape[:-1])


class QuestionTask:
    """Train questions given passage and answer, mostly on as few sentences as a summary has."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, base: Path) -> None:
        self._corpus, self.size = corpus, len(corpus.questions)
        self._tokenizer = tokenizer
        self._conventions = read_checkpoint(base)[1]
        self.network = adapted_network(base)

    def draw(self, question: int, rng: random.Random, progress: float) -> Pair:
        """Put a question's answer behind a text."""
        asked = self._corpus.questions[question]
        if rng.random() < WHOLE_PASSAGES:
            example = whole_passage(self._corpus, asked, rng)
        else:
            example = sentence_window(self._corpus, asked, rng, extra=3, longest=60)
        return encode(
            self._tokenizer, self._conventions, example.text, example.answer, example.question
        )

    def loss(self, batch: list[Pair]) -> Tensor:
        """Return the mean cross-entropy of the question's tokens."""
        return token_losses(self.network, self._conventions, batch).mean()


def encode(
    tokenizer: Tokenizer, conventions: Conventions, text: str, answer: str, question: str = ""
) -> Pair:
    """Return source ``[CLS] text SEP answer [SEP]`` and target ``question [SEP]``."""
    encoder = PairEncoder(tokenizer, conventions, conventions.max_source_tokens, "start")
    return encoder.answer_given(Example(question, text, answer, -1), random.Random(0))


def token_losses(network: Any, conventions: Conventions, batch: list[Pair]) -> Tensor:
    """Return the negative log-probability of every target token of a batch, in nats."""
    return token_nats(network, **Collator(conventions.pad_token_id)(batch))


def adapted_network(base: Path, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Return the base with an adapter on every linear layer of encoder and decoder."""
    config = BartConfig.from_pretrained(base)
    config.dropout = config.attention_dropout = config.activation_dropout = 0.0
    config._attn_implementation = attention.NAME
    network = BartForConditionalGeneration(config)
    weights = {name: w.float() for name, w in read_weights(base).items()}
    missing, unknown = network.load_state_dict(weights, strict=False)
    tied = {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"}
    if unknown or set(missing) - tied - {"lm_head.weight"}:
        raise ValueError(f"{base} is not the expected BART: {missing[:3]} {unknown[:3]}")
    network.tie_weights()
    network.requires_grad_(False)
    network.to(dtype)
    for name, module in list(network.model.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, last = name.rpartition(".")
            setattr(network.model.get_submodule(parent), last, LowRank(module))
    return network
