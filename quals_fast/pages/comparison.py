"""Systems compared: a table for the terminal, and an HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from quals_fast.comparison import ALPHA, TIE, Comparison, Difference
from quals_fast.pages.display import count, printable, signature_line
from quals_fast.pages.histogram import Axis, Bin
from quals_fast.pages.templating import page_environment

_MAX_TEXT = 10_000  # characters of a document or summary
_MAX_LABEL = 300  # of a name


def comparison_table(comparison: Comparison, signatures: Sequence[str]) -> Group:
    """Return means and differences by each measure, how to read them, and the signatures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("system", overflow="fold")
    for name in ("mean", "difference", "p", "win/tie/loss"):
        table.add_column(name, justify="right", overflow="fold")
    baseline = comparison.systems[0]
    for measure in comparison.measures:
        mean = f"{measure.means[baseline]:z.3f}"
        table.add_row(measure.name, _name(f"{baseline} (baseline)"), mean)
        for one in measure.differences:
            # The interval goes below the value, so that every digit fits in 80 columns.
            table.add_row(
                "",
                _name(one.system),
                f"{measure.means[one.system]:z.3f}",
                difference_text(one).replace(" [", "\n["),
                p_text(one.p_value),
                f"{one.wins}/{one.ties}/{one.losses}",
            )
    lines = map(Text, map(printable, notes(comparison)))
    return Group(table, *lines, *map(signature_line, signatures))


def notes(comparison: Comparison) -> Iterator[str]:
    """Say how the figures came about, and what was left out."""
    yield (
        f"n = {comparison.n_documents}; difference to the baseline, with its 95 % paired bootstrap "
        "interval in brackets"
    )
    yield (
        "p: paired randomisation test, two-sided; * below "
        f"{ALPHA:g}, not corrected for the number of comparisons"
    )
    yield (
        f"win/tie/loss: documents on which the system's score is higher, within {TIE:g} of the "
        "baseline's, or lower"
    )
    yield {
        "reference": "ROUGE: F1 against the reference",
        "document": "ROUGE: precision against the document",
        None: "no ROUGE: it needs the texts, which files of scores do not hold",
    }[comparison.rouge_against]
    if comparison.n_unpaired:
        documents = count(comparison.n_unpaired, "document")
        yield f"left out: {documents} that not every system has ({_by_system(comparison.unpaired)})"
    if comparison.n_without_score:
        documents = count(comparison.n_without_score, "document")
        without = _by_system(comparison.without_score)
        yield f"left out: {documents} with a summary that has no score ({without})"
    if any(comparison.n_averaged.values()):
        averaged = _by_system(comparison.n_averaged)
        yield f"the mean of several summaries counts as one for {averaged} documents"


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
    shown = comparison.most_different(n_shown)
    return (
        page_environment()
        .get_template("comparison.html.j2")
        .render(
            title=f"{' and '.join(comparison.systems)} compared",
            comparison=comparison,
            metric=comparison.measures[0].name,
            notes=list(notes(comparison)),
            axis=axis,
            histograms=histograms,
            highest=max(one.n for histogram in histograms for one in histogram.bins),
            shown=shown,
            longest_bar=max([TIE, *(one.spread for one in shown)]),
            signatures=signatures,
            difference=difference_text,
            p=p_text,
            max_text=_MAX_TEXT,
            max_label=_MAX_LABEL,
        )
    )


def _histograms(comparison: Comparison) -> tuple[Axis, list[_Histogram]]:
    """Return the differences of each system's scores to the baseline's, on one axis."""
    import numpy as np

    baseline, *others = comparison.systems
    differences = np.array(
        [
            [one.score(system) - one.score(baseline) for one in comparison.documents]
            for system in others
        ]
    )
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
