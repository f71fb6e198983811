import json
import os
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # then kernels are interpreted; read when they are imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

# For bench; at the end, so that quals_fast is the installed one.
sys.path.append(str(Path(__file__).parent.parent))

import tiny_models

from quals_fast import QualsScorer

ROOT = Path(__file__).parent.parent
torch.set_num_threads(1)  # in networks this small, more threads only wait for one another
pytest_plugins = ["exported_folders"]
# So that they say what differs.
pytest.register_assert_rewrite("cli_helpers", "model_folders", "op_cases")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep neighbours together, so that mostly one process makes a module's models."""
    if config.getvalue("dist") != "load":  # the default of `-n`
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return tiny_models.write_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def bundled_scorer():
    return QualsScorer.from_pretrained("qagen-mini", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def example_rows():
    lines = (ROOT / "examples" / "pairs.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]
