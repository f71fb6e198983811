"""Number types that the network computes in, and which of them a device supports."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quals_fast.models.integers import has_fast_int8
from quals_fast.ops import EAGER, BackendUnavailableError, Kernels

HALF_PRECISION_CAPABILITY = (7, 0)  # compute capability; below it, float16 may take 64x as long
BFLOAT16_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True)
class Precision:
    """What the network computes in.

    Attributes:
        name: as in `dtype=`.
        dtype: type of the weights, and of all that passes between layers.
        integers: whether 8-bit integers compute the linear layers that read documents and rescore,
            which take no decisions, and preselect tokens in the LM head.
    """

    name: str
    dtype: torch.dtype
    integers: bool = False


PRECISIONS = {
    "float32": Precision("float32", torch.float32),
    "mixed": Precision("mixed", torch.float32, integers=True),
    "bfloat16": Precision("bfloat16", torch.bfloat16),
    "float16": Precision("float16", torch.float16),
}


def resolve_precision(
    name: str,
    device: torch.device,
    kernels: Kernels = EAGER,
    family: str = "bart",
    *,
    integers_fit: bool = True,
) -> Precision:
    """Return the named precision.

    ``"auto"`` on a CPU is the fastest one that keeps the rank correlation with float32 at 0.99 or
    more on real texts (`python -m bench.precision`): ``"mixed"`` where the processor has the
    instructions for it, else ``"float32"``. On a GPU it is ``"float16"``, as published, and
    ``"float32"`` where the GPU is older than its matrix units for half precision.

    For a T5, ``"auto"`` is ``"float32"`` on a CPU, since ``"mixed"`` has been measured with BART
    only, and ``"bfloat16"`` on a GPU that has it, else ``"float32"``; see `refuse_float16`.

    The 16-bit types are for GPUs. On a CPU, they are slower than ``"mixed"`` (float16 even slower
    than float32), and with them the model asks other questions.

    Args:
        name: of the precision, or ``"auto"``.
        device: where the network will be.
        kernels: that will run.
        family: ``"bart"`` or ``"t5"``; it matters to ``"auto"`` only.
        integers_fit: whether the model's results survive 8-bit integers.

    Raises:
        ValueError: the name is unknown.
        BackendUnavailableError: the device does not support the type, or the integers do not fit.
    """
    if name != "auto" and name not in PRECISIONS:
        expected = ", ".join(["auto", *PRECISIONS])
        raise ValueError(f"`dtype` must be one of {expected}, but got {name!r}")
    if device.type == "cuda":
        return _on_gpu(name, device, family)
    if name in ("bfloat16", "float16"):
        raise BackendUnavailableError(
            f"dtype {name!r} needs a GPU, but the device is {str(device)!r}; use dtype='auto', "
            "which on a CPU is 'float32' for a T5, and 'mixed' or 'float32' for a BART"
        )
    if name == "auto" and family == "t5":
        name = "float32"
    fast = has_fast_int8() and kernels is EAGER
    if name == "mixed" and not fast:
        raise BackendUnavailableError(
            "dtype 'mixed' needs a processor with AVX-512 VNNI, and the eager backend; use "
            "dtype='float32'"
        )
    if name == "mixed" and not integers_fit:
        raise BackendUnavailableError(
            "dtype 'mixed' does not fit this model: its 8-bit integers miss likely tokens or "
            "misjudge them, because some features are far larger than the others, or many tokens "
            "are about equally likely; use dtype='float32'"
        )
    is_mixed = fast and integers_fit
    return PRECISIONS[("mixed" if is_mixed else "float32") if name == "auto" else name]


def refuse_float16(precision: Precision, family: str) -> None:
    """Raise if a T5 would compute in float16.

    What its feed-forward adds up exceeds float16's largest number, 65,504, with weights as they
    were published. bfloat16 has the range of float32.

    Raises:
        BackendUnavailableError: it would.
    """
    if family == "t5" and precision.dtype == torch.float16:
        raise BackendUnavailableError(
            f"dtype {precision.name!r} is not for T5 models, whose feed-forward layers exceed the "
            "largest float16 number; use dtype='auto', which is bfloat16 or float32"
        )


def _on_gpu(name: str, device: torch.device, family: str) -> Precision:
    capability = torch.cuda.get_device_capability(device)
    if name == "auto" and family == "t5":
        name = "bfloat16" if capability >= BFLOAT16_CAPABILITY else "float32"
    if name == "auto":
        name = "float16" if capability >= HALF_PRECISION_CAPABILITY else "float32"
    if name == "mixed":
        raise BackendUnavailableError("dtype 'mixed' needs a CPU; use dtype='auto' on a GPU")
    if name == "bfloat16" and capability < BFLOAT16_CAPABILITY:
        raise BackendUnavailableError(
            f"dtype 'bfloat16' is not available on {torch.cuda.get_device_name(device)}; use "
            "dtype='auto'"
        )
    return PRECISIONS[name]
