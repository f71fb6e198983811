import json
from pathlib import Path

import pytest
import tiny_models
import torch

from quals_fast import DecodingConfig, QualsScorer

ROOT = Path(__file__).parent.parent
pytest.register_assert_rewrite("cli_helpers", "model_folders")  # so that they say what differs


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread():
    """More threads only wait for one another in a network this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return tiny_models.write_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def small_decoding():
    """Sizes at which the tiny model is fast: 6 beams of up to 12 tokens."""
    return DecodingConfig(num_beams=6, num_beam_groups=6, min_length=2, max_length=12)


@pytest.fixture(scope="session")
def tiny_scorer(tiny_folder, small_decoding):
    return QualsScorer.from_pretrained(tiny_folder, device="cpu", decoding=small_decoding)


@pytest.fixture(scope="session")
def bundled_scorer():
    return QualsScorer.from_pretrained("qagen-mini", device="cpu")


@pytest.fixture(scope="session")
def example_rows():
    lines = (ROOT / "examples" / "pairs.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]
