"""QUALS with the interface of Hugging Face's `evaluate`, which it does not need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quals_fast.scorer import QualsScorer
from quals_fast.training.adapters.rows import as_scorer, check_on_error, score_each, summarise
from quals_fast.validation import check_texts


class QualsModule:
    """Scores in one call, or of batches that were added.

    Args:
        scorer: a scorer, or the name or folder of a model.
        on_error: ``"skip"`` gives a failing row NaN, logs and counts it; ``"raise"`` raises.

    Raises:
        ValueError: `on_error` is neither.
    """

    name = "quals"

    def __init__(self, scorer: QualsScorer | str = "qagen-mini", *, on_error: str = "skip") -> None:
        self.scorer = as_scorer(scorer)
        self.on_error = check_on_error(on_error)
        self._summaries: list[object] = []
        self._documents: list[object] = []

    def add(self, *, prediction: str, reference: str) -> None:
        """Add a summary and its document."""
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions: Sequence[str], references: Sequence[str]) -> None:
        """Add summaries and their documents.

        Raises:
            ValueError: the lengths differ.
            TypeError: an argument is not a list or vector.
        """
        summaries = check_texts("predictions", predictions)
        documents = check_texts("references", references)
        if len(summaries) != len(documents):
            raise ValueError(
                "`predictions` and `references` must have the same length, but got "
                f"{len(summaries)} and {len(documents)}; give one document for each summary"
            )
        self._summaries.extend(summaries)
        self._documents.extend(documents)

    def compute(
        self,
        *,
        predictions: Sequence[str] | None = None,
        references: Sequence[str] | None = None,
        n_resamples: int = 1000,
    ) -> dict[str, Any]:
        """Score what is given and what was added before, and forget it.

        Args:
            predictions: summaries.
            references: their documents, one for each.
            n_resamples: of the bootstrap.

        Returns:
            The mean with its 95 % interval and the counts of `rows.summarise`; ``scores``, one a
            summary, NaN where there is none; ``statuses``; ``signature``.

        Raises:
            ValueError: lengths differ, or one of the two is missing; if asked for, a row could not
                be scored.
        """
        self.add_batch(
            predictions=[] if predictions is None else predictions,
            references=[] if references is None else references,
        )
        summaries, documents = self._summaries, self._documents
        self._summaries, self._documents = [], []
        rows = score_each(self.scorer, documents, summaries, self.on_error)
        return {
            **summarise(rows, n_resamples=n_resamples),
            "scores": [row.score for row in rows],
            "statuses": [row.status for row in rows],
            "signature": self.scorer.signature,
        }
