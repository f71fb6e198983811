"""Load a question-answer generator for PyTorch: the bundled one, or Hugging Face's."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

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
from quals_fast.models.lm_head import CpuLMHead, LMHead, ScreenedLMHead
from quals_fast.models.model import Model
from quals_fast.models.pickles import read_pickled
from quals_fast.models.precision import PRECISIONS, Precision
from quals_fast.models.shape import BartShape
from quals_fast.models.storage import dequantize
from quals_fast.models.tokenizer import QATokenizer
from quals_fast.ops import EAGER, BackendUnavailableError, Kernels

ASSETS = Path(__file__).parent / "assets"
BUNDLED = ("qagen-mini",)

_SHARED = "model.shared.weight"
_TIED = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchModel(Model):
    """A model that PyTorch computes.

    Attributes:
        network: reads summaries and searches, in evaluation mode.
        document_network: reads documents and rescores: the same network, or a copy in a shorter
            type.
        head: the LM head of both.
        precision: which part computes in which type.
        kernels: implementation of the operations.
    """

    network: Bart
    document_network: Bart
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
    precision: Precision = PRECISIONS["float32"],
    kernels: Kernels = EAGER,
) -> TorchModel:
    """Load a bundled model by name, a local folder, or a model on the Hugging Face hub.

    It is for a `CpuEngine` if `runs_on_cpu` says so, else for a `GpuEngine`.

    Args:
        model: ``"qagen-mini"``, a folder, or OWNER/NAME on the hub.
        revision: of a model on the hub.
        device: where the weights go.
        precision: which part computes in which type.
        kernels: implementation of the operations.

    Raises:
        CheckpointError: there is no such model, a file is missing, damaged or of the wrong shape,
            or the model family is not supported.
    """
    folder = model_folder(model, revision)
    if folder.parent == ASSETS:
        verify_checksums(folder, "reinstall quals_fast")
    shape, conventions = read_checkpoint(folder)
    tokenizer = QATokenizer.from_folder(folder, conventions)
    network = _build(shape, conventions, read_weights(folder), folder)
    on_cpu = runs_on_cpu(device, kernels)
    if not on_cpu and precision.documents != precision.search:
        raise ValueError(f"`precision` {precision.name!r} needs the eager backend on a CPU")
    head: LMHead
    bias = network.final_logits_bias.to(device)  # float32, before the network changes its type
    if on_cpu:
        weight = network.model.shared.weight.detach()
        make = ScreenedLMHead if precision.integers else CpuLMHead
        head = make(weight, bias, kernels)
    else:
        network.to(device=device, dtype=precision.search).run_by(kernels)
        head = LMHead(network.model.shared.weight.detach(), bias, kernels)
    document_network = network
    if precision.documents != precision.search:
        document_network = copy.deepcopy(network).to(device=device, dtype=precision.documents)
    return TorchModel(
        name=name_of(folder),
        digest=digest_of(folder),
        shape=shape,
        network=network.to(device=device, dtype=precision.search),
        document_network=document_network.to(device=device),
        head=head,
        tokenizer=tokenizer,
        conventions=conventions,
        precision=precision,
        kernels=kernels,
    )


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


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read a folder's weights by name, dequantised; tied embeddings are returned once.

    Raises:
        CheckpointError: there are no weights, or a file cannot be read.
    """
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        weights |= read_pickled(path) if path.suffix == ".bin" else _read_safetensors(path)
    # fairseq's *.version says how its modules were stored; transformers ignores it.
    weights = {n: tensor for n, tensor in weights.items() if n.rpartition(".")[2] != "version"}
    try:
        weights = dequantize(weights)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    for name in _TIED:
        if name in weights:
            shared = weights.setdefault(_SHARED, weights[name])
            if not torch.equal(weights.pop(name), shared):
                raise CheckpointError(
                    f"{folder}: {name} must equal {_SHARED}, but differs; models with untied "
                    "embeddings are not supported yet"
                )
    return weights


def _read_safetensors(path: Path) -> dict[str, Tensor]:
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


def _build(
    shape: BartShape, conventions: Conventions, weights: dict[str, Tensor], folder: Path
) -> Bart:
    """Check every tensor against the network, then load it."""
    bias = weights.pop("final_logits_bias", torch.zeros(shape.vocab_size)).float().flatten()
    with torch.device("meta"):
        bart = Bart(shape)
    expected = bart.state_dict()
    if bias.shape == expected["final_logits_bias"].shape:
        bias[list(conventions.masked_token_ids)] = -torch.inf
    weights["final_logits_bias"] = bias
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which BART does not have"
        count = len(missing or unknown)
        raise CheckpointError(
            f"{folder}: the weights must match config.json, but the checkpoint {what} "
            f"({count} such {'tensor' if count == 1 else 'tensors'}); use weights and config of "
            "the same checkpoint"
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
    bart.load_state_dict({name: t.float() for name, t in weights.items()}, assign=True)
    return bart.eval().requires_grad_(False)


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
