"""QUALS with the interface of Hugging Face's `evaluate`, which need not be installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quals_fast.scorer import QualsScorer
from quals_fast.training.adapters.rows import as_scorer, check_on_error, score_each, summarise
from quals_fast.validation import check_texts


class QualsModule:
    """QUALS with the interface of a Hugging Face ``evaluate`` module.

    Pass summaries and documents to `compute`, or add them in batches first. ``evaluate`` itself
    need not be installed.

    Args:
        scorer: A scorer, or the name or folder of a model.
        on_error: ``"skip"`` gives a failing row NaN, and logs and counts it; ``"raise"`` raises the
            error.

    Raises:
        ValueError: If `on_error` is invalid.
    """

    name = "quals"

    def __init__(self, scorer: QualsScorer | str = "qagen-mini", *, on_error: str = "skip") -> None:
        self.scorer = as_scorer(scorer)
        self.on_error = check_on_error(on_error)
        self._summaries: list[object] = []
        self._documents: list[object] = []

    def add(self, *, prediction: str, reference: str) -> None:
        """Add a summary and its document.

        Args:
            prediction: The summary.
            reference: The document.
        """
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions: Sequence[str], references: Sequence[str]) -> None:
        """Add summaries and their documents.

        Args:
            predictions: The summaries.
            references: The documents, one for each summary.

        Raises:
            ValueError: If the lists differ in length.
            TypeError: If an argument is not a list or vector.
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
        """Score all summaries, those given here and those added before, and clear them.

        Args:
            predictions: Summaries.
            references: Their documents, one for each summary.
            n_resamples: Number of bootstrap resamples for the interval.

        Returns:
            A dictionary with the mean score ``quals`` in nats per token and its 95 % interval
            (``quals_low``, ``quals_high``); the number of summaries with a score
            (``quals_scored``) and without one, by reason (``quals_no_pairs``, ``quals_empty``,
            ``quals_unknown``, ``quals_error``); ``scores``, one per summary, NaN if there is none;
            ``statuses``; and ``signature``.

        Raises:
            ValueError: If the lists differ in length, or one of them is missing; with
                ``on_error="raise"``, if a row cannot be scored.
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
