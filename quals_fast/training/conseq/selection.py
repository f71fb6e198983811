"""Which documents ConSeq learns from: those with a bad sample and a good reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from quals_fast.evaluation import rouge_floor


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A document's summaries with their scores; NaN where there is none.

    Attributes:
        reference: score of the reference.
        samples: score of each sample.
    """

    reference: float
    samples: tuple[float, ...]

    @property
    def worst(self) -> int | None:
        """Index of the sample with the lowest score, the first of equal ones; None without any."""
        scored = [i for i, score in enumerate(self.samples) if not math.isnan(score)]
        return min(scored, key=lambda i: self.samples[i], default=None)

    @property
    def is_usable(self) -> bool:
        """Whether the reference and at least one sample have a score."""
        return self.worst is not None and not math.isnan(self.reference)


class Chosen(NamedTuple):
    """A document to learn from: its reference is S+, one of its samples S-."""

    row: int
    negative: int


def choose(
    rows: Sequence[Judged], *, positive_fraction: float = 0.3, negative_fraction: float = 0.3
) -> list[Chosen]:
    """Choose documents whose reference is among the best and whose worst sample among the worst.

    A document without a score for its reference or for any sample is never chosen. Of equal scores
    at the edge of a fraction, all belong to it.

    Args:
        rows: one per document.
        positive_fraction: share of documents, those with the highest-scoring references.
        negative_fraction: share of documents, those with the lowest-scoring worst samples.

    Returns:
        In the order of `rows`.

    Raises:
        ValueError: a fraction is not above 0 and at most 1.
    """
    for name, fraction in (
        ("positive_fraction", positive_fraction),
        ("negative_fraction", negative_fraction),
    ):
        if not 0 < fraction <= 1:
            raise ValueError(f"`{name}` must be above 0 and at most 1, but got {fraction}")
    usable = [
        (Chosen(row, worst), -judged.reference, judged.samples[worst])
        for row, judged in enumerate(rows)
        if judged.is_usable and (worst := judged.worst) is not None
    ]
    if not usable:
        return []
    best = _edge([reference for _, reference, _ in usable], positive_fraction)
    worst_of_all = _edge([sample for *_, sample in usable], negative_fraction)
    return [
        chosen
        for chosen, reference, sample in usable
        if reference <= best and sample <= worst_of_all
    ]


def _edge(values: list[float], fraction: float) -> float:
    """Return the largest of the lowest `fraction` of values (at least one value)."""
    # Rounded first: 0.3 * 10 is 3.0000000000000004 for some fractions and sizes.
    count = max(1, math.floor(round(fraction * len(values), 9)))
    return sorted(values)[count - 1]


def judge_by_rouge(references: Sequence[str], samples: Sequence[Sequence[str]]) -> list[Judged]:
    """Score samples by the mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L with their reference.

    The baseline of docs/semantics.md 1.5. Every reference scores 1 with itself, so all are among
    the best, and only the samples decide.

    Raises:
        ModuleNotFoundError: the extra ``train`` is not installed.
    """
    pairs = [
        (reference, sample)
        for reference, own in zip(references, samples, strict=True)
        for sample in own
    ]
    figures = rouge_floor([reference for reference, _ in pairs], [sample for _, sample in pairs])
    parts = zip(*(figures[f"ROUGE-{kind} F1"] for kind in "12L"), strict=True)
    means = iter([sum(part) / 3 for part in parts])
    return [Judged(reference=1.0, samples=tuple(next(means) for _ in own)) for own in samples]
