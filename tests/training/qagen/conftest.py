"""A handful of questions, and runs of a few steps on a tiny BART."""

import json
from dataclasses import replace

import pytest
import tiny_models
from town import BRIDGE, RIVER, line

from quals_fast.training.qagen.pipeline import train
from quals_fast.training.qagen.settings import TrainingSettings


@pytest.fixture
def write(tmp_path):
    """Write rows as JSON lines, or one object as JSON; return the path."""

    def _write(name, content):
        path = tmp_path / name
        rows = content if isinstance(content, list) else [content]
        path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
        return path

    return _write


@pytest.fixture(scope="session")
def questions(tmp_path_factory):
    rows = [line(BRIDGE, "Queen Anne", "forty four", "1969"), line(RIVER, "1962", "King", "river")]
    path = tmp_path_factory.mktemp("data") / "town.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows * 2))
    return path


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A generator already, with every convention that a checkpoint can have."""
    config = {
        **tiny_models.CONFIG,
        "forced_bos_token_id": 3,
        "masked_token_ids": [2],
        "max_source_tokens": 60,
    }
    return tiny_models.write_checkpoint(tmp_path_factory.mktemp("models") / "base", config)


@pytest.fixture
def settings(base, questions, tmp_path):
    """A run of 12 examples in 5 steps, with dropout, a checkpoint every second."""
    return TrainingSettings(
        train=(questions,),
        init=str(base),
        output=tmp_path / "run",
        epochs=1,
        batch_tokens=110,
        warmup_steps=1,
        learning_rate=1e-2,
        dropout=0.1,
        every=2,
        keep=9,
        bf16="off",
        cpu=True,
        threads=1,
    )


@pytest.fixture
def run(settings):
    """Train with changed settings; return what was reported, and the run."""

    def _run(**changes):
        lines = []
        found = train(replace(settings, **changes), lines.append)
        return lines, found

    return _run
