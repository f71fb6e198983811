"""The question generator: a low-rank adapter on the bundled question-answer generator."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration

from bench.qags_training.data import Corpus, sentence_window, whole_passage
from quals_fast.models.checkpoint import Settings, read_checkpoint
from quals_fast.models.loading import read_weights

RANK = 24
SCALE = 2.0
WHOLE_PASSAGES = 0.12

_LONGEST_ANSWER = 64
_LONGEST_QUESTION = 60


class Pair(NamedTuple):
    """Source and target tokens of one example."""

    source: list[int]
    target: list[int]

    def __len__(self) -> int:
        return len(self.source)


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
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._settings = read_checkpoint(base)[1]
        self._network = adapted_network(base)

    @property
    def size(self) -> int:
        """How many questions there are."""
        return len(self._corpus.questions)

    @property
    def network(self) -> nn.Module:
        """The network in training."""
        module: nn.Module = self._network
        return module

    def draw(self, question: int, rng: random.Random, progress: float) -> Pair:
        """Put a question's answer behind a text."""
        asked = self._corpus.questions[question]
        if rng.random() < WHOLE_PASSAGES:
            example = whole_passage(self._corpus, asked, rng)
        else:
            example = sentence_window(self._corpus, asked, rng, extra=3, longest=60)
        return encode(
            self._tokenizer, self._settings, example.text, example.answer, example.question
        )

    def loss(self, batch: list[Pair]) -> Tensor:
        """Return the mean cross-entropy of the question's tokens."""
        return token_losses(self._network, self._settings, batch).mean()


def encode(
    tokenizer: Tokenizer, settings: Settings, text: str, answer: str, question: str = ""
) -> Pair:
    """Return source ``[CLS] text SEP answer [SEP]`` and target ``question [SEP]``."""
    start = [] if settings.bos_token_id is None else [settings.bos_token_id]
    sep, end = settings.sep_token_id, settings.eos_token_id
    text_ids, answer_ids, question_ids = (
        tokenizer.encode(part, add_special_tokens=False).ids for part in (text, answer, question)
    )
    answer_ids, question_ids = answer_ids[:_LONGEST_ANSWER], question_ids[:_LONGEST_QUESTION]
    text_ids = text_ids[: settings.max_source_tokens - 3 - len(answer_ids)]
    return Pair([*start, *text_ids, sep, *answer_ids, end], [*question_ids, end])


def pad(batch: list[Pair], settings: Settings) -> Tensor:
    """Return the sources as one tensor ``(B, S)``."""
    source = torch.full((len(batch), max(map(len, batch))), settings.pad_token_id)
    for row, pair in enumerate(batch):
        source[row, : len(pair)] = torch.tensor(pair.source)
    return source


def token_losses(network: Any, settings: Settings, batch: list[Pair]) -> Tensor:
    """Return the negative log-probability of every target token of a batch, in nats."""
    source = pad(batch, settings)
    target = torch.full((len(batch), max(len(pair.target) for pair in batch)), -100)
    for row, pair in enumerate(batch):
        target[row, : len(pair.target)] = torch.tensor(pair.target)
    start = torch.full((len(batch), 1), settings.decoder_start_token_id)
    kept = target != -100
    decoder_ids = torch.cat((start, target.masked_fill(~kept, settings.pad_token_id)[:, :-1]), 1)
    hidden = network.model(
        input_ids=source,
        attention_mask=(source != settings.pad_token_id).long(),
        decoder_input_ids=decoder_ids,
        use_cache=False,
    ).last_hidden_state
    logits = nn.functional.linear(hidden[kept], network.lm_head.weight)
    logits = logits.float() + network.final_logits_bias
    return nn.functional.cross_entropy(logits, target[kept], reduction="none")


def adapted_network(base: Path, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Return the base with an adapter on every linear layer of encoder and decoder."""
    config = BartConfig.from_pretrained(base)
    config.dropout = config.attention_dropout = config.activation_dropout = 0.0
    config._attn_implementation = "eager"
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
