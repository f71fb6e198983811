"""Which system is better: scores of the same documents, compared with those of a baseline.

Needs the extra ``evaluate``, whose packages are imported when a function is called.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from quals_fast.evaluation import Estimate, missing_extra, rouge_floor
from quals_fast.validation import check_same_length

MIN_DOCUMENTS = 6  # with fewer, the p value of a difference is above 0.05, whatever the scores
TIE = 0.001  # scores that differ by less are equal: in other batches they differ in the last bits
ALPHA = 0.05  # p values below it are marked

RougeAgainst = Literal["reference", "document"]
_ROUGE_PART = {"reference": "F1", "document": "precision"}
_BATCH_NUMBERS = 2**22  # drawn at once, to bound memory


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSummary:
    """A summary with its score.

    Attributes:
        score: NaN if there is none.
        summary: its text, if it is known.
        reference: the text that ROUGE compares it with, if there is one.
    """

    score: float
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

    def score(self, system: str) -> float:
        """Return the mean score of a system's summaries; NaN if one of them has none."""
        return _mean([one.score for one in self.summaries[system]])

    @property
    def spread(self) -> float:
        """How far the scores of the systems are apart; NaN if one of them has none."""
        scores = [self.score(system) for system in self.summaries]
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
        measures: the metric, then ROUGE if the texts are known.
        documents: those that the figures are of.
        n_unpaired: number of documents left out because a system lacks them.
        unpaired: for each system, how many of these it has.
        n_without_score: number of documents left out because a summary has no score.
        without_score: for each system, how many of these it has no score for.
        rouge_against: what ROUGE compares summaries with; None if there is no ROUGE.
        n_resamples: number of draws behind intervals and p values.
        seed: random seed of the draws.
    """

    systems: Sequence[str]
    measures: Sequence[Measure]
    documents: Sequence[PairedDocument]
    n_unpaired: int
    unpaired: Mapping[str, int]
    n_without_score: int
    without_score: Mapping[str, int]
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
        """Return the documents on which the systems differ most by the metric."""
        return sorted(self.documents, key=lambda one: -one.spread)[:n]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that json can write."""
        return {
            "baseline": self.systems[0],
            "systems": list(self.systems),
            "n_documents": self.n_documents,
            "n_unpaired": self.n_unpaired,
            "unpaired": dict(self.unpaired),
            "n_without_score": self.n_without_score,
            "without_score": dict(self.without_score),
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
        ModuleNotFoundError: the extra ``evaluate`` is not installed.
    """
    import numpy as np

    try:
        from scipy.stats import bootstrap, permutation_test
    except ModuleNotFoundError as error:
        raise missing_extra("a comparison", "SciPy") from error
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
    draws: dict[str, Any] = {
        "n_resamples": n_resamples,
        "batch": max(1, _BATCH_NUMBERS // len(differences)),
        "vectorized": True,
    }
    interval = bootstrap(
        (differences,), np.mean, method="percentile", rng=np.random.default_rng(seed), **draws
    ).confidence_interval
    # Of one sample, "samples" flips signs: the two scores of a document change places.
    test = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        rng=np.random.default_rng(seed),
        **draws,
    )
    return Difference(
        system=system,
        mean=Estimate(float(differences.mean()), float(interval.low), float(interval.high)),
        p_value=float(test.pvalue),
        wins=int((differences >= TIE).sum()),
        ties=int((abs(differences) < TIE).sum()),
        losses=int((differences <= -TIE).sum()),
    )


def compare_systems(
    documents: Sequence[PairedDocument],
    systems: Sequence[str],
    *,
    name: str = "QUALS",
    unpaired: Sequence[Collection[str]] = (),
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare systems with a baseline, on the documents for which every summary has a score.

    With texts, ROUGE is compared too: its F1 against the references if all summaries have one,
    otherwise its precision against the documents (see `evaluation.rouge_floor`). The score of a
    document is the mean over a system's summaries of it.

    Args:
        documents: with summaries of all systems.
        systems: at least two names, the baseline first.
        name: name of the metric that gave the scores.
        unpaired: the systems that have a document, for each document that not all of them have.
        n_resamples: as for `paired_difference`.
        seed: as for `paired_difference`.

    Raises:
        ValueError: there are fewer than two systems, or fewer than `MIN_DOCUMENTS` documents can
            be used.
        ModuleNotFoundError: the extra ``evaluate`` is not installed.
    """
    if len(systems) < 2:
        raise ValueError(f"`systems` must be at least two, but got {len(systems)}; add one")
    used = [one for one in documents if not math.isnan(one.spread)]
    without_score = {
        system: sum(math.isnan(one.score(system)) for one in documents) for system in systems
    }
    if len(used) < MIN_DOCUMENTS:
        without = ", ".join(f"{system}: {n}" for system, n in without_score.items() if n)
        raise ValueError(
            f"a comparison needs at least {MIN_DOCUMENTS} documents with a score of every system, "
            f"but got {len(used)} of {len(documents)} (without a score: {without or 'none'}); add "
            "documents, or leave out a system that has too few scores"
        )
    against = _rouge_against(used)
    values = {name: {system: [one.score(system) for one in used] for system in systems}}
    if against is not None:
        values |= _rouge(used, systems, against)
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


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _rouge_against(documents: Sequence[PairedDocument]) -> RougeAgainst | None:
    """Return what ROUGE can compare all summaries with."""
    summaries = [one for document in documents for of in document.summaries.values() for one in of]
    if any(one.summary is None for one in summaries):
        return None
    if all(one.reference is not None for one in summaries):
        return "reference"
    return "document" if all(one.document is not None for one in documents) else None


def _rouge(
    documents: Sequence[PairedDocument], systems: Sequence[str], against: RougeAgainst
) -> dict[str, dict[str, list[float]]]:
    """Return ROUGE-1, 2 and L of each system's summaries, as the mean for each document."""
    values: dict[str, dict[str, list[float]]] = {}
    for system in systems:
        counts = [len(one.summaries[system]) for one in documents]
        summaries = [(one, summary) for one in documents for summary in one.summaries[system]]
        targets = [
            str(summary.reference if against == "reference" else one.document)
            for one, summary in summaries
        ]
        scores = rouge_floor(targets, [str(summary.summary) for _, summary in summaries])
        for measure, of_summaries in scores.items():
            if measure.endswith(_ROUGE_PART[against]):
                rest = iter(of_summaries)
                values.setdefault(measure, {})[system] = [
                    _mean([next(rest) for _ in range(n)]) for n in counts
                ]
    return values
