"""The first step: a small summariser, from the bundled model's weights, by maximum likelihood."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from bench.recipes.qags_training.loop import Recipe, train
from bench.studies.conseq_experiment.texts import SOURCE_TOKENS, Text
from quals_fast.models.loading import model_folder, read_weights
from quals_fast.models.storage import dequantize, quantize
from quals_fast.training.conseq.stages import check_header, digest, write_whole
from quals_fast.training.qagen.encoding import Pair
from quals_fast.training.qagen.network import Collator, token_nats


class SummaryTask:
    """Summaries given documents; what `bench.recipes.qags_training.loop.train` calls a task.

    The base's decoder writes sentences and its cross-attention finds what they are about, which a
    decoder made of an encoder would have to learn first.

    Args:
        texts: to learn from.
        dropout: of states.
        base: model to start from.
        device: to train on.
        frozen: leave the embeddings of tokens and positions as they are.
    """

    def __init__(
        self, texts: list[Text], dropout: float, base: str, device: str, *, frozen: bool
    ) -> None:
        folder = model_folder(base)
        tokenizer = summary_tokenizer(base)
        tokenizer.enable_truncation(SOURCE_TOKENS)
        sources, targets = (
            [encoding.ids for encoding in tokenizer.encode_batch([text[part] for text in texts])]
            for part in (0, 1)
        )
        self._pairs = [Pair(*pair) for pair in zip(sources, targets, strict=True)]
        self.size = len(self._pairs)
        self.network = _network(base, read_weights(folder), dropout).to(device)
        if frozen:
            for name, weight in self.network.named_parameters():
                weight.requires_grad_(not _is_embedding(name))
        self._collate = Collator(self.network.config.pad_token_id)

    def draw(self, question: int, rng: random.Random, progress: float) -> Pair:
        """Return a pair; nothing about it is drawn."""
        return self._pairs[question]

    def loss(self, batch: list[Pair]) -> Tensor:
        """Return the mean cross-entropy of a summary's token; matrices in bfloat16."""
        device: torch.device = self.network.device
        inputs = {name: tensor.to(device) for name, tensor in self._collate(batch).items()}
        with torch.autocast(device.type, torch.bfloat16):
            return token_nats(self.network, **inputs).mean()

    def stored(self) -> dict[str, Tensor]:
        """Return what was trained, as int8: small enough to travel between machines."""
        return quantize(
            {n: p.detach().cpu() for n, p in self.network.named_parameters() if p.requires_grad}
        )


def summary_tokenizer(base: str) -> Tokenizer:
    """Return the base's tokenizer, which now puts BOS and EOS around each text."""
    tokenizer = Tokenizer.from_file(str(model_folder(base) / "tokenizer.json"))
    special = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=special)
    return tokenizer


def write_summariser(stored: Path, base: str, dropout: float, folder: Path) -> None:
    """Write the summariser as transformers' Auto classes load it.

    Args:
        stored: what was trained; the rest is the base's.
        base: model that it was trained from.
        dropout: of states, for training that follows.
        folder: to write.
    """
    weights = read_weights(model_folder(base)) | dequantize(load_file(stored))
    _network(base, weights, dropout).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=summary_tokenizer(base),
        pad_token="[PAD]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=SOURCE_TOKENS,
    ).save_pretrained(folder)


def train_by_likelihood(
    texts: list[Text],
    recipe: Recipe,
    dropout: float,
    folder: Path,
    base: str = "qagen-mini",
    device: str = "cpu",
    *,
    frozen: bool = False,
) -> dict[str, Any]:
    """Train, or go on where it was stopped; return what the summariser in `folder` was made from.

    The summariser has the weights that are stored as int8, wherever it is written from them.

    Raises:
        ValueError: the folder's was made from something else.
    """
    wanted = {name: getattr(recipe, name) for name in ("examples", "batch_size", "learning_rate",
                                                       "minutes", "seed")}  # fmt: skip
    header = {"texts": digest(texts), "dropout": dropout, "frozen": frozen, **wanted}
    record, target, stored = (
        folder / name for name in ("likelihood.json", "summariser", "summariser_int8.safetensors")
    )
    folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = {"header": header}
    if record.is_file():
        known = json.loads(record.read_text("utf-8"))
        check_header(record, known["header"], header)
    if "seen" not in known or not stored.is_file():
        write_whole(record, json.dumps({"header": header}))
        task = SummaryTask(texts, dropout, base, device, frozen=frozen)
        checkpoint = train(task, recipe, folder)
        seen = int(torch.load(checkpoint, map_location="cpu", weights_only=True)["done"])
        save_file(task.stored(), stored)
        known = {"header": header, "seen": seen}
        write_whole(record, json.dumps(known))
        shutil.rmtree(target, ignore_errors=True)
    if not target.is_dir():
        part = folder / "summariser.part"
        write_summariser(stored, base, dropout, part)
        part.rename(target)
    return known


def _network(base: str, weights: dict[str, Tensor], dropout: float) -> Any:
    config = BartConfig.from_pretrained(model_folder(base), dropout=dropout)
    return BartForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.float32
    )


def _is_embedding(name: str) -> bool:
    return name.endswith(("shared.weight", "embed_positions.weight"))
