"""Exported folders: what is written, what is checked, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cli_helpers import assert_usage_error
from click.testing import CliRunner
from model_folders import change_json

from quals_fast.commands.app import app
from quals_fast.export import exporter
from quals_fast.export.exporter import ExportParityError, export
from quals_fast.export.graphs import OPSET
from quals_fast.export.integers import use_integers
from quals_fast.export.single_file import export_single_file
from quals_fast.exported import session
from quals_fast.exported.loading import load_onnx
from quals_fast.exported.manifest import MANIFEST, WEIGHTS
from quals_fast.models import loading
from quals_fast.models.checkpoint import CheckpointError


def test_the_check_of_an_export_is_recorded(exported):
    for dtype, (folder, parity) in exported.items():
        manifest = json.loads((folder / MANIFEST).read_text())
        assert manifest["parity"] == parity
        assert (manifest["dtype"], manifest["opset"]) == (dtype, OPSET)
        assert manifest["versions"].keys() == {"torch", "onnx", "onnxscript", "onnxruntime"}
        assert set(manifest["files"]) | {MANIFEST} == {path.name for path in folder.iterdir()}
    assert exported["float32"][1]["max_abs_delta"] < 1e-4
    assert exported["float32"][1]["identical_sequences"] == 1.0


def test_what_the_tokenizer_adds_to_the_config_is_exported_too(one_layer_model, tmp_path):
    model = shutil.copytree(one_layer_model, tmp_path / "model")
    change_json(model / "config.json", sep_token_id=None)
    (model / "tokenizer_config.json").write_text('{"model_max_length": 40}')
    (model / "special_tokens_map.json").write_text('{"sep_token": "[SEP0]"}')
    export(model, tmp_path / "exported")
    conventions = load_onnx(tmp_path / "exported").conventions
    assert (conventions.sep_token_id, conventions.max_source_tokens) == (1, 40)


@pytest.mark.parametrize("export", [export, export_single_file])
def test_a_revision_on_the_hub_is_exported(export, tmp_path, monkeypatch):
    asked = []

    def fetch(*name):
        asked.append(name)
        raise CheckpointError("no network")

    monkeypatch.setattr(loading, "fetch", fetch)
    with pytest.raises(CheckpointError, match="no network"):
        export("owner/name", tmp_path / "exported", revision="v1")
    assert asked == [("owner/name", "v1")]


def test_large_tensors_stand_once_outside_the_graphs(exported):
    """So that none of them comes near protobuf's 2 GB."""
    folder, _ = exported["int8"]
    weights, places = (folder / WEIGHTS).read_bytes(), {}
    for path in folder.glob("*.onnx"):
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                assert tensor.ByteSize() < 2048
                continue
            where = {entry.key: entry.value for entry in tensor.external_data}
            assert where["location"] == WEIGHTS
            start, length = int(where["offset"]), int(where["length"])
            places.setdefault(weights[start : start + length], set()).add(start)
    assert places
    assert all(len(starts) == 1 for starts in places.values())


def test_weights_beyond_two_gigabytes_are_found(exported, tmp_path):
    """The file begins with a hole, which takes no room on disk."""
    path = exported["float32"][0] / "encoder.onnx"
    model = ir.load(path)
    ir.external_data.load_to_model(model)
    weights = exporter._Weights(tmp_path / WEIGHTS)
    with weights:
        weights._file.seek(2**31 + 1)
        weights.save(model, tmp_path, "encoder")
    assert (tmp_path / WEIGHTS).stat().st_size > 2**31
    inputs = {"input_ids": np.arange(8).reshape(2, 4), "attention_mask": np.ones((2, 4), bool)}
    opened = (
        session.Graph(one, ("CPUExecutionProvider", {})) for one in (path, tmp_path / path.name)
    )
    expected, found = (graph.run(inputs) for graph in opened)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_graphs_hold_no_paths_of_the_machine_that_wrote_them(exported):
    for path in exported["float32"][0].glob("*.onnx"):
        assert b".py" not in path.read_bytes()


def test_layers_that_integers_leave_alone(uneven):
    _, folder = uneven
    model = ir.load(folder / "encoder.onnx")
    ir.external_data.load_to_model(model)
    # Two layers of six, and two matrices for each of the decoder's two.
    assert use_integers(model, skip=("self_attn.v_proj", "fc2")) == 2 * 6 - 2 * 2 + 4
    names = [node.op_type for node in model.graph]
    assert names.count("MatMulIntegerToFloat") == 12
    # The products with a layer's input share its integers, and all that read the sources do.
    assert names.count("Cast") == 2 * 3 + 1


def test_graphs_that_differ_are_not_left_loadable(one_layer_model, exported, tmp_path, monkeypatch):
    def copy_graphs(bart, target, dtype):
        folder, _ = exported[dtype]
        for name in (WEIGHTS, *(path.name for path in folder.glob("*.onnx"))):
            shutil.copy(folder / name, target)
        return json.loads((folder / MANIFEST).read_text())["graphs"]

    monkeypatch.setattr(exporter, "_write_graphs", copy_graphs)
    monkeypatch.setitem(exporter._TOLERANCES, "float32", (0.0, 0.0))
    with pytest.raises(ExportParityError, match=r"differ from the model by up to .* nats a token"):
        export(one_layer_model, tmp_path / "out")
    with pytest.raises(CheckpointError, match=f"has no {MANIFEST}"):
        load_onnx(tmp_path / "out", device="cpu")


def test_export_refuses(tiny_folder, tmp_path):
    (tmp_path / "file").write_text("")
    run = CliRunner().invoke
    message = "must be empty or not exist"
    assert_usage_error(run(app, ["export", str(tiny_folder), str(tmp_path)]), message)
    result = run(app, ["export", "no-such-model", str(tmp_path / "out")])
    assert_usage_error(result, "is neither bundled")
    result = run(app, ["export", str(tiny_folder), str(tmp_path / "out"), "--dtype", "int4"])
    assert_usage_error(result, "'int4' is not one of")
    with pytest.raises(ValueError, match="`dtype` must be float32 or float16 or int8, but got 'x'"):
        export(tiny_folder, tmp_path / "out", dtype="x")


def test_export_without_onnx(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"exporting needs onnx and onnxscript: pip inst"):
        export(tiny_folder, tmp_path / "out")


# The command


def test_the_command(tmp_path, monkeypatch):
    def write(source, target, *, revision, dtype):
        assert (source, target, revision, dtype) == ("owner/name", "out", "v1", "int8")
        Path(tmp_path / "called").touch()
        return {"max_abs_delta": 0.5, "mean_abs_delta": 0.01, "identical_sequences": 1.0}

    monkeypatch.setattr(exporter, "export", write)
    arguments = "export owner/name out --revision v1 --dtype int8".split()
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, (tmp_path / "called").exists()) == (0, True)
    assert "differ by at most 5.0e-01 (1.0e-02 on average)" in result.stdout
