"""The floor: counts, rates, and each stage at the rate of its own numbers."""

import json

import pytest

from bench import floor

CONFIG = {
    "d_model": 8,
    "vocab_size": 50,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
}
WORKS = [floor.Work(summary=5, document=9, steps=12, pairs=(6,))]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "mixed", "int8"])
def test_every_dtype_has_a_floor(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(floor, "best_seconds", lambda run, *arguments: 1e-3)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    rates = floor.rates("cpu", [dtype])
    found = floor.achieved(tmp_path, WORKS, 2.0, dtype, rates, beams=4)
    assert found["share"] == pytest.approx(found["floor_seconds"] / 2)
    assert found["floor_seconds"] > 0


def test_float16_is_really_multiplied():
    assert floor.rates("cpu", ["float16"])["float16"] > 0


def test_each_stage_is_held_against_its_own_numbers():
    def seconds(dtype, **measured):
        measured = {"float32": 1e9, "copy": 1e15} | measured
        return floor.floor_seconds(floor.counts_by_numbers(CONFIG, WORKS, 4, dtype), measured)

    assert seconds("float32") / 4 < seconds("mixed", int8=4e9) < seconds("float32")
    assert seconds("int8", int8=4e9) == seconds("mixed", int8=4e9)
    # The same work, whatever the numbers; without fast integers, at float32's rate.
    assert seconds("mixed", int8=1e9) == pytest.approx(seconds("float32"))
    assert seconds("mixed") == pytest.approx(seconds("float32"))


def test_flops_of_a_stage_are_added_up_over_its_numbers(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    rates = {"float32": 1e9, "int8": 4e9, "copy": 1e15}
    exact, mixed = (
        floor.achieved(tmp_path, WORKS, 2.0, dtype, rates, beams=4)
        for dtype in ("float32", "mixed")
    )
    assert mixed["gflop"] == pytest.approx(exact["gflop"])
