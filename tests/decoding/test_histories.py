"""Rows of a search on the host: one for each distinct history, each with a place of its own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moving_slots import NUM_BEAMS, STEPS

from quals_fast.decoding.histories import Histories, _places
from quals_fast.exported.store import BoundStore, HostStore


@given(st.lists(st.integers(0, 19), min_size=1, max_size=30))
def test_places_are_a_permutation_and_no_copy_overwrites_what_another_reads(parents):
    place = _places(np.array(parents))
    assert sorted(place) == list(range(len(parents)))
    written = {new for old, new in zip(parents, place, strict=True) if old != new}
    kept = {new for old, new in zip(parents, place, strict=True) if old == new}
    assert not written & kept
    assert len(kept) == len({old for old in parents if old < len(parents)})


def test_slots_share_a_row_when_they_have_decoded_the_same():
    histories = Histories(2, NUM_BEAMS)
    decoded = [(7,), (8,)]  # by row
    for step in STEPS[1:]:
        tokens, parents = histories.move_on(step.token_ids, step.beam_idx, step.live)
        decoded = [(*decoded[old], token) for old, token in zip(parents, tokens, strict=True)]
        assert len(set(decoded)) == len(decoded) == histories.n_rows
        for b, k in zip(*np.nonzero(step.live), strict=True):
            row = histories.row_of_slot[b, k]
            assert decoded[row] == step.histories[b][k]
            assert histories.sentence_of_row[row] == b
    assert set(histories.sentence_of_row) == {0}


class Appending:
    """Stands for the graph that moves keys and values on their device."""

    @staticmethod
    def run(feeds):
        past = np.concatenate([feeds["old_key_0"], feeds["new_key_0"][:, :, None]], 2)
        return {"grown_key_0": past[feeds["source"]]}


@pytest.mark.parametrize("kind", ["arrays", "bound"])
def test_stores_of_exported_graphs_hold_each_rows_history(kind, monkeypatch):
    monkeypatch.setattr("quals_fast.exported.store._POSITIONS_AT_ONCE", 1)  # arrays have to grow
    histories = Histories(2, NUM_BEAMS)
    if kind == "arrays":
        store = HostStore({"past_key_0": np.zeros((2 * NUM_BEAMS, 1, 1, 1))})
    else:
        graphs = {"grow": Appending}
        model = type("Model", (), {"graphs": graphs})
        store = BoundStore(model, {"past_key_0": np.zeros((2, 1, 1, 1))})
    tokens = STEPS[0].token_ids[:, 0]
    for t, step in enumerate(STEPS[1:], 1):
        outputs = {"new_key_0": tokens[:, None, None], "logprobs": None}
        tokens, parents = histories.move_on(step.token_ids, step.beam_idx, step.live)
        store.move_on(outputs, parents)
        feeds = store.feeds(len(tokens))
        past = feeds["past_key_0"][:, 0, :, 0]
        assert len(past) == len(tokens)
        assert feeds["is_past"].sum() == t
        for b, k in zip(*np.nonzero(step.live), strict=True):
            row = histories.row_of_slot[b, k]
            assert (*past[row, feeds["is_past"]], tokens[row]) == step.histories[b][k]
