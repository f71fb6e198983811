"""The mean of models, of which one may have less vocabulary and more positions."""

import json

import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from bench.recipes.average import average
from quals_fast.models.loading import load_model

SHARED, POSITIONS = "model.shared.weight", "model.encoder.embed_positions.weight"


def write(folder, seed, positions=64, leave_out=()):
    """A checkpoint whose tokens stand in another order where some are left out."""
    content = json.loads(tiny_models.wordpiece_tokenizer().to_str())
    kept = [token for token in content["model"]["vocab"] if token not in leave_out]
    content["model"]["vocab"] = {token: row for row, token in enumerate(kept)}
    tokenizer = Tokenizer.from_str(json.dumps(content))
    config = tiny_models.CONFIG | {"max_position_embeddings": positions}
    tiny_models.write_checkpoint(folder, config, tokenizer, seed)
    (folder / "generation_config.json").write_text("{}")
    return folder, load_file(folder / "model.safetensors"), kept


def test_each_weight_is_the_mean(tmp_path):
    (a, one, _), (b, other, _) = (write(tmp_path / str(seed), seed) for seed in (0, 1))
    average([a, b], tmp_path / "mean")
    found = load_file(tmp_path / "mean" / "model.safetensors")
    assert found.keys() == one.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, (one[name] + other[name]) / 2)
    load_model(tmp_path / "mean", device=torch.device("cpu"))


@pytest.mark.parametrize("order", [(0, 0, 1), (0, 1, 1)], ids=str)
def test_rows_go_by_token_and_positions_by_who_has_them(tmp_path, order):
    models = [
        write(tmp_path / str(place), place, *((90, ("queen", "river")) if small else ()))
        for place, small in enumerate(order)
    ]
    average([folder for folder, _, _ in models], tmp_path / "mean")
    found = load_file(tmp_path / "mean" / "model.safetensors")
    last = models[-1][2]
    for token in ("anne", "what", "[SEP]", "-"):
        rows = [weights[SHARED][kept.index(token)] for _, weights, kept in models]
        torch.testing.assert_close(found[SHARED][last.index(token)], sum(rows) / 3)
    long = [weights[POSITIONS] for _, weights, _ in models if len(weights[POSITIONS]) == 92]
    torch.testing.assert_close(found[POSITIONS][66:], sum(long)[66:] / len(long))
    every = [weights[POSITIONS][:66] for _, weights, _ in models]
    torch.testing.assert_close(found[POSITIONS][:66], sum(every) / 3)
    assert found["final_logits_bias"].shape == (1, len(last))
    load_model(tmp_path / "mean", device=torch.device("cpu"))


def test_what_cannot_be_averaged_is_named(tmp_path):
    small, _, _ = write(tmp_path / "small", 0, leave_out=("queen",))
    whole, _, _ = write(tmp_path / "whole", 0)
    with pytest.raises(
        ValueError, match=r"small must have all tokens of .*whole, but lacks 'queen'"
    ):
        average([small, whole], tmp_path / "mean")
    config = json.loads((small / "config.json").read_text()) | {"encoder_layers": 1}
    (small / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"`encoder_layers` of .*small must be 2, as in .*, but"):
        average([small, whole], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
