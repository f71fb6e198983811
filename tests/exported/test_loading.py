"""How exported folders are loaded, and what is said about those that cannot be."""

import json
import shutil
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from messages import says

from quals_fast import QualsScorer
from quals_fast.errors import BackendUnavailableError
from quals_fast.exported import session
from quals_fast.exported.loading import load_onnx
from quals_fast.exported.manifest import LARGEST_SUMS, MANIFEST, WEIGHTS
from quals_fast.models.checkpoint import CheckpointError, sha256


@pytest.fixture
def folder(exported, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(exported["float32"][0], tmp_path / "exported")


def refused(folder, message, **settings):
    with pytest.raises((CheckpointError, BackendUnavailableError, ValueError), match=message):
        load_onnx(folder, **{"device": "cpu", **settings})


def rewrite_manifest(folder, **changes):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


def accept(folder, name):
    """Write the file's present checksum into the manifest."""
    files = json.loads((folder / MANIFEST).read_text())["files"]
    rewrite_manifest(folder, files=files | {name: sha256(folder / name)})


def test_threads(exported, tiny_folder, monkeypatch):
    scorer = QualsScorer.from_pretrained(exported["int8"][0], threads=1)
    for graph in scorer.engine.model.graphs.values():
        assert graph._session.get_session_options().intra_op_num_threads == 1
    of_torch = []
    monkeypatch.setattr("torch.set_num_threads", of_torch.append)
    QualsScorer.from_pretrained(tiny_folder, threads=3)
    assert of_torch == [3]


@pytest.mark.parametrize("is_exact", [True, False])
def test_integers_are_summed_the_slow_way_where_they_would_overflow(exported, is_exact, tmp_path):
    """On a processor without VNNI; another length of the sums stands for it here."""
    folder = shutil.copytree(exported["int8"][0], tmp_path / "exported")
    name = f"{LARGEST_SUMS}.onnx"
    graph = ir.load(folder / name)
    if not is_exact:
        graph.graph.initializers["expected"].const_value = ir.tensor(np.array(1, np.float32))
        ir.save(graph, folder / name)
        accept(folder, name)
    for opened in load_onnx(folder, device="cpu").graphs.values():
        options = opened._session.get_session_options()
        found = options.get_session_config_entry("session.x64quantprecision")
        assert found == ("0" if is_exact else "1")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cache_bytes", 1, "must be 0 with the onnx backend … got 1 … eager and triton"),
        ("cache_bytes", -1, "must be at least 0, but got -1"),
        ("graph_bytes", -1, "must be at least 0, but got -1"),
        ("max_batch_tokens", 0, "must be at least 1, but got 0"),
        ("threads", 0, "must be at least 1, but got 0"),
    ],
)
def test_arguments_that_it_does_not_take(exported, name, value, message):
    with pytest.raises(ValueError, match=says(f"`{name}` {message}")):
        QualsScorer.from_pretrained(exported["float32"][0], backend="onnx", **{name: value})


# Folders that do not fit


@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_backends_that_do_not_run_exports(exported, backend):
    message = (
        f"holds exported ONNX graphs, which backend '{backend}' cannot run; use backend='onnx'"
    )
    with pytest.raises(BackendUnavailableError, match=message):
        QualsScorer.from_pretrained(exported["float32"][0], backend=backend)


def test_a_folder_that_was_not_exported(tiny_folder, tmp_path):
    refused(
        tiny_folder, f"has no {MANIFEST}, so it is not an exported model; make one with quals-fast "
    )
    refused(
        tmp_path / "none", "is not a folder; backend 'onnx' runs what quals-fast export wrote: a"
    )


@pytest.mark.parametrize("number", [1, 2, 99])
def test_a_folder_of_another_version(folder, number):
    rewrite_manifest(folder, format=number, quals_fast="7.0")
    refused(
        folder,
        f"exported in format {number} by quals_fast '7.0', but this version reads format 4; export",
    )


@pytest.mark.parametrize("key", ["model", "digest", "dtype", "graphs", "spare_candidates"])
def test_a_manifest_that_lacks_something(folder, key):
    rewrite_manifest(folder, **{key: None})
    refused(folder, f"`{key}` must be of type .*, but got None; export the model again")


def test_a_manifest_that_leads_elsewhere(folder):
    rewrite_manifest(folder, files={"../step.onnx": "0"})
    refused(folder, "must list its files; export the model again")
    (folder / MANIFEST).write_text("{")
    refused(folder, "is not valid JSON")


def test_a_graph_without_a_checksum(folder):
    graphs = json.loads((folder / MANIFEST).read_text())["graphs"]
    rewrite_manifest(folder, graphs=graphs | {"step": "../step.onnx"})
    refused(folder, "a checksum of every file, but has none of ../step.onnx; export the model")


def test_a_damaged_manifest(folder):
    for dtype in ("int4", "int8"):  # the latter has a graph more
        rewrite_manifest(folder, dtype=dtype)
        refused(folder, "the manifest is damaged; export the model again")


def test_a_wrong_checksum(folder):
    with (folder / "config.json").open("a") as file:
        file.write(" ")
    refused(folder, "config.json is changed or truncated: expected SHA-256 ")


@pytest.mark.parametrize("name", ["step.onnx", WEIGHTS])
def test_a_truncated_file(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    refused(folder, f"{name} is changed or truncated")
    accept(folder, name)  # even then
    refused(folder, "ONNX Runtime .* cannot load .*; export the model again")


def test_missing_external_data(folder):
    (folder / WEIGHTS).unlink()
    refused(folder, "weights.bin is missing, the external data of its graphs; export the model")


def test_an_unsupported_opset(folder):
    graph = onnx.load(folder / "step.onnx", load_external_data=False)
    graph.opset_import[0].version = 999
    onnx.save(graph, folder / "step.onnx")
    accept(folder, "step.onnx")
    refused(folder, "cannot load .*step.onnx: .* ONNX Runtime only .* Opset 999 is under dev")


def test_another_type_than_was_exported(folder):
    with pytest.raises(
        BackendUnavailableError, match=r"but .* was exported as 'float32'; use dtype='auto'"
    ):
        load_onnx(folder, dtype="int8")


# Providers


def test_a_provider_that_is_missing(folder):
    with pytest.raises(BackendUnavailableError, match="needs ONNX Runtime's CUDAExecutionProvider"):
        load_onnx(folder, device="cuda")
    message = "`device` must be 'auto', 'cpu', 'cuda' or 'cuda:N', but got 'tpu'"
    refused(folder, message, device="tpu")


def test_a_provider_that_fails_to_load(folder, monkeypatch):
    """ONNX Runtime then goes on with its CPU provider, and only warns."""
    ort = session.runtime()
    original = ort.InferenceSession
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(
        ort,
        "InferenceSession",
        lambda path, options, providers: original(
            path, options, providers=["CPUExecutionProvider"]
        ),
    )
    refused(
        folder,
        "could not load CUDAExecutionProvider, and CPUExecutionProvider would have run",
        device="cuda",
    )


# Without libraries


def test_onnxruntime_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    session.runtime.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r'pip install "\.\[onnx\]"'):
        session.runtime()
    monkeypatch.undo()


def test_without_torch_other_backends_say_what_to_do(monkeypatch):
    monkeypatch.setattr("quals_fast.backends.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="this backend needs PyTorch"):
        QualsScorer.from_pretrained("qagen-mini")
