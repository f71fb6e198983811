"""What the adapters share: a scorer, rows that may fail without ending a run, and their mean."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

from quals_fast.evaluation import mean_interval
from quals_fast.results import SummaryScore
from quals_fast.scorer import QualsScorer
from quals_fast.validation import check_same_length, check_texts

OnError: TypeAlias = Literal["skip", "raise"]

CACHE_BYTES = 512 * 2**20  # for scorers that adapters load: some hundred long documents

_LOG = logging.getLogger("quals_fast.training")


def as_scorer(scorer: QualsScorer | str) -> QualsScorer:
    """Return a scorer as it is, or load a model by name with a cache of encoded documents."""
    if isinstance(scorer, QualsScorer):
        return scorer
    return QualsScorer.from_pretrained(scorer, cache_bytes=CACHE_BYTES)


def check_on_error(on_error: str) -> OnError:
    """Return `on_error` if it is one of the two.

    Raises:
        ValueError: it is not.
    """
    if on_error not in get_args(OnError):
        raise ValueError(f"`on_error` must be 'skip' or 'raise', but got {on_error!r}")
    return "raise" if on_error == "raise" else "skip"


def score_each(
    scorer: QualsScorer,
    documents: Sequence[object],
    summaries: Sequence[object],
    on_error: OnError = "skip",
) -> list[SummaryScore]:
    """Score rows so that a bad row does not affect the others.

    If a whole call fails, each row is scored alone.

    Args:
        scorer: scores them.
        documents: texts; an entry of another type is a failing row.
        summaries: one for each document.
        on_error: ``"skip"`` gives a failing row status ``error`` and logs how many there are;
            ``"raise"`` raises.

    Raises:
        ValueError: the lists differ in length; with ``on_error="raise"``, a row cannot be scored.
        TypeError: an argument is not a list.
        Exception: with ``on_error="raise"``, whatever scoring raised.
    """
    documents = check_texts("documents", documents)
    summaries = check_texts("summaries", summaries)
    check_same_length("summaries", summaries, documents)
    try:
        rows = _score(scorer, documents, summaries)
    except Exception:  # nothing must end a run of many hours
        if on_error == "raise":
            raise
        _LOG.warning("scoring %d rows failed; scoring them singly", len(documents), exc_info=True)
        rows = [_score_alone(scorer, *pair) for pair in zip(documents, summaries, strict=True)]
    failed = [index for index, row in enumerate(rows) if row.status == "error"]
    if failed:
        first = f"row {failed[0]}: {rows[failed[0]].message}"
        if on_error == "raise":
            raise ValueError(first)
        _LOG.warning("%d of %d rows have no score; %s", len(failed), len(rows), first)
    return rows


def _score(
    scorer: QualsScorer, documents: Sequence[object], summaries: Sequence[object]
) -> list[SummaryScore]:
    """Score rows of any types; an entry that is a list is one bad summary, not several."""
    nested: Any = [[summary] for summary in summaries]
    texts: Any = documents
    return list(scorer.score(texts, nested).flat())


def _score_alone(scorer: QualsScorer, document: object, summary: object) -> SummaryScore:
    try:
        return _score(scorer, [document], [summary])[0]
    except Exception as error:
        return SummaryScore(status="error", message=f"{type(error).__name__}: {error}")


def summarise(
    rows: Sequence[SummaryScore], *, n_resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Summarise scored rows for a log.

    Args:
        rows: scored rows.
        n_resamples: number of bootstrap resamples.
        seed: random seed of the bootstrap.

    Returns:
        ``quals``: the mean over rows with a score, in nats per token; ``quals_low`` and
        ``quals_high``: its 95 % interval; ``quals_scored``: the number of rows with a score;
        ``quals_no_pairs``, ``quals_empty``, ``quals_unknown`` and ``quals_error``: the number of
        rows without one, by reason.
    """
    scores = [row.score for row in rows if not math.isnan(row.score)]
    estimate = mean_interval(scores, n_resamples=n_resamples, seed=seed)
    missing = Counter(row.status for row in rows if math.isnan(row.score))
    return {
        "quals": estimate.value,
        "quals_low": estimate.low,
        "quals_high": estimate.high,
        "quals_scored": len(scores),
        "quals_no_pairs": missing["no_pairs"],
        "quals_empty": missing["empty_summary"] + missing["empty_document"],
        "quals_unknown": missing["unknown_text"],
        "quals_error": missing["error"],
    }
