"""Weights stored as int8: what is quantised, how closely it comes back, and what does not fit."""

import re

import pytest
import tiny_models
import torch
from model_folders import WEIGHTS, load
from safetensors.torch import load_file, save_file

from quals_fast.models.storage import dequantize, quantize


def test_int8_round_trip_stays_within_half_a_step():
    weight = torch.randn(37, 384) * torch.logspace(-3, 2, 37)[:, None]
    weight[3] = 0.0
    weight[4, 7] = 1e4
    stored = quantize({"a.weight": weight})
    assert stored["a.weight"].dtype == torch.int8
    assert stored["a.weight.scale"].shape == (37, 3)
    assert stored["a.weight.scale"].dtype == torch.float16
    back = dequantize(stored)
    assert list(back) == ["a.weight"]
    step = weight.unflatten(1, (3, 128)).abs().amax(2).clamp_min(1e-4) / 127
    error = (back["a.weight"] - weight).unflatten(1, (3, 128)).abs()
    # Half a step, and the 11 bits of a float16 scale times up to 127 steps.
    assert (error <= step[:, :, None] * (0.5 + 127 * 2**-11) + 1e-7).all()


def test_dequantised_weights_quantise_to_themselves():
    stored = quantize({"a.weight": torch.randn(8, 256)})
    again = quantize(dequantize(stored))
    assert (again["a.weight"].int() - stored["a.weight"].int()).abs().max() <= 1
    assert torch.equal(dequantize(again)["a.weight"], dequantize(stored)["a.weight"])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("a.bias", (256,)),
        ("a.weight", (4, 100)),
        ("model.encoder.embed_positions.weight", (4, 256)),
    ],
    ids=["vector", "odd-columns", "positions"],
)
def test_what_is_not_quantised(name, shape):
    weight = torch.randn(shape)
    stored = quantize({name: weight})
    assert list(stored) == [name]
    assert torch.equal(stored[name], weight.half())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_plain_weights_pass_through(dtype):
    weights = {"a": torch.randn(4, 128).to(dtype), "b": torch.randn(3).to(dtype)}
    back = dequantize(weights)
    assert back.keys() == weights.keys()
    assert all(back[name] is weights[name] for name in weights)


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (5, 2), (4,), (), (4, 2, 1)], ids=str)
def test_scale_that_does_not_fit(shape):
    stored = {"a": torch.ones(4, 256, dtype=torch.int8), "a.scale": torch.ones(shape)}
    message = (
        "a is int8 of shape (4, 256), so a.scale must have a number for every 128 columns of a "
        f"row, but there is one of shape {shape}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        dequantize(stored)


def test_int8_checkpoint_loads(tmp_path):
    config = tiny_models.CONFIG | {"d_model": 128}
    folder = tiny_models.write_checkpoint(tmp_path / "wide", config)
    before = load(folder).bart.state_dict()
    save_file(quantize(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    after = load(folder).bart.state_dict()
    assert (folder / WEIGHTS).stat().st_size < sum(w.numel() for w in before.values()) * 1.6
    for name, weight in after.items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, before[name], atol=0.02, rtol=1e-3)
