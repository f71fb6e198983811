"""The outcome of a study on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from quals_fast.evaluation import Estimate
from quals_fast.pages.display import count, printable, signature_line
from quals_fast.study.design import ATTRIBUTES, Study
from quals_fast.study.outcome import AttributeOutcome, MetricOutcome
from quals_fast.study.votes import Ballot


def outcome_table(
    study: Study,
    ballots: Sequence[Ballot],
    outcomes: Sequence[AttributeOutcome],
    metric: MetricOutcome | None,
) -> Group:
    """Return the shares of votes on each attribute, and what they are based on."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    first, second = map(printable, study.systems)
    table.add_column("")
    for name in (f"{first} better", "equal", f"{second} better", "same vote", "alpha"):
        table.add_column(Text(name), overflow="fold")
    for one in outcomes:
        shares = (one.first_better, one.equal, one.second_better)
        alpha = "-" if math.isnan(one.alpha) else f"{one.alpha:z.2f}"
        table.add_row(ATTRIBUTES[one.attribute][0], *map(_share, shares), _percent(one.same), alpha)
    lines = [Text(printable(line)) for line in _lines(study, ballots, metric)]
    signature = [] if metric is None else [signature_line(metric.signature)]
    return Group(table, *lines, *signature)


def _lines(study: Study, ballots: Sequence[Ballot], metric: MetricOutcome | None) -> Iterator[str]:
    n_pairs, n_annotators = len(study.pairs), len(study.orders)
    n_questions = n_pairs * len(ATTRIBUTES)
    yield (
        f"{count(n_pairs, 'pair')}, {len(ballots)} of {count(n_annotators, 'annotator')}; 95 % "
        "bootstrap intervals over pairs in brackets, none where all pairs are alike"
    )
    if study.n_identical:
        pairs = count(study.n_identical, "document")
        yield f"{pairs} with identical summaries were left out before the draw"
    for ballot in ballots:
        if ballot.n_answers < n_questions:
            yield (
                f"annotator {ballot.annotator} ({ballot.file}) answered {ballot.n_answers} of "
                f"{n_questions} questions"
            )
    missing = sorted({*range(1, n_annotators + 1)} - {ballot.annotator for ballot in ballots})
    if missing:
        yield f"no votes of annotator {', '.join(map(str, missing))}"
    if metric is not None:
        agreement = " ".join(_share(metric.agreement).split("\n"))
        yield (
            f"{metric.metric} agrees with people on factual consistency: {agreement} of "
            f"{count(metric.n, 'pair')}"
            + (f", ties ({metric.n_ties}) counting half" if metric.n_ties else "")
            + f"; people are undecided on {metric.n_undecided}"
            + (f"; {metric.n_missing} more without a score" if metric.n_missing else "")
        )
        # Ids are often those of documents, so files in the wrong order would go unnoticed.
        files = zip(study.systems, metric.files, strict=True)
        yield "scores: " + ", ".join(f"{system} from {file}" for system, file in files)


def _share(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "-"
    share = _percent(estimate.value)
    if math.isnan(estimate.low):
        return share
    return f"{share}\n[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"
