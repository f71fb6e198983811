"""Show why a summary got its score: its pairs, worst first, token by token, as text or HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from quals_fast.jobs.parsing import InputRow
from quals_fast.pages.display import DROP, LARGE_DROP, MARKS, count, level, printable
from quals_fast.results import QAPair, Status, SummaryScore

# The page draws bars up to this many nats and marks those that are longer.
BAR_CAP = 8.0

_STYLES = ("", "yellow", "bold red")  # by level

_MEANINGS: dict[Status, str] = {
    "ok": "",
    "no_pairs": "no generated question has its answer in the summary, so nothing can be compared",
    "empty_summary": "the summary is empty, so no question can be generated from it",
    "empty_document": "the document is empty, so there is nothing to compare the summary with",
    "unknown_text": "the model cannot read this text, so a score would be meaningless",
    "error": "this row could not be scored",
}

_ROW_LABELS = ("  token", "  given summary", "  given document", "  drop")
_LABEL_CELLS = max(map(len, _ROW_LABELS))
_MARK_CELLS = max(map(len, MARKS))
_MAX_TOKEN_CELLS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedRow:
    """A scored summary with its texts.

    Attributes:
        id: id of the row, as shown to the reader.
        summary: its text.
        document: the text that it was scored against.
        result: its score, with pairs.
    """

    id: str
    summary: str
    document: str
    result: SummaryScore

    @classmethod
    def of(cls, row: InputRow, result: SummaryScore) -> ExplainedRow:
        """Take the texts from a row of a file, which may lack them."""
        return cls(
            id=str(row.id),
            summary=str(row.summary or ""),
            document=str(row.document or ""),
            result=result,
        )

    @property
    def score(self) -> float:
        """QUALS in nats per token; NaN if there is none."""
        return self.result.score

    @property
    def in_words(self) -> str:
        """What the status means, with the message of an error; empty if the status is ok."""
        words = _MEANINGS[self.result.status]
        if self.result.message is not None:
            words = f"{words}: {self.result.message}" if words else self.result.message
        if self.result.status != "ok" and not math.isnan(self.score):
            words += "; the score shown is the no_pairs_score that was set"
        return words


def render_terminal(row: ExplainedRow, *, max_pairs: int | None = None) -> RenderableType:
    """Return a summary's score and pairs for a rich console, worst pair first.

    Args:
        row: what to show.
        max_pairs: show this many of the worst; None shows all.

    Raises:
        ValueError: `max_pairs` is negative.
    """
    if max_pairs is not None and max_pairs < 0:
        raise ValueError(f"`max_pairs` must be at least 0, but got {max_pairs}")
    result = row.result
    facts = [f"score {_number(row.score)}", result.status, count(len(result.pairs), "pair")]
    if result.truncated_tokens:
        facts.append(f"{count(result.truncated_tokens, 'token')} cut off")
    if result.unknown_tokens:
        facts.append(count(result.unknown_tokens, "unknown token"))
    parts: list[RenderableType] = [
        Text.assemble((printable(row.id), "bold"), *(f"   {fact}" for fact in facts))
    ]
    if row.in_words:
        parts.append(Text(printable(row.in_words)))
    if row.summary.strip():
        parts += ["", Text(printable(row.summary))]
    shown = _worst_first(result.pairs)[:max_pairs]
    for pair in shown:
        answer = (printable(pair.answer), "bold")
        score = f"   {_number(pair.score)}"
        title = Text.assemble(printable(pair.question), " -> ", answer, score)
        parts += ["", title, _TokenTable(pair)]
    if len(shown) < len(result.pairs):
        rest = count(len(result.pairs) - len(shown), "better pair")
        parts += ["", Text(f"{rest} not shown")]
    return Group(*parts)


def render_html(rows: Sequence[ExplainedRow], signature: str) -> str:
    """Return an HTML page without scripts or network access, worst row first.

    Args:
        rows: rows to show.
        signature: signature of the scores; shown at the bottom.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("quals_fast.pages"),
        autoescape=True,  # Every text in the page is untrusted.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {
        "columns": _columns,
        "count": count,
        "number": _number,
        "share": _share,
        "surprise": _surprise,
        "worst_first": _worst_first,
    }
    finite = [row.score for row in rows if math.isfinite(row.score)]
    return environment.get_template("explain.html.j2").render(
        rows=_worst_first(rows),
        signature=signature,
        n_scored=sum(not math.isnan(row.score) for row in rows),
        # On a page of good summaries, the worst one must not look bad.
        longest_score_bar=max(-LARGE_DROP, -min(finite, default=0.0)),
        drop=DROP,
        large_drop=LARGE_DROP,
        bar_cap=BAR_CAP,
        marks=MARKS,
    )


class _Column(NamedTuple):
    """A token of a pair, its log-probabilities, their difference, and its level, 0 to 2."""

    token: str
    summary_logprob: float
    document_logprob: float
    drop: float
    level: int


def _columns(pair: QAPair) -> Iterator[_Column]:
    for token, given_summary, given_document in zip(
        pair.tokens, pair.summary_logprobs, pair.document_logprobs, strict=True
    ):
        drop = given_document - given_summary
        yield _Column(token, given_summary, given_document, drop, level(drop))


@dataclass(frozen=True, slots=True)
class _TokenTable:
    """The tokens of a pair, one per column, wrapped at the console's width."""

    pair: QAPair

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        room = max(1, options.max_width - _LABEL_CELLS - 1 - _MARK_CELLS)
        lines = _labelled_lines()
        for column in _columns(self.pair):
            token = Text(printable(column.token))
            token.truncate(min(_MAX_TOKEN_CELLS, room), overflow="ellipsis")
            numbers = (column.summary_logprob, column.document_logprob, column.drop)
            cells = (token.plain, *(_number(value, 2) for value in numbers))
            width = max(map(cell_len, cells))
            used = lines[0].cell_len - _LABEL_CELLS
            if used > 0 and used + width > room:
                yield from (*lines, Text())
                lines = _labelled_lines()
            style, mark = _STYLES[column.level], MARKS[column.level]
            for line, cell, plain, suffix in zip(
                lines, cells, (False, True, True, False), ("", "", "", mark), strict=True
            ):
                line.append(" " * (1 + width - cell_len(cell)))
                line.append(cell, "" if plain else style)
                line.append(suffix.ljust(_MARK_CELLS), style)
        yield from lines


def _labelled_lines() -> list[Text]:
    """Start the four lines of a table."""
    return [
        Text(no_wrap=True, overflow="crop").append(label.ljust(_LABEL_CELLS), "dim")
        for label in _ROW_LABELS
    ]


class _Scored(Protocol):
    @property
    def score(self) -> float: ...


_S = TypeVar("_S", bound=_Scored)


def _worst_first(scored: Sequence[_S]) -> list[_S]:
    """Sort by score, lowest first; NaN comes last."""
    return sorted(scored, key=lambda one: (math.isnan(one.score), one.score))


def _surprise(logprob: float) -> str:
    """Return a bar's height, as short as CSS allows; beyond the cap, bars are only marked."""
    if math.isnan(logprob):
        return "0"
    return f"{min(max(-logprob, 0.0), BAR_CAP + 1):.2f}".strip("0").rstrip(".") or "0"


def _share(score: float, longest: float) -> str:
    """Return the length of a score's bar, in percent."""
    return "0" if math.isnan(score) else f"{100 * min(max(-score / longest, 0.0), 1.0):.0f}"


def _number(value: float, digits: int = 3) -> str:
    return "—" if math.isnan(value) else f"{value:z.{digits}f}"
