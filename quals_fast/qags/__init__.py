"""QAGS, the baseline of QUALS: generate questions from a summary, answer them on both texts.

Source: docs/semantics.md 2; arXiv 2004.04228, W4ngatang/qags.
"""

from quals_fast.qags.answers import (
    AnswerExtractor,
    GivenAnswers,
    SpacyAnswers,
    draw_answers,
)
from quals_fast.qags.networks import NetworkFiles
from quals_fast.qags.results import QagsPair, QagsResult, QagsScore, Replay, StageWork
from quals_fast.qags.scorer import QagsScorer

__all__ = [
    "AnswerExtractor",
    "GivenAnswers",
    "NetworkFiles",
    "QagsPair",
    "QagsResult",
    "QagsScore",
    "QagsScorer",
    "Replay",
    "SpacyAnswers",
    "StageWork",
    "draw_answers",
]
