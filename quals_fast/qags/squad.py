"""SQuAD's measure of how far two answers agree.

Source: the evaluation script of SQuAD 2.0, as in W4ngatang/qags, qa_utils.py.
"""

from __future__ import annotations

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_tokens(answer: str) -> list[str]:
    """Return the words that count: lower-cased, without punctuation and articles.

    Example:
        >>> answer_tokens("The U.S. Navy's ship")
        ['us', 'navys', 'ship']
    """
    return _ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split()


def token_f1(one: str, other: str) -> float:
    """Return the F1 of two answers' words, 0 to 1; two empty answers agree fully.

    Example:
        >>> token_f1("Queen Anne", "the queen")
        0.6666666666666666
        >>> token_f1("", "the")
        1.0
    """
    first, second = answer_tokens(one), answer_tokens(other)
    if not first or not second:
        return float(first == second)
    common = (Counter(first) & Counter(second)).total()
    # Precision and recall are common / len each; this is their harmonic mean.
    return 2 * common / (len(first) + len(second))
