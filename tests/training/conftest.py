"""A scorer that generates pairs, loaded once."""

import pytest
import tiny_models
import tiny_trainers
from training_helpers import SETTINGS

from quals_fast import QualsScorer


@pytest.fixture(scope="session")
def qagen_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "qagen"
    return tiny_models.write_checkpoint(folder, trained_on=tiny_trainers.TEXT)


@pytest.fixture(scope="session")
def load(qagen_folder):
    def load(**settings):
        return QualsScorer.from_pretrained(qagen_folder, **SETTINGS | settings)

    return load


@pytest.fixture(scope="session")
def scorer(load):
    return load()


@pytest.fixture
def failing_scorer(load, monkeypatch):
    """Fails whenever it reads a certain summary, as lack of memory would make it."""
    scorer = load()
    original = scorer.engine.score

    def score(pairs, *rest):
        if any(pair.summary.text == "the king" for pair in pairs):
            raise RuntimeError("no memory for the king")
        return original(pairs, *rest)

    monkeypatch.setattr(scorer.engine, "score", score)
    return scorer
