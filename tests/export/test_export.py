"""Exported graphs score as the torch path does, without torch; other folders are refused."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny_models
from cli_helpers import assert_usage_error
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from quals_fast import DecodingConfig, QualsScorer
from quals_fast.commands.app import app
from quals_fast.errors import BackendUnavailableError
from quals_fast.export import exporter
from quals_fast.export.exporter import ExportParityError, export
from quals_fast.export.graphs import OPSET
from quals_fast.export.integers import use_integers
from quals_fast.exported import session, store
from quals_fast.exported.engine import OnnxEngine
from quals_fast.exported.loading import load_onnx
from quals_fast.exported.manifest import LARGEST_SUMS, MANIFEST, WEIGHTS
from quals_fast.exported.store import BoundStore, HostStore
from quals_fast.models.checkpoint import CheckpointError, sha256

TEXT = "queen anne opened the tower by the river in 1969 , forty won"
DOCUMENTS = [TEXT, "the king closed the game", TEXT + " . " + TEXT, "who was the queen ?"]
SUMMARIES = ["anne opened the tower", "the queen won in 1969", "forty won by the river", TEXT]
SMALL = {"num_beams": 12, "min_length": 2, "max_length": 12}
ONE = DecodingConfig(**SMALL, num_beam_groups=12)


@pytest.fixture(scope="module")
def scorer(exported):
    return QualsScorer.from_pretrained(
        exported["float32"][0], backend="onnx", device="cpu", decoding=ONE
    )


@pytest.fixture
def folder(exported, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(exported["float32"][0], tmp_path / "exported")


def compare(model, folder, decoding, summaries=SUMMARIES):
    eager = QualsScorer.from_pretrained(model, device="cpu", dtype="float32", decoding=decoding)
    mine = QualsScorer.from_pretrained(folder, backend="onnx", device="cpu", decoding=decoding)
    expected, found = eager.score(DOCUMENTS, summaries), mine.score(DOCUMENTS, summaries)
    for one, other in zip(eager.generate(summaries), mine.generate(summaries), strict=True):
        assert [h.token_ids for h in one] == [h.token_ids for h in other]
    for row, other in zip(expected, found, strict=True):
        assert (row.status, row.unknown_tokens) == (other.status, other.unknown_tokens)
        assert [p.token_ids for p in row.pairs] == [p.token_ids for p in other.pairs]
        assert [p.question for p in row.pairs] == [p.question for p in other.pairs]
        assert other.score == pytest.approx(row.score, abs=1e-4, nan_ok=True)
    return expected, found


@pytest.mark.parametrize("groups", [12, 4, 1])
@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_float32_equals_the_eager_backend(model, exported, rule, groups):
    decoding = DecodingConfig(**SMALL, num_beam_groups=groups, rule=rule)
    _, found = compare(model, exported["float32"][0], decoding)
    assert sum(len(row.pairs) for row in found) >= 3


KINDS = {
    "fairseq conventions": (tiny_models.FAIRSEQ_LIKE, tiny_models.byte_level_tokenizer),
    "forced first token, uneven stacks, scaled": (
        {
            **tiny_models.CONFIG,
            "forced_bos_token_id": 3,
            "decoder_layers": 1,
            "decoder_attention_heads": 4,
            "scale_embedding": True,
            "activation_function": "relu",
        },
        tiny_models.wordpiece_tokenizer,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_checkpoints(kind, tmp_path):
    config, tokenizer = KINDS[kind]
    # Answers with 陈 are among what it generates: unknown to WordPiece, three bytes to the other.
    model = tiny_models.write_checkpoint(
        tmp_path / "m", config, tokenizer(), trained_on=f"{TEXT} 陈"
    )
    export(model, tmp_path / "out")
    compare(model, tmp_path / "out", ONE)
    _, found = compare(model, tmp_path / "out", ONE, ["陈 won 1969", "the 陈", TEXT, "陈 伟 ,"])
    unknown = found[3].status == "unknown_text"
    assert unknown == (tokenizer is tiny_models.wordpiece_tokenizer)
    assert [row.unknown_tokens for row in found] == ([1, 1, 0, 2] if unknown else [0] * 4)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_shorter_types_are_near(model, exported, dtype):
    eager = QualsScorer.from_pretrained(model, device="cpu", dtype="float32", decoding=ONE)
    mine = QualsScorer.from_pretrained(exported[dtype][0], backend="onnx", decoding=ONE)
    expected = eager.score(DOCUMENTS, SUMMARIES).scores
    assert mine.score(DOCUMENTS, SUMMARIES).scores == pytest.approx(expected, abs=0.1)
    assert f"|dtype:{dtype}|backend:onnx-cpu|" in mine.signature


def test_the_check_of_an_export_is_recorded(exported):
    for dtype, (folder, parity) in exported.items():
        manifest = json.loads((folder / MANIFEST).read_text())
        assert manifest["parity"] == parity
        assert (manifest["dtype"], manifest["opset"]) == (dtype, OPSET)
        assert manifest["versions"].keys() == {"torch", "onnx", "onnxscript", "onnxruntime"}
        assert set(manifest["files"]) | {MANIFEST} == {path.name for path in folder.iterdir()}
    assert exported["float32"][1]["max_abs_delta"] < 1e-4
    assert exported["float32"][1]["identical_sequences"] == 1.0


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


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_scores_do_not_depend_on_batch_mates_or_order(exported, dtype):
    scorer = QualsScorer.from_pretrained(exported[dtype][0], decoding=ONE)  # auto takes ONNX
    together = scorer.score(DOCUMENTS, SUMMARIES).scores
    alone = [scorer.score([d], [s]).scores[0] for d, s in zip(DOCUMENTS, SUMMARIES, strict=True)]
    backwards = scorer.score(DOCUMENTS[::-1], SUMMARIES[::-1]).scores[::-1]
    assert together == pytest.approx(alone, abs=1e-5)
    assert together == pytest.approx(backwards, abs=1e-5)


def test_threads_may_share_a_scorer(scorer):
    expected = scorer.score(DOCUMENTS, SUMMARIES).scores
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: scorer.score(DOCUMENTS, SUMMARIES).scores, range(8)))
    assert all(scores == pytest.approx(expected, abs=1e-5) for scores in found)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A model whose searches end at different steps, some of them late, and its export."""
    folder = tmp_path_factory.mktemp("uneven")
    model = tiny_models.write_checkpoint(folder / "model")
    weights = load_file(model / "model.safetensors")
    weights["final_logits_bias"][0, tiny_models.CONFIG["eos_token_id"]] = 3.0
    save_file(weights, model / "model.safetensors")
    export(model, folder / "exported")
    return model, folder / "exported"


@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
@pytest.mark.parametrize("is_bound", [False, True], ids=["arrays", "bound"])
def test_sentences_that_end_at_different_steps(uneven, rule, is_bound, monkeypatch):
    """With CUDA keys and values stay on the device; here the CPU's own memory stands for it."""
    kind = BoundStore if is_bound else HostStore
    shrunk, keep = [], kind.keep
    monkeypatch.setattr(kind, "keep", lambda self, kept: shrunk.append(kept) or keep(self, kept))
    monkeypatch.setattr(store, "_FIRST_CAPACITY", 8)  # it has to grow
    model, folder = uneven
    config = DecodingConfig(
        rule=rule, num_beams=12, num_beam_groups=12, min_length=2, max_length=20
    )
    found = load_onnx(folder, device="cpu")
    for graph in found.graphs.values():
        graph.is_bound = is_bound
    eager = QualsScorer.from_pretrained(model, device="cpu", dtype="float32", decoding=config)
    expected = eager.generate(SUMMARIES)
    sequences = QualsScorer(OnnxEngine(found), decoding=config).generate(SUMMARIES)
    for one, other in zip(expected, sequences, strict=True):
        assert [h.token_ids for h in one] == [h.token_ids for h in other]
        for a, b in zip(one, other, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
    assert shrunk


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_scores_are_the_same_where_keys_and_values_are_bound(exported, dtype):
    arrays, bound = (load_onnx(exported[dtype][0], device="cpu") for _ in range(2))
    for graph in bound.graphs.values():
        graph.is_bound = True
    ids, mask = np.full((1, 4), 5), np.ones((1, 4), bool)
    memory = bound.graphs["encoder"].run({"input_ids": ids, "attention_mask": mask})
    assert {type(part) for part in memory.values()} == {session.runtime().OrtValue}
    expected = QualsScorer(OnnxEngine(arrays), decoding=ONE).score(DOCUMENTS, SUMMARIES)
    found = QualsScorer(OnnxEngine(bound), decoding=ONE).score(DOCUMENTS, SUMMARIES)
    assert found.to_dict() == expected.to_dict()


def test_threads(exported, model, monkeypatch):
    scorer = QualsScorer.from_pretrained(exported["int8"][0], threads=1, decoding=ONE)
    for graph in scorer.engine.model.graphs.values():
        assert graph._session.get_session_options().intra_op_num_threads == 1
    of_torch = []
    monkeypatch.setattr("torch.set_num_threads", of_torch.append)
    QualsScorer.from_pretrained(model, threads=3, decoding=ONE)
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


def test_teacher_forcing_agrees_with_the_search(scorer):
    for summary, hypotheses in zip(SUMMARIES, scorer.generate(SUMMARIES), strict=True):
        (again,) = scorer.rescore([summary], [[h.token_ids for h in hypotheses]])
        for hypothesis, logprobs in zip(hypotheses, again, strict=True):
            assert hypothesis.logprobs == pytest.approx(logprobs, abs=1e-5)


def test_nothing_of_torch_is_imported(exported, tmp_path):
    folder, _ = exported["int8"]
    row = {"document": DOCUMENTS[0], "summary": SUMMARIES[1]}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    code = (
        "import sys, atexit; from quals_fast.commands.app import main\n"
        "heavy = {'torch', 'transformers', 'triton', 'safetensors', 'onnx', 'scipy', 'jinja2'}\n"
        "atexit.register(lambda: print('imported', sorted(heavy & set(sys.modules))))\n"
        "main()"
    )
    arguments = f"score in.jsonl -o - --backend onnx --max-length 12 --model {folder}".split()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    line, imported = done.stdout.splitlines()
    assert json.loads(line)["status"] in ("ok", "no_pairs")
    assert imported == "imported []"


def test_without_torch_other_backends_say_what_to_do(monkeypatch):
    monkeypatch.setattr("quals_fast.backends.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="this backend needs PyTorch"):
        QualsScorer.from_pretrained("qagen-mini")


def test_empty_batches_cost_nothing(scorer, monkeypatch):
    monkeypatch.setattr(session.Graph, "run", None)
    assert scorer.score([], []).scores == []
    assert scorer.generate([]) == []
    assert scorer.rescore(DOCUMENTS[:2], [[], []]) == [[], []]


# Folders that do not fit


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


def test_a_folder_that_was_not_exported(model, tmp_path):
    refused(model, f"has no {MANIFEST}, so it is no exported model; make one with quals-fast expo")
    refused(tmp_path / "none", "is not a folder; backend 'onnx' runs what quals-fast export")


def test_a_folder_of_another_version(folder):
    rewrite_manifest(folder, format=99, quals_fast="7.0")
    refused(folder, "exported in format 99 by quals_fast '7.0', but this version reads format 3;")


def test_a_manifest_that_leads_elsewhere(folder):
    rewrite_manifest(folder, files={"../step.onnx": "0"})
    refused(folder, "must name its files; export the model again")
    (folder / MANIFEST).write_text("{")
    refused(folder, "is not valid JSON")


def test_a_damaged_manifest(folder):
    for dtype in ("int4", "int8"):  # the latter has a graph more
        rewrite_manifest(folder, dtype=dtype)
        refused(folder, "the manifest is damaged; export the model again")


def test_a_wrong_checksum(folder):
    with (folder / "config.json").open("a") as file:
        file.write(" ")
    refused(folder, "config.json has changed or is cut off: expected SHA-256 ")


@pytest.mark.parametrize("name", ["step.onnx", WEIGHTS])
def test_a_truncated_file(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    refused(folder, f"{name} has changed or is cut off")
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
    with pytest.raises(BackendUnavailableError, match=r"but .* was exported as 'float32'"):
        load_onnx(folder, dtype="int8")


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
        "asked for CUDAExecutionProvider, but it did not load and CPUExecutionProvider would",
        device="cuda",
    )


def test_ids_out_of_range(scorer):
    with pytest.raises(ValueError, match="must hold 1 to 64 ids from 0 to "):
        scorer.rescore([TEXT], [[[9999, 4]]])
    encoder = scorer.engine.model.graphs["encoder"]
    with pytest.raises(RuntimeError, match=r"ONNX Runtime failed: .*out of"):
        encoder.run({"input_ids": np.array([[9999]]), "attention_mask": np.array([[True]])})


def test_onnxruntime_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    session.runtime.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'quals-fast\[onnx\]'"):
        session.runtime()
    monkeypatch.undo()


# The command


def test_graphs_that_differ_are_not_left_loadable(model, exported, tmp_path, monkeypatch):
    def copy_graphs(bart, target, dtype):
        folder, _ = exported[dtype]
        for name in (WEIGHTS, *(path.name for path in folder.glob("*.onnx"))):
            shutil.copy(folder / name, target)
        return json.loads((folder / MANIFEST).read_text())["graphs"]

    monkeypatch.setattr(exporter, "_write_graphs", copy_graphs)
    monkeypatch.setitem(exporter._TOLERANCES, "float32", (0.0, 0.0))
    with pytest.raises(ExportParityError, match=r"differ from the model by up to .* nats a token"):
        export(model, tmp_path / "out")
    refused(tmp_path / "out", f"has no {MANIFEST}")


def test_export_refuses(model, tmp_path):
    (tmp_path / "file").write_text("")
    run = CliRunner().invoke
    message = "must be empty or not exist"
    assert_usage_error(run(app, ["export", str(model), str(tmp_path)]), message)
    result = run(app, ["export", "no-such-model", str(tmp_path / "out")])
    assert_usage_error(result, "is neither bundled")
    result = run(app, ["export", str(model), str(tmp_path / "out"), "--dtype", "int4"])
    assert_usage_error(result, "'int4' is not one of")
    with pytest.raises(ValueError, match="`dtype` must be float32 or float16 or int8, but got 'x'"):
        export(model, tmp_path / "out", dtype="x")


def test_export_without_onnx(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"exporting needs onnx and onnxscript: pip inst"):
        export(model, tmp_path / "out")


def test_the_command(model, tmp_path, monkeypatch):
    def write(source, target, *, dtype):
        assert (source, target, dtype) == (str(model), "out", "int8")
        Path(tmp_path / "called").touch()
        return {"max_abs_delta": 0.5, "mean_abs_delta": 0.01, "identical_sequences": 1.0}

    monkeypatch.setattr(exporter, "export", write)
    result = CliRunner().invoke(app, ["export", str(model), "out", "--dtype", "int8"])
    assert (result.exit_code, (tmp_path / "called").exists()) == (0, True)
    assert result.stdout.startswith("wrote out (int8); log-probabilities differ by 5.0e-01 at most")
