"""CUDA graphs and which of them are kept; what replays them needs a GPU (test_fused.py)."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from quals_fast.engine.graphs import Captured, GraphCache
from quals_fast.processes import this_thread

CPU = torch.device("cpu")


class Captures:
    """Captures graphs whose key is the bytes that they turn out to hold."""

    def __init__(self, max_bytes, error=None):
        self.keys, self.error, self.cache = [], error, GraphCache(max_bytes)

    def get(self, key, n_bytes=0):
        def capture():
            self.keys.append(key)
            if self.error is not None:
                raise self.error
            return SimpleNamespace(n_bytes=key)

        found = self.cache.get(key, capture, n_bytes)
        return found and found.n_bytes

    def twice(self, *keys):
        for key in keys:
            self.get(key), self.get(key)


def test_a_shape_is_captured_the_second_time_and_then_kept():
    captures = Captures(1000)
    assert [captures.get(400) for _ in range(4)] == [None, 400, 400, 400]
    assert captures.keys == [400]
    assert captures.get(300) is None  # another shape


def test_the_least_recently_used_go_first():
    captures = Captures(1000)
    captures.twice(400, 500)
    captures.get(400)  # used again
    captures.twice(100)  # all fit
    assert captures.cache.n_bytes == 1000
    captures.twice(200)  # 500 has to go
    assert captures.cache.n_bytes == 700
    before = len(captures.keys)
    captures.get(400), captures.get(100), captures.get(200)
    assert len(captures.keys) == before


def test_graphs_that_are_asked_for_without_a_capture_count_as_used():
    captures = Captures(1000)
    captures.twice(400, 500)
    assert captures.cache.kept(400).n_bytes == 400
    captures.twice(300)  # 500 has to go
    assert captures.cache.kept(500) is None
    assert captures.cache.n_bytes == 700


def test_room_is_made_before_a_capture_where_its_size_is_known():
    captures = Captures(1000)
    captures.twice(400, 500)
    held = []

    def capture():
        held.append(captures.cache.n_bytes)
        return SimpleNamespace(n_bytes=300)

    assert captures.cache.get("x", capture, 300) is None
    assert captures.cache.get("x", capture, 300).n_bytes == 300
    assert held == [500]
    assert captures.cache.n_bytes == 800


@pytest.mark.parametrize("max_bytes", [0, 399])
def test_what_is_known_not_to_fit_is_never_captured(max_bytes):
    captures = Captures(max_bytes)
    assert [captures.get(400, 400) for _ in range(3)] == [None] * 3
    assert captures.keys == []


def test_what_turns_out_not_to_fit_is_captured_once():
    captures = Captures(399)
    captures.twice(300)
    assert [captures.get(400) for _ in range(4)] == [None] * 4
    captures.cache.drop()
    assert [captures.get(400) for _ in range(4)] == [None] * 4
    assert captures.keys == [300, 400]


def test_without_graphs_nothing_is_captured():
    captures = Captures(0)
    captures.twice(0)
    assert captures.keys == []


def test_the_bound_is_halved_whenever_memory_runs_out(caplog):
    captures = Captures(4 * 2**20, torch.OutOfMemoryError("CUDA out of memory"))
    for bound in (2, 1):
        assert captures.get(1) is None  # dropped shapes are new again
        assert captures.get(1) is None
        assert captures.cache.max_bytes == bound * 2**20
        assert f"they may hold {bound} MiB from now on" in caplog.text


def test_another_failure_of_a_capture_is_raised():
    captures = Captures(1000, RuntimeError("CUDA error: invalid argument"))
    captures.get(1)
    with pytest.raises(RuntimeError, match="invalid argument"):
        captures.get(1)
    assert captures.cache.max_bytes == 1000


def test_a_thread_that_may_not_capture_uses_what_others_have_captured():
    captures = Captures(1000)

    def there(key):
        this_thread.captures_graphs = False
        return [captures.get(key) for _ in range(3)][-1]

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(there, 4).result() is None
        captures.twice(4)
        assert captures.keys == [4]
        assert thread.submit(there, 4).result() == 4


def test_drop_says_whether_there_was_anything():
    captures = Captures(1000)
    captures.get(1)
    assert captures.cache.drop() is False
    captures.twice(1)
    assert captures.cache.drop() is True
    assert captures.cache.n_bytes == 0


class FakeGPU:
    """Stands for the streams and graphs of `torch.cuda`; a replay does the function's work."""

    def __init__(self, monkeypatch):
        self.current, self.waits, self.end_fails = "the host program's", [], False
        self.captured_on = None
        for name, value in {
            "device": nullcontext,
            "current_stream": lambda: SimpleNamespace(wait_stream=self.waits.append),
            "CUDAGraph": MagicMock,
            "stream": self.stream,
            "graph": self.graph,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    @contextmanager
    def stream(self, own):
        before, self.current = self.current, own
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph, *, stream, capture_error_mode):  # as torch.cuda.graph does
        assert capture_error_mode == "thread_local"
        before, self.current = self.current, stream
        self.captured_on = self.current
        yield
        if self.end_fails:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.current = before


def test_a_capture_is_warmed_up_on_its_stream_and_reads_its_own_inputs(monkeypatch):
    gpu, calls = FakeGPU(monkeypatch), []

    def function(x, y):
        calls.append((gpu.current, x))
        return x + y

    stream = MagicMock()
    given = torch.arange(3), torch.ones(3, dtype=torch.int64)
    captured = Captured(function, given, CPU, stream)
    assert [current for current, _ in calls] == [stream, stream]
    assert gpu.current == "the host program's"
    assert gpu.waits == [stream] and stream.wait_stream.call_count == 1
    own = calls[0][1]
    assert own is calls[1][1] and own is not given[0]
    captured._graph.replay.side_effect = lambda: captured._outputs.copy_(
        function(*captured._inputs)
    )
    assert captured(torch.tensor([5, 6, 7]), given[1]).tolist() == [6, 7, 8]
    assert given[0].tolist() == [0, 1, 2]


def test_a_capture_that_fails_at_its_end_leaves_the_current_stream_as_it_was(monkeypatch):
    gpu = FakeGPU(monkeypatch)
    gpu.end_fails = True
    with pytest.raises(torch.OutOfMemoryError):
        Captured(torch.neg, [torch.ones(2)], CPU, MagicMock())
    assert gpu.current == "the host program's"


def test_bytes_are_those_of_the_pool_and_the_inputs(monkeypatch):
    FakeGPU(monkeypatch)
    captured = Captured(torch.neg, [torch.ones(2, dtype=torch.float16)], CPU, MagicMock())
    captured._graph.pool.return_value = (0, 7)
    pools = {(0, 7): [{"total_size": 2 << 20}, {"total_size": 20 << 20}]}
    monkeypatch.setattr(torch.cuda, "memory_snapshot", pools.__getitem__)
    assert captured.n_bytes == (22 << 20) + 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_a_replay_computes_anew_and_waits_for_nothing():
    device, stream = torch.device("cuda"), torch.cuda.Stream()
    weight = torch.randn(512, 512, device=device)

    def function(x, index):
        y = x @ weight
        return y[index], [y.sum(1)]

    with torch.inference_mode():
        inputs = [(torch.randn(64, 512, device=device), torch.randperm(64)) for _ in range(3)]
        captured = Captured(function, inputs[0], device, stream)
        torch.cuda.synchronize()
        for x, index in inputs[1:]:
            torch.cuda.set_sync_debug_mode("error")
            try:
                rows, (sums,) = captured(x, index)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            expected, (expected_sums,) = function(x, index.to(device))
            torch.testing.assert_close(rows, expected)
            torch.testing.assert_close(sums, expected_sums)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_a_graph_holds_what_it_says():
    device, stream = torch.device("cuda"), torch.cuda.Stream()
    with torch.inference_mode():
        x = torch.randn(32 << 20, device=device)  # 128 MiB
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        captured = Captured(lambda x: (x + 1).relu() * 2, [x], device, stream)
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved() - before
        assert captured.n_bytes >= 3 * x.nbytes  # what goes in, between and out
        assert abs(captured.n_bytes - held) <= 2 << 20
        del captured
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() == before
