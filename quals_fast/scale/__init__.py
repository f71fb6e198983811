"""Score on many machines with Ray Data (extra ``ray``)."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("ray") is None:
    raise ModuleNotFoundError(
        'scoring on many machines needs Ray Data: pip install ".[ray]" in the checkout'
    )

from quals_fast.scale.datasets import score_dataset

__all__ = ["score_dataset"]
