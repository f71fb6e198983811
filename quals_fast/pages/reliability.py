"""Show whether probabilities can be relied on: as tables on a terminal, as a chart in a page."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from quals_fast.calibrating import N_BINS, Bin, Fit, Reliability
from quals_fast.pages.display import count, signature_line
from quals_fast.pages.templating import page_environment

_BAR_CELLS = 20  # of a probability of 1
_WARNING = (
    "no better than the base rate: here the scores say nothing measurable about the labels; "
    "do not use this calibration, or label more rows"
)


def reliability_table(found: Reliability | None, n_seen: int) -> Group:
    """Return the figures of probabilities on labelled rows, and their bins.

    Args:
        found: the figures; None if no row is left.
        n_seen: rows left out because the calibration was fitted on their documents.
    """
    left_out = f"; left out {count(n_seen, 'row')} whose documents the calibration was fitted on"
    note = left_out if n_seen else ""
    if found is None:
        return Group(Text(f"no probabilities to compare with labels{note}"), "")
    return Group(
        Text(f"probabilities of {count(found.n, 'row')}{note}"),
        _figures({"calibration": found}),
        _bins(found.bins),
        "",
    )


def fit_table(fitted: Fit, signature: str, *, n_without_score: int) -> Group:
    """Return what a fit is worth on documents that it has not seen.

    Args:
        fitted: from `calibrating.fit`.
        signature: of the scores.
        n_without_score: rows left out because they have none.
    """
    losses = Table(box=None, pad_edge=False, header_style="bold")
    losses.add_column("form")
    losses.add_column("log loss", justify="right")
    for name, loss in fitted.log_losses.items():
        chosen = " <- chosen" if name == str(fitted.form) else ""
        losses.add_row(name, f"{loss:.4f}{chosen}")
    left_out = f"; left out {count(n_without_score, 'row')} without a score"
    return Group(
        losses,
        "",
        Text(
            f"{count(fitted.unseen.n, 'row')}, each predicted by a fit without its document"
            + (left_out if n_without_score else "")
        ),
        _figures({"calibration": fitted.unseen, "always the base rate": fitted.base_rate}),
        _bins(fitted.unseen.bins),
        *([Text(_WARNING)] if _is_worthless(fitted) else []),
        signature_line(signature),
    )


def render_reliability(fitted: Fit, about: dict[str, Any], signature: str) -> str:
    """Return an HTML page, without scripts or network access, about a calibration.

    Args:
        fitted: from `calibrating.fit`.
        about: what it was fitted on.
        signature: of the scores.
    """
    return (
        page_environment()
        .get_template("reliability.html.j2")
        .render(
            fitted=fitted,
            about=about,
            signature=signature,
            n_bins=N_BINS,
            warning=_WARNING if _is_worthless(fitted) else None,
        )
    )


def _is_worthless(fitted: Fit) -> bool:
    return fitted.unseen.log_loss >= fitted.base_rate.log_loss


def _figures(by_name: dict[str, Reliability]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in ("Brier score", "log loss", f"ECE ({N_BINS} bins)"):
        table.add_column(name, justify="right")
    for name, one in by_name.items():
        table.add_row(name, f"{one.brier:.4f}", f"{one.log_loss:.4f}", f"{one.ece:.4f}")
    return table


def _bins(bins: list[Bin]) -> Table:
    """Return a reliability diagram: a bar of the labels' mean, with a mark at the probability."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("probability")
    for name in ("rows", "mean", "people"):
        table.add_column(name, justify="right")
    table.add_column("people's mean, with | at the mean probability", no_wrap=True)
    for one in bins:
        cells = ["#"] * round(_BAR_CELLS * one.share)
        cells += [" "] * (_BAR_CELLS + 1 - len(cells))
        cells[round(_BAR_CELLS * one.probability)] = "|"
        table.add_row(
            f"{one.low:.1f} to {one.high:.1f}",
            str(one.n),
            f"{one.probability:.2f}",
            f"{one.share:.2f}",
            Text("".join(cells).rstrip()),
        )
    return table
