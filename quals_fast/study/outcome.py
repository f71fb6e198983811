"""What people voted, how far they agree with one another, and how far a metric agrees with them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

from quals_fast.comparison import TIE
from quals_fast.errors import InputError
from quals_fast.evaluation import Estimate, mean_interval
from quals_fast.jobs.pairing import check_signature, pair_scores
from quals_fast.study.design import Study
from quals_fast.study.votes import Ballot


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeOutcome:
    """The votes on an attribute.

    A share is a mean over pairs: each pair counts the same, however many people voted on it. It has
    no interval (NaN) if all pairs have the same share.

    Attributes:
        attribute: a key of `ATTRIBUTES`.
        n_pairs: number of pairs with a vote.
        n_votes: number of votes.
        first_better: share of votes for the first system's summary, with its 95 % interval.
        equal: share of votes for neither.
        second_better: share of votes for the second system's summary.
        same: share of equal votes among two annotators' votes on a pair; NaN if no pair has two.
        alpha: Krippendorff's alpha; NaN if no pair has two votes, or all votes are the same.
    """

    attribute: str
    n_pairs: int
    n_votes: int
    first_better: Estimate
    equal: Estimate
    second_better: Estimate
    same: float
    alpha: float

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that json can write; NaN becomes None."""
        content = asdict(self)
        for name in ("first_better", "equal", "second_better"):
            content[name] = getattr(self, name).to_dict()
        for name in ("same", "alpha"):
            content[name] = None if math.isnan(content[name]) else content[name]
        return content


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricOutcome:
    """How far a metric agrees with the votes on factual consistency.

    A pair is decided if more people prefer one summary than the other.

    Attributes:
        metric: its name, such as ``QUALS``.
        files: where the scores of the first and the second system come from.
        signature: what the scores depend on.
        n: number of decided pairs with two scores.
        n_ties: number of these in which the scores differ by less than `comparison.TIE`.
        n_missing: number of decided pairs without two scores.
        n_undecided: number of pairs that are not decided.
        agreement: share of the `n` pairs in which the preferred summary has the higher score, with
            its 95 % interval. A tie counts one half.
    """

    metric: str
    files: tuple[str, str]
    signature: str
    n: int
    n_ties: int
    n_missing: int
    n_undecided: int
    agreement: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that json can write; NaN becomes None."""
        return asdict(self) | {"agreement": self.agreement.to_dict()}


def votes_by_pair(ballots: Sequence[Ballot], attribute: str) -> dict[int, list[int]]:
    """Return the votes on each pair that has some, as in `Ballot`, by the pair's index."""
    votes: dict[int, list[int]] = {}
    for ballot in ballots:
        for pair, vote in ballot.votes[attribute].items():
            votes.setdefault(pair, []).append(vote)
    return dict(sorted(votes.items()))


def attribute_outcome(
    attribute: str, ballots: Sequence[Ballot], *, n_resamples: int
) -> AttributeOutcome:
    """Return shares, intervals and agreement of the votes on an attribute.

    Args:
        attribute: a key of `ATTRIBUTES`.
        ballots: the votes.
        n_resamples: draws of the pairs, with replacement, behind each interval.
    """
    votes = list(votes_by_pair(ballots, attribute).values())
    first, equal, second = (
        _share([of.count(vote) / len(of) for of in votes], n_resamples) for vote in (1, 0, -1)
    )
    same, alpha = reliability(votes)
    return AttributeOutcome(
        attribute=attribute,
        n_pairs=len(votes),
        n_votes=sum(map(len, votes)),
        first_better=first,
        equal=equal,
        second_better=second,
        same=same,
        alpha=alpha,
    )


def reliability(units: Iterable[Sequence[int]]) -> tuple[float, float]:
    """Return how far those who judged the same units agree.

    Args:
        units: the values that each unit was given, in any order. Units with fewer than two do not
            count.

    Returns:
        The share of equal values among two values of a unit, and Krippendorff's alpha for nominal
        values; NaN where undefined.

    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C.
    """
    coincidences: dict[tuple[int, int], float] = defaultdict(float)
    for values in units:
        for both in permutations(values, 2):
            coincidences[both] += 1 / (len(values) - 1)
    totals: dict[int, float] = defaultdict(float)
    for (value, _), n in coincidences.items():
        totals[value] += n
    n_values = sum(totals.values())
    if not n_values:
        return math.nan, math.nan
    observed = sum(n for (one, other), n in coincidences.items() if one != other)
    expected = sum(totals[one] * totals[other] for one, other in permutations(totals, 2))
    alpha = 1 - (n_values - 1) * observed / expected if expected else math.nan
    return 1 - observed / n_values, alpha


def metric_outcome(
    study: Study, ballots: Sequence[Ballot], files: tuple[str, str], *, n_resamples: int
) -> MetricOutcome:
    """Compare scores with the votes on factual consistency.

    Args:
        study: the study.
        ballots: its votes.
        files: for each system, a file that `quals-fast score` wrote about its summaries. Rows are
            found by their ids.
        n_resamples: as for `attribute_outcome`.

    Raises:
        InputError: a file cannot be read, lacks a summary, has an id twice, or has scores that are
            not comparable with the others.
    """
    (first, signature), (second, other) = (_scores(study, i, file) for i, file in enumerate(files))
    check_signature(other, files[1], {signature: files[0]})
    agreeing: list[float] = []
    n_missing = n_undecided = 0
    for pair, votes in votes_by_pair(ballots, "consistency").items():
        difference, preferred = first[pair] - second[pair], sum(votes)
        if preferred == 0:
            n_undecided += 1
        elif math.isnan(difference):
            n_missing += 1
        elif abs(difference) < TIE:
            agreeing.append(0.5)
        else:
            agreeing.append(float(difference * preferred > 0))
    return MetricOutcome(
        metric=signature.partition("|")[0].upper(),
        files=files,
        signature=signature,
        n=len(agreeing),
        n_ties=agreeing.count(0.5),
        n_missing=n_missing,
        n_undecided=n_undecided,
        agreement=_share(agreeing, n_resamples),
    )


def _scores(study: Study, system: int, file: str) -> tuple[list[float], str]:
    """Return the scores of a system's summaries, in the order of the pairs, and a signature."""
    name = study.systems[system]
    pairing, _, signatures = pair_scores({file: name})
    scores = []
    for pair in study.pairs:
        row_id = str(pair.summaries[system].id)
        if row_id not in pairing.rows:
            raise InputError(
                f"{file} must have the scores of {name}, but has no row with the id {row_id!r}; "
                f"give the scores in the order of the systems, {' and '.join(study.systems)}"
            )
        scores.append(pairing.rows[row_id][name][0].score)
    return scores, signatures[0]


def _share(values: Sequence[float], n_resamples: int) -> Estimate:
    """Return a mean with its interval.

    Without an interval if all values are equal: resampling them would not tell its error.
    """
    share = mean_interval(values, n_resamples=n_resamples)
    return share if len(set(values)) > 1 else Estimate(share.value, math.nan, math.nan)
