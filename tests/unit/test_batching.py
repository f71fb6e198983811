"""Batches under a budget, and padding."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from quals_fast.batching import batches, pad


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_every_item_is_in_one_batch_within_the_budget(lengths, budget):
    found = batches(lengths, budget)
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= budget or len(batch) == 1


def test_the_longest_come_first_and_alike_together():
    assert batches([3, 10, 4, 9], 20) == [[1, 3], [2, 0]]
    assert batches([], 20) == []


def test_padding():
    ids, mask = pad([[5, 6, 7], [8]], 0, torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]
