"""Load a sequence classifier of any family that transformers has, with its own head."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models
from torch import Tensor

from quals_fast.models.checkpoint import CheckpointError, read_json, sha256, weight_files
from quals_fast.models.hub import check_revision, fetch, is_hub_name, name_of
from quals_fast.models.loading import read_safetensors
from quals_fast.models.pickles import read_pickled
from quals_fast.models.tokenizer import unknown_token_id, without_special_pieces

ClassifierMetric = Literal["classifier", "factcc"]

# A folder has one of these.
_VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
TOKENIZER_FILES = (
    *_VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip
_LONGEST_INPUT = 1_000_000  # tokenizers without a limit say 1e30
# What FactCC's checkpoints leave out, from its code, salesforce/factCC at 23ec0ac: the labels and
# their order (modeling/utils.py, get_labels), and the family (modeling/scripts/factcc-eval.sh).
_FACTCC_LABELS = ("CORRECT", "INCORRECT")
_FACTCC_FAMILY = "bert"
FACTCC_DOWNLOAD = (
    "FactCC's authors link a checkpoint in the README of github.com/salesforce/factCC; unpack it, "
    "and put vocab.txt of bert-base-uncased beside its config.json"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A classifier that is ready to run.

    Attributes:
        network: in evaluation mode.
        text_tokenizer: tokenises texts; special tokens in them are text.
        pair_tokenizer: joins the tokens of two texts with special tokens.
        labels: by their index.
        max_tokens: longest input, special tokens included.
        pad_token_id: fills batches.
        unknown_token_id: stands for what the vocabulary lacks; None if it lacks nothing.
        has_segments: whether the network is told which of the two texts a token is of.
        name: of the folder, or OWNER/NAME@COMMIT on the hub.
        digest: short hash of config, tokenizer and weights.
    """

    network: Any
    text_tokenizer: Tokenizer
    pair_tokenizer: Tokenizer
    labels: tuple[str, ...]
    max_tokens: int
    pad_token_id: int
    unknown_token_id: int | None
    has_segments: bool
    name: str
    digest: str


def load_classifier(
    model: str | Path,
    metric: ClassifierMetric = "classifier",
    *,
    revision: str | None = None,
    device: torch.device,
    dtype: torch.dtype,
) -> Classifier:
    """Load a classifier with transformers; code of its repository is never run.

    Args:
        model: a folder, or OWNER/NAME on the Hugging Face hub.
        metric: ``"factcc"`` fills in what FactCC's checkpoints leave out: family and labels.
        revision: of a model on the hub.
        device: where the network goes.
        dtype: of its weights.

    Raises:
        CheckpointError: it is not there, is no classifier of pairs of texts, or is damaged.
        ValueError: a revision of a local folder.
        ModuleNotFoundError: transformers is not installed.
    """
    folder = classifier_folder(model, metric, revision)
    name, config = name_of(folder), read_json(folder / "config.json")
    files = [folder / "config.json", *weight_files(folder)]
    files += [path for file in TOKENIZER_FILES if (path := folder / file).is_file()]
    if not any((folder / file).is_file() for file in _VOCABULARIES):
        advice = "save it there with transformers' tokenizer.save_pretrained()"
        if metric == "factcc":
            advice = "put vocab.txt of bert-base-uncased beside config.json"
        raise CheckpointError(
            f"{name} has no tokenizer: expected {', '.join(_VOCABULARIES[:-1])} or "
            f"{_VOCABULARIES[-1]}; {advice}"
        )
    if metric == "factcc":
        config = {"model_type": _FACTCC_FAMILY} | config
        if config["model_type"] != _FACTCC_FAMILY:
            raise CheckpointError(
                f"{name}: FactCC is a BERT, but `model_type` is {config['model_type']!r}; use "
                "--metric classifier for other families"
            )
    with _reading(name):
        network = _network(folder, name, config)
        tokenizer = _tokenizer(folder, name, network.config)
    if network.config.pad_token_id is None:  # decoders look for it to find the last token
        network.config.pad_token_id = tokenizer.pad_token_id
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # a "[SEP]" in a text is text
    is_unigram = isinstance(backend.model, models.Unigram)
    return Classifier(
        network=network.to(device=device, dtype=dtype),
        text_tokenizer=without_special_pieces(backend) if is_unigram else backend,
        pair_tokenizer=backend,
        labels=_labels(name, network.config, metric),
        max_tokens=_max_tokens(name, network, tokenizer.model_max_length),
        pad_token_id=tokenizer.pad_token_id,
        unknown_token_id=unknown_token_id(backend),
        has_segments="token_type_ids" in tokenizer.model_input_names
        and getattr(network.config, "type_vocab_size", 2) > 1,  # RoBERTa's with a BERT's tokenizer
        name=name,
        digest=_digest(files),
    )


def classifier_folder(
    model: str | Path,
    metric: ClassifierMetric = "classifier",
    revision: str | None = None,
    *,
    show_progress: bool = True,
) -> Path:
    """Return a classifier's folder; what is on the hub is downloaded to its cache.

    Args:
        model: as for `load_classifier`, like the next two.
        metric: see there.
        revision: see there.
        show_progress: as for `hub.fetch`.

    Raises:
        CheckpointError: there is no such classifier.
        ValueError: a revision of a local folder.
    """
    if is_hub_name(model):
        name = str(model)
        return fetch(name, revision, show_progress=show_progress, other_files=TOKENIZER_FILES)
    check_revision(model, revision)
    if not Path(model).is_dir():
        advice = f"; {FACTCC_DOWNLOAD}" if metric == "factcc" else ""
        raise CheckpointError(
            "a classifier must be a folder, or OWNER/NAME on the Hugging Face hub, but there is no "
            f"folder {str(model)!r}{advice}"
        )
    return Path(model)


def index_of_label(classifier: Classifier, positive: str | None, metric: ClassifierMetric) -> int:
    """Return the index of the label for consistent text, which FactCC's code calls CORRECT.

    Raises:
        ValueError: the classifier has no such label, or none was named.
    """
    labels = classifier.labels
    if metric == "factcc":
        if positive not in (None, _FACTCC_LABELS[0]):
            raise ValueError(
                f"`positive` must be {_FACTCC_LABELS[0]!r} for FactCC, but got {positive!r}; leave "
                "it out, or use --metric classifier"
            )
        positive = _FACTCC_LABELS[0]
    if positive in labels:
        return labels.index(str(positive))
    if metric == "factcc":
        raise ValueError(
            f"FactCC has the labels {' and '.join(_FACTCC_LABELS)}, but the config of "
            f"{classifier.name} names {', '.join(map(repr, labels))}; use --metric classifier, "
            "whose --positive names the label for consistent text"
        )
    advice = ""
    if all(label == f"LABEL_{i}" for i, label in enumerate(labels)):
        advice = "; its config names none of them, so see its model card for what each means"
    raise ValueError(
        "`positive` must name the label for consistent text (--positive), one of "
        f"{', '.join(map(repr, labels))} of {classifier.name}, but got {positive!r}{advice}"
    )


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Silence transformers, and turn what it raises into an error of one line."""
    try:
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'classifiers need transformers: pip install ".[qags]" in the checkout'
        ) from error
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # transformers' own have no common class
        raise CheckpointError(
            f"{name}: transformers cannot read this model ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); download it again, or save it with save_pretrained()"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


def _network(folder: Path, name: str, config: dict[str, Any]) -> Any:
    """Return the network, of which no weight may be missing: it would be random."""
    from transformers import (
        CONFIG_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        AutoConfig,
    )

    family = config.pop("model_type", None)
    if family is None:
        raise CheckpointError(
            f"{folder / 'config.json'}: no `model_type`; for FactCC's checkpoint use --metric "
            "factcc, otherwise add it"
        )
    # Of a family that it does not know, transformers would list all that it knows.
    built = AutoConfig.for_model(family, **config) if family in CONFIG_MAPPING else None
    if type(built) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise CheckpointError(
            f"{name}: the installed transformers has no classifier of texts with `model_type` "
            f"{family!r}; choose another model, or install the version that this one needs"
        )
    weights = _weights(folder, name)
    network, info = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(built)].from_pretrained(
        None,
        config=built,
        state_dict=weights,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # they are refused below
        output_loading_info=True,
    )
    if mismatched := sorted(info["mismatched_keys"]):
        weight, stored, expected = mismatched[0]
        raise CheckpointError(
            f"{name}: {weight} must have shape {tuple(expected)} according to config.json, but has "
            f"{tuple(stored)}; use weights and config of the same checkpoint"
        )
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"{name}: the weights of a {type(network).__name__} must be complete, but lack "
            f"{missing[0]} ({len(missing)} such), which would be random; use a checkpoint that was "
            "trained for sequence classification"
        )
    for weight, tensor in network.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{name}: {weight} must be finite, but contains NaN or infinity; download the "
                "weights again"
            )
    return network.eval().requires_grad_(False)


def _weights(folder: Path, name: str) -> dict[str, Tensor]:
    """Read the weights by name."""
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        weights |= read_pickled(path) if path.suffix == ".bin" else read_safetensors(path)
    for weight, tensor in weights.items():
        if weight.endswith("weight") and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{name}: weights must be stored as floating-point numbers, but {weight} has the "
                f"type {kind}; choose a checkpoint that is not quantised"
            )
    return weights


def _tokenizer(folder: Path, name: str, config: Any) -> Any:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        folder, config=config, local_files_only=True, trust_remote_code=False
    )
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        raise CheckpointError(
            f"{name} has a tokenizer without a fast version; save one as tokenizer.json, or choose "
            "another model"
        )
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, but the model's vocabulary has "
            f"only {config.vocab_size}; use the tokenizer that was saved with the model"
        )
    if tokenizer.pad_token_id is None or not tokenizer.num_special_tokens_to_add(pair=True):
        raise CheckpointError(
            f"{name}: the tokenizer must have a padding token, and special tokens that join two "
            "texts, but lacks them; choose a classifier that was trained with pairs of texts"
        )
    return tokenizer


def _labels(name: str, config: Any, metric: ClassifierMetric) -> tuple[str, ...]:
    """Return the labels, of which one must be chosen for each pair."""
    names = config.id2label
    if set(names) != set(range(len(names))) or len(set(names.values())) < len(names):
        raise CheckpointError(
            f"{name}: `id2label` in config.json must give each number from 0 to {len(names) - 1} a "
            f"label of its own, but is {names}; correct it as the model card says"
        )
    labels = tuple(str(names[i]) for i in range(len(names)))
    if len(labels) < 2 or config.problem_type not in (None, "single_label_classification"):
        raise CheckpointError(
            f"{name}: a classifier must choose one of at least two labels, but this one has "
            f"{', '.join(labels)} and `problem_type` {config.problem_type!r}; choose another model"
        )
    if metric == "factcc" and labels == ("LABEL_0", "LABEL_1"):
        return _FACTCC_LABELS
    return labels


def _max_tokens(name: str, network: Any, tokenizer_limit: int) -> int:
    """Return the length of the longest input: the positions, or the tokenizer's lower limit."""
    limits = [tokenizer_limit] if tokenizer_limit <= _LONGEST_INPUT else []
    if (positions := getattr(network.config, "max_position_embeddings", None)) is not None:
        limits.append(positions)
    # RoBERTa's family counts positions from behind the padding's.
    for module_name, module in network.named_modules():
        if module_name.endswith("position_embeddings") and hasattr(module, "num_embeddings"):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - first)
    if not limits:
        raise CheckpointError(
            f'{name}: nothing says how long an input may be; add "model_max_length" to '
            "tokenizer_config.json"
        )
    return min(limits)


def _digest(files: list[Path]) -> str:
    """Return a short hash of files and their names."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name}:{sha256(path)}\n".encode())
    return digest.hexdigest()[:12]
