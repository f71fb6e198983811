"""Show why a summary got its score: its pairs, worst first, token by token, as text or HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from quals_fast.jobs.parsing import InputRow
from quals_fast.pages.display import LARGE_DROP, MARKS, STYLES, count, printable
from quals_fast.pages.marking import MarkedPart, marked_text, parts_of
from quals_fast.pages.templating import number, page_environment, token_columns, worst_first
from quals_fast.results import QAPair, SummaryScore

MEANINGS: dict[str, str] = {
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
    def parts(self) -> list[MarkedPart]:
        """The summary's parts, with what is known of them."""
        return list(parts_of(self.summary, self.result.spans, self.result.pairs))

    @property
    def in_words(self) -> str:
        """What the status means, with the message of an error; empty if the status is ok."""
        words = MEANINGS[self.result.status]
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
    facts = [f"score {number(row.score)}"]
    if result.probability is not None:
        facts.append(f"probability {result.probability:.2f}")
    facts += [result.status, count(len(result.pairs), "pair")]
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
        parts += ["", marked_text(row.parts)]
    shown = worst_first(result.pairs)[:max_pairs]
    for pair in shown:
        answer = (printable(pair.answer), "bold")
        score = f"   {number(pair.score)}"
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
    finite = [row.score for row in rows if math.isfinite(row.score)]
    return (
        page_environment()
        .get_template("explain.html.j2")
        .render(
            rows=worst_first(rows),
            signature=signature,
            answer_only=any(pair.first_counted for row in rows for pair in row.result.pairs),
            n_scored=sum(not math.isnan(row.score) for row in rows),
            # On a page of good summaries, the worst one must not look bad.
            longest_score_bar=max(-LARGE_DROP, -min(finite, default=0.0)),
        )
    )


@dataclass(frozen=True, slots=True)
class _TokenTable:
    """The tokens of a pair, one per column, wrapped at the console's width."""

    pair: QAPair

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        room = max(1, options.max_width - _LABEL_CELLS - 1 - _MARK_CELLS)
        lines = _labelled_lines()
        for column in token_columns(self.pair):
            token = Text(printable(column.token))
            token.truncate(min(_MAX_TOKEN_CELLS, room), overflow="ellipsis")
            numbers = (column.summary_logprob, column.document_logprob, column.drop)
            cells = (token.plain, *(number(value, 2) for value in numbers))
            width = max(map(cell_len, cells))
            used = lines[0].cell_len - _LABEL_CELLS
            if used > 0 and used + width > room:
                yield from (*lines, Text())
                lines = _labelled_lines()
            style, mark = STYLES[column.level], MARKS[column.level]
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
