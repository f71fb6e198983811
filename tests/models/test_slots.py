"""Rows of a search on the host: what each attends to."""

import numpy as np
import pytest
import torch
from moving_slots import NUM_BEAMS, STEPS
from torch.nn import functional as F

from quals_fast.models.linear import padded_rows
from quals_fast.models.memory import SourceMemory
from quals_fast.models.slots import _MIN_FUSED_POSITIONS, DistinctSlots, _attend


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
    assert sorted(slots.trim(rows).tolist()) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert slots.spread(slots.trim(rows)).tolist() == tokens.tolist()
    live = np.array([[True, True, False, True, True], [False] * 5])
    rows = slots.arrange(tokens, np.arange(5)[None].repeat(2, 0), live, 2)
    assert sorted(slots.trim(rows).tolist()) == [1, 2, 4, 5]
    out = slots.cross_attention(0, torch.randn(len(rows), 2, 4))
    assert (out[4:] == 0).all()
    assert (out[:4] != 0).all()


def test_each_row_attends_to_its_own_history():
    """The memory for others is poisoned."""
    slots = distinct_slots([2, 2], NUM_BEAMS)
    for store in (*slots._stores.keys, *slots._stores.values):
        store.fill_(torch.nan)
    for t, step in enumerate(STEPS):
        rows = slots.arrange(step.token_ids, step.beam_idx, step.live, t)
        # What a row is stands for its token; queries are all alike.
        k, v = (rows[:, None, None].expand(-1, 2, 4).float() * scale for scale in (0.1, 1.0))
        found = slots.self_attention(0, t, torch.ones(len(rows), 2, 4), k, v)
        spread = slots.spread(slots.trim(found))
        for b, k in zip(*np.nonzero(step.live), strict=True):
            values = torch.tensor(step.histories[b][k], dtype=torch.float32)
            expected = (values * (values * 0.2).softmax(0)).sum()
            torch.testing.assert_close(torch.from_numpy(spread[b, k]), expected.expand(2, 4))


@pytest.mark.parametrize("positions", [1, 2, _MIN_FUSED_POSITIONS - 1, _MIN_FUSED_POSITIONS, 40])
def test_attention_is_the_same_by_either_way(positions):
    query, keys, values = (torch.randn(7, *n, 2, 8) for n in ([], [positions], [positions]))
    for bias in (None, torch.randn(2, positions)):
        expected = F.scaled_dot_product_attention(
            *(
                x.double()
                for x in (query[:, :, None], keys.transpose(1, 2), values.transpose(1, 2))
            ),
            attn_mask=None if bias is None else bias.double()[:, None],
        )
        found = _attend(query, keys, values, bias).double()
        torch.testing.assert_close(found, expected[:, :, 0], atol=1e-6, rtol=1e-6)
