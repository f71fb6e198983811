"""Which generated questions are asked (docs/semantics.md 2, step 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

QUESTIONS_PER_SUMMARY = 20
_MIN_WORDS = 3


@dataclass(frozen=True, slots=True)
class Question:
    """A generated question.

    Attributes:
        text: as decoded.
        logprob: its log-probability given summary and answer over its number of tokens, nats.
        expected_answer: the candidate that it was generated for.
    """

    text: str
    logprob: float
    expected_answer: str


def filter_questions(
    generated: Sequence[Question], summary_answers: Sequence[str] | None = None
) -> list[Question]:
    """Choose the questions to ask, best first.

    They are sorted by log-probability and cut after the first ``?``. Those without one, shorter
    than three words, or equal to an earlier one are dropped. Where the published program fills up
    with random unfiltered questions, fewer than 20 are kept.

    Args:
        generated: all questions about a summary.
        summary_answers: what question answering finds for each in the summary; with these, only
            questions with exactly the expected answer stay.

    Returns:
        At most 20 questions.

    Source: W4ngatang/qags, qa_utils.py, filter_qsts.
    """
    remaining = list(generated)
    if summary_answers is not None:
        answered = zip(generated, summary_answers, strict=True)
        remaining = [q for q, answer in answered if answer == q.expected_answer]
    kept: dict[str, Question] = {}
    for question in sorted(remaining, key=lambda question: -question.logprob):
        words, mark, _ = question.text.partition("?")
        text = (words + mark).strip()
        # The mark is no word even where a tokenizer decodes it with a space before it.
        if mark and len(words.split()) >= _MIN_WORDS and text not in kept:
            kept[text] = Question(text, question.logprob, question.expected_answer)
    return list(kept.values())[:QUESTIONS_PER_SUMMARY]
