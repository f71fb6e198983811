"""What a job prints: a table of rows, a table of agreement, a summary line."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from quals_fast.evaluation import STATISTICS, Agreement, Estimate
from quals_fast.jobs.parsing import InputRow
from quals_fast.pages.display import (
    LARGE_DROP,
    MARKS,
    MARKS_LEGEND,
    count,
    level,
    names_of_pair,
    printable,
    signature_line,
)
from quals_fast.results import RowScore
from quals_fast.signature import has_probability

_SUMS = (
    "truncated_rows", "truncated_tokens", "unknown_rows", "unknown_tokens", "_sum", "_n_scored",
)  # fmt: skip


class _Entry(NamedTuple):
    """A row of the table; the heap drops the highest score first, and of equal ones the latest."""

    badness: float
    earliness: int
    row_id: str
    status: str
    score: float
    n_pairs: int
    worst: str
    worst_score: float
    probability: float | None = None


class Tally:
    """Counts of a job and its lowest-scoring rows; memory does not grow with the job.

    Args:
        max_rows: number of rows to keep for the table.
    """

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.statuses: Counter[str] = Counter()
        self.error_places: list[tuple[str, int]] = []
        self.first_error: str | None = None
        self.truncated_rows = 0
        self.truncated_tokens = 0
        self.unknown_rows = 0
        self.unknown_tokens = 0
        self.cut_sentences = 0
        self._sum = 0.0
        self._n_scored = 0
        self._lowest: list[_Entry] = []

    @property
    def total(self) -> int:
        """Rows so far."""
        return self.statuses.total()

    @property
    def mean(self) -> float:
        """Mean score of the rows that have one."""
        return self._sum / self._n_scored if self._n_scored else math.nan

    def add(self, row: InputRow, result: RowScore) -> None:
        """Count a row."""
        self.statuses[result.status] += 1
        self.truncated_rows += result.truncated_tokens > 0
        self.truncated_tokens += result.truncated_tokens
        self.unknown_rows += result.unknown_tokens > 0
        self.unknown_tokens += result.unknown_tokens
        self.cut_sentences += getattr(result, "cut_sentences", 0)  # only of classifiers
        if not math.isnan(result.score):
            self._sum += result.score
            self._n_scored += 1
        if result.status == "error":
            self.first_error = self.first_error or result.message
            if len(self.error_places) < 10:
                self.error_places.append((f"{row.file or ''} {row.unit}".lstrip(), row.line))
        worst = result.worst_pair
        entry = _Entry(
            badness=math.inf if math.isnan(result.score) else -result.score,
            earliness=-self.total,
            row_id=str(row.id),
            status=result.status,
            score=result.score,
            n_pairs=len(result.pairs),
            worst=f"{worst.question} -> {worst.answer}" if worst else result.message or "",
            worst_score=worst.score if worst else math.nan,
            probability=getattr(result, "probability", None),  # only of QUALS
        )
        heapq.heappush(self._lowest, entry)
        if len(self._lowest) > self.max_rows:
            heapq.heappop(self._lowest)

    def state(self) -> dict[str, Any]:
        """Return what was counted, in a form that JSON can hold."""
        return dict(vars(self))

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        vars(self).update(state)
        self.statuses = Counter(self.statuses)
        self._lowest = [_Entry(*entry) for entry in self._lowest]

    def include(self, state: dict[str, Any]) -> None:
        """Add the counts of another part of the job, but not its rows."""
        self.statuses.update(state["statuses"])
        self.error_places = (self.error_places + state["error_places"])[:10]
        self.first_error = self.first_error or state["first_error"]
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + state[name])

    def counts(self) -> str:
        """Return the number of rows of each status."""
        return ", ".join(f"{n} {status}" for status, n in self.statuses.most_common())

    def rows(self) -> list[_Entry]:
        """Return the kept rows: in input order if all were kept, else the lowest first."""
        if self.total <= self.max_rows:
            return sorted(self._lowest, key=lambda entry: -entry.earliness)
        return sorted(self._lowest, reverse=True)

    def closing_line(self, *, with_mean: bool = True) -> str:
        """Return counts, failures, lost tokens, mean and the first error's message in one line."""
        counts = self.counts()
        parts = [count(self.total, "row") + (f": {counts}" if counts else "")]
        if self.error_places:
            more = self.statuses["error"] - len(self.error_places)
            places = ", ".join(
                f"{kind} {', '.join(str(line) for _, line in group)}"
                for kind, group in groupby(self.error_places, key=itemgetter(0))
            )
            parts.append(f"errors at {places}" + (f" and {more} more" if more else ""))
        if self.truncated_rows:
            tokens = count(self.truncated_tokens, "token")
            parts.append(f"{tokens} cut off in {count(self.truncated_rows, 'row')}")
        if self.cut_sentences:
            sentences = count(self.cut_sentences, "sentence")
            parts.append(f"{sentences} too long for the classifier, and so cut")
        if self.unknown_rows:
            tokens = count(self.unknown_tokens, "unknown token")
            parts.append(f"{tokens} in {count(self.unknown_rows, 'row')}")
        if with_mean and not math.isnan(self.mean):
            parts.append(f"mean score {self.mean:.3f}")
        if self.first_error is not None:
            parts.append(f"first error: {self.first_error}")
        return "; ".join(parts)


def score_table(tally: Tally, signature: str) -> Group:
    """Return a table of rows with their worst questions, its marks' meaning, the signature."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    calibrated = has_probability(signature)
    question, answer = names_of_pair(signature)
    number: dict[str, Any] = {"justify": "right", "no_wrap": True}
    for name, options in (
        ("id", {"overflow": "fold"}),
        ("score", number),
        *([("probability", number)] if calibrated else []),
        ("status", {"no_wrap": True}),
        ("sentences" if question == "sentence" else "pairs", number),
        (f"worst {question} -> {answer}", {"overflow": "fold"}),
        ("its score", number),
    ):
        table.add_column(name, **options)
    entries = tally.rows()
    for entry in entries:
        table.add_row(
            _text(entry.row_id),
            _score(entry.score),
            *([_probability(entry.probability)] if calibrated else []),
            Text(entry.status, "" if entry.status == "ok" else "red"),
            str(entry.n_pairs),
            _text(entry.worst),
            _score(entry.worst_score),
        )
    if tally.total > tally.max_rows:
        lowest = "lowest" if tally.max_rows == 1 else f"{tally.max_rows} lowest"
        table.caption = f"the {lowest} of {tally.total} rows; use -o to write all of them"
    marked = any(level(entry.score) or level(entry.worst_score) for entry in entries)
    legend = [Text(MARKS_LEGEND)] if marked else []
    return Group(table, *legend, signature_line(signature))


def agreement_table(agreements: list[Agreement], signature: str) -> Group:
    """Return correlations and AUC of each measure, with 95 % intervals, and the signature.

    Intervals are printed below the values, so that every digit fits in 80 columns.

    Args:
        agreements: as from `evaluation.compare`: the metric first, then others on the same rows.
        signature: signature of the metric.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in STATISTICS.values():
        table.add_column(name, overflow="fold")
    for one in agreements:
        table.add_row(one.name, *(_estimate(getattr(one, name)) for name in STATISTICS))
    own = agreements[0]
    lines = [f"n = {own.n}" + (f", {own.n_missing} more without a score" if own.n_missing else "")]
    lines[0] += "; 95 % bootstrap intervals in brackets"
    return Group(table, *map(Text, [*lines, *_reasons(agreements)]), signature_line(signature))


def _reasons(agreements: list[Agreement]) -> Iterator[str]:
    """Say why figures are missing, only once if the reason is the same for all measures."""
    missing: dict[str, dict[str, list[str]]] = {}  # reason, measure, statistics
    for one in agreements:
        for name, reason in one.undefined.items():
            missing.setdefault(reason, {}).setdefault(one.name, []).append(STATISTICS[name])
    for reason, measures in missing.items():
        statistics = ", ".join(next(iter(measures.values())))
        whose = "" if len(measures) == len(agreements) else f" for {', '.join(measures)}"
        yield f"no {statistics}{whose}: {reason}"


def _text(content: str) -> Text:
    return Text(printable(content))


def _score(value: float) -> Text:
    if math.isnan(value):
        return Text("-")
    style = "bold red" if value <= LARGE_DROP else ""
    return Text(f"{MARKS[level(value)]} {value:.3f}".strip(), style)


def _probability(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _estimate(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:z.3f}\n[{estimate.low:z.2f}, {estimate.high:z.2f}]"
