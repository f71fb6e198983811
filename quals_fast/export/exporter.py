"""Export a question-answer generator as ONNX graphs, and check that they compute the same.

The folder holds the graphs, one file of weights that they share (so that nothing is stored twice,
and no file format's limit of 2 GB is met), config and tokenizer, and a manifest with checksums.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quals_fast import __version__
from quals_fast.config import DecodingConfig
from quals_fast.engine.cpu import CpuEngine
from quals_fast.export.graphs import (
    MODULES,
    OPSET,
    SPARE_CANDIDATES,
    EncoderGraph,
    GrowGraph,
    RescoreGraph,
    StepGraph,
)
from quals_fast.exported.engine import OnnxEngine
from quals_fast.exported.loading import load_onnx
from quals_fast.exported.manifest import DTYPES, LARGEST_SUMS, MANIFEST, WEIGHTS, write_manifest
from quals_fast.exported.session import runtime
from quals_fast.models.checkpoint import checkpoint_files
from quals_fast.models.loading import TorchModel, load_model, model_folder
from quals_fast.models.network import Network

_EMBEDDING = "head.weight"  # the LM head's matrix in step and rescore graphs
# Layers of the documents' encoder whose rounding moves scores most: in float32, although int8.
_KEPT_IN_FLOAT32 = ("self_attn.v_proj", "fc2", "SelfAttention.v", "DenseReluDense.wo")
# Layers of a T5's decoder that stay in float32 too: a few of their inputs exceed all others by far.
_UNEVEN_INPUTS = ("DenseReluDense.wo",)
_MIN_EXTERNAL_BYTES = 1024  # smaller tensors stay in their graph
_DYNAMIC = torch.export.Dim.DYNAMIC
_MIN_IDENTICAL_SEQUENCES = 0.9  # at least, in float32; a near tie may part one text's search
# Log-probabilities of given tokens may differ by so much at most, nats, and on average.
_TOLERANCES = {"float32": (1e-3, 1e-4), "float16": (0.5, 0.05), "int8": (2.5, 0.2)}


class ExportParityError(RuntimeError):
    """The exported graphs do not compute what the model computes."""


def export(
    model: str | Path,
    folder: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    texts: Sequence[tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """Write a model's graphs to a new folder and check them.

    Args:
        model: As for `QualsScorer.from_pretrained`.
        revision: Revision of a model on the hub, likewise.
        folder: Folder to write to; must be empty or not exist.
        dtype: ``"float32"``, ``"float16"``, or ``"int8"``: documents are read and rescored in 8-bit
            integers; the search stays in float32, but integers screen the vocabulary. A T5 has no
            float16.
        texts: Documents and summaries to check with; by default two built-in ones.

    Returns:
        What the check found: the largest and the mean difference of a log-probability, in nats, and
        the share of searched sequences that are the same.

    Raises:
        ExportParityError: If the difference is beyond what the type explains. The folder stays for
            inspection, without its manifest, so that nothing will load it.
        CheckpointError: If the model cannot be loaded.
        ValueError: If the type is unknown or not for this model, or the folder is not empty.
        ModuleNotFoundError: If onnx or onnxscript is not installed.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be {' or '.join(DTYPES)}, but got {dtype!r}")
    require_onnx()
    source, target = model_folder(model, revision), Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"`folder` must be empty or not exist, but {target} is not; name another")
    loaded = load_model(source, device=torch.device("cpu"))
    if dtype == "float16" and loaded.shape.family == "t5":
        raise ValueError(
            f"`dtype` must be float32 or int8 for a T5 like {loaded.name}, whose feed-forward "
            "layers exceed the largest float16 number, but got 'float16'"
        )
    target.mkdir(parents=True, exist_ok=True)
    names = _write_graphs(loaded.network, target, dtype)
    copied = [path.name for path in checkpoint_files(source)]
    for name in copied:
        shutil.copyfile(source / name, target / name)
    facts: dict[str, Any] = {
        "quals_fast": __version__,
        "model": loaded.name,
        "digest": loaded.digest,
        "dtype": dtype,
        "opset": OPSET,
        "graphs": names,
        "spare_candidates": SPARE_CANDIDATES if dtype == "int8" else 0,
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxscript")}
        | {"onnxruntime": runtime().__version__},
    }
    written = [*dict.fromkeys(names.values()), WEIGHTS, *copied]
    write_manifest(target, facts, written)
    try:
        facts["parity"] = _check(loaded, target, dtype, texts or built_in_texts())
    except ExportParityError:
        (target / MANIFEST).unlink()
        raise
    write_manifest(target, facts, written)
    parity: dict[str, Any] = facts["parity"]
    return parity


def require_onnx() -> None:
    """Raise unless the libraries that write graphs are installed."""
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f'exporting needs {" and ".join(missing)}: pip install ".[onnx]" in the checkout'
        )
    runtime()  # before torch and onnxscript import it, with its telemetry


def built_in_texts() -> list[tuple[str, str]]:
    """Return documents and summaries that an export is checked with."""
    lines = (files("quals_fast.export") / "texts.jsonl").read_text("utf-8").splitlines()
    return [(row["document"], row["summary"]) for row in map(json.loads, lines)]


def _write_graphs(network: Network, folder: Path, dtype: str) -> dict[str, str]:
    """Write all graphs and their weights; return file names by graph."""
    if dtype == "float16":
        bias = network.final_logits_bias.clone()  # stays in float32, as in the torch path
        network = copy.deepcopy(network).half()
        network.final_logits_bias = bias
    is_int8 = dtype == "int8"
    encoding = EncoderGraph(network)
    inputs = _inputs(encoding)
    store = _Weights(folder / WEIGHTS)
    encoder = _trace(encoding, inputs, ("cross",))
    names = {}
    with store:
        names["encoder"] = names["document_encoder"] = store.save(encoder, folder, "encoder")
        step = _trace(
            StepGraph(network, screened=is_int8),
            inputs,
            ("logprobs", "candidates", "target_logprob", "new"),
        )
        _make_input_of_k(step)
        rescoring = _trace(RescoreGraph(network, screened=is_int8), inputs, ("logprobs",))
        if is_int8:
            from quals_fast.export.integers import largest_sums, use_integers

            use_integers(step, only=_EMBEDDING)
            use_integers(rescoring, skip=_UNEVEN_INPUTS)
            use_integers(encoder, skip=_KEPT_IN_FLOAT32)
            names["document_encoder"] = store.save(encoder, folder, "document_encoder")
            names[LARGEST_SUMS] = store.save(largest_sums(), folder, LARGEST_SUMS)
        names["step"] = store.save(step, folder, "step")
        names["grow"] = store.save(_trace(GrowGraph(), inputs, ("grown",)), folder, "grow")
        names["rescore"] = store.save(rescoring, folder, "rescore")
    return names


def _inputs(encoder: EncoderGraph) -> dict[str, Any]:
    """Return an example of every input, all of whose varying sizes differ and exceed 1."""
    batch, source, rows, places, past, pairs, length, real = 2, 7, 5, 3, 11, 4, 6, 17

    def ids(*sizes: int) -> torch.Tensor:
        return torch.zeros(sizes, dtype=torch.int64)

    cross = encoder(ids(batch, source), ids(batch, source).bool() | True)
    _, heads, _, size = cross[0].shape
    decoded = [part.new_zeros(rows, heads, past, size) for part in cross]
    return {
        "input_ids": ids(batch, source),
        "attention_mask": ids(batch, source).bool() | True,
        "token_ids": ids(rows),
        "position": ids(1),
        "target_ids": ids(rows),
        "row_of_place": ids(batch, places),
        "place_of_row": ids(rows),
        "is_past": ids(past).bool(),
        "source_mask": ids(batch, source).bool() | True,
        "decoder_input_ids": ids(batch, pairs, length),
        "token_rows": ids(real),
        "labels": ids(real),
        "cross": cross,
        "past": decoded,
        "source": ids(rows + 2),
        "old": decoded,
        "new": [part[:, :, 0] for part in decoded],
    }


def _trace(module: nn.Module, inputs: Mapping[str, Any], outputs: Sequence[str]) -> Any:
    """Trace a module; lists of tensors become inputs or outputs ``name_key_0``, ..."""
    taken = list(inspect.signature(module.forward).parameters)
    layers = len(inputs["cross"]) // 2
    shapes: dict[str, Any] = {}
    for name in taken:
        value = inputs[name]
        if isinstance(value, list):
            varying = (0, 2) if value[0].ndim == 4 else (0,)
            shapes[name] = [dict.fromkeys(varying, _DYNAMIC)] * len(value)
        else:
            shapes[name] = {
                axis: _DYNAMIC for axis in range(value.ndim) if name != "position"
            } or None
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs[name] for name in taken),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=_flat_names(taken, layers),
            output_names=_flat_names(outputs, layers),
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph:  # the rest are stack traces, with paths of this machine
        modules = node.metadata_props.get(MODULES, "[]")
        node.metadata_props.clear()
        node.metadata_props[MODULES] = modules
    return program.model


def _flat_names(names: Sequence[str], layers: int) -> list[str]:
    return [
        full
        for name in names
        for full in (
            [f"{name}_{part}_{i}" for i in range(layers) for part in ("key", "value")]
            if name in ("cross", "past", "new", "old", "grown")
            else [name]
        )
    ]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter's remarks about libraries that this project does not use."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _make_input_of_k(model: Any) -> None:
    """Let the number of candidates be asked for: torch traces it as a constant."""
    import onnx_ir as ir

    (topk,) = (node for node in model.graph if node.op_type == "TopK")
    k = ir.Value(name="k", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
    model.graph.inputs.append(k)
    topk.replace_input_with(1, k)
    # Sizes that were inferred with the traced number are wrong now; ONNX Runtime infers its own.
    for node in model.graph:
        for value in node.outputs:
            sizes = [] if value.shape is None else list(value.shape)
            if StepGraph.traced_k in sizes:
                value.shape = ir.Shape(["k" if n == StepGraph.traced_k else n for n in sizes])


class _Weights:
    """One file that holds each tensor of all graphs once.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> None:
        self._file = self._path.open("wb")

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def save(self, model: Any, folder: Path, name: str) -> str:
        """Write a graph beside the file, its large tensors into it; return the graph's name."""
        import onnx_ir as ir

        original = {}
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor.nbytes < _MIN_EXTERNAL_BYTES:
                continue
            original[value.name] = tensor
            start, length = self._place(tensor.numpy().tobytes())
            value.const_value = ir.ExternalTensor(
                WEIGHTS,
                start,
                length,
                tensor.dtype,
                shape=tensor.shape,
                name=value.name,
                base_dir=folder,
            )
        ir.save(model, folder / f"{name}.onnx")
        for key, tensor in original.items():
            model.graph.initializers[key].const_value = tensor
        return f"{name}.onnx"

    def _place(self, content: bytes) -> tuple[int, int]:
        key = hashlib.sha256(content).hexdigest()
        if key not in self._places:
            start = -(-self._file.tell() // 4096) * 4096  # pages, so that it can be mapped
            self._file.seek(start)
            self._file.write(content)
            self._places[key] = start, len(content)
        return self._places[key]


def _check(
    loaded: TorchModel, folder: Path, dtype: str, texts: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Compare the exported graphs with the model on real texts, in float32 on a CPU.

    Raises:
        ExportParityError: they differ by more than the type explains.
    """
    encode = loaded.tokenizer.encode
    documents, summaries = (encode(list(column)) for column in zip(*texts, strict=True))
    positions = loaded.shape.max_position_embeddings or 61
    config = DecodingConfig(num_beams=12, num_beam_groups=12, max_length=min(60, positions - 1))
    engine, exported = CpuEngine(loaded), OnnxEngine(load_onnx(folder, device="cpu"))
    with engine.inference():
        expected = dict(engine.search(summaries, config))
        targets = [[h.token_ids for h in expected[i]] for i in range(len(texts))]
        theirs = engine.rescore(documents, targets)
    with exported.inference():
        mine = dict(exported.search(summaries, config))
        scored = exported.rescore(documents, targets)
    deltas = torch.tensor(
        [
            abs(a - b)
            for one, other in zip(theirs, scored, strict=True)
            for x, y in zip(one, other, strict=True)
            for a, b in zip(x, y, strict=True)
        ]
    )
    same = [
        a.token_ids == b.token_ids
        for i in range(len(texts))
        for a, b in zip(expected[i], mine[i], strict=False)
    ]
    result = {
        "texts": len(texts),
        "max_abs_delta": float(deltas.max()),
        "mean_abs_delta": float(deltas.mean()),
        "identical_sequences": sum(same) / max(1, len(same)),
    }
    if dtype == "float32" and result["identical_sequences"] < _MIN_IDENTICAL_SEQUENCES:
        raise ExportParityError(
            f"the graphs in {folder} find other sequences than the model: only "
            f"{100 * result['identical_sequences']:.0f} % are the same; report this"
        )
    most, mean = _TOLERANCES[dtype]
    # NaN is not within a tolerance either.
    if not (result["max_abs_delta"] <= most and result["mean_abs_delta"] <= mean):
        raise ExportParityError(
            f"the graphs in {folder} differ from the model by up to {result['max_abs_delta']:.2g} "
            f"nats a token ({result['mean_abs_delta']:.2g} on average), but {dtype} may by "
            f"{most:g} ({mean:g}); try --dtype float32, and report this"
        )
    return result
