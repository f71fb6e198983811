"""A model that asks for the queen, and the commands run on it."""

import pytest
import tiny_models
from cli_helpers import DOCUMENT, SMALL, STATUSES, SUMMARIES
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from quals_fast import DecodingConfig, QualsScorer
from quals_fast.commands.app import app


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint that asks for the queen: each position of its targets has its word."""
    folder = tiny_models.write_checkpoint(tmp_path_factory.mktemp("models") / "queens", seed=2)
    words = [*tiny_models.SPECIAL, *tiny_models.WORDS]
    weights = load_file(folder / "model.safetensors")
    positions = weights["model.decoder.embed_positions.weight"]
    for place, word in enumerate(["who", "[SEP0]", "queen", "[SEP]"], start=2):
        positions[place] += 5 * weights["model.shared.weight"][words.index(word)]
    for name, weight in weights.items():
        if name.startswith("model.decoder.layers") and name.endswith(
            ("out_proj.weight", "fc2.weight")
        ):
            weight *= 0.4
    save_file(weights, folder / "model.safetensors")
    return folder


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
