"""Agreement of a score with human judgements, with intervals, and ROUGE as the baseline to beat.

Needs the extra ``evaluate``, whose packages are imported when a function is called.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

from quals_fast.errors import InputError
from quals_fast.jobs.parsing import InputRow
from quals_fast.resampling import resampled_means
from quals_fast.results import RowScore
from quals_fast.validation import check_list, check_same_length, check_texts, text_problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

STATISTICS = {"pearson": "Pearson", "spearman": "Spearman", "kendall": "Kendall", "auc": "AUC"}

_MIN_ROWS = 3
_TRUTHS: dict[str, Any] = {"true": 1, "false": 0}  # as CSV writes them
_ROUGE = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic and its 95 % bootstrap interval; all three are NaN where it is undefined.

    Attributes:
        value: The statistic of the rows as given.
        low: 2.5th percentile of the statistic over the resamples.
        high: 97.5th percentile.
    """

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Return a dictionary that json can write; NaN becomes None."""
        return {key: None if math.isnan(x) else x for key, x in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well a score agrees with human labels.

    Attributes:
        name: Name of the metric, such as ``QUALS``.
        n: Number of rows used.
        n_missing: Number of rows left out because their score is NaN.
        pearson: Linear correlation.
        spearman: Rank correlation, ties sharing their mean rank.
        kendall: Tau-b.
        auc: Probability that a positive row outscores a negative one; a tie counts one half.
        undefined: For each statistic that is NaN, the reason.
    """

    name: str
    n: int
    n_missing: int
    pearson: Estimate
    spearman: Estimate
    kendall: Estimate
    auc: Estimate
    undefined: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that json can write; NaN becomes None."""
        head = {"name": self.name, "n": self.n, "n_missing": self.n_missing}
        content = head | {key: getattr(self, key).to_dict() for key in STATISTICS}
        return content | ({"undefined": self.undefined} if self.undefined else {})


def agreement(
    name: str,
    scores: Sequence[float],
    labels: Sequence[float],
    *,
    positive_from: float = 1.0,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Compare scores with human labels of the same rows.

    Args:
        name: Name of the metric, for display.
        scores: Finite numbers, higher is better. NaN is a missing score; its row is left out.
        labels: Finite numbers, higher is better.
        positive_from: For the AUC, a row is positive if its label is at least this.
        n_resamples: Number of draws of the rows, with replacement, behind each interval. Draws in
            which a statistic is undefined, such as those with one class only, are left out of it.
        seed: Random seed of the draws, which are the same for all four statistics.

    Returns:
        Four statistics with intervals; NaN where undefined (constant scores or labels, one class).

    Raises:
        ValueError: If lengths differ, a value is not a finite number, fewer than three rows have a
            score, or `n_resamples` is below 1.
        TypeError: If `scores` or `labels` is not a list or vector.
        ModuleNotFoundError: If the extra ``evaluate`` is not installed.
    """
    scores, labels = (
        check_list("scores", scores, "numbers"),
        check_list("labels", labels, "numbers"),
    )
    if len(scores) != len(labels):
        raise ValueError(
            "`scores` and `labels` must have the same length, but got "
            f"{len(scores)} and {len(labels)}"
        )
    if n_resamples < 1:
        raise ValueError(f"`n_resamples` must be at least 1, but got {n_resamples}")
    for index, score in enumerate(scores):
        if not isinstance(score, Real) or math.isinf(score):
            raise ValueError(f"scores[{index}] must be a finite number or NaN, but got {score!r}")
    for index, label in enumerate(labels):
        if not isinstance(label, Real) or not math.isfinite(label):
            raise ValueError(
                f"labels[{index}] must be a finite number, but got {label!r}; "
                "leave out rows without a human label"
            )
    rows = [
        (float(score), float(label))
        for score, label in zip(scores, labels, strict=True)
        if not math.isnan(score)
    ]
    n_missing = len(scores) - len(rows)
    if len(rows) < _MIN_ROWS:
        raise ValueError(
            f"agreement needs at least {_MIN_ROWS} rows with a score, but got {len(rows)} "
            f"({n_missing} more are NaN); add rows, or set `no_pairs_score` if summaries have no "
            "pairs"
        )
    estimates = _estimates(rows, positive_from, n_resamples, seed)
    undefined = {
        statistic: reason
        for statistic, reason in _reasons(rows, positive_from).items()
        if math.isnan(estimates[statistic].value)
    }
    return Agreement(name=name, n=len(rows), n_missing=n_missing, **estimates, undefined=undefined)


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A scored row with its human judgement; the probability is None without a calibration."""

    document: str
    summary: str
    label: float
    score: float
    probability: float | None = None

    @classmethod
    def of(
        cls, row: InputRow, label_field: str, score: float, probability: float | None = None
    ) -> LabelledRow:
        """Take the label from a row of a file; ``true`` is 1, and ``false`` is 0.

        Raises:
            InputError: the row has no such field, or it is not a finite number.
        """
        if label_field not in row.fields:
            fields = ", ".join(map(repr, row.fields))
            raise InputError(
                f"line {row.line}: expected a label {label_field!r}, but got {fields}; name it "
                "with --label"
            )
        value = row.fields[label_field]
        try:
            label = float(_TRUTHS.get(value.lower(), value) if isinstance(value, str) else value)
        except (TypeError, ValueError):
            raise InputError(
                f"line {row.line}: the label {label_field!r} must be a number, but got {value!r}"
            ) from None
        except OverflowError:  # an integer of hundreds of digits
            label = math.inf
        if not math.isfinite(label):
            raise InputError(
                f"line {row.line}: the label {label_field!r} must be finite, but got {label}; "
                "leave out rows without a human label"
            )
        return cls(str(row.document), str(row.summary), label, score, probability)


class Labels:
    """The labelled rows of a job, gathered while it runs.

    Args:
        label_field: Key or column of the human judgement.
        are_shares: Whether labels must be from 0 to 1, as probabilities are.
    """

    def __init__(self, label_field: str, *, are_shares: bool = False) -> None:
        self.rows: list[LabelledRow] = []
        self._label_field = label_field
        self._are_shares = are_shares

    def check(self, row: InputRow) -> None:
        """Raise `InputError` if a row that can be scored has no usable label."""
        if row.problem is None:
            self.of(row)

    def of(self, row: InputRow, result: RowScore | None = None) -> LabelledRow:
        """Return a row with its label; raise `InputError` if that is of no use."""
        score = math.nan if result is None else result.score
        probability = getattr(result, "probability", None)
        labelled = LabelledRow.of(row, self._label_field, score, probability)
        if self._are_shares and not 0 <= labelled.label <= 1:
            raise InputError(
                f"line {row.line}: the label {self._label_field!r} must be from 0 to 1 to be "
                f"compared with a probability, but got {labelled.label:g}; give 1 for consistent, "
                "0 for inconsistent, or the share of judgements for consistent"
            )
        return labelled

    def add(self, row: InputRow, result: RowScore) -> None:
        """Keep a row, unless it could not be scored."""
        if result.status != "error":
            self.rows.append(self.of(row, result))


def compare(
    rows: Sequence[LabelledRow],
    *,
    name: str = "QUALS",
    positive_from: float = 1.0,
    n_resamples: int = 1000,
) -> list[Agreement]:
    """Return the agreement of a score with the labels, then that of ROUGE on the same rows.

    Only rows with a score are used; the others are counted as missing.

    Args:
        rows: Rows with score and label.
        name: Name of the metric that gave the scores.
        positive_from: As for `agreement`.
        n_resamples: As for `agreement`.

    Raises:
        ValueError: As `agreement`.
        ModuleNotFoundError: If the extra ``evaluate`` is not installed.
    """

    def measure(name: str, scores: list[float], rows: Sequence[LabelledRow]) -> Agreement:
        labels = [row.label for row in rows]
        return agreement(name, scores, labels, positive_from=positive_from, n_resamples=n_resamples)

    own = measure(name, [row.score for row in rows], rows)
    scored = [row for row in rows if not math.isnan(row.score)]
    rouge = rouge_floor([row.document for row in scored], [row.summary for row in scored])
    return [own, *(measure(name, scores, scored) for name, scores in rouge.items())]


def rouge_floor(documents: Sequence[str], summaries: Sequence[str]) -> dict[str, list[float]]:
    """Return ROUGE of each summary against its document: the baseline for a consistency score.

    Precision is the share of the summary's n-grams that occur in the document; for ROUGE-L, the
    share of its words in the longest common subsequence. Words are stemmed.

    Returns:
        ``ROUGE-1 precision``, ``ROUGE-1 F1``, and so on for 2 and L: one number from 0 to 1 for
        each pair.

    Raises:
        ValueError: If lengths differ.
        TypeError: If an argument is not a list of strings.
        ModuleNotFoundError: If the extra ``evaluate`` is not installed.
    """
    both = [check_texts("documents", documents), check_texts("summaries", summaries)]
    for name, texts in zip(("documents", "summaries"), both, strict=True):
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(text_problem(f"{name}[{index}]", text))
    check_same_length("summaries", both[1], both[0])
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError as error:
        raise missing_extra("ROUGE", "rouge-score") from error
    scorer = RougeScorer(list(_ROUGE.values()), use_stemmer=True)
    scores = [scorer.score(*pair) for pair in zip(*both, strict=True)]
    return {
        f"{title} {part}": [float(getattr(one[key], field)) for one in scores]
        for title, key in _ROUGE.items()
        for part, field in (("precision", "precision"), ("F1", "fmeasure"))
    }


def mean_interval(values: Sequence[float], *, n_resamples: int = 1000, seed: int = 0) -> Estimate:
    """Return the mean with its 95 % bootstrap interval; all NaN without values.

    Args:
        values: Finite numbers.
        n_resamples: Number of draws of the values, with replacement.
        seed: Random seed of the draws; numpy's global state is not used.
    """
    import numpy as np

    if not values:
        return Estimate(math.nan, math.nan, math.nan)
    numbers = np.asarray(values, np.float64)
    means = resampled_means(numbers, n_resamples, seed)
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    return Estimate(float(numbers.mean()), low, high)


def _reasons(rows: list[tuple[float, float]], positive_from: float) -> dict[str, str]:
    """Return the reason why each statistic is undefined, if it is."""
    scores, labels = (sorted(set(column)) for column in zip(*rows, strict=True))
    reasons: dict[str, str] = {}
    for what, values in (("scores", scores), ("labels", labels)):
        if len(values) == 1:
            reason = f"all {what} are {values[0]:g}"
            reasons |= {"pearson": reason, "spearman": reason, "kendall": reason}
    if labels[0] >= positive_from or labels[-1] < positive_from:
        side = (
            f"{positive_from:g} or more"
            if labels[0] >= positive_from
            else f"below {positive_from:g}"
        )
        reasons["auc"] = (
            f"all labels are {side}, so there is only one class; set the lowest positive label "
            "with --positive-from (`positive_from`)"
        )
    return reasons


def missing_extra(what: str, package: str) -> ModuleNotFoundError:
    """Return the error that says what to install."""
    return ModuleNotFoundError(f'{what} needs {package}: pip install ".[evaluate]" in the checkout')


def _estimates(
    rows: list[tuple[float, float]], positive_from: float, n_resamples: int, seed: int
) -> dict[str, Estimate]:
    """Return the four statistics with their intervals."""
    try:
        import numpy as np
        import sklearn.metrics  # noqa: F401 - here for the message below
        from scipy.stats import bootstrap
    except ModuleNotFoundError as error:
        raise missing_extra("agreement", "SciPy and scikit-learn") from error
    x, y = np.array(rows).T
    statistics = partial(_statistics, positive_from=positive_from)
    with warnings.catch_warnings():
        # Each degenerate draw would warn, and scipy's own interval is not used.
        warnings.simplefilter("ignore")
        values = statistics(x, y)
        # Percentiles, not BCa: they stay within the statistic's range and can leave out undefined
        # draws; BCa is NaN if one row holds the only positive label.
        draws = bootstrap(
            (x, y),
            statistics,
            n_resamples=n_resamples,
            batch=100,
            vectorized=True,
            paired=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution  # (4, n_resamples)
        low, high = np.nanpercentile(draws, [2.5, 97.5], axis=-1)
    columns = zip(STATISTICS, values.tolist(), low.tolist(), high.tolist(), strict=True)
    return {key: Estimate(*numbers) for key, *numbers in columns}


def _statistics(x: Floats, y: Floats, *, positive_from: float, axis: int = -1) -> Floats:
    """Return `STATISTICS` of scores and labels of shape ``(..., n)``: ``(4, ...)``."""
    import numpy as np
    from scipy.stats import kendalltau, pearsonr, rankdata
    from sklearn.metrics import roc_auc_score

    x_ranks, y_ranks = rankdata(x, axis=axis), rankdata(y, axis=axis)
    n = x.shape[axis]
    flat = zip(x.reshape(-1, n), y.reshape(-1, n), strict=True)
    # By default small samples get an exact p-value, which is slow and not needed.
    taus = [kendalltau(a, b, method="asymptotic").statistic for a, b in flat]
    aucs = [
        roc_auc_score(positive, a) if 0 < positive.sum() < n else math.nan
        for a, positive in zip(x.reshape(-1, n), y.reshape(-1, n) >= positive_from, strict=True)
    ]
    pearson = pearsonr(x, y, axis=axis).statistic
    spearman = pearsonr(x_ranks, y_ranks, axis=axis).statistic
    return np.stack([pearson, spearman, *np.reshape([taus, aucs], (2, *pearson.shape))])
