"""A scorer that takes milliseconds."""

import pytest
from exported_folders import DOCUMENTS, SUMMARIES

from quals_fast import DecodingConfig, QualsScorer

SMALL = {"num_beams": 6, "num_beam_groups": 6, "min_length": 2, "max_length": 12}


@pytest.fixture(scope="session")
def scorer(one_layer_model):
    return QualsScorer.from_pretrained(
        one_layer_model, device="cpu", dtype="float32", decoding=DecodingConfig(**SMALL)
    )


@pytest.fixture(scope="session")
def pairs():
    """Every document with every summary."""
    return [
        {"document": document, "summary": summary}
        for document in DOCUMENTS
        for summary in SUMMARIES
    ]


@pytest.fixture(scope="session")
def expected(scorer, pairs):
    """What the Python interface says of them, as JSON."""
    result = scorer.score(*([pair[name] for pair in pairs] for name in ("document", "summary")))
    return [row.to_dict(include_spans=True) | {"signature": result.signature} for row in result]
