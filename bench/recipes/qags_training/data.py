"""The shared data as QAGS's networks are trained on it."""

from __future__ import annotations

import random
from pathlib import Path

from quals_fast.training.qagen.corpus import Corpus, Question, read_corpus
from quals_fast.training.qagen.views import MAX_PASSAGE_WORDS, Example, sentences

# Sources with many questions on few sentences, or templated ones, would crowd out the rest.
CAPS = {"qamr": 8_000, "policyqa": 3_000}


def read_training_data(path: Path, *, seed: int) -> Corpus:
    """Read the file of training questions, capped."""
    return read_corpus([path], seed=seed, caps=CAPS)


def unanswerable(corpus: Corpus, question: Question, rng: random.Random) -> Example | None:
    """Show a text that does not hold the answer, or None if there is none.

    Two times in three it is another passage of the article, otherwise the question's own passage
    without the sentence of the answer.
    """
    if rng.random() < 2 / 3:
        related = corpus.related(question.passage)
        if not related:
            return None
        text = corpus.passages[rng.choice(related)]
        text = " ".join(text.split()[:MAX_PASSAGE_WORDS])
    else:
        text = corpus.passages[question.passage]
        if len(text.split()) > MAX_PASSAGE_WORDS:
            return None
        end = question.start + len(question.answer)
        kept = [text[a:b] for a, b in sentences(text) if b <= question.start or a >= end]
        text = "".join(kept).strip()
    lowered = text.lower()
    if len(text.split()) < 8 or any(answer.lower() in lowered for answer in question.answers):
        return None
    return Example(question.text, text, "", -1)
