"""How the tests of model folders load a folder, damage it and look at what is said about it."""

import json

import pytest
import tiny_models
import torch
from messages import says
from safetensors.torch import load_file, save_file

from quals_fast.models.checkpoint import CheckpointError
from quals_fast.models.integers import has_fast_int8
from quals_fast.models.loading import load_model

CPU = torch.device("cpu")
VOCAB = tiny_models.wordpiece_tokenizer().get_vocab_size()
WEIGHTS = "model.safetensors"
needs_int8 = pytest.mark.skipif(not has_fast_int8(), reason="the processor has no fast int8")


def load(folder):
    return load_model(folder, device=CPU)


def change_json(path, **changes):
    """Set keys; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def split_in_two(folder, name, weights, save):
    """Replace a weights file by two shards and their index; `save` writes tensors to a path."""
    whole, tensors = folder / name, sorted(weights)
    weight_map = {}
    for i in range(2):
        shard = f"{whole.stem}-0000{i + 1}-of-00002{whole.suffix}"
        part = tensors[i::2]
        save({tensor: weights[tensor] for tensor in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = folder / f"{name}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    whole.unlink()
    return folder


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
