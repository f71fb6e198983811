"""Load a sequence classifier of any architecture that transformers has, with its own head."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from tokenizers import Tokenizer

from quals_fast.models.checkpoint import CheckpointError, read_json, sha256, weight_files
from quals_fast.models.hub import check_revision, fetch, is_hub_name, name_of

ClassifierMetric = Literal["classifier", "factcc"]

# Of all kinds of tokenizers that transformers reads.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
# Of FactCC's published code, whose checkpoints do not name them: salesforce/factCC at 23ec0ac,
# modeling/utils.py (get_labels) and modeling/run.py (MODEL_CLASSES).
FACTCC_LABELS = ("CORRECT", "INCORRECT")
FACTCC_FAMILY = "bert"
FACTCC_DOWNLOAD = (
    "FactCC's authors link a checkpoint in the README of github.com/salesforce/factCC; unpack it, "
    "and put vocab.txt of bert-base-uncased beside its config.json"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A classifier that is ready to run.

    Attributes:
        network: in evaluation mode.
        tokenizer: without truncation and padding; special tokens in a text are text.
        labels: by their index.
        max_tokens: longest input, special tokens included.
        n_special: special tokens that join two texts.
        pad_token_id: fills batches.
        unknown_token_id: stands for what the vocabulary lacks; None if it lacks nothing.
        has_segments: whether the network is told which text a token is of.
        name: for messages and the signature; of a model on the hub with its commit.
        digest: short hash of its files.
    """

    network: torch.nn.Module
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    max_tokens: int
    n_special: int
    pad_token_id: int
    unknown_token_id: int | None
    has_segments: bool
    name: str
    digest: str


def load_classifier(
    model: str | Path,
    metric: ClassifierMetric,
    *,
    revision: str | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Classifier:
    """Load a classifier with transformers, without running code of its repository.

    Args:
        model: a folder, or OWNER/NAME on the Hugging Face hub.
        metric: ``"factcc"`` fills in what FactCC's checkpoints leave out: family and labels.
        revision: of a model on the hub.
        device: where the network goes.
        dtype: of its weights.

    Raises:
        CheckpointError: it is not there, is no classifier, or cannot be used.
        ValueError: a revision of a local folder.
        ModuleNotFoundError: transformers is not installed.
    """
    folder = classifier_folder(model, metric, revision)
    config = read_json(folder / "config.json")
    weights = weight_files(folder)
    name = name_of(folder)
    if metric == "factcc":
        config = {"model_type": FACTCC_FAMILY} | config
        if config["model_type"] != FACTCC_FAMILY:
            raise CheckpointError(
                f"{name}: FactCC is a BERT, but `model_type` is {config['model_type']!r}; for other "
                "families use --metric classifier and name the label with --positive"
            )
    with _quiet_transformers():
        network = _network(folder, config).to(device, dtype)
        tokenizer = _tokenizer(folder, network.config, metric)
    ...


def classifier_folder(
    model: str | Path,
    metric: ClassifierMetric,
    revision: str | None = None,
    *,
    show_progress: bool = True,
) -> Path:
    """Return a classifier's folder, which is downloaded if its name is one of the hub.

    Args:
        model: as for `load_classifier`, like the next two.
        metric: see there.
        revision: see there.
        show_progress: as for `hub.fetch`.

    Raises:
        CheckpointError: there is no such model.
        ValueError: a revision of a local folder.
    """
    check_revision(model, revision)
    if is_hub_name(model):
        return fetch(
            str(model), revision, show_progress=show_progress, other_files=TOKENIZER_FILES
        )
    folder = Path(model)
    if not folder.is_dir():
        advice = f"; {FACTCC_DOWNLOAD}" if metric == "factcc" else ""
        raise CheckpointError(
            f"the classifier must be a folder, or OWNER/NAME on the Hugging Face hub, but there is "
            f"no folder {str(model)!r}{advice}"
        )
    return folder
