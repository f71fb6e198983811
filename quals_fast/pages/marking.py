"""A summary with its spans marked: what both terminal and pages show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from rich.text import Text

from quals_fast.pages.display import MARKS, STYLES, level, printable
from quals_fast.results import QAPair, Span


class MarkedPart(NamedTuple):
    """A part of a summary.

    Attributes:
        text: its characters.
        span: what is known of it, or None if no question asks about it.
        worst: of the pairs whose answers it has, that with the largest drop, if pairs are known.
        n_pairs: number of these pairs.
    """

    text: str
    span: Span | None = None
    worst: QAPair | None = None
    n_pairs: int = 0

    @property
    def level(self) -> int:
        """As `display.level` says."""
        return 0 if self.span is None else level(self.span.score)


def parts_of(summary: str, spans: Sequence[Span], pairs: Sequence[QAPair]) -> Iterator[MarkedPart]:
    """Yield the parts of a summary in their order.

    Args:
        summary: as given.
        spans: of its score.
        pairs: of its score.
    """

    def shown(start: int, end: int) -> str:
        return summary[start:end].replace("\r\n", "\n")

    at = 0
    for span in sorted(spans, key=lambda span: span.start):
        if at < span.start:
            yield MarkedPart(shown(at, span.start))
        about = [
            pair
            for pair in pairs
            if any(start < span.end and span.start < end for start, end in pair.answer_spans)
        ]
        worst = min(about, key=attrgetter("answer_drop"), default=None)
        yield MarkedPart(shown(span.start, span.end), span, worst, len(about))
        at = span.end
    if at < len(summary):
        yield MarkedPart(shown(at, len(summary)))


def marked_text(parts: Iterable[MarkedPart]) -> Text:
    """Return a summary for the terminal, with marks such as [these words]!!.

    Words of the same level with only white space between them are marked together.
    """
    runs: list[tuple[str, int]] = []
    for part in parts:
        words, own = part.text, part.level
        if len(runs) > 1 and runs[-2][1] == own and runs[-1][0].isspace():
            space, _ = runs.pop()
            runs[-1] = (runs[-1][0] + space + words, own)
        elif runs and runs[-1][1] == own:
            runs[-1] = (runs[-1][0] + words, own)
        else:
            runs.append((words, own))
    text = Text()
    for words, own in runs:
        shown = printable(words)
        text.append(f"[{shown}]{MARKS[own]}" if own else shown, STYLES[own])
    return text
