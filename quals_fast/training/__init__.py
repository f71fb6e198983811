"""QUALS inside training: a metric, a reward, a callback, and ConSeq; needs the extra ``train``.

The public names are loaded on first use, so that each needs only its own host library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "BackgroundScorer",
    "QualsCallback",
    "QualsMetric",
    "QualsModule",
    "QualsReward",
    "quals_compute_metrics",
]

_HOME = {
    "BackgroundScorer": "quals_fast.training.background",
    "QualsCallback": "quals_fast.training.callback",
    "QualsMetric": "quals_fast.training.metric",
    "QualsModule": "quals_fast.training.module",
    "QualsReward": "quals_fast.training.reward",
    "quals_compute_metrics": "quals_fast.training.callback",
}

if TYPE_CHECKING:
    from quals_fast.training.background import BackgroundScorer
    from quals_fast.training.callback import QualsCallback, quals_compute_metrics
    from quals_fast.training.metric import QualsMetric
    from quals_fast.training.module import QualsModule
    from quals_fast.training.reward import QualsReward


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'quals_fast.training' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
