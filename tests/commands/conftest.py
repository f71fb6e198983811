"""A model that asks for the queen, and the commands run on it."""

import pytest
import tiny_models
from cli_helpers import DOCUMENT, SMALL, STATUSES, SUMMARIES
from click.testing import CliRunner

from quals_fast import DecodingConfig, QualsScorer
from quals_fast.commands.app import app


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_models.write_asking(tmp_path_factory.mktemp("models") / "queens")


@pytest.fixture(scope="module")
def expected(model):
    """What the Python interface says of the good rows."""
    decoding = DecodingConfig(num_beams=6, num_beam_groups=6, min_length=2, max_length=12)
    scorer = QualsScorer.from_pretrained(model, device="cpu", decoding=decoding)
    result = scorer.score([DOCUMENT] * len(SUMMARIES), list(SUMMARIES.values()))
    assert [row.status for row in result] == STATUSES
    return result


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """Run a command on the tiny model in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def _run(command, *arguments, stdin=None, small=True):
        settings = ["--model", str(model), "--device", "cpu", *SMALL] if small else []
        return CliRunner().invoke(app, [command, *arguments, *settings], input=stdin)

    return _run
