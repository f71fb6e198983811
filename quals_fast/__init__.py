"""Score the factual consistency of summaries with QUALS (Nan et al., ACL 2021), fast.

Shape letters used in every docstring and comment:

    B batch (texts)      K beams (slots) of one summary    G groups of beams
    Q question-answer pairs    S source length    T target length
    V vocabulary    L layers    H attention heads    D size of one head    C candidates

Public names are loaded on first use, so ``import quals_fast`` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["DecodingConfig", "QAPair", "QualsResult", "QualsScorer", "ScoringConfig", "__version__"]

_HOME = {
    "DecodingConfig": "quals_fast.config",
    "QAPair": "quals_fast.results",
    "QualsResult": "quals_fast.results",
    "QualsScorer": "quals_fast.scorer",
    "ScoringConfig": "quals_fast.config",
}

if TYPE_CHECKING:
    from quals_fast.config import DecodingConfig, ScoringConfig
    from quals_fast.results import QAPair, QualsResult
    from quals_fast.scorer import QualsScorer


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'quals_fast' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
