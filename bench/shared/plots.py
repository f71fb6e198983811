"""Plots as SVG files that are small and come out the same every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def figure(target: Path, salt: str, rows: int, columns: int, **settings: Any) -> Iterator[Any]:
    """Give a figure and its axes to draw on, and write it at the end.

    Args:
        target: SVG file.
        salt: that ids in the file are made from.
        rows: of axes.
        columns: of axes.
        settings: of `pyplot.subplots`.

    Yields:
        The figure and an array of its axes, ``(rows, columns)``.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": salt}
    drawing, axes = pyplot.subplots(rows, columns, squeeze=False, **settings)
    yield drawing, axes
    if settings.get("layout") is None:
        drawing.tight_layout()
    drawing.savefig(target, metadata={"Date": None})
    pyplot.close(drawing)
