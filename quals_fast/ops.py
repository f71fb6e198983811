"""The operations of the engine, and which implementation of each runs.

Sole importer of `quals_fast_kernels`.
"""

from __future__ import annotations

from typing import Literal, get_args

from quals_fast_kernels.group_select import GroupChoice
from quals_fast_kernels.group_select import group_select_ref as group_select
from quals_fast_kernels.linear_logprob import linear_logprob_ref as linear_logprob
from quals_fast_kernels.lm_head_topk import lm_head_topk_ref as lm_head_topk

__all__ = [
    "Backend",
    "BackendUnavailableError",
    "GroupChoice",
    "group_select",
    "linear_logprob",
    "lm_head_topk",
    "resolve_backend",
]

Backend = Literal["auto", "eager", "triton", "onnx"]


class BackendUnavailableError(RuntimeError):
    """An explicitly chosen backend or device cannot run; nothing falls back silently."""


def resolve_backend(backend: str) -> str:
    """Return the backend that runs.

    Raises:
        ValueError: an unknown name.
        BackendUnavailableError: a known one that this version does not have.
    """
    if backend not in get_args(Backend):
        raise ValueError(
            f"`backend` must be 'auto', 'eager', 'triton' or 'onnx', but got {backend!r}"
        )
    if backend in ("triton", "onnx"):
        raise BackendUnavailableError(
            f"backend {backend!r} is not part of this version of quals_fast; "
            "use backend='eager', or 'auto' to take what there is"
        )
    return "eager"
