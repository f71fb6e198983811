"""The first step: a small summariser, from the bundled model's weights, by maximum likelihood."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from bench.conseq_experiment.texts import SOURCE_TOKENS, Text
from bench.qags_training.loop import Recipe, train
from quals_fast.models.loading import model_folder, read_weights
from quals_fast.training.encoding import Pair
from quals_fast.training.network import Collator, token_nats
from quals_fast.training.stages import check_header, digest, write_whole

BASE = "qagen-mini"


class SummaryTask:
    """Summaries given documents; what `bench.qags_training.loop.train` calls a task.

    The base's decoder writes sentences and its cross-attention finds what they are about, which a
    decoder made of an encoder would have to learn first.
    """

    def __init__(self, texts: list[Text], dropout: float) -> None:
        folder = model_folder(BASE)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(SOURCE_TOKENS)
        sources, targets = (
            [encoding.ids for encoding in tokenizer.encode_batch([text[part] for text in texts])]
            for part in (0, 1)
        )
        self._pairs = [Pair(*pair) for pair in zip(sources, targets, strict=True)]
        config = BartConfig.from_pretrained(folder, dropout=dropout)
        self._network: Any = BartForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=read_weights(folder), dtype=torch.float32
        )
        self._collate = Collator(config.pad_token_id)

    @property
    def size(self) -> int:
        """How many pairs there are."""
        return len(self._pairs)

    @property
    def network(self) -> nn.Module:
        """The network in training."""
        module: nn.Module = self._network
        return module

    def draw(self, question: int, rng: random.Random, progress: float) -> Pair:
        """Return a pair; nothing about it is drawn."""
        return self._pairs[question]

    def loss(self, batch: list[Pair]) -> Tensor:
        """Return the mean cross-entropy of a summary's token; matrices in bfloat16."""
        with torch.autocast("cpu", torch.bfloat16):
            return token_nats(self._network, **self._collate(batch)).mean()

    def save(self, folder: Path) -> None:
        """Write the summariser as transformers' Auto classes load it."""
        self._network.save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_file=str(model_folder(BASE) / "tokenizer.json"),
            pad_token="[PAD]",
            bos_token="[CLS]",
            eos_token="[SEP]",
            unk_token="[UNK]",
            model_max_length=SOURCE_TOKENS,
        ).save_pretrained(folder)


def train_by_likelihood(
    texts: list[Text], recipe: Recipe, dropout: float, folder: Path
) -> dict[str, Any]:
    """Train, or go on where it was stopped; return what the summariser in `folder` was made from.

    Raises:
        ValueError: the folder's was made from something else.
    """
    wanted = {name: getattr(recipe, name) for name in ("examples", "batch_size", "learning_rate",
                                                       "minutes", "seed")}  # fmt: skip
    header = {"texts": digest(texts), "dropout": dropout, **wanted}
    record, target = folder / "likelihood.json", folder / "summariser"
    folder.mkdir(parents=True, exist_ok=True)
    if record.is_file():
        known = json.loads(record.read_text("utf-8"))
        check_header(record, known["header"], header)
        if target.is_dir():
            return known
    write_whole(record, json.dumps({"header": header}))
    task = SummaryTask(texts, dropout)
    checkpoint = train(task, recipe, folder)
    seen = int(torch.load(checkpoint, weights_only=True)["done"])
    made = {"header": header, "seen": seen}
    write_whole(record, json.dumps(made))
    part = folder / "summariser.part"
    task.save(part)
    part.rename(target)
    return made
