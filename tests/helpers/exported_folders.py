"""Models and their exports as fixtures, made once: tracing takes most of the time."""

import json
import shutil

import pytest
import tiny_models
from filelock import FileLock  # torch brings it
from safetensors.torch import load_file, save_file

from quals_fast import QualsScorer
from quals_fast.export.exporter import export
from quals_fast.exported.manifest import DTYPES

TEXT = "queen anne opened the tower by the river in 1969 , forty won"
DOCUMENTS = [TEXT, "the king closed the game", TEXT + " . " + TEXT, "who was the queen ?"]
SUMMARIES = ["anne opened the tower", "the queen won in 1969", "forty won by the river", TEXT]


@pytest.fixture(scope="session")
def shared(request, tmp_path_factory):
    """Make a folder by its name and a function, unless another of xdist's processes has made it."""
    temporary = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        temporary = temporary.parent

    def share(name, make):
        folder, part = temporary / name, temporary / f"{name}.part"
        with FileLock(temporary / f"{name}.lock"):
            if not folder.is_dir():
                shutil.rmtree(part, ignore_errors=True)  # of a process that failed
                part.mkdir()
                make(part)
                part.rename(folder)
        return folder

    return share


@pytest.fixture(scope="session")
def one_layer_model(shared):
    """A model with one layer each, trained to generate pairs about `TEXT`."""
    config = {**tiny_models.CONFIG, "encoder_layers": 1, "decoder_layers": 1}

    def make(folder):
        tiny_models.write_checkpoint(folder / "tiny", config, trained_on=TEXT)

    return shared("one_layer_model", make) / "tiny"


@pytest.fixture(scope="session")
def exported(one_layer_model, shared):
    """Its exports by type: the folder, and what the check found."""

    def make(folder):
        for dtype in DTYPES:
            parity = export(one_layer_model, folder / dtype, dtype=dtype)
            (folder / f"{dtype}.json").write_text(json.dumps(parity), "utf-8")

    folder = shared("exported", make)
    return {one: (folder / one, json.loads((folder / f"{one}.json").read_text())) for one in DTYPES}


@pytest.fixture(scope="session")
def uneven(shared):
    """A model whose searches end at different steps, some of them late, and its export."""

    def make(folder):
        model = tiny_models.write_checkpoint(folder / "model")
        weights = load_file(model / "model.safetensors")
        weights["final_logits_bias"][0, tiny_models.CONFIG["eos_token_id"]] = 3.0
        save_file(weights, model / "model.safetensors")
        export(model, folder / "exported")

    folder = shared("uneven", make)
    return folder / "model", folder / "exported"


def compare(model, folder, decoding, summaries=SUMMARIES):
    """Return what the eager backend and an export score, which must be the same."""
    eager = QualsScorer.from_pretrained(model, device="cpu", dtype="float32", decoding=decoding)
    mine = QualsScorer.from_pretrained(folder, backend="onnx", device="cpu", decoding=decoding)
    expected, found = eager.score(DOCUMENTS, summaries), mine.score(DOCUMENTS, summaries)
    for one, other in zip(eager.generate(summaries), mine.generate(summaries), strict=True):
        assert [h.token_ids for h in one] == [h.token_ids for h in other]
        for a, b in zip(one, other, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
    for row, other in zip(expected, found, strict=True):
        assert (row.status, row.unknown_tokens) == (other.status, other.unknown_tokens)
        assert [p.token_ids for p in row.pairs] == [p.token_ids for p in other.pairs]
        assert [p.question for p in row.pairs] == [p.question for p in other.pairs]
        assert other.score == pytest.approx(row.score, abs=1e-4, nan_ok=True)
    return expected, found
