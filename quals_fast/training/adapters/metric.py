"""QUALS as a torchmetrics metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from quals_fast.results import Status
from quals_fast.scorer import QualsScorer
from quals_fast.training.adapters.rows import as_scorer, check_on_error, score_each
from quals_fast.validation import check_texts

STATUSES: tuple[str, ...] = get_args(Status)


class QualsMetric(Metric):  # type: ignore[misc]
    """Torchmetrics metric: the mean QUALS of summaries, exact across batches and processes.

    The scorer is not part of ``state_dict`` and does not move with ``to()``. Unpickling a metric
    loads the scorer again.

    Args:
        scorer: A scorer, or the name or folder of a model.
        on_error: ``"skip"`` leaves failing rows out of the mean, and logs and counts them;
            ``"raise"`` raises the error.
        kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: If `on_error` is invalid.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    count: Tensor
    statuses: Tensor

    def __init__(
        self, scorer: QualsScorer | str = "qagen-mini", *, on_error: str = "skip", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.scorer = as_scorer(scorer)
        self.on_error = check_on_error(on_error)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        zeros = torch.zeros(len(STATUSES), dtype=torch.int64)
        self.add_state("statuses", zeros, dist_reduce_fx="sum")

    def update(self, preds: str | Sequence[str], target: str | Sequence[str]) -> None:
        """Score summaries against their documents.

        Args:
            preds: A list of summaries, or a single summary.
            target: The documents, one for each summary, or a single document.

        Raises:
            ValueError: If the numbers of summaries and documents differ; with
                ``on_error="raise"``, if a row cannot be scored.
            TypeError: If an argument is neither a string nor a list.
        """
        summaries, documents = (
            [given] if isinstance(given, str) else check_texts(name, given)
            for name, given in (("preds", preds), ("target", target))
        )
        rows = score_each(self.scorer, documents, summaries, self.on_error)
        scores = [row.score for row in rows if not math.isnan(row.score)]
        self.total += math.fsum(scores)
        self.count += len(scores)
        counts = [sum(row.status == status for row in rows) for status in STATUSES]
        self.statuses += torch.tensor(counts, device=self.statuses.device)

    def compute(self) -> Tensor:
        """Return the mean over the rows with a score, in nats per token; NaN if there are none."""
        return self.total / self.count

    def status_counts(self) -> dict[str, int]:
        """Return the number of this process's rows by status."""
        return dict(zip(STATUSES, self.statuses.tolist(), strict=True))
