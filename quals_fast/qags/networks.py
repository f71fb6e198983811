"""QAGS's networks on Hugging Face's modules, and their tokenizers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import BertWordPieceTokenizer, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from quals_fast.models.checkpoint import CheckpointError
from quals_fast.qags.weights import read_qags_weights

GENERATION = "question_generation"
ANSWERING = "question_answering"
# The wheel does not hold them: it would be twice as large for a baseline.
_IN_CHECKOUT = Path("bench", "qags_models")
BUNDLED_MODELS = Path(__file__).parents[2] / _IN_CHECKOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFiles:
    """A network before it is built.

    Attributes:
        name: for messages and the signature.
        config: as in ``config.json``.
        weights: by Hugging Face's names; None leaves them random, for measurements of speed.
        tokenizer: ``tokenizer.json``, ``vocab.txt``, or ``vocab.json`` beside ``merges.txt``.
    """

    name: str
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor] | None
    tokenizer: Path

    @classmethod
    def read(cls, folder: Path) -> NetworkFiles:
        """Read a model's folder.

        Raises:
            CheckpointError: it cannot be used; the message says what is missing.
        """
        config, weights, tokenizer = read_qags_weights(folder)
        name = folder.resolve().name
        return cls(name=name, config=config, weights=weights, tokenizer=tokenizer)

    def digest(self) -> str:
        """Return a short hash of weights, config and tokenizer; ``random`` without weights."""
        if self.weights is None:
            return "random"
        digest = hashlib.sha256(json.dumps(dict(self.config), sort_keys=True).encode())
        digest.update(self.tokenizer.read_bytes())
        for name in sorted(self.weights):
            digest.update(name.encode())
            digest.update(
                self.weights[name].flatten().contiguous().view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()[:12]

    def build(self, family: str, device: torch.device, dtype: torch.dtype) -> Any:
        """Return the network, in evaluation mode.

        Args:
            family: ``bart`` (question generation) or ``bert`` (question answering).
            device: where it goes.
            dtype: of its weights.

        Raises:
            CheckpointError: another family, a config that describes no network, or weights that do
                not fit it.
            ModuleNotFoundError: transformers is not installed.
        """
        if self.config.get("model_type") != family:
            raise CheckpointError(
                f"{self.name}: `model_type` must be {family!r}, but is "
                f"{self.config.get('model_type')!r}; use a model of that family"
            )
        architecture = _architecture(family)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                network = architecture(dict(self.config)).eval().requires_grad_(False)
            except Exception as error:  # transformers' own have no common class
                reason = " ".join(str(error).split())
                raise CheckpointError(
                    f"{self.name}: transformers cannot build the network in config.json "
                    f"({type(error).__name__}: {reason}); use the config that was saved with the "
                    "weights"
                ) from error
        if self.weights is not None:
            self._load(network)
        return network.to(device=device, dtype=dtype)

    def _load(self, network: torch.nn.Module) -> None:
        weights = dict(self.weights or {})
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        for name, tensor in weights.items():
            if name in shapes and tensor.numel() == shapes[name].numel():
                weights[name] = tensor.reshape(shapes[name]).float()
            elif name in shapes:
                raise CheckpointError(
                    f"{self.name}: {name} must have shape {tuple(shapes[name])} according to "
                    f"config.json, but has {tuple(tensor.shape)}; use weights and config of the "
                    "same checkpoint"
                )
            if not bool(tensor.isfinite().all()):
                raise CheckpointError(
                    f"{self.name}: {name} must be finite, but contains NaN or infinity; download "
                    "the file again"
                )
        # Tensors that are tied to others, or made by the module itself, may be missing.
        tied = {"lm_head.weight", "final_logits_bias"} | {
            f"model.{part}.embed_tokens.weight" for part in ("encoder", "decoder")
        }
        missing = sorted(shapes.keys() - weights.keys() - tied)
        if missing:
            raise CheckpointError(
                f"{self.name}: the weights must match config.json, but lack {missing[0]} "
                f"({len(missing)} such); use weights and config of one checkpoint that was trained "
                "for this task"
            )
        network.load_state_dict(weights, strict=False)
        network.tie_weights()  # type: ignore[operator]

    def load_tokenizer(self) -> Tokenizer:
        """Return the tokenizer, without truncation and padding.

        Raises:
            CheckpointError: it cannot be read, or has more tokens than the network.
        """
        path = self.tokenizer
        try:
            tokenizer = _read_tokenizer(
                path, lowercase=bool(self.config.get("do_lower_case", True))
            )
        except Exception as error:  # tokenizers raises plain Exception
            raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # a "[SEP]" in a text is text
        size = max(tokenizer.get_vocab().values(), default=-1) + 1
        if size > int(self.config.get("vocab_size", 0)):
            raise CheckpointError(
                f"{self.name}: the tokenizer has {size} tokens, but the model's vocabulary has "
                f"only {self.config.get('vocab_size')}; use the tokenizer that was saved with the "
                "model"
            )
        return tokenizer


def _read_tokenizer(path: Path, *, lowercase: bool) -> Tokenizer:
    if path.name == "vocab.txt":
        settings = path.with_name("tokenizer_config.json")
        if settings.is_file():
            content = json.loads(settings.read_text(encoding="utf-8"))
            lowercase = bool(content.get("do_lower_case", lowercase))
        wordpiece = BertWordPieceTokenizer(str(path), lowercase=lowercase)
        return Tokenizer.from_str(wordpiece.to_str())
    if path.name == "vocab.json":
        bpe = models.BPE.from_file(str(path), str(path.with_name("merges.txt")))
        tokenizer = Tokenizer(bpe)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer
    return Tokenizer.from_file(str(path))


def _architecture(family: str) -> Callable[[dict[str, Any]], Any]:
    try:
        from transformers import (
            BartConfig,
            BartForConditionalGeneration,
            BertConfig,
            BertForQuestionAnswering,
        )
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'QAGS needs transformers: pip install ".[qags]" in the checkout'
        ) from error
    if family == "bart":
        return lambda config: BartForConditionalGeneration(BartConfig(**config))
    return lambda config: BertForQuestionAnswering(BertConfig(**config))


def read_both_networks(models: str | Path | None) -> tuple[NetworkFiles, NetworkFiles]:
    """Read the networks that generate and that answer questions, of `from_pretrained`'s folder."""
    folder = _models_folder(models)
    return NetworkFiles.read(folder / GENERATION), NetworkFiles.read(folder / ANSWERING)


def _models_folder(models: str | Path | None) -> Path:
    """Return the folder given; by default that of the checkout: this file's, or the working one."""
    given = [BUNDLED_MODELS, _IN_CHECKOUT.absolute()] if models is None else [Path(models)]
    folder = next((one for one in given if models is not None or one.is_dir()), None)
    if folder is None:
        raise CheckpointError(
            f"QAGS's models are not part of the installed package, and there is no {_IN_CHECKOUT} "
            f"in {Path.cwd()}; run this in the checkout, or give a folder that contains "
            f"{GENERATION} and {ANSWERING} (--qags-models)"
        )
    for name in (GENERATION, ANSWERING):
        if not (folder / name).is_dir():
            raise CheckpointError(
                f"{folder} must contain the folders {GENERATION} and {ANSWERING}, but {name} is "
                "missing; save a model there with transformers' save_pretrained()"
            )
    return folder
