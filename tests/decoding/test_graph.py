"""The search as CUDA graphs; what runs them needs a GPU (test_fused.py)."""

from contextlib import contextmanager, nullcontext
from unittest.mock import MagicMock

import pytest
import torch

from quals_fast import DecodingConfig
from quals_fast.decoding.graph import GraphedSearch, _rows_to_keep, held_bytes
from quals_fast.models.memory import SourceMemory


def memory_of(batch, *, heads=2, length=128, width=8, layers=1, dtype=torch.float32):
    keys = [torch.empty(batch, heads, length, width, dtype=dtype, device="meta")] * layers
    mask = torch.empty(batch, 1, 1, length, dtype=torch.bool, device="meta")
    return SourceMemory(keys, keys, mask)


def test_a_capture_that_fails_at_its_end_leaves_the_current_stream_as_it_was(monkeypatch):
    current = ["the host program's"]

    @contextmanager
    def graph(*_, stream, **__):  # as torch.cuda.graph does
        current[0] = stream
        yield
        raise torch.OutOfMemoryError("CUDA out of memory")

    @contextmanager
    def stream_of(own):
        before, current[0] = current[0], own
        try:
            yield
        finally:
            current[0] = before

    monkeypatch.setattr(GraphedSearch, "_warm_up", lambda *arguments: None)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", MagicMock)
    monkeypatch.setattr(torch.cuda, "stream", stream_of)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    with pytest.raises(torch.OutOfMemoryError):
        GraphedSearch(
            lambda memory, stores: MagicMock(),
            memory_of(1),
            MagicMock(),
            DecodingConfig(),
            "the captures'",
            0,
        )
    assert current == ["the host program's"]


def test_bytes_are_those_of_the_tensors():
    """BART-large's shape in float16, and what a graph leaves for the next one."""
    config = DecodingConfig()
    memory = memory_of(1, heads=16, width=64, layers=12, dtype=torch.float16)
    sources = 2 * 12 * 16 * 128 * 64 * 2 + 128
    logits = 60 * 50_265 * 4 * 17 // 16
    histories = 60 * 61 * ((8 + 4 + 4) + (8 + 4 + 4) + 8)
    graphs = len(range(0, 61, 4))
    assert held_bytes(memory, config, 50_265) == sources + logits + (graphs + 1) * histories


@pytest.mark.parametrize(
    ("live", "size", "expected"),
    [
        ([0, 1], 4, [0, 1, 2, 3]),
        ([3], 4, [0, 1, 2, 3]),
        ([15], 4, [15, 1, 2, 3]),
        ([1, 7, 9, 15], 4, [7, 1, 9, 15]),
        ([4, 5, 6, 7], 4, [4, 5, 6, 7]),
    ],
)
def test_rows_that_go_on_stay_where_they_can(live, size, expected):
    assert _rows_to_keep(live, size) == expected
