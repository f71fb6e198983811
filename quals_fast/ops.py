"""The engine's operations, and which implementation of each one runs.

This is the only module that imports `quals_fast_kernels`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
from quals_fast_kernels import (
    add_layer_norm,
    beam_attention,
    group_select,
    linear_gelu,
    linear_logprob,
    lm_head_topk,
    move_slots,
    source_attention,
    span_match,
    store_finished,
)
from quals_fast_kernels._compat import HAS_TRITON, triton_version
from quals_fast_kernels._histories import Candidates, Histories
from quals_fast_kernels._launch import MAX_HEAD_SIZE, takes_head_size
from quals_fast_kernels.group_select import GroupChoice
from quals_fast_kernels.lm_head_topk import topk_lowest_id
from quals_fast_kernels.move_slots import MovedSlots
from torch import Tensor

from quals_fast.errors import BackendUnavailableError

__all__ = [
    "EAGER",
    "TRITON",
    "Backend",
    "BackendUnavailableError",
    "Candidates",
    "GroupChoice",
    "Histories",
    "Kernels",
    "check_head_sizes",
    "resolve_backend",
    "topk_lowest_id",
]

Backend = Literal["auto", "eager", "triton", "onnx"]
TRITON_VERSIONS = ((3, 6), (3, 10))  # from, and below
TRITON_CAPABILITY = (7, 0)  # the least that Triton compiles for


@dataclass(frozen=True, slots=True)
class Kernels:
    """One implementation of each operation; the eager references define what each one does."""

    name: str
    lm_head_topk: Callable[..., tuple[Tensor, Tensor]]
    group_select: Callable[..., GroupChoice]
    linear_logprob: Callable[..., Tensor]
    span_match: Callable[..., Tensor]
    beam_attention: Callable[..., Tensor]
    source_attention: Callable[..., Tensor]
    add_layer_norm: Callable[..., Tensor]
    linear_gelu: Callable[..., Tensor]
    move_slots: Callable[..., MovedSlots]
    store_finished: Callable[..., None]

    @property
    def compiled(self) -> str:
        """Names of the operations that are compiled kernels, joined by ``+``."""
        names = [field.name for field in fields(self) if field.name != "name"]
        return "+".join(names) if self.name == "triton" else "none"


EAGER = Kernels(
    "eager",
    lm_head_topk.lm_head_topk_ref,
    group_select.group_select_ref,
    linear_logprob.linear_logprob_ref,
    span_match.span_match_ref,
    beam_attention.beam_attention_ref,
    source_attention.source_attention_ref,
    add_layer_norm.add_layer_norm_ref,
    linear_gelu.linear_gelu_ref,
    move_slots.move_slots_ref,
    store_finished.store_finished_ref,
)

TRITON = Kernels(  # call them only if `resolve_backend` returns them
    "triton",
    lm_head_topk.lm_head_topk_triton,
    group_select.group_select_triton,
    linear_logprob.linear_logprob_triton,
    span_match.span_match_triton,
    beam_attention.beam_attention_triton,
    source_attention.source_attention_triton,
    add_layer_norm.add_layer_norm_triton,
    linear_gelu.linear_gelu_triton,
    move_slots.move_slots_triton,
    store_finished.store_finished_triton,
)


def resolve_backend(backend: str, device: torch.device) -> Kernels:
    """Return the kernels to run; ``"auto"`` means Triton on a GPU and eager kernels elsewhere.

    Raises:
        ValueError: an unknown name.
        BackendUnavailableError: one that cannot run here; the message says why.
    """
    if backend not in get_args(Backend):
        raise ValueError(
            f"`backend` must be 'auto', 'eager', 'triton' or 'onnx', but got {backend!r}"
        )
    if backend == "onnx":
        raise BackendUnavailableError(
            "backend 'onnx' runs exported graphs and has no kernels; load an exported folder with "
            "QualsScorer.from_pretrained(folder, backend='onnx')"
        )
    if backend == "eager" or (backend == "auto" and device.type != "cuda"):
        return EAGER
    problem = _problem_with_triton(device)
    if problem is None:
        return TRITON
    if backend == "triton":
        raise BackendUnavailableError(f"{problem}; use backend='eager' or 'auto'")
    logging.getLogger("quals_fast").warning("%s; continuing with the eager kernels", problem)
    return EAGER


def check_head_sizes(kernels: Kernels, sizes: Iterable[int]) -> None:
    """Raise unless the kernels take attention heads of these sizes.

    Raises:
        BackendUnavailableError: they do not; eager kernels take any.
    """
    wrong = [size for size in sizes if not takes_head_size(size)]
    if wrong and kernels is not EAGER:
        raise BackendUnavailableError(
            f"backend {kernels.name!r} needs attention heads whose size is a multiple of 8 up to "
            f"{MAX_HEAD_SIZE}, but this model's have size {wrong[0]}; use backend='eager'"
        )


def _problem_with_triton(device: torch.device) -> str | None:
    """Return why Triton kernels cannot run on a device, or None."""
    low, high = (".".join(map(str, version)) for version in TRITON_VERSIONS)
    if not HAS_TRITON:
        return f"Triton is not installed: pip install 'triton>={low},<{high}'"
    installed = triton_version() or ""
    number = tuple(int(part) for part in re.findall(r"\d+", installed)[:2])
    if not TRITON_VERSIONS[0] <= number < TRITON_VERSIONS[1]:
        return f"Triton {installed} is installed, but quals_fast needs >={low},<{high}"
    if device.type != "cuda":
        if os.environ.get("TRITON_INTERPRET") == "1":
            return None
        return f"Triton kernels run on a GPU, but the device is {str(device)!r}"
    capability = torch.cuda.get_device_capability(device)
    if capability < TRITON_CAPABILITY:
        low, present = (".".join(map(str, version)) for version in (TRITON_CAPABILITY, capability))
        return f"Triton needs a GPU of compute capability {low} or more, but this one has {present}"
    return None
