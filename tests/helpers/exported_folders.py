"""Models and their exports as fixtures, made once: tracing takes most of the time."""

import pytest
import tiny_models
from safetensors.torch import load_file, save_file

from quals_fast import QualsScorer
from quals_fast.export.exporter import export

TEXT = "queen anne opened the tower by the river in 1969 , forty won"
DOCUMENTS = [TEXT, "the king closed the game", TEXT + " . " + TEXT, "who was the queen ?"]
SUMMARIES = ["anne opened the tower", "the queen won in 1969", "forty won by the river", TEXT]


@pytest.fixture(scope="session")
def one_layer_model(tmp_path_factory):
    """A model with one layer each, trained to generate pairs about `TEXT`."""
    config = {**tiny_models.CONFIG, "encoder_layers": 1, "decoder_layers": 1}
    folder = tmp_path_factory.mktemp("m") / "tiny"
    return tiny_models.write_checkpoint(folder, config, trained_on=TEXT)


@pytest.fixture(scope="session")
def exported(one_layer_model, tmp_path_factory):
    """Its exports by type: the folder, and what the check found."""
    exports = {}
    for dtype in ("float32", "float16", "int8"):
        folder = tmp_path_factory.mktemp("exported") / dtype
        exports[dtype] = folder, export(one_layer_model, folder, dtype=dtype)
    return exports


@pytest.fixture(scope="session")
def uneven(tmp_path_factory):
    """A model whose searches end at different steps, some of them late, and its export."""
    folder = tmp_path_factory.mktemp("uneven")
    model = tiny_models.write_checkpoint(folder / "model")
    weights = load_file(model / "model.safetensors")
    weights["final_logits_bias"][0, tiny_models.CONFIG["eos_token_id"]] = 3.0
    save_file(weights, model / "model.safetensors")
    export(model, folder / "exported")
    return model, folder / "exported"


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
