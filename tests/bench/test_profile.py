"""The profile: clocks that take each second once, and scores that do not change under them."""

import pytest
import torch
from model_folders import needs_int8
from torch import nn

from bench import profile
from bench.recipes.grow import folder_of
from bench.shared.arms import EngineArm
from bench.shared.options import TINY

TEXT = "queen anne opened the tower by the river in 1969 , forty won"
TEXTS = [TEXT, f"{TEXT} {TEXT}"], ["anne opened the tower", "the queen won in 1969"]


@pytest.fixture(scope="module")
def folder():
    return folder_of(TINY)


def test_a_second_belongs_to_the_innermost_part(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])  # made, in, in, out, out, read
    monkeypatch.setattr(profile.time, "perf_counter", lambda: next(times))
    clock = profile.Clock()
    with clock.part("search"):
        clock.timed("LM head", int)()
    assert {names: part.seconds for names, part in clock.parts().items()} == {
        (): 1 + 16,
        ("search",): 2 + 8,
        ("search", "LM head"): 4,
    }


def test_flops_of_a_layer_are_counted_in_the_parts_around_it():
    clock, layer = profile.Clock(), nn.Linear(4, 6)
    with clock.part("search"):
        clock.counted(nn.Linear.forward)(layer, torch.ones(2, 3, 4))
    assert clock.parts()["search", profile.PRODUCT].flops == 2 * 6 * 4 * 6


@pytest.mark.parametrize(
    "dtype",
    [pytest.param(one, marks=needs_int8 if one == "mixed" else ()) for one in profile.DTYPES],
)
def test_every_part_is_found_and_scores_stay(dtype, folder):
    arm = EngineArm(folder, dtype)
    expected = arm.score(*TEXTS)
    with profile.clocked(arm) as clock:
        assert arm.score(*TEXTS) == expected
    parts = profile.table_of(clock)
    for stage in (profile.SEARCH, profile.RESCORING):
        for name in ("products of layers", "attention", "LM head, product"):
            assert parts[f"{stage}: {name}"].seconds > 0
        assert parts[f"{stage}: products of layers"].flops > 0
    assert "search" not in vars(arm.scorer.engine)  # nothing stays behind


@pytest.mark.parametrize(
    ("inside", "name"),
    [
        ((), "texts and filter"),
        (("search",), "search: bookkeeping"),
        (("search", "selection"), "search: selection"),
        (("search", "LM head"), "search: LM head, softmax and candidates"),
        (("search", "LM head", "product"), "search: LM head, product"),
        (("rescoring", profile.NETWORK, "attention"), "rescoring: attention"),
        (("rescoring", profile.NETWORK, "product"), "rescoring: products of layers"),
    ],
)
def test_names_of_parts(inside, name):
    assert profile.named(inside) == name
