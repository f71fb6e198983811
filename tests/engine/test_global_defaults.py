"""PyTorch's global default dtype and device, which belong to the host program, change no score."""

import math

import pytest
import tiny_models
import torch
from engines import in_fixed_shapes, in_half_precision
from model_folders import needs_int8
from torch_defaults import DEFAULTS, default

from quals_fast import DecodingConfig, QualsScorer

TEXT = "the queen opened the stone bridge over the river in the town"
SUMMARIES = ["queen opened bridge", "the town", "stone bridge over the river", "?"]
DOCUMENTS = [TEXT, "the river", TEXT, "the town"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write_checkpoint(tmp_path_factory.mktemp("models") / "m", trained_on=TEXT)


def load(
    folder,
    *,
    rule="fairseq09",
    device="cpu",
    dtype="float32",
    cache_bytes=0,
    num_beams=12,
    max_length=12,
    **settings,
):
    decoding = DecodingConfig(
        rule=rule,
        num_beams=num_beams,
        num_beam_groups=num_beams,
        min_length=2,
        max_length=max_length,
    )
    return QualsScorer.from_pretrained(
        folder, device=device, dtype=dtype, decoding=decoding, cache_bytes=cache_bytes, **settings
    )


def fused(folder, **settings):
    """The pass of a GPU, run on a CPU."""
    scorer = load(folder, **settings)
    return in_fixed_shapes(scorer, cache_bytes=1 << 20)


PATHS = {
    "float32": load,
    "hamming": lambda folder: load(folder, rule="hamming"),
    "mixed": lambda folder: load(folder, dtype="mixed"),
    "cached": lambda folder: load(folder, cache_bytes=1 << 20),
    "fused": fused,
    "fused hamming": lambda folder: fused(folder, rule="hamming"),
    "fused float16": lambda folder: in_half_precision(folder, "float16", load(folder).decoding),
}


def everything(scorer):
    found = scorer.generate(SUMMARIES)
    targets = [[list(hypothesis.token_ids) for hypothesis in row] for row in found]
    return scorer.score(DOCUMENTS, SUMMARIES).scores[:3], found, scorer.rescore(DOCUMENTS, targets)


@pytest.mark.parametrize(
    "make",
    [pytest.param(make, marks=needs_int8 if name == "mixed" else (), id=name)
     for name, make in PATHS.items()],
)  # fmt: skip
def test_score_generate_and_rescore_are_the_same(folder, make):
    expected = everything(make(folder))
    for value in DEFAULTS:
        scorer = make(folder)  # a new one: caches must be filled under the default too
        with default(value):
            assert everything(scorer) == expected, value


@pytest.mark.parametrize("value", DEFAULTS, ids=str)
def test_loading_gives_the_same_scorer(folder, value):
    expected = load(folder).score(DOCUMENTS, SUMMARIES).scores[:3]
    with default(value):
        assert load(folder).score(DOCUMENTS, SUMMARIES).scores[:3] == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("value", ["cuda", torch.float64, torch.float16], ids=str)
def test_a_gpu_gives_the_same(folder, value):
    expected = load(folder).score(DOCUMENTS, SUMMARIES).scores[:3]
    scorer = load(folder, device="cuda")
    with default(value):
        for _ in range(3):  # graphs are captured and replayed on the way
            found = scorer.score(DOCUMENTS, SUMMARIES).scores[:3]
            assert found == pytest.approx(expected, abs=1e-4)


def test_triton_kernels_give_the_same(folder):
    pytest.importorskip("triton", reason="Triton is not installed")
    scorer = load(folder, num_beams=2, max_length=6, backend="triton")
    expected = scorer.score(DOCUMENTS[:1], SUMMARIES[:1]).scores
    assert not math.isnan(expected[0])
    for value in (torch.float64, "meta"):
        with default(value):
            assert scorer.score(DOCUMENTS[:1], SUMMARIES[:1]).scores == expected


def test_the_bundled_model_gives_the_same(bundled_scorer):  # its vocabulary is searched in blocks
    pair = [TEXT], ["The queen opened the bridge."]
    expected = bundled_scorer.score(*pair).scores
    for value in DEFAULTS:
        with default(value):
            assert bundled_scorer.score(*pair).scores == expected
