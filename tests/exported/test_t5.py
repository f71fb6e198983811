"""An exported T5 scores as the eager backend does; how it cannot be exported."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny_t5
import torch
from cli_helpers import assert_usage_error
from click.testing import CliRunner
from exported_folders import DOCUMENTS, SUMMARIES, TEXT, compare
from model_folders import CPU, change_weights

from quals_fast import DecodingConfig, QualsScorer
from quals_fast.commands.app import app
from quals_fast.export.exporter import export
from quals_fast.exported.engine import OnnxEngine
from quals_fast.exported.loading import load_onnx
from quals_fast.models.loading import load_model

SIZE = tiny_t5.unigram_tokenizer().get_vocab_size()
SHORT = DecodingConfig(num_beams=12, num_beam_groups=12, min_length=2, max_length=12)
# Longer than T5 1.0's largest distance here, which is 20.
LONG = DecodingConfig(rule="hamming", num_beams=12, num_beam_groups=4, min_length=24, max_length=30)
KINDS = {
    "T5 1.0": {**tiny_t5.CONFIG, "num_decoder_layers": 1},
    "T5 1.1": {
        **tiny_t5.T5_1_1,
        "num_decoder_layers": 2,
        # As published: 2, 4 and 8 times the last distance with a bucket of its own begin another.
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    },
}


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """The folder of a T5 and that of its export."""
    folder = tmp_path_factory.mktemp("t5")
    model = tiny_t5.write_t5(folder / "tiny-t5", KINDS[request.param], trained_on=TEXT)

    def prefer_rows_that_no_token_has(weights):
        head = weights.get("lm_head.weight", weights["shared.weight"])
        head[SIZE:] = 3 * head[:SIZE].sum(0)

    change_weights(model, prefer_rows_that_no_token_has)
    result = CliRunner().invoke(app, ["export", str(model), str(folder / "exported")])
    assert result.exit_code == 0, result.output
    assert "100 % of the sequences are identical" in result.stdout
    return model, folder / "exported"


@pytest.mark.parametrize("decoding", [SHORT, LONG], ids=["fairseq09", "hamming"])
def test_scores_equal_the_eager_backend(both, decoding):
    _, found = compare(*both, decoding)
    if decoding is SHORT:
        assert sum(len(row.pairs) for row in found) >= 3
    exported = QualsScorer.from_pretrained(both[1], decoding=decoding)  # auto takes ONNX
    (hypotheses,) = exported.generate(SUMMARIES[:1])
    assert max(i for h in hypotheses for i in h.token_ids) < SIZE
    assert max(len(h.token_ids) for h in hypotheses) > decoding.min_length


def test_what_identifies_it_is_that_of_the_model(both):
    eager, mine = (QualsScorer.from_pretrained(folder, device="cpu") for folder in both)
    assert mine.engine.model.digest == eager.engine.model.digest
    assert mine.engine.model.conventions == eager.engine.model.conventions
    assert f"|model:tiny-t5@{mine.engine.model.digest}|" in mine.signature
    assert "|dtype:float32|backend:onnx-cpu|kernels:none|" in mine.signature


def test_positions_beyond_the_largest_distance(both):
    model, exported = both
    eager, mine = load_model(model, device=CPU), load_onnx(exported, device="cpu")
    ids = np.random.default_rng(0).integers(3, SIZE, (3, 301))
    mask = np.arange(301) < np.array([[301], [7], [140]])
    with torch.inference_mode():
        memory = eager.network.encode(torch.from_numpy(ids), torch.from_numpy(mask))
    found = mine.graphs["encoder"].run({"input_ids": ids, "attention_mask": mask})
    for layer, pair in enumerate(zip(memory.keys, memory.values, strict=True)):
        for part, expected in zip(("key", "value"), pair, strict=True):
            theirs, ours = expected.numpy(), found[f"cross_{part}_{layer}"]
            for b, length in enumerate(mask.sum(1)):
                np.testing.assert_allclose(
                    ours[b, :, :length], theirs[b, :, :length], rtol=1e-4, atol=1e-5
                )
    scorers = [
        QualsScorer.from_pretrained(folder, device="cpu", dtype="float32") for folder in both
    ]
    targets = [ids[0].tolist(), [6, 1], ids[1, :150].tolist()]
    expected, found = (scorer.rescore([TEXT, "the river"], [targets, []]) for scorer in scorers)
    for one, other in zip(expected[0], found[0], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_scores_where_keys_and_values_stay_on_a_device(both):
    """With CUDA they do; here the CPU's own memory stands for it."""
    expected, found = (load_onnx(both[1], device="cpu") for _ in range(2))
    for graph in found.graphs.values():
        graph.is_bound = True
    sequences = [
        QualsScorer(OnnxEngine(model), decoding=LONG).generate(SUMMARIES[:2])
        for model in (expected, found)
    ]
    for one, other in zip(*sequences, strict=True):
        assert [h.token_ids for h in one] == [h.token_ids for h in other]
        for a, b in zip(one, other, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_nothing_of_torch_is_imported(both, tmp_path):
    row = {"document": DOCUMENTS[1], "summary": TEXT}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None, safetensors=None)\n"
        "from quals_fast.commands.app import main; main()"
    )
    settings = "--num-beams 12 --num-beam-groups 12 --min-length 2 --max-length 12"
    arguments = f"score in.jsonl -o - {settings} --model {both[1]}".split()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, cwd=tmp_path, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    scored = json.loads(done.stdout)
    assert scored["status"] == "ok"
    assert "|backend:onnx-cpu|" in scored["signature"]


def test_int8_is_near(tmp_path):
    config = {**KINDS["T5 1.1"], "num_decoder_layers": 1}
    model = tiny_t5.write_t5(tmp_path / "m", config, trained_on=TEXT)
    parity = export(model, tmp_path / "out", dtype="int8")
    assert parity["identical_sequences"] == 1.0  # layers of the search are in float32
    assert parity["mean_abs_delta"] < 0.05
    eager, mine = (
        QualsScorer.from_pretrained(folder, device="cpu", decoding=SHORT, **settings)
        for folder, settings in ((model, {"dtype": "float32"}), (tmp_path / "out", {}))
    )
    expected = eager.score(DOCUMENTS, SUMMARIES).scores
    assert mine.score(DOCUMENTS, SUMMARIES).scores == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "float16"], "`dtype` must be float32 or int8 for a T5 like tiny-t5, whose"),
        (["--single-file"], "needs a WordPiece tokenizer, but tiny-t5 is a T5, which has another"),
    ],
    ids=["float16", "single file"],
)
def test_how_it_cannot_be_exported(options, message, tmp_path):
    model = tiny_t5.write_t5(tmp_path / "tiny-t5")
    result = CliRunner().invoke(app, ["export", str(model), str(tmp_path / "out"), *options])
    assert_usage_error(result, message)
    assert not (tmp_path / "out").exists()
