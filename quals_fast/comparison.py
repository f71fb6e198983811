"""Which system is better: scores of the same documents, compared with those of a baseline.

Measures of texts need the extra ``evaluate``, whose packages are imported when they are asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from quals_fast.evaluation import Estimate, mean_interval, rouge_floor
from quals_fast.resampling import exchange_p_value
from quals_fast.validation import check_same_length

MIN_DOCUMENTS = 6  # with fewer, the p value of a difference is above 0.05, whatever the scores
TIE = 0.001  # scores that differ by less are equal: in other batches they differ in the last bits
ALPHA = 0.05  # p values below it are marked

RougeAgainst = Literal["reference", "document"]
_ROUGE_PART = {"reference": "F1", "document": "precision"}
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSummary:
    """A summary with its scores.

    Attributes:
        scores: by the name of the metric, such as ``QUALS``; NaN if there is none.
        summary: its text, if it is known.
        reference: the text that ROUGE compares it with, if there is one.
    """

    scores: Mapping[str, float]
    summary: str | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDocument:
    """A document that each system has summarised at least once.

    Attributes:
        label: what people call it, such as its id.
        summaries: the summaries of each system.
        document: its text, if it is known.
    """

    label: str
    summaries: Mapping[str, Sequence[ScoredSummary]]
    document: str | None = None

    def score(self, system: str, metric: str) -> float:
        """Return the mean score of a system's summaries; NaN if one of them has none."""
        return _mean([one.scores[metric] for one in self.summaries[system]])

    def spread(self, metric: str) -> float:
        """Return how far the scores of the systems are apart; NaN if one of them has none."""
        scores = [self.score(system, metric) for system in self.summaries]
        return math.nan if any(map(math.isnan, scores)) else max(scores) - min(scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How a system differs from the baseline by one measure.

    Attributes:
        system: name of the system.
        mean: mean difference, system minus baseline, with its 95 % paired bootstrap interval.
        p_value: two-sided p value of the paired randomisation test.
        wins: number of documents on which the system's score is higher.
        ties: number of documents on which the two differ by less than `TIE`.
        losses: number of documents on which the baseline's score is higher.
    """

    system: str
    mean: Estimate
    p_value: float
    wins: int
    ties: int
    losses: int

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that json can write."""
        counts = {"wins": self.wins, "ties": self.ties, "losses": self.losses}
        difference = {"difference": self.mean.to_dict(), "p_value": self.p_value}
        return {"system": self.system, **difference, **counts}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One measure of all systems, on the same documents.

    Attributes:
        name: such as ``QUALS`` or ``ROUGE-1 F1``.
        means: mean of each system.
        differences: those of all systems but the baseline.
    """

    name: str
    means: Mapping[str, float]
    differences: Sequence[Difference]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that json can write."""
        differences = [one.to_dict() for one in self.differences]
        return {"name": self.name, "means": dict(self.means), "differences": differences}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Systems compared with a baseline.

    Attributes:
        systems: their names, the baseline first.
        metrics: their names.
        measures: the metrics, then those of the texts if these are known: ROUGE, length, and how
            much is copied.
        documents: those that the figures are of.
        n_unpaired: number of documents left out because a system lacks them.
        unpaired: for each system, how many of these it has.
        n_without_score: number of documents left out because a summary lacks a score.
        without_score: for each metric and system, how many of these have no score.
        rouge_against: what ROUGE compares summaries with; None if the texts are not known.
        n_resamples: number of draws behind intervals and p values.
        seed: random seed of the draws.
    """

    systems: Sequence[str]
    metrics: Sequence[str]
    measures: Sequence[Measure]
    documents: Sequence[PairedDocument]
    n_unpaired: int
    unpaired: Mapping[str, int]
    n_without_score: int
    without_score: Mapping[str, Mapping[str, int]]
    rouge_against: RougeAgainst | None
    n_resamples: int
    seed: int

    @property
    def n_documents(self) -> int:
        """Number of documents that the figures are of."""
        return len(self.documents)

    @property
    def n_averaged(self) -> dict[str, int]:
        """For each system, the number of documents of which it has several summaries."""
        return {
            system: sum(len(one.summaries[system]) > 1 for one in self.documents)
            for system in self.systems
        }

    def most_different(self, n: int) -> list[PairedDocument]:
        """Return the documents on which the systems differ most by the first metric."""
        return sorted(self.documents, key=lambda one: -one.spread(self.metrics[0]))[:n]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that json can write."""
        return {
            "baseline": self.systems[0],
            "systems": list(self.systems),
            "metrics": list(self.metrics),
            "n_documents": self.n_documents,
            "n_unpaired": self.n_unpaired,
            "unpaired": dict(self.unpaired),
            "n_without_score": self.n_without_score,
            "without_score": {metric: dict(of) for metric, of in self.without_score.items()},
            "n_averaged": self.n_averaged,
            "rouge_against": self.rouge_against,
            "n_resamples": self.n_resamples,
            "seed": self.seed,
            "measures": [one.to_dict() for one in self.measures],
        }


def paired_difference(
    system: str,
    baseline_scores: Sequence[float],
    scores: Sequence[float],
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Compare a system's scores with the baseline's of the same documents.

    The interval is of the 2.5th to the 97.5th percentile of the mean difference when documents are
    drawn with replacement, each with both scores. The p value is that of a paired randomisation
    test: how often the mean difference is at least as large, in either direction, if the two
    scores of each document change places at random. It is exact if all 2 ** n ways are at most
    `n_resamples`; otherwise these are drawn, and the p value is never 0.

    Args:
        system: name of the system.
        baseline_scores: finite numbers, at least two.
        scores: as many, of the same documents in the same order.
        n_resamples: number of draws.
        seed: random seed of the draws; numpy's global state is not used.

    Raises:
        ValueError: the lengths differ, a number is not finite, or there are fewer than two
            documents.
    """
    import numpy as np

    check_same_length("scores", scores, baseline_scores)
    if len(scores) < 2:
        raise ValueError(f"`scores` must have at least two documents, but got {len(scores)}")
    differences = np.subtract(scores, baseline_scores, dtype=np.float64)
    if not np.isfinite(differences).all():
        index = int(np.isfinite(differences).argmin())
        raise ValueError(
            "`baseline_scores` and `scores` must be finite numbers, but got "
            f"{baseline_scores[index]} and {scores[index]} at {index}; leave out documents without "
            "a score"
        )
    return Difference(
        system=system,
        mean=mean_interval(differences.tolist(), n_resamples=n_resamples, seed=seed),
        p_value=exchange_p_value(differences, n_resamples, seed),
        wins=int((differences >= TIE).sum()),
        ties=int((abs(differences) < TIE).sum()),
        losses=int((differences <= -TIE).sum()),
    )


def compare_systems(
    documents: Sequence[PairedDocument],
    systems: Sequence[str],
    *,
    metrics: Sequence[str] = ("QUALS",),
    unpaired: Sequence[Collection[str]] = (),
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare systems with a baseline, on the documents for which every summary has all scores.

    With texts, the measures of `text_measures` are compared too, with references if all summaries
    have one. The value of a document is the mean over a system's summaries of it.

    Args:
        documents: with summaries of all systems.
        systems: at least two names, the baseline first.
        metrics: names of the metrics that gave the scores, at least one.
        unpaired: the systems that have a document, for each document that not all of them have.
        n_resamples: as for `paired_difference`.
        seed: as for `paired_difference`.

    Raises:
        ValueError: there are fewer than two systems, or fewer than `MIN_DOCUMENTS` documents can
            be used.
        ModuleNotFoundError: texts are compared, and the extra ``evaluate`` is not installed.
    """
    if len(systems) < 2:
        raise ValueError(f"`systems` must be at least two, but got {len(systems)}; add one")
    used = [
        one for one in documents if not any(math.isnan(one.spread(metric)) for metric in metrics)
    ]
    without_score = {
        metric: {
            system: sum(math.isnan(one.score(system, metric)) for one in documents)
            for system in systems
        }
        for metric in metrics
    }
    if len(used) < MIN_DOCUMENTS:
        raise ValueError(
            f"a comparison needs at least {MIN_DOCUMENTS} documents with a score of every system, "
            f"but got {len(used)} of {len(documents)} (without a score: "
            f"{counts_without_score(without_score) or 'none'}); add documents, or leave out a "
            "system or metric that has too few scores"
        )
    against = _rouge_against(used)
    values = {
        metric: {system: [one.score(system, metric) for one in used] for system in systems}
        for metric in metrics
    }
    if against is not None:
        values |= _of_texts(used, systems, against)
    baseline, *others = systems
    measures = [
        Measure(
            name=measure,
            means={system: _mean(of_system[system]) for system in systems},
            differences=[
                paired_difference(
                    system,
                    of_system[baseline],
                    of_system[system],
                    n_resamples=n_resamples,
                    seed=seed,
                )
                for system in others
            ],
        )
        for measure, of_system in values.items()
    ]
    return Comparison(
        systems=systems,
        metrics=metrics,
        measures=measures,
        documents=used,
        n_unpaired=len(unpaired),
        unpaired={system: sum(system in have for have in unpaired) for system in systems},
        n_without_score=len(documents) - len(used),
        without_score=without_score,
        rouge_against=against,
        n_resamples=n_resamples,
        seed=seed,
    )


def counts_without_score(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return counts by metric and system in words; the metric is named if there are several."""
    return ", ".join(
        f"{system}: {n}" if len(counts) == 1 else f"{metric} of {system}: {n}"
        for metric, of_metric in counts.items()
        for system, n in of_metric.items()
        if n
    )


def text_measures(
    documents: Sequence[str], summaries: Sequence[str], references: Sequence[str] | None = None
) -> dict[str, list[float]]:
    """Return what can be measured without a model, for each summary.

    Args:
        documents: texts.
        summaries: one text per document.
        references: one reference summary per document. With them, ROUGE is its F1 against the
            reference; without, its precision against the document.

    Returns:
        By name: ``ROUGE-1 F1`` or ``ROUGE-1 precision``, the same of 2 and L, ``words`` (the
        length) and ``copied trigrams`` (see `copied_ngrams`).

    Raises:
        ValueError: lengths differ.
        TypeError: an argument is not a list of strings.
        ModuleNotFoundError: the extra ``evaluate`` is not installed.
    """
    rouge = rouge_floor(documents if references is None else references, summaries)
    part = _ROUGE_PART["document" if references is None else "reference"]
    pairs = zip(documents, summaries, strict=True)
    return {
        **{name: of_summaries for name, of_summaries in rouge.items() if name.endswith(part)},
        "words": [float(len(summary.split())) for summary in summaries],
        "copied trigrams": [copied_ngrams(*pair, 3) for pair in pairs],
    }


def copied_ngrams(document: str, summary: str, n: int) -> float:
    """Return the share of a summary's distinct n-grams of words that occur in the document.

    Case and punctuation do not matter. A summary of fewer than `n` words has a share of 0.
    """
    there, here = (_ngrams(text, n) for text in (document, summary))
    return len(here & there) / max(1, len(here))


def _ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _rouge_against(documents: Sequence[PairedDocument]) -> RougeAgainst | None:
    """Return what ROUGE can compare all summaries with."""
    summaries = [one for document in documents for of in document.summaries.values() for one in of]
    texts = [*(one.summary for one in summaries), *(one.document for one in documents)]
    if any(text is None for text in texts):
        return None
    return "reference" if all(one.reference is not None for one in summaries) else "document"


def _of_texts(
    documents: Sequence[PairedDocument], systems: Sequence[str], against: RougeAgainst
) -> dict[str, dict[str, list[float]]]:
    """Return the measures of each system's texts, as the mean for each document."""
    values: dict[str, dict[str, list[float]]] = {}
    for system in systems:
        counts = [len(one.summaries[system]) for one in documents]
        summaries = [(one, summary) for one in documents for summary in one.summaries[system]]
        references = [str(summary.reference) for _, summary in summaries]
        measures = text_measures(
            [str(document.document) for document, _ in summaries],
            [str(summary.summary) for _, summary in summaries],
            references if against == "reference" else None,
        )
        for measure, of_summaries in measures.items():
            rest = iter(of_summaries)
            values.setdefault(measure, {})[system] = [
                _mean([next(rest) for _ in range(n)]) for n in counts
            ]
    return values
