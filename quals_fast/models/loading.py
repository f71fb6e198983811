"""Load a question-answer generator for PyTorch: the bundled one, or Hugging Face's."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from quals_fast.models.bart import Bart
from quals_fast.models.checkpoint import (
    CheckpointError,
    Conventions,
    checkpoint_files,
    read_checkpoint,
    sha256,
    verify_checksums,
    weight_files,
)
from quals_fast.models.hub import check_revision, fetch, is_hub_name, name_of
from quals_fast.models.integers import use_int8
from quals_fast.models.lm_head import CpuLMHead, LMHead, ScreenedLMHead
from quals_fast.models.model import Model
from quals_fast.models.network import Network
from quals_fast.models.pickles import read_pickled
from quals_fast.models.precision import (
    PRECISIONS,
    Precision,
    refuse_float16,
    resolve_precision,
)
from quals_fast.models.shape import Shape, T5Shape
from quals_fast.models.storage import dequantize
from quals_fast.models.t5 import T5, UNUSED
from quals_fast.models.tokenizer import QATokenizer
from quals_fast.ops import EAGER, BackendUnavailableError, Kernels, check_head_sizes

ASSETS = Path(__file__).parent / "assets"
# What is read and written to look at a model's decoder states; outlying features are in all texts.
_SAMPLE = (
    "The mayor of the small town opened the new bridge over the river on Monday, and forty people "
    "came to see it."
)
_MOST_DRIFT = 0.25  # nats a token, on average; the bundled model has 0.04
# T5's last product of a feed-forward, a few of whose inputs exceed all others by far.
_LARGE_INPUTS = ("wo",)
BUNDLED = ("qagen-mini",)


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchModel(Model):
    """A model that PyTorch computes.

    Attributes:
        network: reads summaries and searches, in evaluation mode.
        document_network: reads documents and rescores: the same network, or its twin in 8-bit
            integers.
        head: the LM head of both.
        precision: which part computes in which type.
        kernels: implementation of the operations.
    """

    network: Network
    document_network: Network
    head: LMHead
    precision: Precision
    kernels: Kernels

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.device

    def runs_as(self) -> dict[str, str]:
        """As in `Model`."""
        kernels = self.kernels
        return {
            "dtype": self.precision.name,
            "backend": kernels.name,
            "kernels": kernels.compiled,
        }


def load_model(
    model: str | Path,
    *,
    revision: str | None = None,
    device: torch.device,
    precision: Precision | Callable[..., Precision] = PRECISIONS["float32"],
    kernels: Kernels = EAGER,
) -> TorchModel:
    """Load a bundled model by name, a local folder, or a model on the Hugging Face hub.

    It is for a `CpuEngine` if `runs_on_cpu` says so, else for a `GpuEngine`.

    Args:
        model: ``"qagen-mini"``, a folder, or OWNER/NAME on the hub.
        revision: of a model on the hub.
        device: where the weights go.
        precision: which part computes in which type; or a function that chooses it as
            `resolve_precision` does, given the model's family and `integers_fit`.
        kernels: implementation of the operations.

    Raises:
        CheckpointError: there is no such model, a file is missing, damaged or of the wrong shape,
            or the model family is not supported.
        BackendUnavailableError: the model does not run with these kernels or this precision.
    """
    folder = model_folder(model, revision)
    if folder.parent == ASSETS:
        verify_checksums(folder, "reinstall quals_fast")
    shape, conventions = read_checkpoint(folder)
    on_cpu = runs_on_cpu(device, kernels)
    if isinstance(precision, Precision):
        choose: Callable[..., Precision] = partial(
            resolve_precision, precision.name, device, kernels
        )
    else:
        choose, precision = precision, precision(family=shape.family)
    refuse_float16(precision, shape.family)
    check_head_sizes(kernels, shape.head_sizes)
    tokenizer, conventions = QATokenizer.with_masked(folder, shape, conventions)
    network = _build(shape, conventions, read_weights(folder, shape), folder)
    if not on_cpu and precision.integers:
        raise ValueError(f"`precision` {precision.name!r} needs the eager backend on a CPU")
    bias = network.final_logits_bias.to(device)  # float32, before the network changes its type
    network.to(device=device, dtype=precision.dtype)
    weight = network.lm_head_weight.detach()
    document_network, head = network, (CpuLMHead if on_cpu else LMHead)(weight, bias, kernels)
    if not on_cpu:
        network.run_by(kernels)
    elif precision.integers:
        twin = _in_integers(network)
        screened = ScreenedLMHead(weight, bias, kernels)
        sample = _Sample(network, tokenizer, conventions)
        # Of states that overflow, nothing can be said; their scores become errors.
        drifts = sample.drift(twin, head) > _MOST_DRIFT
        if screened.finds_likeliest(sample.states) and not drifts:
            document_network, head = twin, screened
        else:
            precision = choose(family=shape.family, integers_fit=False)
            logging.getLogger("quals_fast").warning(
                "8-bit integers do not fit %s; continuing in float32", folder
            )
    return TorchModel(
        name=name_of(folder),
        digest=digest_of(folder),
        shape=shape,
        network=network,
        document_network=document_network,
        head=head,
        tokenizer=tokenizer,
        conventions=conventions,
        precision=precision,
        kernels=kernels,
    )


class _Sample:
    """A text that is read and written, to see whether 8-bit integers fit a model.

    Args:
        network: in float32.
        tokenizer: the model's.
        conventions: its special tokens.

    Attributes:
        states: what the LM head sees. Shape ``(T, d)``.
    """

    def __init__(self, network: Network, tokenizer: QATokenizer, conventions: Conventions) -> None:
        (source,) = tokenizer.encode([_SAMPLE])
        self._ids = torch.tensor(source.input_ids, device=network.device)
        start = self._ids.new_tensor([conventions.decoder_start_token_id])
        self._inputs = torch.cat([start, self._ids[:-1]])
        self.states = self._states_by(network)

    @torch.inference_mode()
    def drift(self, network: Network, head: LMHead) -> float:
        """Return how far another network's log-probabilities are off on average, in nats."""
        expected, found = (
            head.logprob(states, self._ids) for states in (self.states, self._states_by(network))
        )
        return float((found - expected).abs().nanmean())

    @torch.inference_mode()
    def _states_by(self, network: Network) -> Tensor:
        ids = self._ids[None]
        memory = network.encode(ids, torch.ones_like(ids, dtype=torch.bool))
        return network.decode_teacher_forced(self._inputs[None, None], memory)[0, 0]


def _in_integers(network: Network) -> Network:
    """Return a twin whose linear layers are in 8-bit integers; it shares all other weights."""
    shared = [*network.parameters(), *network.buffers()]
    twin = copy.deepcopy(network, {id(tensor): tensor for tensor in shared})
    use_int8(twin, skip=_LARGE_INPUTS)
    return twin


def runs_on_cpu(device: torch.device, kernels: Kernels) -> bool:
    """Return whether the CPU engine runs; interpreted Triton kernels count as a GPU."""
    return device.type == "cpu" and kernels is EAGER


def model_folder(model: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a bundled model, of a local one, or of one fetched from the hub.

    Raises:
        CheckpointError: there is no such folder, or the model cannot be fetched.
        ValueError: a revision of a model that is not on the hub.
        ModuleNotFoundError: huggingface_hub is not installed and needed.
    """
    check_revision(model, revision)
    if str(model) in BUNDLED:
        return ASSETS / str(model)
    if isinstance(model, str) and is_hub_name(model):
        return fetch(model, revision)
    folder = Path(model)
    if not folder.is_dir():
        raise CheckpointError(
            f"model {str(model)!r} is neither bundled ({', '.join(BUNDLED)}), nor a local folder, "
            "nor OWNER/NAME on the Hugging Face hub; check the spelling"
        )
    return folder


def read_weights(folder: Path, shape: Shape | None = None) -> dict[str, Tensor]:
    """Read a folder's weights by name, dequantised; tied embeddings are returned once.

    Args:
        folder: with the weights.
        shape: of the network, which says how weights are named; None for some BART.

    Raises:
        CheckpointError: there are no weights, or a file cannot be read.
    """
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        weights |= read_pickled(path) if path.suffix == ".bin" else read_safetensors(path)
    # fairseq's *.version says how its modules were stored; transformers ignores both.
    weights = {
        name: tensor
        for name, tensor in weights.items()
        if name.rpartition(".")[2] != "version" and name not in UNUSED
    }
    try:
        weights = dequantize(weights)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    is_t5 = isinstance(shape, T5Shape)
    prefix = "" if is_t5 else "model."
    shared = f"{prefix}shared.weight"
    tied = [f"{prefix}{part}.embed_tokens.weight" for part in ("encoder", "decoder")]
    if not isinstance(shape, T5Shape) or shape.tie_word_embeddings:
        tied.append("lm_head.weight")
    for name in tied:
        if name in weights:
            weight = weights.setdefault(shared, weights[name])
            if not torch.equal(weights.pop(name), weight):
                advice = (
                    "`tie_word_embeddings` in config.json must match the weights"
                    if is_t5
                    else "models with untied embeddings are not supported yet"
                )
                raise CheckpointError(
                    f"{folder}: {name} must equal {shared}, but differs; {advice}"
                )
    return weights


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a file's tensors by name.

    Raises:
        CheckpointError: it is missing or cannot be read.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}; download it again")
    try:
        with safe_open(path, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file: {error}; it may be incomplete, or a Git "
            "LFS pointer: download it again"
        ) from error


def digest_of(folder: Path) -> str:
    """Return the digest of a model's folder, as signatures have it.

    Returns:
        First 12 hexadecimal digits of the SHA-256 over weights, config and tokenizer.
    """
    paths = [*weight_files(folder), *checkpoint_files(folder)]
    parts = [f"{path.name} {sha256(path)}" for path in paths]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


class _Uninitialized(TorchFunctionMode):
    """Skips `torch.nn.init`: on the meta device, it would import torch's compiler, for a second."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function, unless it draws weights."""
        is_of_init = getattr(function, "__module__", None) == "torch.nn.init"
        return None if is_of_init else function(*args, **(kwargs or {}))


def network_of(shape: Shape) -> Network:
    """Return a network of a shape, whose weights take no memory."""
    with torch.device("meta"), _Uninitialized():
        return T5(shape) if isinstance(shape, T5Shape) else Bart(shape)


def _build(
    shape: Shape, conventions: Conventions, weights: dict[str, Tensor], folder: Path
) -> Network:
    """Check every tensor against the network, then load it."""
    none = torch.zeros(shape.vocab_size, device="cpu")
    bias = weights.pop("final_logits_bias", none).float().flatten()
    network = network_of(shape)
    expected = network.state_dict()
    if bias.shape == expected["final_logits_bias"].shape:
        bias[list(conventions.masked_token_ids)] = -torch.inf
    weights["final_logits_bias"] = bias
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    if missing or unknown:
        family = shape.family.upper()
        what = (
            f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which {family} does not have"
        )
        count = len(missing or unknown)
        advice = "use weights and config of the same checkpoint"
        if missing == ["lm_head.weight"]:
            advice = "`tie_word_embeddings` in config.json must match the weights"
        raise CheckpointError(
            f"{folder}: the weights must match config.json, but the checkpoint {what} "
            f"({count} such {'tensor' if count == 1 else 'tensors'}); {advice}"
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{folder}: {name} must have shape {tuple(expected[name].shape)} according to "
                f"config.json, but has {tuple(tensor.shape)}; use weights and config of the same "
                "checkpoint"
            )
        if name != "final_logits_bias" and not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{folder}: {name} must be finite, but contains NaN or infinity; download the file "
                "again"
            )
    network.load_state_dict({name: t.float() for name, t in weights.items()}, assign=True)
    return network.eval().requires_grad_(False)


def resolve_device(name: str) -> torch.device:
    """Return the named device; ``"auto"`` is a GPU if there is one.

    Raises:
        ValueError: there is no such kind of device.
        BackendUnavailableError: the GPU does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise ValueError(f"`device` must be 'auto', 'cpu', 'cuda' or 'cuda:N', but got {name!r}")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendUnavailableError(
            f"device {name!r} is not available: PyTorch sees {torch.cuda.device_count()} GPUs; use "
            "device='cpu'"
        )
    return device
