"""One HTML page about files of scores: distribution, groups, statuses, worst rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from quals_fast.pages.collecting import Collection, Group, Part, TokenCount
from quals_fast.pages.display import LARGE_DROP, names_of_pair
from quals_fast.pages.explain import MEANINGS
from quals_fast.pages.histogram import Axis, Bin, count_ticks
from quals_fast.pages.templating import page_environment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_MAX_TEXT = 10_000  # characters of a document or summary
_MAX_LABEL = 300  # of an id, a question, a message
_MOST_OPEN_CHARTS = 24  # of groups; more are folded


class _Metric(NamedTuple):
    """What the page must know of a metric.

    Attributes:
        name: its name.
        unit: of a score; empty if there is none.
        best: the score of perfect support.
        span: how far below it a bar of full length is, at least.
        about: how to read a score.
    """

    name: str
    unit: str
    best: float
    span: float
    about: str


_PROBABILITY = "The mean probability that a sentence of the summary is consistent; 1 is best."
_METRICS = {
    "quals": _Metric(
        "QUALS",
        "nats per token",
        0.0,
        -LARGE_DROP,
        "Near 0, the document supports the summary; clearly negative, it does not.",
    ),
    "qags": _Metric("QAGS", "", 1.0, 1.0, "1 is best; 0 means that no answers agree."),
    "classifier": _Metric("classifier", "", 1.0, 1.0, _PROBABILITY),
    "factcc": _Metric("FactCC", "", 1.0, 1.0, _PROBABILITY),
}
_OTHER_METRIC = _Metric("Score", "", 0.0, 1.0, "")


class _GroupView(NamedTuple):
    """The figures of a group, and its histogram; NaN where there is no score."""

    name: str
    n_rows: int
    n_scored: int
    mean: float
    mean_probability: float
    deviation: float
    quantiles: tuple[float, ...]
    truncated: TokenCount
    bins: list[Bin]

    @property
    def median(self) -> float:
        return self.quantiles[len(_QUANTILES) // 2]

    @property
    def highest_share(self) -> float:
        """The share of the fullest bin among the scores."""
        return max((one.n for one in self.bins), default=0) / max(1, self.n_scored)


def render_report(collection: Collection) -> str:
    """Return a page without scripts or network access.

    Args:
        collection: at least one row.
    """
    signatures = list(collection.parts)
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            title=_title(collection),
            collection=collection,
            parts=[
                _part_view(signature, part, differs)
                for (signature, part), differs in zip(
                    collection.parts.items(), _differences(signatures), strict=True
                )
            ],
            most_open_charts=_MOST_OPEN_CHARTS,
            max_text=_MAX_TEXT,
            max_label=_MAX_LABEL,
        )
    )


def _title(collection: Collection) -> str:
    files = list(collection.files)
    return f"Scores of {files[0]}" if len(files) == 1 else f"Scores of {len(files)} files"


def _part_view(signature: str, part: Part, differs: str) -> dict[str, Any]:
    """Return what the template shows of the rows with one signature."""
    total = part.total()
    scores = total.scores
    axis = Axis(scores) if len(scores) else None
    metric = _METRICS.get(signature.split("|")[0], _OTHER_METRIC)
    groups = [_group_view(name or "", group, axis) for name, group in part.groups.items()]
    worst = part.worst()
    by_token = [pair.by_token for one in worst for pair in one.row.pairs if pair.by_token]
    view = _group_view("", total, axis)
    return {
        "signature": signature,
        "differs": differs,
        "metric": metric,
        "pair_names": names_of_pair(signature),
        "axis": axis,
        "total": view,
        "count_ticks": count_ticks(max((one.n for one in view.bins), default=0)),
        "groups": sorted(groups, key=lambda one: (math.isnan(one.mean), -one.mean)),
        "highest_share": max((one.highest_share for one in [view, *groups]), default=0.0),
        "statuses": [
            (status, MEANINGS.get(status, ""), n, total.scored_statuses[status])
            for status, n in total.statuses.most_common()
        ],
        "tokens": _token_rows(total, scores),
        "worst": worst,
        "longest_bar": _longest_bar([one.row.score for one in worst], metric),
        "longest_pair_bar": _longest_bar(
            [pair.score for one in worst for pair in one.row.pairs], metric
        ),
        "without_score": part.without_score,
        "n_without_score": view.n_rows - view.n_scored,
        "has_pairs": part.has_pairs,
        "has_marks": any(one.parts for one in worst),
        "has_probability": not math.isnan(total.mean_probability),
        "has_tokens": bool(by_token),
        "answer_only": any(pair.first_counted for pair in by_token),
    }


def _group_view(name: str, group: Group, axis: Axis | None) -> _GroupView:
    import numpy as np

    scores = group.scores
    quantiles = np.quantile(scores, _QUANTILES) if len(scores) else [math.nan] * len(_QUANTILES)
    return _GroupView(
        name=name,
        n_rows=group.n_rows,
        n_scored=group.n_scored,
        mean=float(scores.mean()) if len(scores) else math.nan,
        mean_probability=group.mean_probability,
        deviation=float(scores.std(ddof=1)) if len(scores) > 1 else math.nan,
        quantiles=tuple(map(float, quantiles)),
        truncated=group.truncated,
        bins=axis.bins(scores) if axis is not None else [],
    )


def _token_rows(
    total: Group, scores: NDArray[np.float64]
) -> list[tuple[str, TokenCount, float, float]]:
    """Return for each kind of token: its name, its count, mean score with and without it."""
    rows = []
    for name, tokens in (("cut off", total.truncated), ("unknown", total.unknown)):
        others = len(scores) - tokens.scored
        mean = tokens.sum / tokens.scored if tokens.scored else math.nan
        mean_of_others = (float(scores.sum()) - tokens.sum) / others if others else math.nan
        rows.append((name, tokens, mean, mean_of_others))
    return rows


def _longest_bar(scores: Sequence[float], metric: _Metric) -> float:
    """Return how far below the best score a bar of full length is."""
    return max([metric.span, *(metric.best - score for score in scores if math.isfinite(score))])


def _differences(signatures: Sequence[str]) -> list[str]:
    """Return for each signature the fields that not all of them have."""
    fields = [signature.split("|") for signature in signatures]
    common = set(fields[0]).intersection(*fields)
    return [", ".join(field for field in one if field not in common) for one in fields]
