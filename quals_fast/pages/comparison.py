"""Systems compared: a table for the terminal, and an HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from quals_fast.comparison import (
    ALPHA,
    TIE,
    Comparison,
    Difference,
    Measure,
    counts_without_score,
)
from quals_fast.pages.display import count, printable, signature_line
from quals_fast.pages.histogram import Axis, Bin
from quals_fast.pages.templating import page_environment

_MAX_TEXT = 10_000  # characters of a document or summary
_MAX_LABEL = 300  # of a name


def comparison_table(comparison: Comparison, signatures: Sequence[str]) -> Group:
    """Return means, differences to the baseline, how to read them, and the signatures."""
    lines = map(Text, map(printable, notes(comparison)))
    signed = map(signature_line, signatures)
    return Group(_means(comparison), "", _differences(comparison), *lines, *signed)


def _means(comparison: Comparison) -> Table:
    """Return the mean of each system, a row each, by each measure."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("mean", overflow="fold")
    for measure in comparison.measures:
        name = measure.name.replace(" ", "\n")
        table.add_column(name, justify="right", overflow="fold", vertical="bottom")
    for system in comparison.systems:
        means = [mean_text(measure, system) for measure in comparison.measures]
        table.add_row(_name(system), *means)
    return table


def _differences(comparison: Comparison) -> Table:
    """Return the differences to the baseline by each measure, a row for each system."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("measure", overflow="fold")
    table.add_column("system", overflow="fold")
    for name in ("difference", "p", "win/tie/loss"):
        table.add_column(name, justify="right", overflow="fold")
    for measure in comparison.measures:
        for one in measure.differences:
            # The interval goes below the value, so that every digit fits in 80 columns.
            table.add_row(
                measure.name if one is measure.differences[0] else "",
                _name(one.system),
                difference_text(one).replace(" [", "\n["),
                p_text(one.p_value),
                f"{one.wins}/{one.ties}/{one.losses}",
            )
    return table


def notes(comparison: Comparison) -> Iterator[str]:
    """Say how the figures came about, and what was left out."""
    yield (
        f"n = {comparison.n_documents}; difference to the baseline {comparison.systems[0]}, with "
        "its 95 % paired bootstrap interval in brackets"
    )
    yield (
        "p: paired randomisation test, two-sided; * below "
        f"{ALPHA:g}, not corrected for the number of comparisons"
    )
    yield (
        f"win/tie/loss: documents on which the system's score is higher, within {TIE:g} of the "
        "baseline's, or lower"
    )
    if comparison.rouge_against is None:
        yield "no ROUGE, words, copied trigrams: they need the texts, which files of scores lack"
    else:
        part = "F1" if comparison.rouge_against == "reference" else "precision"
        yield (
            f"ROUGE: {part} against the {comparison.rouge_against}; copied trigrams: share of a "
            "summary's sequences of three words that occur in the document"
        )
    if comparison.n_unpaired:
        documents = count(comparison.n_unpaired, "document")
        yield f"left out: {documents} that not every system has ({_by_system(comparison.unpaired)})"
    if comparison.n_without_score:
        documents = count(comparison.n_without_score, "document")
        without = counts_without_score(comparison.without_score)
        yield f"left out: {documents} with a summary that has no score ({without})"
    if any(comparison.n_averaged.values()):
        averaged = _by_system(comparison.n_averaged)
        yield f"the mean of several summaries counts as one for {averaged} documents"


def mean_text(measure: Measure, system: str) -> str:
    """Return the mean of a system, marked if its difference to the baseline has a small p value."""
    small = any(one.system == system and one.p_value < ALPHA for one in measure.differences)
    return f"{measure.means[system]:z.3f}{'*' if small else ' '}"


def difference_text(difference: Difference) -> str:
    """Return a mean difference with its interval."""
    one = difference.mean
    return f"{one.value:+z.3f} [{one.low:+z.3f}, {one.high:+z.3f}]"


def p_text(p_value: float) -> str:
    """Return a p value, marked if it is small."""
    return f"{p_value:.4f}{'*' if p_value < ALPHA else ' '}"


class _Histogram(NamedTuple):
    """A histogram of the differences of a system, as the template draws it."""

    system: str
    n_scored: int
    median: float
    bins: list[Bin]


def render_comparison(comparison: Comparison, signatures: Sequence[str], n_shown: int) -> str:
    """Return a page without scripts or network access.

    Args:
        comparison: what is shown.
        signatures: of the scores.
        n_shown: how many of the documents on which the systems differ most are shown.
    """
    axis, histograms = _histograms(comparison)
    metric = comparison.metrics[0]
    shown = comparison.most_different(n_shown)
    return (
        page_environment()
        .get_template("comparison.html.j2")
        .render(
            title=f"{' and '.join(comparison.systems)} compared",
            comparison=comparison,
            metric=metric,
            notes=list(notes(comparison)),
            axis=axis,
            histograms=histograms,
            highest=max(one.n for histogram in histograms for one in histogram.bins),
            shown=shown,
            longest_bar=max([TIE, *(one.spread(metric) for one in shown)]),
            signatures=signatures,
            mean=mean_text,
            difference=difference_text,
            p=p_text,
            max_text=_MAX_TEXT,
            max_label=_MAX_LABEL,
        )
    )


def _histograms(comparison: Comparison) -> tuple[Axis, list[_Histogram]]:
    """Return the differences by the first metric to the baseline, of each system, on one axis."""
    import numpy as np

    (baseline, *others), metric = comparison.systems, comparison.metrics[0]
    scores = {
        system: np.array([one.score(system, metric) for one in comparison.documents])
        for system in comparison.systems
    }
    differences = np.array([scores[system] - scores[baseline] for system in others])
    axis = Axis(differences.reshape(-1))
    histograms = [
        _Histogram(system, len(values), float(np.median(values)), axis.bins(values))
        for system, values in zip(others, differences, strict=True)
    ]
    return axis, histograms


def _by_system(counts: Any) -> str:
    return ", ".join(f"{system}: {n}" for system, n in counts.items() if n)


def _name(system: str) -> Text:
    return Text(printable(system))
