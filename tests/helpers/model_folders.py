"""How the tests of model folders load a folder, damage it and look at what is said about it."""

import json

import pytest
import tiny_models
import torch
from messages import says
from safetensors.torch import load_file, save_file

from quals_fast.models.checkpoint import CheckpointError
from quals_fast.models.loading import load_model

CPU = torch.device("cpu")
VOCAB = tiny_models.wordpiece_tokenizer().get_vocab_size()
WEIGHTS = "model.safetensors"


def load(folder):
    return load_model(folder, device=CPU)


def change_json(path, **changes):
    """Set keys; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def change_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file({name: w.clone() for name, w in weights.items()}, folder / WEIGHTS)


def fails(folder, message, at_end=""):
    with pytest.raises(CheckpointError, match=says(message)) as raised:
        load(folder)
    assert str(raised.value).endswith(at_end)


def parameters(model):
    return {name: w.tolist() for name, w in model.network.state_dict().items()}
