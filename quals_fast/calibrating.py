"""Fit a calibration to human judgements, and measure probabilities on documents it has not seen.

Needs the extra ``evaluate``, whose packages are imported when a function is called.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from quals_fast.calibration import (
    FORMAT,
    Calibration,
    Curve,
    Isotonic,
    Logistic,
    document_key,
    measures_of,
)
from quals_fast.evaluation import LabelledRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

MIN_ROWS = 50  # with a score: with fewer, a fit follows chance
MIN_DOCUMENTS = 20
N_FOLDS = 5
N_BINS = 10
_WORTH_MORE = 0.002  # nats of log loss by which a form must beat a simpler one
_LEAST = 1e-6  # probability with which a log loss reckons: of 0 it would be infinite


class JudgedRow(NamedTuple):
    """A scored summary with its human judgement.

    Attributes:
        document: its text.
        label: from 0 to 1: consistent, not consistent, or the share of judgements for it.
        measures: as from `measures_of`.
    """

    document: str
    label: float
    measures: dict[str, float]

    @classmethod
    def of(
        cls, document: str, label: float, *, score: float, n_pairs: int, truncated_tokens: int
    ) -> JudgedRow:
        """Return a row from its result."""
        return cls(document, label, measures_of(score, n_pairs, truncated_tokens))


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows whose probabilities are close together.

    Attributes:
        low: where the bin begins.
        high: where it ends.
        n: its rows.
        probability: their mean probability.
        share: their mean label.
    """

    low: float
    high: float
    n: int
    probability: float
    share: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far probabilities can be relied on.

    A label between 0 and 1 counts as that share of a positive row and the rest of a negative one.

    Attributes:
        n: rows.
        brier: mean squared distance of a probability from what people said.
        log_loss: mean negative log-probability of what people said, in nats.
        ece: expected calibration error: the mean, over rows, of the distance between a bin's mean
            probability and its mean label.
        bins: those of ten equally wide bins that have rows.
    """

    n: int
    brier: float
    log_loss: float
    ece: float
    bins: list[Bin]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that json can write."""
        return asdict(self)


def reliability(probabilities: Sequence[float], labels: Sequence[float]) -> Reliability:
    """Compare probabilities with labels of the same rows, at least one; both from 0 to 1."""
    import numpy as np

    p, y = np.asarray(probabilities, float), np.asarray(labels, float)
    numbers = np.minimum((p * N_BINS).astype(int), N_BINS - 1)
    bins = []
    for number in np.unique(numbers).tolist():
        here = numbers == number
        low, high = number / N_BINS, (number + 1) / N_BINS
        bins.append(Bin(low, high, int(here.sum()), float(p[here].mean()), float(y[here].mean())))
    return Reliability(
        n=len(p),
        brier=float(brier_losses(p, y).mean()),
        log_loss=float(log_losses(p, y).mean()),
        ece=sum(one.n * abs(one.probability - one.share) for one in bins) / len(p),
        bins=bins,
    )


def reliability_on_others(
    rows: Sequence[LabelledRow], calibration: Calibration
) -> tuple[Reliability | None, int]:
    """Compare probabilities with labels, but for documents that the calibration was fitted on.

    Args:
        rows: with and without a probability.
        calibration: that gave them.

    Returns:
        The reliability, None without rows, and the number of rows left out for their documents.
    """
    with_one = [row for row in rows if row.probability is not None]
    others = [row for row in with_one if not calibration.has_seen(row.document)]
    found = None
    if others:
        found = reliability(
            [row.probability for row in others if row.probability is not None],
            [row.label for row in others],
        )
    return found, len(with_one) - len(others)


def brier_losses(p: Floats, y: Floats) -> Floats:
    """Return the squared distance of each probability from what people said of its row."""
    return y * (1 - p) ** 2 + (1 - y) * p**2


def log_losses(p: Floats, y: Floats) -> Floats:
    """Return the negative log-probability of what people said of each row, in nats."""
    import numpy as np

    p = np.clip(p, _LEAST, 1 - _LEAST)
    losses: Floats = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    return losses


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of curve that may be fitted.

    Attributes:
        method: ``logistic`` or ``isotonic``.
        measures: that it goes by; of an isotonic curve, the score alone.
    """

    method: str
    measures: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.method} in {', '.join(self.measures)}"

    def fit(self, rows: Sequence[JudgedRow]) -> Curve:
        """Fit a curve to rows."""
        import numpy as np

        x = np.array([[row.measures[name] for name in self.measures] for row in rows])
        y = np.array([row.label for row in rows])
        if self.method == "isotonic":
            return _isotonic(x[:, 0], y)
        return _logistic(x, y, self.measures)


# The simplest first. The share of kept sequences is n_pairs over the number of beams, so it would
# say nothing new.
FORMS = (
    Form("logistic", ("score",)),
    Form("logistic", ("exp_score",)),
    Form("isotonic", ("score",)),
    *(
        Form("logistic", (by, *more))
        for more in (("n_pairs",), ("truncated",), ("n_pairs", "truncated"))
        for by in ("score", "exp_score")
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A curve, how it was chosen, and what it is worth.

    Attributes:
        curve: fitted to all rows.
        form: of the curve.
        log_losses: cross-validated log loss of each form that was tried, by its name.
        unseen: reliability on documents that neither fit nor choice has seen.
        base_rate: the same of a probability that is always the mean label of the rows seen.
    """

    curve: Curve
    form: Form
    log_losses: dict[str, float]
    unseen: Reliability
    base_rate: Reliability


def fit(rows: Sequence[JudgedRow], *, forms: Sequence[Form] = FORMS) -> Fit:
    """Choose the form with the lowest cross-validated log loss, and fit it.

    Of forms that are about as good, it is the simplest.

    What is reported was predicted for each fifth of the documents by a curve that was chosen and
    fitted on the others. Summaries of one document are never on both sides.

    Args:
        rows: with a score.
        forms: to choose from, the simplest first.

    Raises:
        ValueError: there are too few rows or documents, all labels are the same, or labels do not
            rise with the scores.
        ModuleNotFoundError: the extra ``evaluate`` is not installed.
    """
    import numpy as np

    check_rows(rows)
    if not any(row.measures["truncated"] for row in rows):
        forms = [form for form in forms if "truncated" not in form.measures]
    p, base = np.empty((2, len(rows)))
    for seen, unseen in _folds(rows):
        chosen, _ = _chosen(seen, forms)
        p[unseen] = _predict(chosen.fit(seen), [rows[i] for i in unseen])
        base[unseen] = _smoothed_mean(np.array([row.label for row in seen]))
    labels = [row.label for row in rows]
    form, losses = _chosen(rows, forms)
    curve = form.fit(rows)
    if not _rises(curve):
        raise ValueError(
            "labels must be higher for more consistent summaries, but these do not rise with the "
            "scores; check the labels"
        )
    return Fit(
        curve=curve,
        form=form,
        log_losses={str(one): loss for one, loss in zip(forms, losses, strict=True)},
        unseen=reliability(p.tolist(), labels),
        base_rate=reliability(base.tolist(), labels),
    )


def check_rows(rows: Sequence[JudgedRow | LabelledRow]) -> None:
    """Check that rows suffice for a fit, by their labels and documents alone.

    Args:
        rows: with a score, or those that may get one.

    Raises:
        ValueError: they do not.
    """
    if len(rows) < MIN_ROWS:
        raise ValueError(
            f"a calibration needs at least {MIN_ROWS} labelled rows with a score, but got "
            f"{len(rows)}; label more"
        )
    documents = {document_key(row.document) for row in rows}
    if len(documents) < MIN_DOCUMENTS:
        raise ValueError(
            f"a calibration needs summaries of at least {MIN_DOCUMENTS} documents, but got "
            f"{len(documents)}; label summaries of others"
        )
    labels = {row.label for row in rows}
    if len(labels) == 1:
        raise ValueError(
            f"labels must differ, but all are {labels.pop():g}; label both consistent and "
            "inconsistent summaries"
        )


def calibration_file(
    fitted: Fit, rows: Sequence[JudgedRow], *, settings: dict[str, str], fitted_on: dict[str, Any]
) -> dict[str, Any]:
    """Return what a calibration's file holds.

    Args:
        fitted: from `fit`.
        rows: that it was fitted to.
        settings: as from `calibration.settings_of`.
        fitted_on: what these rows are, for readers.
    """
    documents = sorted({document_key(row.document) for row in rows})
    return {
        "calibration_format": FORMAT,
        "meaning": "probability that people call a summary consistent, for data like fitted_on",
        **fitted.curve.to_dict(),
        "settings": settings,
        "fitted_on": fitted_on | {"rows": len(rows), "documents": len(documents)},
        "cross_validated_log_loss": fitted.log_losses,
        "unseen_documents": fitted.unseen.to_dict(),
        "base_rate": fitted.base_rate.to_dict(),
        "documents": documents,
    }


def _logistic(x: Floats, y: Floats, names: tuple[str, ...]) -> Logistic:
    """Fit a logistic curve to measures, shape ``(N, M)``, and labels, ``(N,)``."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    mean, scale = x.mean(0), x.std(0)
    scale[scale == 0] = 1.0
    if y.min() == y.max() and y[0] in (0.0, 1.0):
        rate = _smoothed_mean(y)
        return Logistic(math.log(rate / (1 - rate)), dict.fromkeys(names, 0.0))
    # Each row counts as positive by its label and as negative by the rest. The weak penalty, on
    # measures of one scale, keeps the curve finite if labels are separable.
    model = LogisticRegression(C=1.0, solver="newton-cholesky").fit(
        np.concatenate([(x - mean) / scale] * 2),
        np.repeat([1, 0], len(y)),
        sample_weight=np.concatenate([y, 1 - y]),
    )
    slopes = model.coef_[0] / scale
    coefficients = dict(zip(names, slopes.tolist(), strict=True))
    return Logistic(float(model.intercept_[0] - slopes @ mean), coefficients)


def _isotonic(scores: Floats, y: Floats) -> Isotonic:
    """Fit a rising curve; N rows cannot tell of probabilities nearer to 0 or 1 than 1 / (N + 2)."""
    from sklearn.isotonic import IsotonicRegression

    edge = 1 / (len(y) + 2)
    model = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip").fit(scores, y)
    return Isotonic(tuple(model.X_thresholds_.tolist()), tuple(model.y_thresholds_.tolist()))


def _smoothed_mean(y: Floats) -> float:
    """Return the mean label, as of one more row of either kind."""
    return float((y.sum() + 1) / (len(y) + 2))


def _folds(rows: Sequence[JudgedRow]) -> Iterator[tuple[list[JudgedRow], list[int]]]:
    """Yield the rows that are seen, and the places of the others, whose documents are not."""
    from sklearn.model_selection import GroupKFold

    groups = [document_key(row.document) for row in rows]  # hashes, so folds are drawn by chance
    for seen, unseen in GroupKFold(N_FOLDS).split(rows, groups=groups):
        yield [rows[i] for i in seen], unseen.tolist()


def _chosen(rows: Sequence[JudgedRow], forms: Sequence[Form]) -> tuple[Form, list[float]]:
    """Return the simplest form with about the lowest cross-validated log loss, and all losses."""
    import numpy as np

    folds = list(_folds(rows))
    losses = []
    for form in forms:
        total = 0.0
        for seen, unseen in folds:
            left_out = [rows[i] for i in unseen]
            labels = np.array([row.label for row in left_out])
            total += float(log_losses(_predict(form.fit(seen), left_out), labels).sum())
        losses.append(total / len(rows))
    return next(
        (form, losses)
        for form, loss in zip(forms, losses, strict=True)
        if loss <= min(losses) + _WORTH_MORE
    )


def _predict(curve: Curve, rows: Sequence[JudgedRow]) -> Floats:
    import numpy as np

    return np.array([curve.probability(row.measures) for row in rows])


def _rises(curve: Curve) -> bool:
    """Return whether a higher score means a higher probability, somewhere at least."""
    if isinstance(curve, Logistic):
        return any(curve.coefficients.get(name, 0) > 0 for name in ("score", "exp_score"))
    return curve.probabilities[-1] > curve.probabilities[0]
