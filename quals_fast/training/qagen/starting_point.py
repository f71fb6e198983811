"""The starting point of a run: network, tokenizer and conventions of a BART or T5; and saving."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from torch import Tensor

from quals_fast.models.checkpoint import (
    CheckpointError,
    Conventions,
    check_config_of_family,
    read_config,
    read_json,
    read_tokenizer,
    tokenizer_settings,
)
from quals_fast.models.hub import is_hub_name
from quals_fast.models.loading import BUNDLED, model_folder, read_weights
from quals_fast.training.qagen import resizing, warm_start
from quals_fast.training.qagen.checkpoints import writing
from quals_fast.training.qagen.network import (
    BartForConditionalGeneration,
    T5ForConditionalGeneration,
)
from quals_fast.training.qagen.settings import TrainingError, TrainingSettings

# Tokens that occur in no text, in order of preference: the published model's, then WordPiece's.
_SEPARATORS = ("\u0120strutConnector", "[unused0]")
_NEW_SEPARATOR = "<question-answer>"


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """A network about to be trained.

    Attributes:
        network: in float32.
        tokenizer: without truncation and padding; special tokens in a text are text.
        conventions: special tokens and lengths.
    """

    network: BartForConditionalGeneration | T5ForConditionalGeneration
    tokenizer: Tokenizer
    conventions: Conventions

    @property
    def positions(self) -> int:
        """Tokens that a target may have; a T5's are as many as those of a source."""
        limit: int | None = getattr(self.network.config, "max_position_embeddings", None)
        return limit or self.conventions.max_source_tokens


def load_starting_point(
    settings: TrainingSettings, report: Callable[[str], None], texts: Iterable[str]
) -> StartingPoint:
    """Load `init`; a model that is not a question-answer generator yet gets a separator.

    A BART's sources then begin with BOS and a T5's do not, as in pre-training. Its targets begin
    with the question: as in the published model, there is no forced first token.

    Args:
        settings: settings of the run.
        report: called with lines about what was chosen.
        texts: with `prune`, the texts whose tokens are kept.

    Raises:
        CheckpointError: the folder is of neither the BART nor the T5 family, or cannot be used.
        TrainingError: there is no such folder, the wanted separator has another use, or a setting
            is not for this family.
    """
    folder = _folder(settings)
    config = read_config(folder)
    family = config.get("model_type")
    if family not in ("bart", "t5"):
        raise CheckpointError(
            f"{folder}: expected a model with `model_type` 'bart' or 't5', but got "
            f"{family!r}; for a BERT-family encoder, use "
            f"{warm_start.PREFIX}{folder}"
        )
    config |= tokenizer_settings(folder, config)
    tokenizer = read_tokenizer(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    is_new = config.get("sep_token_id") is None
    if is_new:
        config |= _separator(config, tokenizer, settings.sep_token, report)
    elif settings.sep_token is not None:
        raise TrainingError(
            f"`sep_token` is for a model without a separator, but {folder} has one, "
            f"{tokenizer.id_to_token(config['sep_token_id'])!r}; leave it out"
        )
    tokenizer.encode_special_tokens = True
    if family == "t5" and settings.positions is not None:  # there is no table to extend
        config["max_source_tokens"] = settings.positions
    shape, conventions = check_config_of_family(folder, config)
    weights = read_weights(folder, shape)
    if family == "bart" and settings.positions is not None:
        resizing.add_positions(config, weights, settings.positions)
    if settings.prune:
        used = resizing.used_tokens(tokenizer, texts)
        tokenizer = resizing.prune(tokenizer, config, weights, used)
        report(f"{config['vocab_size']:,} tokens are left in the vocabulary")
    if settings.positions is not None or settings.prune:
        _, conventions = check_config_of_family(folder, config)
    network = _network(folder, config, weights, settings.dropout)
    network.label_smoothing = settings.label_smoothing
    if family == "t5":
        bias = torch.zeros(1, network.config.vocab_size)
        bias[:, max(tokenizer.get_vocab().values()) + 1 :] = -torch.inf  # rows that no token has
        network.register_buffer("final_logits_bias", bias, persistent=False)
    network.final_logits_bias[:, list(conventions.masked_token_ids)] = -torch.inf
    return StartingPoint(network, tokenizer, conventions)


def save_folder(start: StartingPoint, folder: Path) -> None:
    """Write a folder that `QualsScorer.from_pretrained` loads."""
    s, tokenizer = start.conventions, start.tokenizer
    start.network.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    conventions = {
        "bos_token_id": s.bos_token_id,
        "eos_token_id": s.eos_token_id,
        "pad_token_id": s.pad_token_id,
        "decoder_start_token_id": s.decoder_start_token_id,
        "forced_bos_token_id": s.forced_bos_token_id,
        "forced_eos_token_id": None,
        "use_cache": True,  # the Trainer removes it
    }
    own = {
        "sep_token_id": s.sep_token_id,
        "source_bos": s.bos_token_id is not None,
        "masked_token_ids": list(s.masked_token_ids),
        "max_source_tokens": s.max_source_tokens,
        "answer_match": s.answer_match,
    }
    # transformers keeps only the keys that it knows.
    for name, keys in (("config.json", conventions | own), ("generation_config.json", conventions)):
        content = read_json(folder / name) | keys
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _folder(settings: TrainingSettings) -> Path:
    init = settings.init
    if init.startswith(warm_start.PREFIX):
        folder = settings.output / "init"
        encoder = Path(init.removeprefix(warm_start.PREFIX))
        with writing(folder, removes=True):
            warm_start.write_bart(encoder, folder, settings.decoder_layers)
        return folder
    if init in BUNDLED or is_hub_name(init) or Path(init).is_dir():
        return model_folder(init, settings.revision)
    raise TrainingError(
        "`init` must be a local folder, a bundled model, a name on the Hugging Face hub such as "
        f"facebook/bart-large, or {warm_start.PREFIX}FOLDER, but {init!r} does not exist"
    )


def _separator(
    config: dict[str, Any], tokenizer: Tokenizer, wanted: str | None, report: Callable[[str], None]
) -> dict[str, Any]:
    """Choose a separator, or add one to the tokenizer; return the changes of the config."""
    known = [token for token in _SEPARATORS if tokenizer.token_to_id(token) is not None]
    token = wanted or (known[0] if known else _NEW_SEPARATOR)
    is_added = tokenizer.token_to_id(token) is None
    if is_added:
        tokenizer.add_special_tokens([token])
    number = tokenizer.get_vocab()[token]
    special = {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"}
    taken = [name for name in sorted(special) if config.get(name) == number]
    if taken:
        raise TrainingError(
            f"`sep_token` must have no other use, but {token!r} is `{taken[0]}`; choose another"
        )
    how = "a new token" if is_added else "from its vocabulary"
    report(f"separator of question and answer: {token!r} (id {number}), {how}")
    return {
        "sep_token_id": number,
        "vocab_size": max(config.get("vocab_size", 0), number + 1),
        "source_bos": config.get("model_type") != "t5",
        "forced_bos_token_id": None,
    }


def _network(
    folder: Path, config: dict[str, Any], weights: dict[str, Tensor], dropout: float | None
) -> BartForConditionalGeneration | T5ForConditionalGeneration:
    size = config["vocab_size"]
    shared = next((n for n in ("model.shared.weight", "shared.weight") if n in weights), None)
    rows = len(weights[shared]) if shared else size
    is_t5 = config["model_type"] == "t5"
    known_class = transformers.T5Config if is_t5 else transformers.BartConfig
    known = known_class.from_dict(config | {"vocab_size": rows})
    if is_t5:
        known.dropout_rate = known.dropout_rate if dropout is None else dropout
        known.tie_word_embeddings = known.scale_decoder_outputs  # transformers ties them always
        known._attn_implementation = "eager"
    else:
        if dropout is not None:
            known.dropout, known.attention_dropout, known.activation_dropout = dropout, 0.0, 0.0
        known.decoder_layerdrop = known.encoder_layerdrop = 0.0
    network_class = T5ForConditionalGeneration if is_t5 else BartForConditionalGeneration
    network, loading = network_class.from_pretrained(
        None, config=known, state_dict=weights, output_loading_info=True, dtype=torch.float32
    )
    tied = {f"{part}.embed_tokens.weight" for part in ("encoder", "decoder")} if is_t5 else set()
    wrong = sorted((loading["missing_keys"] - tied) | loading["unexpected_keys"])
    if wrong or loading["mismatched_keys"]:
        first = wrong[0] if wrong else sorted(loading["mismatched_keys"])[0][0]
        raise CheckpointError(
            f"{folder}: the weights must match config.json, but {first} does not; use weights and "
            "config of the same checkpoint"
        )
    if is_t5:  # transformers ties them only together with the LM head
        network.set_input_embeddings(network.shared)
    if size > rows:
        network.resize_token_embeddings(size, mean_resizing=False)
    return network
