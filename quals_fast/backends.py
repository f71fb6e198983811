"""Load a model with the engine that runs it.

For an exported model, torch is not imported.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from quals_fast.config import check_integer
from quals_fast.engine.protocol import Engine
from quals_fast.errors import BackendUnavailableError
from quals_fast.exported.engine import OnnxEngine
from quals_fast.exported.loading import load_onnx
from quals_fast.exported.manifest import is_exported
from quals_fast.models.checkpoint import CheckpointError
from quals_fast.models.hub import check_revision, fetch, is_hub_name
from quals_fast.processes import limit_threads

if TYPE_CHECKING:
    import torch

    from quals_fast.models.precision import Precision
    from quals_fast.ops import Kernels


def load(
    model: str | Path,
    *,
    revision: str | None,
    device: str,
    dtype: str,
    backend: str,
    threads: int | None,
    max_batch_tokens: int | None,
    cache_bytes: int,
    graph_bytes: int | None,
) -> Engine:
    """Load a model; arguments as for `QualsScorer.from_pretrained`.

    Raises:
        CheckpointError: the folder cannot be used; the message says what is missing.
        BackendUnavailableError: an explicit backend, device or precision cannot run here.
        ModuleNotFoundError: PyTorch, or huggingface_hub for a name on the hub, is not installed.
        ValueError: an unknown name, or a number out of range.
    """
    check_revision(model, revision)
    if threads is not None and threads < 1:
        raise ValueError(f"`threads` must be at least 1, but got {threads}")
    check_integer("cache_bytes", cache_bytes, 0)
    if graph_bytes is not None:
        check_integer("graph_bytes", graph_bytes, 0)
    if isinstance(model, str) and is_hub_name(model):
        check = partial(check_weights_run, model, device=device, dtype=dtype, backend=backend)
        model = fetch(model, revision, before_weights=check)
    budget = {} if max_batch_tokens is None else {"max_batch_tokens": max_batch_tokens}
    if backend == "onnx" or (backend == "auto" and is_exported(Path(model))):
        if cache_bytes:
            raise ValueError(
                f"`cache_bytes` must be 0 with the onnx backend, but got {cache_bytes}; only the "
                "eager and triton backends keep encoded documents"
            )
        exported = load_onnx(model, device=device, dtype=dtype, threads=threads)
        return OnnxEngine(exported, **budget)
    if is_exported(Path(model)):
        raise BackendUnavailableError(
            f"{model} holds exported ONNX graphs, which backend {backend!r} cannot run; use "
            "backend='onnx', or give the folder of the original model"
        )
    place, kernels, choose = _resolve(device, dtype, backend)
    from quals_fast.engine.cpu import CpuEngine
    from quals_fast.engine.gpu import GpuEngine
    from quals_fast.models.linear import use_onednn
    from quals_fast.models.loading import load_model, runs_on_cpu

    limit_threads(threads)
    loaded = load_model(model, device=place, precision=choose, kernels=kernels)
    if not runs_on_cpu(place, kernels):
        return GpuEngine(loaded, cache_bytes=cache_bytes, graph_bytes=graph_bytes, **budget)
    use_onednn(loaded.network)
    use_onednn(loaded.document_network)
    return CpuEngine(loaded, cache_bytes=cache_bytes, **budget)


def check_weights_run(name: str, *, device: str, dtype: str, backend: str) -> None:
    """Raise if weights that PyTorch runs are of no use here, before they are downloaded.

    Args:
        name: of the model on the hub, which is not an exported one.
        device: as for `load`.
        dtype: as for `load`.
        backend: as for `load`.

    Raises:
        CheckpointError: the backend runs exported models only.
        BackendUnavailableError: an explicit backend, device or precision cannot run here.
        ModuleNotFoundError: PyTorch is not installed.
        ValueError: an unknown name.
    """
    if backend == "onnx":
        raise CheckpointError(
            f"{name} is not an exported model, which is all that backend 'onnx' runs; export it "
            f"with quals-fast export {name} OUT, or use backend='auto'"
        )
    _resolve(device, dtype, backend)


def _resolve(
    device: str, dtype: str, backend: str
) -> tuple[torch.device, Kernels, Callable[[str], Precision]]:
    """Return device, kernels and what chooses the precision for a family; raise as `load` does."""
    require_torch()
    from quals_fast.models.loading import resolve_device
    from quals_fast.models.precision import resolve_precision
    from quals_fast.ops import resolve_backend

    place = resolve_device(device)
    kernels = resolve_backend(backend, place)
    resolve_precision(dtype, place, kernels)  # an unknown name is wrong for every family
    return place, kernels, partial(resolve_precision, dtype, place, kernels)


def require_torch() -> None:
    """Raise with advice if PyTorch is not installed, as in the slim install."""
    if find_spec("torch") is None:
        raise ModuleNotFoundError(
            "this backend needs PyTorch: pip install quals-fast without --no-deps, or use a model "
            "that was written by quals-fast export (backend 'onnx')"
        )
