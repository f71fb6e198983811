"""Figures in pages that no section pasted: each must name its source, so that none goes stale."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bench.report.results import Reader, StaleResultError
from bench.shared.common import ROOT

# What reads like a measurement: a speed-up, a share, a time, a rate, an amount of memory.
_UNITS = (
    "times|x as fast|%(?! (?:bootstrap |confidence )?interval)|µs|ms|s|seconds?|minutes?|hours?|"
    "pairs/s|pairs a second|[MG]i?B"
)
# "under 8 minutes" is a limit. A quotation, such as "55 times as fast", is not measured here.
_FIGURE = re.compile(rf'(?<!under )(?<![\w."])\d[\d,.]*(?: to \d[\d,.]*)? ?(?:{_UNITS})(?!\w)')
_MARK = re.compile(r"<!-- figures?: (.+?) -->")
# Besides a file: chosen by the project (a limit, a default), published by others, or measured at a
# commit whose results were not kept.
_OTHER_SOURCE = re.compile(r"chosen|published|commits?( [0-9a-f]{7},?)+")
_RESULT = re.compile(r"bench/results/(\w+)\.json")
_NO_MEASUREMENT = ("chosen", "published")
_SOURCES = "a file of the checkout, `chosen`, `published` or `commit` with its hash"


class UnknownFigureError(ValueError):
    """A page states a figure that no section pasted and that names no source."""


def check_figures(page: Path, text: str) -> None:
    """Check that every figure outside of report sections and code names its source.

    ``<!-- figure: SOURCE -->`` covers the paragraph, list or table that begins on the next line;
    before an empty line it covers everything up to the next heading.

    Raises:
        UnknownFigureError: a figure has no source, or one that does not exist or is a result of a
            former model, which only a section may show, since its title says so.
        StaleResultError: the source is a result that no section could use either.
    """
    for problem in problems(page, text):
        raise problem


def problems(page: Path, text: str) -> Iterator[UnknownFigureError | StaleResultError]:
    """Yield all that `check_figures` could raise."""
    for number, line, source in _prose(text):
        found = _FIGURE.search(line)
        if found is not None and source is None:
            yield UnknownFigureError(
                f"{page}, line {number}: the figure {found[0]!r} is in no report section and names "
                "no source. Paste it with a section of bench/report, or put "
                f"<!-- figure: SOURCE --> on the line before, where SOURCE is {_SOURCES}"
            )
        is_known = source is None or _OTHER_SOURCE.fullmatch(source) or (ROOT / source).is_file()
        if not is_known:
            yield UnknownFigureError(
                f"{page}, line {number}: the source of a figure must be {_SOURCES}, but got "
                f"{source!r}"
            )
        result = _RESULT.fullmatch(source or "")
        if result is None or not is_known:
            continue
        try:
            current = Reader().current(result[1])
        except StaleResultError as error:
            yield error
        else:
            if current is None:
                yield UnknownFigureError(
                    f"{page}, line {number}: {source} was measured with a former model. Paste its "
                    "figures with a section of bench/report, whose title says so"
                )


def without_result(text: str) -> dict[str, tuple[int, str]]:
    """Return the sources that are measurements but no result, each with line and first figure."""
    found: dict[str, tuple[int, str]] = {}
    for number, line, source in _prose(text):
        figure = _FIGURE.search(line)
        is_measured = source is not None and source not in _NO_MEASUREMENT
        if figure and is_measured and source and not _RESULT.fullmatch(source):
            found.setdefault(source, (number, figure[0]))
    return found


def _prose(text: str) -> Iterator[tuple[int, str, str | None]]:
    """Yield number, line and source of each line that is neither code nor in a report section."""
    lines = text.splitlines()
    source, is_wide = None, False
    in_code = in_section = False
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif in_code:
            continue
        elif line.startswith(("<!-- report:", "<!-- /report")):
            in_section = line.startswith("<!-- report:")
        elif in_section:
            continue
        elif mark := _MARK.fullmatch(line.strip()):
            source, is_wide = mark[1], not "".join(lines[number : number + 1]).strip()
        elif line.strip():
            if is_wide and line.startswith("#"):
                source, is_wide = None, False
            yield number, line, source
        elif not is_wide:
            source = None
