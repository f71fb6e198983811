"""What the pages and tables share: thresholds, marks, printable texts, the terminal."""

from __future__ import annotations

import io
import re
import sys

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# Thresholds in nats: for a score, and for a token's log-probability given the document minus that
# given the summary.
DROP = -0.5
LARGE_DROP = -2.0

MARKS = ("", "!", "!!")  # by level
STYLES = ("", "yellow", "bold red")  # by level
MARKS_LEGEND = f"{MARKS[1]} {DROP:g} nats or less, {MARKS[2]} {LARGE_DROP:g} nats or less"
UNCOUNTED_LEGEND = "— does not count (--tokens answer)"

# Escape sequences would control the terminal, and lone surrogates cannot be encoded in UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def level(drop: float) -> int:
    """Return 0 for no or a small drop, 1 for a drop, 2 for a large drop."""
    return (drop <= DROP) + (drop <= LARGE_DROP)


def printable(text: str) -> str:
    """Replace characters that must not reach a terminal or a UTF-8 file."""
    return _UNPRINTABLE.sub("\ufffd", text)


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as ``2 rows``."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def names_of_pair(signature: str) -> tuple[str, str]:
    """Return what a row's pairs consist of: questions and answers, or what a classifier reads."""
    is_classifier = signature.split("|")[0] in ("classifier", "factcc")
    return ("sentence", "label") if is_classifier else ("question", "answer")


def signature_line(signature: str) -> Text:
    """Return a signature on one line at any width, so that it can be copied and searched."""
    return Text(printable(signature), no_wrap=True, overflow="ignore")


def show(renderable: RenderableType) -> None:
    """Print on standard output."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal's encoding may lack characters
        sys.stdout.reconfigure(errors="backslashreplace")
    # Without a terminal the width is unknown, and 80 columns would break every question.
    console = Console(width=None if sys.stdout.isatty() else 120)
    # Neither cropped nor, outside of a group, wrapped: the signature must stay on one line.
    console.print(Group(renderable), crop=False)


class _Rate(ProgressColumn):
    """Rows a second and counts by status of a task that has the field ``counts``."""

    def render(self, task: Task) -> Text:
        counts = task.fields.get("counts")
        rate = f"{task.speed:.1f} rows/s  " if counts and task.speed else ""
        return Text(rate + (counts or ""))


def progress_bar(*, hidden: bool) -> Progress:
    """Return a progress bar on standard error; it is hidden without a terminal.

    A task's field ``counts`` is shown behind it, with the rate.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        _Rate(),
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=3600,  # by default 30 seconds, in which a CPU may finish no window
        disable=hidden or not sys.stderr.isatty(),
        redirect_stdout=False,  # otherwise results would go to standard error
        redirect_stderr=False,
    )
