"""SQuAD's scores of an answer against several right ones."""

from __future__ import annotations

from collections.abc import Iterable

from quals_fast.qags.squad import answer_tokens, token_f1


def exact_match(found: str, right: Iterable[str]) -> float:
    """Return 1 if a right answer is the same but for case, articles and punctuation."""
    return float(any(answer_tokens(found) == answer_tokens(answer) for answer in right))


def f1(found: str, right: Iterable[str]) -> float:
    """Return the best word F1 with a right answer (1 if both are empty)."""
    return max(token_f1(found, answer) for answer in right)
