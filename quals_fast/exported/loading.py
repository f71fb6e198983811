"""Load an exported question-answer generator: by ONNX Runtime, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quals_fast.errors import BackendUnavailableError
from quals_fast.exported.manifest import DTYPES, LARGEST_SUMS, read_manifest
from quals_fast.exported.session import Graph, needs_wide_sums, resolve_provider
from quals_fast.models.checkpoint import CheckpointError, read_checkpoint
from quals_fast.models.hub import hub_name
from quals_fast.models.model import Model
from quals_fast.models.tokenizer import QATokenizer
from quals_fast.processes import cpu_limit

GRAPHS = ("encoder", "document_encoder", "step", "grow", "rescore")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel(Model):
    """An exported model; name and digest are those of what was exported.

    One from the hub has the name of its repository, and its commit.

    Attributes:
        dtype: ``"float32"``, ``"float16"`` or ``"int8"``.
        provider: ONNX Runtime's execution provider that runs.
        graphs: by name.
        spare_candidates: more than are wanted that the step graph must be asked for, since it
            screens them with integers.
    """

    dtype: str
    provider: str
    graphs: dict[str, Graph]
    spare_candidates: int

    def runs_as(self) -> dict[str, str]:
        """As in `Model`; the provider stands with the backend."""
        provider = self.provider.removesuffix("ExecutionProvider").lower()
        return {"dtype": self.dtype, "backend": f"onnx-{provider}", "kernels": "none"}


def load_onnx(
    folder: str | Path, *, device: str = "auto", dtype: str = "auto", threads: int | None = None
) -> OnnxModel:
    """Load an exported folder.

    Args:
        folder: that `quals-fast export` wrote.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        dtype: what it must have been exported as; ``"auto"`` takes it as it is.
        threads: of one run; None takes one for each core that this process may use.

    Raises:
        CheckpointError: the folder cannot be used; the message says why.
        BackendUnavailableError: ONNX Runtime has no provider for the device, or the folder was
            exported as another type.
        ModuleNotFoundError: ONNX Runtime is not installed.
    """
    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(
            f"{str(folder)!r} is not a folder; backend 'onnx' runs what quals-fast export wrote: a "
            "folder, or OWNER/NAME on the Hugging Face hub"
        )
    provider = resolve_provider(device)
    manifest = read_manifest(path)
    written_as, names = manifest["dtype"], manifest["graphs"]
    needed = {*GRAPHS, LARGEST_SUMS} if written_as == "int8" else {*GRAPHS}
    if written_as not in DTYPES or not needed <= set(names):
        raise CheckpointError(f"{path}: the manifest is damaged; export the model again")
    if dtype not in ("auto", written_as):
        raise BackendUnavailableError(
            f"`dtype` is {dtype!r}, but {path} was exported as {written_as!r}; use "
            "dtype='auto', or export the model with another --dtype"
        )
    shape, conventions = read_checkpoint(path)
    tokenizer, conventions = QATokenizer.with_masked(path, shape, conventions)
    wide_sums = written_as == "int8" and needs_wide_sums(path / names[LARGEST_SUMS])
    if threads is None:
        threads = cpu_limit()  # ONNX Runtime knows nothing of quotas
    opened = {
        name: Graph(path / name, provider, threads, wide_sums=wide_sums)
        for name in dict.fromkeys(names[graph] for graph in GRAPHS)  # one may serve for two
    }
    graphs = {graph: opened[names[graph]] for graph in GRAPHS}
    return OnnxModel(
        name=hub_name(path) or manifest["model"],
        digest=manifest["digest"],
        dtype=written_as,
        provider=graphs["step"].provider,
        shape=shape,
        conventions=conventions,
        tokenizer=tokenizer,
        graphs=graphs,
        spare_candidates=manifest["spare_candidates"],
    )
