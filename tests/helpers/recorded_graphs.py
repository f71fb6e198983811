"""CUDA graphs without a GPU: what is captured is recorded, operation by operation, and replayed.

As on a GPU, a replay reads and writes the tensors of the capture, and what the host computed while
it captured stays as it was. A capture on a GPU computes nothing, so what one has made here is
overwritten before the next replay of any graph.
"""

from contextlib import contextmanager, nullcontext
from typing import ClassVar
from unittest.mock import MagicMock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

POOL_BYTES = 2**20  # of each graph's memory, as far as anyone asks


class RecordedGraph(TorchDispatchMode):
    """Stands for `torch.cuda.CUDAGraph`; keeps the operations that ran while it was entered."""

    new: ClassVar = []  # those since whose capture no graph was replayed

    def __init__(self):
        super().__init__()
        self.calls, self.replays, self.made = [], 0, []
        self.new.append(self)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero"), function
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        given = {x.untyped_storage().data_ptr() for x in _tensors((args, kwargs))}
        self.made += [x for x in _tensors(result) if x.untyped_storage().data_ptr() not in given]
        return result

    def pool(self):
        return None

    def replay(self):
        while self.new:
            for made in self.new.pop().made:
                made.fill_(torch.nan if made.is_floating_point() else 99)  # True among bools
        self.replays += 1
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            for kept, new in zip(_tensors(result), _tensors(again), strict=True):
                if kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


def _tensors(tree):
    """Return the tensors of a tree but for oneDNN's weights, which have no storage."""
    leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return [leaf for leaf in leaves if leaf.layout == torch.strided]


@contextmanager
def _capture(graph, **_):
    with graph:
        yield


def record_graphs(monkeypatch):
    """Let graphs be recorded where there is no GPU."""
    monkeypatch.setattr(RecordedGraph, "new", [])
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", _capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: MagicMock())
    monkeypatch.setattr(torch.cuda, "Event", MagicMock)
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda _: [{"total_size": POOL_BYTES}])
    for context in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, context, nullcontext)
