"""Weights stored as int8: what is quantised, how closely it comes back, and what does not fit."""

import re

import pytest
import tiny_models
import torch
from model_folders import WEIGHTS, load
from safetensors.torch import load_file, save_file

from quals_fast.models.storage import dequantize, quantize


def test_int8_round_trip_stays_within_half_a_step():
    weight = torch.randn(37, 384) * torch.logspace(-1, 1, 37)[:, None]
    weight *= torch.logspace(-2, 1, 384)
    weight[3] = 0.0
    weight[4, 7] = 1e4
    stored = quantize({"a.weight": weight})
    assert stored["a.weight"].dtype == torch.int8
    assert stored["a.weight.scale"].shape == (37, 3)
    assert stored["a.weight.columns"].shape == (384,)
    assert {stored[f"a.weight.{kind}"].dtype for kind in ("scale", "columns")} == {torch.float16}
    back = dequantize(stored)
    assert list(back) == ["a.weight"]
    columns = stored["a.weight.columns"].float()
    step = (weight / columns).unflatten(1, (3, 128)).abs().amax(2).clamp_min(1e-4) / 127
    error = ((back["a.weight"] - weight) / columns).unflatten(1, (3, 128)).abs()
    # Half a step, and the 11 bits of a float16 scale times up to 127 steps.
    assert (error <= step[:, :, None] * (0.5 + 127 * 2**-11) + 1e-7).all()


def test_a_large_column_does_not_cost_the_others_their_digits():
    weight = torch.randn(64, 256)
    weight[:, 5] *= 100
    back = dequantize(quantize({"a.weight": weight}))["a.weight"]
    others = [j for j in range(256) if j != 5]
    error = (back - weight)[:, others].norm() / weight[:, others].norm()
    assert error < 0.01


def test_files_without_scales_of_columns_are_read():
    integers = torch.randint(-127, 128, (4, 256), dtype=torch.int8)
    stored = {"a.weight": integers, "a.weight.scale": torch.full((4, 2), 0.5).half()}
    assert torch.equal(dequantize(stored)["a.weight"], integers * 0.5)


def test_scales_of_columns_must_fit():
    stored = quantize({"a.weight": torch.randn(4, 256)})
    stored["a.weight.columns"] = stored["a.weight.columns"][:7]
    with pytest.raises(ValueError, match="for each of the 256 columns"):
        dequantize(stored)


def test_dequantised_weights_quantise_nearly_to_themselves():
    """The columns' scales are those of the rounded weights, so a number may move by one."""
    weight = torch.randn(8, 256)
    stored = quantize({"a.weight": weight})
    once = dequantize(stored)
    again = quantize(once)
    assert (again["a.weight"].int() - stored["a.weight"].int()).abs().max() <= 1
    twice = dequantize(again)["a.weight"]
    assert (twice - once["a.weight"]).norm() <= (once["a.weight"] - weight).norm()


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
    before = load(folder).network.state_dict()
    save_file(quantize(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    after = load(folder).network.state_dict()
    assert (folder / WEIGHTS).stat().st_size < sum(w.numel() for w in before.values()) * 1.6
    for name, weight in after.items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, before[name], atol=0.02, rtol=1e-3)
