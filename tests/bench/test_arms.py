"""The benchmark's reference arm is the reference, batched."""

import math

import pytest
import tiny_models
import torch

from bench.shared.arms import CTranslate2Arm, EngineArm
from bench.shared.published import PublishedPipeline
from quals_fast import DecodingConfig, ScoringConfig
from quals_fast.reference import quals
from quals_fast.reference.tolerances import QUALS

DOCUMENTS = [
    "the queen opened the bridge in 1962 . forty lives was lost .",
    "who won the game ?",
    "king anne closed the tower of the town by the river , queen anne opened the game in 1969",
    "the score was four of forty - the queen opened the bridge",
    "who lost",
    "the town by the river was closed",
    "river",
]
SUMMARIES = [
    "queen anne opened the tower by the river in 1969 , forty won",
    "the tower opened by the river . 1969 was the game of the queen , forty four lost",
    "river",
    "forty opened tower 1969 queen river",
    "king queen game bridge tower town river",
    "1962 1969 forty four lives",
    "won lost",
]  # more than one batch of five
CASES = {
    "published": ({}, {}),
    "stops early": ({"min_length": 1, "max_length": 6}, {}),
    "search log-probabilities of answers": (
        {},
        {"summary_logprob": "search", "tokens": "answer", "max_pairs": None},
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write_checkpoint(
        tmp_path_factory.mktemp("bench") / "model", trained_on=" ".join(SUMMARIES)
    )


@pytest.mark.parametrize("case", CASES)
def test_published_pipeline_is_the_reference(folder, case):
    decoding = DecodingConfig(
        **{"num_beams": 12, "num_beam_groups": 12, "min_length": 2, "max_length": 12}
        | CASES[case][0]
    )
    scoring = ScoringConfig(**CASES[case][1])
    expected = quals.ReferenceScorer(folder, decoding=decoding, scoring=scoring)
    arm = PublishedPipeline(folder, decoding=decoding, scoring=scoring)
    scores, kept = arm.score(DOCUMENTS, SUMMARIES)
    rows = list(expected.score(DOCUMENTS, SUMMARIES).flat())
    assert [[h.token_ids for h in one] for one in kept] == [
        [p.token_ids for p in row.pairs] for row in rows
    ]
    assert scores == pytest.approx([row.score for row in rows], abs=QUALS, nan_ok=True)
    assert sum(map(math.isfinite, scores)) >= 3
    for start in (0, 5):
        batch = SUMMARIES[start : start + 5]
        for summary, found in zip(batch, arm.generate(batch), strict=True):
            theirs = quals.generate(expected.model, summary, decoding)
            assert [h.token_ids for h in found] == [h.token_ids for h in theirs]
            assert [h.search_sum for h in found] == pytest.approx(
                [h.search_sum for h in theirs], abs=1e-5
            )


def test_published_pipeline_refuses_what_was_not_published(folder):
    with pytest.raises(ValueError, match="groups of one beam, but got 'hamming'"):
        PublishedPipeline(folder, decoding=DecodingConfig(rule="hamming"))
    with pytest.raises(ValueError, match="groups of 2"):
        PublishedPipeline(folder, decoding=DecodingConfig(num_beam_groups=30))


def test_published_pipeline_in_half_precision(folder):
    arm = PublishedPipeline(folder, dtype=torch.bfloat16)
    scores, _ = arm.score(DOCUMENTS[:1], SUMMARIES[:1])
    assert len(scores) == 1


def test_ctranslate2_gives_the_same_logprobs(folder, tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2", reason="CTranslate2 comes with the bench extra")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = DecodingConfig(num_beams=12, num_beam_groups=12, min_length=2, max_length=12)
    engine = EngineArm(folder, decoding=config)
    engine.score(DOCUMENTS, SUMMARIES)
    arm = CTranslate2Arm(folder, "float32", decoding=config)
    expected = engine.scorer.rescore(DOCUMENTS[:2], engine.kept[:2])
    for ours, theirs in zip(
        expected, arm.token_logprobs(DOCUMENTS[:2], engine.kept[:2]), strict=True
    ):
        for one, other in zip(ours, theirs, strict=True):
            assert other == pytest.approx(one, abs=0.1)  # its weights are int8
    assert [len(one) for one in arm.generate(SUMMARIES)] == [12] * len(SUMMARIES)
    arm.kept = engine.kept
    assert len(arm.score(DOCUMENTS, SUMMARIES)) == len(SUMMARIES)
