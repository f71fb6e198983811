"""QUALS inside training: metric, reward, callback, ConSeq; and training of its own model.

Needs the extra ``train``. Public names are loaded on first use, so that each one needs only the
library that it works with.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "BackgroundScorer",
    "ConSeqConfig",
    "ConSeqTrainer",
    "QualsCallback",
    "QualsMetric",
    "QualsModule",
    "QualsReward",
    "conseq_loss",
    "quals_compute_metrics",
    "run_conseq",
]

_HOME = {
    "BackgroundScorer": "quals_fast.training.adapters.background",
    "ConSeqConfig": "quals_fast.training.conseq.config",
    "ConSeqTrainer": "quals_fast.training.conseq.trainer",
    "QualsCallback": "quals_fast.training.adapters.callback",
    "QualsMetric": "quals_fast.training.adapters.metric",
    "QualsModule": "quals_fast.training.adapters.module",
    "QualsReward": "quals_fast.training.adapters.reward",
    "conseq_loss": "quals_fast.training.conseq.loss",
    "quals_compute_metrics": "quals_fast.training.adapters.callback",
    "run_conseq": "quals_fast.training.conseq.pipeline",
}

if TYPE_CHECKING:
    from quals_fast.training.adapters.background import BackgroundScorer
    from quals_fast.training.adapters.callback import QualsCallback, quals_compute_metrics
    from quals_fast.training.adapters.metric import QualsMetric
    from quals_fast.training.adapters.module import QualsModule
    from quals_fast.training.adapters.reward import QualsReward
    from quals_fast.training.conseq.config import ConSeqConfig
    from quals_fast.training.conseq.loss import conseq_loss
    from quals_fast.training.conseq.pipeline import run_conseq
    from quals_fast.training.conseq.trainer import ConSeqTrainer


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'quals_fast.training' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{name} needs {error.name}: pip install ".[train]" in the checkout'
        ) from error
