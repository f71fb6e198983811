"""Read and check a checkpoint's config: sizes, special tokens and conventions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from quals_fast.config import DecodingConfig
from quals_fast.models.shape import (
    ACTIVATION_NAMES,
    FEED_FORWARD_NAMES,
    BartShape,
    Shape,
    T5Shape,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

AnswerMatch = Literal["ids", "text"]

# Files beside the weights, as far as they exist; see `checkpoint_files`.
CHECKPOINT_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "vocab.json", "merges.txt",
)  # fmt: skip
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in this order; whole, or in shards
EXPORT = "quals_fast_onnx.json"  # lists the files of an exported model; see `exported.manifest`
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")

_LONGEST_SOURCE = 1_000_000  # tokenizers without a limit give 1e30


class CheckpointError(ValueError):
    """A model folder cannot be used; the message says what is missing and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conventions:
    """A question-answer generator's conventions, all read from its files and never guessed.

    Attributes:
        vocab_size: V.
        bos_token_id: first token of a source; None where the config's ``source_bos`` is false, as
            for fairseq checkpoints.
        eos_token_id: last token of sources and targets.
        pad_token_id: never generated.
        sep_token_id: separates question and answer; the config's, else the tokenizer's.
        decoder_start_token_id: first input of the decoder.
        forced_bos_token_id: the token that every target starts with, or None.
        masked_token_ids: ids that are not in the vocabulary that the model was trained with (such
            as ``<mask>`` for fairseq's); they get no probability.
        max_source_tokens: sources are cut to this length, special tokens included; the config's,
            else the tokenizer's, else all positions.
        answer_match: how an answer is looked up in the summary, by ``"ids"`` or ``"text"``; None
            means ids for WordPiece and text for byte-level BPE.
    """

    vocab_size: int
    bos_token_id: int | None
    eos_token_id: int
    pad_token_id: int
    sep_token_id: int
    decoder_start_token_id: int
    forced_bos_token_id: int | None
    masked_token_ids: tuple[int, ...]
    max_source_tokens: int
    answer_match: AnswerMatch | None


def read_checkpoint(folder: Path) -> tuple[Shape, Conventions]:
    """Read and check ``config.json``, and the files that say what it leaves out.

    Raises:
        CheckpointError: the folder or the config cannot be used.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    config = read_config(folder)
    family = config.get("model_type")
    if family not in ("bart", "t5"):
        raise CheckpointError(
            f"{folder}: expected a model with `model_type` 'bart' or 't5', but got {family!r}; "
            "other families are not supported yet"
        )
    return check_config_of_family(folder, config | tokenizer_settings(folder, config))


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json``, and ``generation_config.json`` for keys that the former lacks.

    transformers 5 moves forced_bos_token_id and similar keys there.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    config = read_json(folder / "config.json")
    if (folder / "generation_config.json").is_file():
        config = read_json(folder / "generation_config.json") | config
    return config


def tokenizer_settings(folder: Path, config: dict[str, Any]) -> dict[str, int]:
    """Return what the tokenizer's files say about what the config leaves out.

    Returns:
        `sep_token_id`, from the `sep_token`, unless that is EOS, BOS or CLS as well; and
        `max_source_tokens`, from `model_max_length`, unless it exceeds the model's positions or is
        a placeholder for no limit.

    Raises:
        CheckpointError: a file cannot be read, or the tokenizer lacks its own separator.
    """
    said: dict[str, Any] = {}
    for name in _settings_files(config):
        if (folder / name).is_file():
            said = read_json(folder / name) | said
    settings = {}
    limit, positions = said.get("model_max_length"), config.get("max_position_embeddings")
    longest = positions if type(positions) is int else _LONGEST_SOURCE
    if config.get("max_source_tokens") is None and type(limit) is int and 3 <= limit <= longest:
        settings["max_source_tokens"] = limit
    token = _content(said.get("sep_token"))
    if config.get("sep_token_id") is None and token is not None:
        number = read_tokenizer(folder).token_to_id(token)
        if number is None:
            raise CheckpointError(
                f"{folder}: the tokenizer's `sep_token` must be one of its tokens, but it has no "
                f"{token!r}; save the tokenizer again with transformers' save_pretrained()"
            )
        others = [_content(said.get(f"{role}_token")) for role in ("eos", "bos", "cls")]
        ids = [config.get(f"{role}_token_id") for role in ("eos", "bos")]
        if token not in others and number not in ids:
            settings["sep_token_id"] = number
    return settings


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the files that a model is read from, without its weights.

    Raises:
        CheckpointError: the config cannot be read.
    """
    names = [*CHECKPOINT_FILES, *_settings_files(read_config(folder))]
    return [path for name in names if (path := folder / name).is_file()]


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a folder's weights: safetensors, else PyTorch's pickles.

    Raises:
        CheckpointError: there are none, or an index is damaged or names a file that is not there.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return [folder / shard for shard in _shards(index)]
    refuse_adapter(folder)
    raise CheckpointError(
        f"{folder} has no weights: expected {' or '.join(WEIGHTS)}; save the model with "
        "transformers' save_pretrained()"
    )


def _shards(index: Path) -> list[str]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(is_plain_name(name) for name in shards.values()):
        raise CheckpointError(
            f"{index} must have a `weight_map` from tensors to files beside it, but got "
            f"{shards if shards is None else type(shards).__name__}; download it again"
        )
    names = sorted(set(shards.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index} names {missing[0]}, which is not in the folder; download it too"
        )
    return names


def is_plain_name(name: object) -> bool:
    """Return whether something is a file's name, without a folder."""
    return isinstance(name, str) and name == Path(name).name and name not in ("", ".", "..")


def _settings_files(config: dict[str, Any]) -> tuple[str, ...]:
    """Return which of the tokenizer's files are read for what a config leaves out."""
    if config.get("sep_token_id") is None:
        return TOKENIZER_SETTINGS
    return TOKENIZER_SETTINGS[:1] if config.get("max_source_tokens") is None else ()


def _content(token: object) -> str | None:
    """Return a special token's text; it stands alone, or in an object with its properties."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def verify_checksums(folder: Path, advice: str) -> None:
    """Compare the files that a folder's ``SHA256SUMS`` lists.

    Args:
        folder: with that file.
        advice: what to do about a file that is missing or damaged.

    Raises:
        CheckpointError: a file is missing or damaged, or there is no such list.
    """
    sums = folder / "SHA256SUMS"
    lines = sums.read_text("ascii", errors="replace").splitlines() if sums.is_file() else []
    if not lines or not all(len(line.split()) == 2 for line in lines):
        raise CheckpointError(f"{sums} is missing or damaged; {advice}")
    for expected, name in map(str.split, lines):
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; {advice}")
        actual = sha256(path)
        if actual != expected:
            raise CheckpointError(
                f"{path} is damaged: expected SHA-256 {expected[:12]}..., but got "
                f"{actual[:12]}...; {advice}"
            )


def check_config_of_family(folder: Path, config: dict[str, Any]) -> tuple[Shape, Conventions]:
    """Check a config by its `model_type`, which must be `bart` or `t5`.

    Raises:
        CheckpointError: it cannot be used.
    """
    if config["model_type"] == "t5":
        return check_t5_config(folder, config)
    return check_config(folder, config)


def check_config(folder: Path, config: dict[str, Any]) -> tuple[BartShape, Conventions]:
    """Check the config of a BART; `folder` is only for messages.

    Raises:
        CheckpointError: it cannot be used.
    """
    reader = _Reader(folder, config)
    shape = BartShape(
        **{f.name: reader.integer(f.name, 1) for f in fields(BartShape) if f.type == "int"},
        activation_function=str(config.get("activation_function", "gelu")),
        scale_embedding=reader.boolean("scale_embedding", False),
    )
    if shape.activation_function not in ACTIVATION_NAMES:
        reader.fail(
            f"`activation_function` must be one of {', '.join(ACTIVATION_NAMES)}, "
            f"but got {shape.activation_function!r}"
        )
    for part in ("encoder", "decoder"):
        heads = getattr(shape, f"{part}_attention_heads")
        if shape.d_model % heads:
            reader.fail(
                f"`d_model` must be divisible by the {heads} {part} heads, but is {shape.d_model}"
            )
    if config.get("normalize_before") or config.get("tie_word_embeddings") is False:
        reader.fail("`normalize_before` and untied word embeddings are not supported")
    return shape, _read_conventions(reader, shape)


def check_t5_config(folder: Path, config: dict[str, Any]) -> tuple[T5Shape, Conventions]:
    """Check a T5's config, of which the folder is named in messages.

    Sources begin with no BOS and the decoder with PAD, unless the config says otherwise.

    Raises:
        CheckpointError: it cannot be used.
    """
    usual = {"source_bos": False, "decoder_start_token_id": config.get("pad_token_id")}
    reader = _Reader(folder, usual | config)
    layers = reader.integer("num_layers", 1)
    buckets = reader.integer("relative_attention_num_buckets", 4, default=32)
    shape = T5Shape(
        vocab_size=reader.integer("vocab_size", 1),
        d_model=reader.integer("d_model", 1),
        d_kv=reader.integer("d_kv", 1),
        d_ff=reader.integer("d_ff", 1),
        num_layers=layers,
        num_decoder_layers=reader.integer("num_decoder_layers", 1, default=layers),
        num_heads=reader.integer("num_heads", 1),
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=reader.integer(
            "relative_attention_max_distance", buckets // 2 + 1, default=128
        ),
        layer_norm_epsilon=reader.positive("layer_norm_epsilon", 1e-6),
        feed_forward_proj=str(config.get("feed_forward_proj", "relu")),
        # transformers 5 writes the former for what the latter meant, and true for the latter.
        tie_word_embeddings=reader.boolean(
            "scale_decoder_outputs", reader.boolean("tie_word_embeddings", True)
        ),
    )
    if shape.feed_forward_proj not in FEED_FORWARD_NAMES:
        reader.fail(
            f"`feed_forward_proj` must be one of {', '.join(FEED_FORWARD_NAMES)}, "
            f"but got {shape.feed_forward_proj!r}"
        )
    return shape, _read_conventions(reader, shape)


def _read_conventions(reader: _Reader, shape: Shape) -> Conventions:
    last = shape.vocab_size - 1
    if reader.config.get("sep_token_id") is None:
        reader.fail(
            "no `sep_token_id`, and the tokenizer has no `sep_token` that is not EOS, BOS or CLS "
            "as well (</s> is EOS); either this is not a question-answer generator, or its "
            "files do not say which token separates question and answer: then add "
            '"sep_token_id" to config.json'
        )
    source_bos = reader.boolean("source_bos", True)
    eos = reader.integer("eos_token_id", 0, last)
    positions = shape.max_position_embeddings
    if positions is None and reader.config.get("max_source_tokens") is None:
        reader.fail(
            "no `max_source_tokens`, and the tokenizer has no `model_max_length`; add "
            '"max_source_tokens" to config.json: the length of the longest sources that the model '
            "was trained with (512 for many T5 models)"
        )
    longest = reader.integer("max_source_tokens", 3, positions, default=positions)
    masked = reader.config.get("masked_token_ids") or []
    if not isinstance(masked, list) or not all(type(i) is int and 0 <= i <= last for i in masked):
        reader.fail(f"`masked_token_ids` must be a list of token ids from 0 to {last}")
    match = reader.config.get("answer_match")
    if match not in (None, "ids", "text"):
        reader.fail(f"`answer_match` must be 'ids' or 'text', but got {match!r}")
    forced = reader.config.get("forced_bos_token_id")
    conventions = Conventions(
        vocab_size=shape.vocab_size,
        bos_token_id=reader.integer("bos_token_id", 0, last) if source_bos else None,
        eos_token_id=eos,
        pad_token_id=reader.integer("pad_token_id", 0, last),
        sep_token_id=reader.integer("sep_token_id", 0, last),
        decoder_start_token_id=reader.integer("decoder_start_token_id", 0, last, default=eos),
        forced_bos_token_id=None
        if forced is None
        else reader.integer("forced_bos_token_id", 0, last),
        masked_token_ids=tuple(masked),
        max_source_tokens=longest,
        answer_match=match,
    )
    generated = {"sep_token_id": conventions.sep_token_id, "eos_token_id": conventions.eos_token_id}
    if conventions.forced_bos_token_id is not None:
        generated["forced_bos_token_id"] = conventions.forced_bos_token_id
    for name, token in generated.items():
        same = [other for other, id_ in generated.items() if id_ == token and other != name]
        same += ["pad_token_id"] * (token == conventions.pad_token_id)
        same += ["masked_token_ids"] * (token in masked)
        if same:
            reader.fail(f"`{name}` {token} must be used for nothing else, but is `{same[0]}` too")
    return conventions


def check_fits(shape: Shape, conventions: Conventions, config: DecodingConfig) -> None:
    """Check that a model can be searched with these settings.

    Raises:
        ValueError: too few positions, too few tokens for the groups' candidates, or no room
            between a first token and an end that are both forced.
    """
    positions = shape.max_position_embeddings
    usable = conventions.vocab_size - len({conventions.pad_token_id, *conventions.masked_token_ids})
    if positions is not None and config.max_length >= positions:
        raise ValueError(
            f"`max_length` must be below the model's {positions} positions, but got "
            f"{config.max_length}"
        )
    if usable < config.min_vocab_size:
        raise ValueError(
            f"groups of {config.group_size} beams need a vocabulary of at least "
            f"{config.min_vocab_size} usable tokens, but the model has {usable}; use more "
            "`num_beam_groups` or fewer `num_beams`"
        )
    if conventions.forced_bos_token_id is not None and config.max_length < 2:
        raise ValueError(
            "`max_length` must be at least 2 for a model that forces the first token, but got "
            f"{config.max_length}"
        )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Typed access to a config; errors name file, key, expected and actual value."""

    folder: Path
    config: dict[str, Any]

    def integer(
        self, name: str, least: int, most: int | None = None, default: int | None = None
    ) -> int:
        value = self.config.get(name, default)
        upper = "" if most is None else f" to {most}"
        if type(value) is not int or value < least or (most is not None and value > most):
            self.fail(
                f"`{name}` must be an integer from {least}{upper or ' up'}, but got {value!r}"
            )
        return int(value)

    def positive(self, name: str, default: float) -> float:
        value = self.config.get(name, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            self.fail(f"`{name}` must be a number above 0, but got {value!r}")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.config.get(name, default)
        if type(value) is not bool:
            self.fail(f"`{name}` must be true or false, but got {value!r}")
        return bool(value)

    def fail(self, problem: str) -> NoReturn:
        raise CheckpointError(f"{self.folder / 'config.json'}: {problem}")


def sha256(path: Path) -> str:
    """Return a file's SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a checkpoint's folder.

    Raises:
        CheckpointError: the file is missing or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        refuse_adapter(path.parent)
        raise CheckpointError(
            f"{path.parent} has no {path.name}, so it is not a model folder; save a model there "
            "with transformers' save_pretrained()"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise CheckpointError(f"{path} is not valid JSON: {error}; download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} must contain a JSON object, but contains a {type(content).__name__}"
        )
    return content


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read ``tokenizer.json``, or a byte-level BPE from ``vocab.json`` and ``merges.txt``.

    Raises:
        CheckpointError: there is no tokenizer, or it cannot be read.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # --help needs none of it

    path = folder / "tokenizer.json"
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if path.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise CheckpointError(
                f"{path} cannot be read by the tokenizers library: {error}"
            ) from error
    elif vocab.is_file() and merges.is_file():
        try:
            tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
        except Exception as error:  # tokenizers raises plain Exception
            raise CheckpointError(f"{vocab} and {merges.name} are not a BPE: {error}") from error
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        if (folder / "spiece.model").is_file():
            raise CheckpointError(
                f"{folder} has a SentencePiece model, spiece.model, but no tokenizer.json; make "
                "one in Python, with transformers, sentencepiece and protobuf installed:\n"
                "  from transformers import AutoTokenizer\n"
                f"  AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
            )
        raise CheckpointError(
            f"{folder} has no tokenizer: expected tokenizer.json, or vocab.json with "
            "merges.txt; save it there with transformers' tokenizer.save_pretrained()"
        )
    return tokenizer


def refuse_adapter(folder: Path) -> None:
    """Raise `CheckpointError` if a folder holds an adapter and not a whole model."""
    if not (folder / "adapter_config.json").is_file():
        return
    about = read_json(folder / "adapter_config.json")
    raise CheckpointError(
        f"{folder} holds a {about.get('peft_type', 'PEFT')} adapter for "
        f"{about.get('base_model_name_or_path')!r}, not a whole model; merge the two with peft's "
        "merge_and_unload(), save the result with save_pretrained(), and use that folder"
    )
