"""Which graphs of a search are kept; what runs them needs a GPU (test_fused.py)."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from unittest.mock import MagicMock

import pytest
import torch

from quals_fast import DecodingConfig
from quals_fast.decoding.graph import GraphedSearch, SearchGraphs, _rows_to_keep, held_bytes
from quals_fast.models.cache import SourceMemory
from quals_fast.processes import this_thread


def memory_of(batch, *, heads=2, length=128, width=8, layers=1, dtype=torch.float32):
    keys = [torch.empty(batch, heads, length, width, dtype=dtype, device="meta")] * layers
    mask = torch.empty(batch, 1, 1, length, dtype=torch.bool, device="meta")
    return SourceMemory(keys, keys, mask)


class Captures:
    """Captures graphs that are the shape they were captured for; counts 100 bytes a sentence."""

    def __init__(self, max_bytes, error=None):
        self.shapes, self.error = [], error
        self.graphs = SearchGraphs(self.capture, lambda m: 100 * m.batch_size, max_bytes)

    def capture(self, memory):
        self.shapes.append(memory.shape)
        if self.error is not None:
            raise self.error
        return memory.shape

    def get(self, batch, length=128):
        return self.graphs.get(memory_of(batch, length=length))


def test_a_shape_is_captured_the_second_time_and_then_kept():
    captures = Captures(1000)
    found = [captures.get(4) for _ in range(4)]
    shape = (4, 2, 128, 8)
    assert found == [None, shape, shape, shape]
    assert captures.shapes == [shape]
    assert captures.get(4, length=256) is None  # another shape


def test_the_least_recently_used_go_first():
    captures = Captures(1000)
    for batch in (4, 5):
        captures.get(batch), captures.get(batch)
    captures.get(4)  # used again
    captures.get(1), captures.get(1)  # 1,000 bytes: all fit
    assert captures.graphs.n_bytes == 1000
    captures.get(2), captures.get(2)  # 5 has to go
    assert captures.graphs.n_bytes == 700
    before = len(captures.shapes)
    captures.get(4), captures.get(1), captures.get(2)
    assert len(captures.shapes) == before


@pytest.mark.parametrize("max_bytes", [0, 399])
def test_what_does_not_fit_is_never_captured(max_bytes):
    captures = Captures(max_bytes)
    assert [captures.get(4) for _ in range(3)] == [None] * 3
    assert captures.shapes == []


def test_the_bound_is_halved_whenever_memory_runs_out(caplog):
    captures = Captures(4 * 2**20, torch.OutOfMemoryError("CUDA out of memory"))
    for bound in (2, 1):
        assert captures.get(1) is None  # dropped shapes are new again
        assert captures.get(1) is None
        assert captures.graphs.max_bytes == bound * 2**20
        assert f"they may hold {bound} MiB from now on" in caplog.text


def test_another_failure_of_a_capture_is_raised():
    captures = Captures(1000, RuntimeError("CUDA error: invalid argument"))
    captures.get(1)
    with pytest.raises(RuntimeError, match="invalid argument"):
        captures.get(1)
    assert captures.graphs.max_bytes == 1000


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
        )
    assert current == ["the host program's"]


def test_a_thread_that_may_not_capture_uses_what_others_have_captured():
    captures = Captures(1000)

    def there(batch):
        this_thread.captures_graphs = False
        return [captures.get(batch) for _ in range(3)][-1]

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(there, 4).result() is None
        captures.get(4), captures.get(4)
        assert captures.shapes == [(4, 2, 128, 8)]
        assert thread.submit(there, 4).result() == (4, 2, 128, 8)


def test_drop_says_whether_there_was_anything():
    captures = Captures(1000)
    captures.get(1)
    assert captures.graphs.drop() is False
    captures.get(1), captures.get(1)
    assert captures.graphs.drop() is True
    assert captures.graphs.n_bytes == 0


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
