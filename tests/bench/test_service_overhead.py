"""The benchmark of what the service adds: its scorer looks results up, and the answers are true."""

import pytest
from exported_folders import DOCUMENTS, SUMMARIES

from bench.serve import in_a_loop
from bench.service_overhead import Remembering, listening
from bench.shared.common import Pair
from bench.shared.service import load
from quals_fast import DecodingConfig, QualsScorer
from quals_fast.serving.limits import Limits

PAIRS = [Pair("", *texts, None) for texts in zip(DOCUMENTS[:3], SUMMARIES[:3], strict=True)]


def test_a_scorer_that_answers_at_once(one_layer_model, monkeypatch):
    decoding = DecodingConfig(num_beams=6, num_beam_groups=6, min_length=2, max_length=12)
    scorer = QualsScorer.from_pretrained(one_layer_model, device="cpu", decoding=decoding)
    expected = in_a_loop(scorer, PAIRS).scores
    assert any(score is not None for score in expected)
    remembering = Remembering(scorer, PAIRS)
    monkeypatch.delattr(type(scorer), "score")
    with listening(remembering, Limits(max_wait_ms=0)) as url:
        assert load(url, PAIRS * 2, 1).scores == pytest.approx(expected * 2, abs=1e-9)
