"""CUDA graphs without a GPU: what is captured is recorded, operation by operation, and replayed.

As on a GPU, a replay reads and writes the tensors of the capture, and what the host computed while
it captured stays as it was.
"""

from contextlib import contextmanager, nullcontext
from unittest.mock import MagicMock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordedGraph(TorchDispatchMode):
    """Stands for `torch.cuda.CUDAGraph`; keeps the operations that ran while it was entered."""

    def __init__(self):
        super().__init__()
        self.calls, self.replays = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero"), function
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        self.replays += 1
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            for kept, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(kept, torch.Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


@contextmanager
def _capture(graph, **_):
    with graph:
        yield


def record_graphs(monkeypatch):
    """Let graphs be recorded where there is no GPU."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", _capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: MagicMock())
    monkeypatch.setattr(torch.cuda, "Event", MagicMock)
    for context in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, context, nullcontext)
