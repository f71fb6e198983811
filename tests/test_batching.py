"""Batches under a budget, and padding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quals_fast.batching import batches, pad, run_batches, size_from


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


def test_sizes_are_few_and_hold_what_they_must():
    sizes = sorted({2**k for k in range(12)} | {3 * 2**k for k in range(10)})
    for count in range(1, 2049):
        assert size_from(count) == min(size for size in sizes if size >= count)


def test_padding():
    ids, mask = pad([[5, 6, 7], [8]], 0, torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


def raised_from(cause):
    """What is raised where a CUDA graph is left because memory ran out in its capture."""
    try:
        try:
            raise cause
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error")
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        raised_from(torch.OutOfMemoryError("CUDA out of memory")),
    ],
    ids=["GPU", "CPU", "a graph"],
)
def test_out_of_memory_halves_the_budget_and_goes_on(error, caplog):
    lengths, seen = [5, 1, 4, 2, 5, 3, 5, 1], []

    def run(batch):
        seen.append(len(batch) * max(lengths[i] for i in batch))
        if seen[-1] > 10:
            raise error
        return [10 * i for i in batch]

    found = dict(run_batches(lengths, 40, run))
    assert found == {i: 10 * i for i in range(8)}
    assert seen[0] == 40  # the first try
    assert seen.count(40) == 1
    assert "out of memory: continuing with batches of 20 tokens" in caplog.text


def test_what_does_not_fit_even_alone_is_an_error_that_says_so():
    def run(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryError, match=r"of 7 tokens .* use fewer `num_beams`"):
        list(run_batches([7, 3], 7, run))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def run(batch):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(run_batches([1], 4, run))


def test_padding_to_a_multiple():
    ids, mask = pad([[5, 6, 7], [8]], 0, torch.device("cpu"), multiple_of=4)
    assert ids.shape == mask.shape == (2, 4)
    assert mask.sum(1).tolist() == [3, 1]
