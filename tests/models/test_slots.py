"""Distinct rows: one for each distinct history, each with a place of its own in the cache."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from quals_fast.models.linear import padded_rows
from quals_fast.models.memory import SourceMemory
from quals_fast.models.slots import _MIN_FUSED_POSITIONS, DistinctSlots, _attend, _places


@given(st.lists(st.integers(0, 19), min_size=1, max_size=30))
def test_places_are_a_permutation_and_no_copy_overwrites_what_another_reads(parents):
    parents = sorted(parents)
    place = _places(np.array(parents))
    assert sorted(place) == list(range(len(parents)))
    written = {new for old, new in zip(parents, place, strict=True) if old != new}
    read = {old for old, new in zip(parents, place, strict=True) if old != new}
    kept = {new for old, new in zip(parents, place, strict=True) if old == new}
    assert not written & read
    assert not written & kept
    assert len(kept) == len({old for old in parents if old < len(parents)})


def distinct_slots(lengths, beams):
    """Slots over sources of some lengths, with one layer of two heads of size 4."""
    shape = (len(lengths), 2, max(lengths), 4)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    memory = SourceMemory([torch.randn(shape)], [torch.randn(shape)], mask[:, None, None])
    return DistinctSlots(memory, beams, 9)


def test_rows_fill_up_to_few_sizes_and_leave_the_others_alone():
    """Of 2 sentences 5 + 3 histories live on, then 4 of the first one only."""
    slots = distinct_slots([3, 6], 5)
    everything = np.ones((2, 5), bool)
    first = slots.arrange(np.repeat([[7], [8]], 5, 1), np.zeros((2, 5), int), everything, 0)
    assert first.tolist() == [7, 8, *[0] * (padded_rows(2) - 2)]
    no_move = np.zeros((2, 5), int)
    tokens = np.array([[1, 2, 3, 4, 5], [6, 7, 7, 8, 8]])
    rows = slots.arrange(tokens, no_move, everything, 1)
    assert len(rows) == padded_rows(8)
    assert slots.trim(rows).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert slots.spread(slots.trim(rows)).tolist() == tokens.tolist()
    live = np.array([[True, True, False, True, True], [False] * 5])
    rows = slots.arrange(tokens, np.arange(5)[None].repeat(2, 0), live, 2)
    assert sorted(slots.trim(rows).tolist()) == [1, 2, 4, 5]
    out = slots.cross_attention(0, torch.randn(len(rows), 2, 4))
    assert (out[4:] == 0).all()
    assert (out[:4] != 0).all()


def test_each_row_attends_to_its_own_history():
    """Histories part, move and end; the memory for others is poisoned."""
    beams = 3
    slots = distinct_slots([2, 2], beams)
    for store in (*slots._keys, *slots._values):
        store.fill_(torch.nan)
    moves = [None, [[0, 0, 0]] * 2, [[2, 0, 2], [1, 1, 0]], [[1, 2, 0], [0, 0, 1]]]
    tokens = [[[7], [8]], [[1, 2, 3], [4, 4, 5]], [[1, 2, 3], [4, 5, 6]], [[1, 1, 1], [2, 3, 4]]]
    histories = [[()] * beams for _ in range(2)]
    for t, (move, new) in enumerate(zip(moves, tokens, strict=True)):
        beam_idx = np.array([[0, 1, 2]] * 2 if move is None else move)
        live = np.array([[True] * beams, [t < 3] * beams])
        rows = slots.arrange(np.broadcast_to(new, (2, beams)), beam_idx, live, t)
        histories = [
            [
                (*before[k if move is None else move[b][k]], new[b][0 if t == 0 else k])
                for k in range(beams)
            ]
            for b, before in enumerate(histories)
        ]
        # What a row is stands for its token; queries are all alike.
        k, v = (rows[:, None, None].expand(-1, 2, 4).float() * scale for scale in (0.1, 1.0))
        found = slots.self_attention(0, t, torch.ones(len(rows), 2, 4), k, v)
        spread = slots.spread(slots.trim(found))
        for b in range(1 if t == 3 else 2):
            for k in range(beams):
                values = torch.tensor(histories[b][k], dtype=torch.float32)
                expected = (values * (values * 0.2).softmax(0)).sum()
                torch.testing.assert_close(torch.from_numpy(spread[b, k]), expected.expand(2, 4))


@pytest.mark.parametrize("positions", [1, 2, _MIN_FUSED_POSITIONS - 1, _MIN_FUSED_POSITIONS, 40])
def test_attention_is_the_same_by_either_way(positions):
    query, keys, values = (torch.randn(7, *n, 2, 8) for n in ([], [positions], [positions]))
    expected = F.scaled_dot_product_attention(
        *(x.double() for x in (query[:, :, None], keys.transpose(1, 2), values.transpose(1, 2)))
    )
    torch.testing.assert_close(
        _attend(query, keys, values).double(), expected[:, :, 0], atol=1e-6, rtol=1e-6
    )
