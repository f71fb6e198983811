"""What a backend brings: a model loaded for it, its functions, and how they must be called.

Nothing of torch is imported for an exported model, which needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from quals_fast.config import DecodingConfig
from quals_fast.engine.staged import StagedPass
from quals_fast.exported.loading import OnnxGenerator, load_onnx
from quals_fast.exported.manifest import is_exported
from quals_fast.processes import limit_threads, survive_fork

if TYPE_CHECKING:
    from quals_fast.engine.fused import FusedPass
    from quals_fast.models.loading import QAGenerator

Generator: TypeAlias = "QAGenerator | OnnxGenerator"

BATCH_TOKENS = {"cpu": 32_768, "cuda": 327_680}  # 64 pairs of BART-large: a GPU idles on fewer
ATTENTION = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")  # of `SDPBackend`, on a GPU


class Functions(NamedTuple):
    """What can be asked of a loaded model; either function takes the model first."""

    generate: Callable[..., Any]
    rescore: Callable[..., Any]


def load(
    model: str | Path, *, device: str, dtype: str, backend: str, threads: int | None
) -> Generator:
    """Load a model for the backend that runs; arguments as for `QualsScorer.from_pretrained`.

    Raises:
        CheckpointError: the folder cannot be used; the message says what is missing.
        BackendUnavailableError: an explicit backend, device or precision cannot run here.
        ModuleNotFoundError: PyTorch is not installed and the backend needs it.
        ValueError: an unknown name, or fewer threads than one.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"`threads` must be at least 1, but got {threads}")
    if backend == "onnx" or (backend == "auto" and is_exported(Path(model))):
        return load_onnx(model, device=device, dtype=dtype, threads=threads)
    _require_torch()
    from quals_fast.models.linear import pack_linears
    from quals_fast.models.loading import load_generator, resolve_device
    from quals_fast.models.precision import resolve_precision
    from quals_fast.ops import resolve_backend

    place = resolve_device(device)
    kernels = resolve_backend(backend, place)
    precision = resolve_precision(dtype, place, kernels)
    limit_threads(threads)
    generator = load_generator(model, device=place, precision=precision, kernels=kernels)
    if generator.packed:
        pack_linears(generator.bart)
        pack_linears(generator.document_bart)
    return generator


def with_cache(generator: Generator, cache_bytes: int) -> Generator:
    """Give a model a cache of encoded documents; 0 gives none.

    Raises:
        ValueError: the model is an exported one, or the number is negative.
    """
    if not cache_bytes:
        return generator
    if isinstance(generator, OnnxGenerator):
        raise ValueError(
            f"`cache_bytes` must be 0 for the onnx backend, but got {cache_bytes}; encoded "
            "documents are kept by the eager and triton backends only"
        )
    from quals_fast.models.cache import EncodingCache

    return replace(generator, cache=EncodingCache(cache_bytes))


def functions_of(generator: Generator) -> Functions:
    """Return a model's functions."""
    if isinstance(generator, OnnxGenerator):
        from quals_fast.exported import engine

        return Functions(engine.generate, engine.rescore)
    from quals_fast.engine.generation import generate
    from quals_fast.engine.rescoring import rescore

    return Functions(generate, rescore)


def make_pass(
    generator: Generator,
    decoding: DecodingConfig,
    max_pairs: int | None,
    max_batch_tokens: int,
    graph_bytes: int,
) -> StagedPass | FusedPass:
    """Return what takes a batch from texts to scores: stage by stage on a CPU, else fused."""
    rest = decoding, max_pairs, max_batch_tokens
    if isinstance(generator, OnnxGenerator) or generator.packed:
        generate, rescore = functions_of(generator)
        return StagedPass(generator, generate, rescore, *rest)
    from quals_fast.engine.fused import FusedPass

    return FusedPass(generator, *rest, graph_bytes)


def default_batch_tokens(generator: Generator) -> int:
    """Return the `max_batch_tokens` that suits a model's device."""
    is_gpu = not isinstance(generator, OnnxGenerator) and generator.bart.device.type == "cuda"
    return BATCH_TOKENS["cuda" if is_gpu else "cpu"]


def default_graph_bytes(generator: Generator) -> int:
    """Return the `graph_bytes` that suits a model's device: a quarter of a GPU's memory."""
    if isinstance(generator, OnnxGenerator) or generator.bart.device.type != "cuda":
        return 0
    import torch

    return int(torch.cuda.get_device_properties(generator.bart.device).total_memory // 4)


@contextmanager
def inference(generator: Generator) -> Iterator[None]:
    """Compute without autograd, and in the model's own types under the caller's autocast."""
    if isinstance(generator, OnnxGenerator):
        yield
        return
    import torch

    device = generator.bart.device.type
    survive_fork(device)
    with torch.inference_mode(), torch.autocast(device, enabled=False), _attention(device):
        yield


def _attention(device: str) -> AbstractContextManager[None]:
    """Let PyTorch's attention on a GPU choose among implementations without cuDNN's.

    PyTorch prefers cuDNN's on recent GPUs in half precision, and that builds a plan for every new
    shape, which takes longer than many searches. The choice holds for the whole process meanwhile.
    """
    if device != "cuda":
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel([getattr(SDPBackend, name) for name in ATTENTION])


def _require_torch() -> None:
    """Raise with advice where PyTorch is not installed, as in the slim install."""
    if find_spec("torch") is None:
        raise ModuleNotFoundError(
            "this backend needs PyTorch: pip install quals-fast without --no-deps, or give the "
            "folder that quals-fast export has written to --model (backend 'onnx')"
        )
