"""Texts with answers renamed: the same questions with other names, dates and numbers.

The answer then depends on the text, not on what the network remembers of the article
(entity substitution: Longpre et al. 2021, "Entity-Based Knowledge Conflicts in Question
Answering").
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from quals_fast.training.qagen.corpus import Corpus
from quals_fast.training.qagen.views import Example

Asked = tuple[str, str, int]  # question, answer, and where the answer stands
_MAX_RENAMED_WORDS = 4  # of an answer
_RENAMED_SHARE = 0.5  # of a text's answers


def shape(answer: str) -> str | None:
    """Return what an answer looks like: ``"Aa Aa"`` is a name of two words, ``"99"`` a number.

    Answers of the same shape can replace each other; None if the answer has no such shape.
    """
    words = [_word_shape(word) for word in answer.split(" ")]
    if not 0 < len(words) <= _MAX_RENAMED_WORDS or not all(words):
        return None
    return " ".join(words)


def _word_shape(word: str) -> str:
    digits = re.sub(r"\d", "9", word)
    if re.fullmatch(r"9+(?:[.,]9+)*", digits):
        return digits
    return "Aa" if re.fullmatch(r"[A-Z][\w'-]+", word) else ""


def whole_words(texts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of the texts, but not as part of a word or number.

    So 5 is not found in 5,000 or in 2.5.
    """
    return re.compile(rf"(?<!\w)(?<!\d[.,])(?:{'|'.join(map(re.escape, texts))})(?!\w|[.,]\d)")


class Renamer:
    """Replaces answers by answers of the same shape to other questions.

    Args:
        corpus: provides the answers.
    """

    def __init__(self, corpus: Corpus) -> None:
        by_shape: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for question in corpus.questions:
            its_shape = shape(question.answer)
            if its_shape is not None:
                by_shape[its_shape][question.answer] = None
        self._by_shape = {name: list(answers) for name, answers in by_shape.items()}

    def rename(
        self, example: Example, others: Sequence[Asked], rng: random.Random
    ) -> tuple[Example, list[Asked]]:
        """Return an example and the other questions on its text with some answers renamed.

        A name changes wherever it occurs: in the text, in questions, and within longer answers. If
        an answer would no longer be found in its place, nothing is changed.

        Args:
            example: text, question and answer.
            others: further questions about the text.
            rng: draws what is renamed, and to what.
        """
        asked = [(example.question, example.answer, example.start), *others]
        changes: dict[str, str] = {}
        for answer in sorted({answer for _, answer, _ in asked}, key=lambda a: (-len(a), a)):
            pool = self._by_shape.get(shape(answer) or "", [])
            if pool and rng.random() < _RENAMED_SHARE and not any(answer in old for old in changes):
                new = rng.choice(pool)
                # Two that become one would leave questions with two answers.
                if new not in example.text and new not in changes.values():
                    changes[answer] = new
        if not changes:
            return example, list(others)
        # Longer ones first, so that a name within a changed one is not seen.
        old = whole_words(changes)

        def renamed(text: str) -> str:
            return old.sub(lambda match: changes[match[0]], text)

        text, moves = renamed(example.text), list(old.finditer(example.text))
        shown = []
        for question, answer, start in asked:
            before = (match for match in moves if match.end() <= start)
            place = start + sum(len(changes[match[0]]) - len(match[0]) for match in before)
            if start >= 0 and not text.startswith(renamed(answer), place):
                return example, list(others)
            shown.append((renamed(question), renamed(answer), place))
        question, answer, start = shown[0]
        # `pieces` tell where passages stood before, which nobody asks of a renamed text.
        own = replace(example, question=question, text=text, answer=answer, start=start, pieces=())
        return own, shown[1:]
