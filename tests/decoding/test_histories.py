"""Rows of a search on the host: one for each distinct history, each with a place of its own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moving_slots import NUM_BEAMS, STEPS

from quals_fast.decoding.histories import Histories, _numbers
from quals_fast.exported.store import BoundStore, HostStore


@given(st.lists(st.integers(0, 19), min_size=1, max_size=30))
def test_numbers_are_a_permutation_and_no_copy_overwrites_what_another_reads(parents):
    numbers = _numbers(np.array(parents))
    assert sorted(numbers) == list(range(len(parents)))
    written = {new for old, new in zip(parents, numbers, strict=True) if old != new}
    read = {old for old, new in zip(parents, numbers, strict=True) if old != new}
    kept = {new for old, new in zip(parents, numbers, strict=True) if old == new}
    assert not written & read
    assert not written & kept
    assert len(kept) == len({old for old in parents if old < len(parents)})


def test_slots_share_a_row_when_they_have_decoded_the_same():
    histories = Histories(2, NUM_BEAMS)
    decoded = [(), ()]  # by row
    for step in STEPS:
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
        store = BoundStore(Appending, {"past_key_0": np.zeros((2, 1, 1, 1))})
    outputs = {}
    for t, step in enumerate(STEPS):
        tokens, parents = histories.move_on(step.token_ids, step.beam_idx, step.live)
        if t > 0:
            store.move_on(outputs, parents)
        outputs = {"new_key_0": tokens[:, None, None], "logprobs": None}
        feeds = store.feeds(len(tokens))
        past = feeds["past_key_0"][:, 0, :, 0]
        assert len(past) == len(tokens)
        assert feeds["is_past"].sum() == t
        assert (past[:, ~feeds["is_past"]] == 0).all()
        for b, k in zip(*np.nonzero(step.live), strict=True):
            row = histories.row_of_slot[b, k]
            assert (*past[row, feeds["is_past"]], tokens[row]) == step.histories[b][k]
