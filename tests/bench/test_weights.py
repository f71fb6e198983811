"""What a result says of the weights behind it."""

import pytest

from bench.shared import weights
from bench.shared.weights import (
    GROWN,
    MODEL,
    RANDOM,
    bundled,
    describe,
    listed,
    origin,
    qags_weights,
    weights_in,
    weights_of,
)
from bench.studies.claim.arms import weights_of_arms
from quals_fast import QualsScorer
from tests.helpers import tiny_models


@pytest.fixture
def tiny(tmp_path):
    return tiny_models.write_checkpoint(tmp_path / "mine")


def test_a_model_has_the_digest_of_its_signature(tiny):
    scorer = QualsScorer.from_pretrained(tiny, device="cpu")
    assert weights_of(tiny) == weights_in([scorer.signature])
    assert list(weights_of(MODEL, tiny)) == [MODEL, "mine"]
    assert f"{MODEL}@{weights_of(MODEL)[MODEL]['digest']}" == bundled(MODEL)


def test_a_grown_model_says_what_it_was_made_from(tiny, monkeypatch):
    monkeypatch.setattr(weights, "folder_of", lambda name: tiny)
    described = describe("bart-base")
    assert described == describe(tiny) | {"recipe": GROWN, "from": bundled(MODEL)}
    assert origin("bart-base", described) == bundled(MODEL)


def test_the_origin_of_weights():
    assert origin("a", {"digest": "0123"}) == "a@0123"
    assert origin("a", {"recipe": RANDOM}) is None


def test_signatures_of_both_metrics_name_their_models():
    qags = "qags|answers:10|qg:question_generation@06cc|qa:question_answering@80c1|dtype:float32"
    hub = "quals|rule:hamming|model:owner/name@a1b2@4567|dtype:mixed"
    found = weights_in(["quals|rule:hamming|model:mine@0123|dtype:mixed", qags, hub])
    assert {name: one["digest"] for name, one in found.items()} == {
        "mine": "0123",
        "question_generation": "06cc",
        "question_answering": "80c1",
        "owner/name@a1b2": "4567",
    }


def test_the_claim_has_random_weights_where_qags_was_not_trained(tiny, monkeypatch):
    monkeypatch.setattr(weights, "folder_of", lambda name: tiny)
    found = weights_of_arms([MODEL, "bart-base"])
    assert found["QAGS bart-base"] == {"recipe": RANDOM}
    assert f"QAGS {MODEL}" not in found
    assert found.items() >= qags_weights().items()


def test_weights_in_a_line():
    made = {
        "mine": {"digest": "0123"},
        "bart-base": {"digest": "4567", "recipe": GROWN, "from": "mine@0123"},
        "QAGS bart-base": {"recipe": RANDOM},
    }
    assert listed(made) == (
        f"`mine@0123`, `bart-base` {GROWN} from `mine@0123`, `QAGS bart-base` {RANDOM}"
    )
