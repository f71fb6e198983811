"""A scorer's engine and model, where a benchmark takes what only PyTorch's have."""

from __future__ import annotations

from quals_fast import QualsScorer
from quals_fast.engine.base import TorchEngine
from quals_fast.models.loading import TorchModel


def torch_engine(scorer: QualsScorer) -> TorchEngine:
    """Return the engine of a scorer that runs on PyTorch."""
    engine = scorer.engine
    if not isinstance(engine, TorchEngine):
        raise TypeError(f"expected a PyTorch engine, but got {type(engine).__name__}")
    return engine


def torch_model(scorer: QualsScorer) -> TorchModel:
    """Return the model of a scorer that runs on PyTorch."""
    return torch_engine(scorer).model
