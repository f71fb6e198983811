"""Packed rows: one for each distinct history, each with a place of its own in the cache."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quals_fast.models.slots import _places


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
