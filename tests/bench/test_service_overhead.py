"""The benchmark of what the service adds: its scorer looks results up, and the answers are true."""

import pytest

from bench.serve import in_a_loop, load
from bench.service_overhead import Remembering, listening
from bench.shared.common import Pair
from quals_fast import DecodingConfig, QualsScorer
from quals_fast.serving.limits import Limits

PAIRS = [Pair(str(i), f"queen anne won {i} games", "anne won", None) for i in range(3)]


def test_a_scorer_that_answers_at_once(tiny_folder, monkeypatch):
    decoding = DecodingConfig(num_beams=4, num_beam_groups=4, min_length=2, max_length=8)
    scorer = QualsScorer.from_pretrained(tiny_folder, device="cpu", decoding=decoding)
    expected = in_a_loop(scorer, PAIRS).scores
    assert None not in expected
    remembering = Remembering(scorer, PAIRS)
    monkeypatch.delattr(type(scorer), "score")
    with listening(remembering, Limits(max_wait_ms=0)) as url:
        assert load(url, PAIRS * 2, 1).scores == pytest.approx(expected * 2, abs=1e-6)
