"""How long a run takes: by the last result, so that no round begins that would not end in time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from bench.shared.options import TINY
from bench.shared.tables import table
from bench.studies.claim.arms import HALF, ONEDNN, TRAINED

# Roughly how many times the seconds of the bundled size another size takes.
TIMES_BUNDLED = {TRAINED: 1.0, "bart-base": 5.5, "bart-large": 19.0, TINY: 0.05}
# Before the first round of a size: processes start, and arms whose work is counted score a row.
START_S, WARM_UP_ROWS = 60.0, 1.5

Cell: TypeAlias = tuple[str, str]  # size and workload


def row_seconds(
    cases: Mapping[str, Any], size: str, workload: str, arms: Sequence[str]
) -> float | None:
    """Return how long some arms together take for a row, by the cases of the last result.

    A size that these lack is scaled from one that they have, and an arm counts like the one that it
    varies, which is slower.

    Returns:
        Seconds; None if no size has the workload.
    """
    known = [one for one in (size, *TIMES_BUNDLED) if workload in cases.get(one, {})]
    if not known:
        return None
    rounds = [one["seconds"] for one in cases[known[0]][workload]["rounds"]]
    seconds = {arm: statistics.median(one[arm] for one in rounds) for arm in rounds[0]}
    whole = sum(
        seconds.get(arm, seconds.get(arm.removesuffix(ONEDNN).removesuffix(HALF), 0.0))
        for arm in arms
    )
    return whole * TIMES_BUNDLED[size] / TIMES_BUNDLED[known[0]]


class Plan:
    """The rounds of a run, and how long they take, where a result tells.

    Args:
        cases: of the last result.
        rows: of a round, by size.
        rounds: to measure, by size and workload.
        arms: that run.
        limit: seconds from now on.
    """

    def __init__(
        self,
        cases: Mapping[str, Any],
        rows: Mapping[str, int],
        rounds: Mapping[Cell, int],
        arms: Sequence[str],
        limit: float,
    ) -> None:
        self._rows, self._rounds, self._limit = rows, rounds, limit
        self._predicted_s: dict[Cell, float] = {}
        self._measured_s: dict[Cell, float] = {}
        self._start_s = {size: START_S for size, _ in rounds}
        for size, workload in rounds:
            each = row_seconds(cases, size, workload, arms)
            if each is not None:
                self._predicted_s[size, workload] = each * rows[size]
            # QAGS's random weights warm up with one question: their work is counted otherwise.
            warm = [arm for arm in arms if size == TRAINED or not arm.startswith("qags")]
            counted = row_seconds(cases, size, workload, warm)
            self._start_s[size] += WARM_UP_ROWS * (counted or 0.0)
        self._pace = 1.0  # seconds of the last round over those predicted
        self._end = time.perf_counter() + limit

    def fits(self, cell: Cell, *, started: bool = True) -> bool:
        """Return whether a round would end in time; True if nothing tells how long it takes.

        Args:
            cell: size and workload.
            started: whether the size's processes have started.
        """
        predicted = self._pace * self._predicted_s.get(cell, 0.0)
        seconds = self._measured_s.get(cell, predicted)
        if not started:
            seconds += self._start_s[cell[0]]
        return time.perf_counter() + seconds < self._end

    def took(self, cell: Cell, seconds: float) -> None:
        """Learn from a round."""
        self._measured_s[cell] = max(seconds, self._measured_s.get(cell, 0.0))
        self._pace = seconds / self._predicted_s.get(cell, seconds)

    def __str__(self) -> str:
        """Return a table and the sum."""
        lines = [
            {
                "size, workload": ", ".join(cell),
                "rounds": str(rounds),
                "rows a round": str(self._rows[cell[0]]),
                "seconds a round": f"{self._predicted_s[cell]:.0f}"
                if cell in self._predicted_s
                else "unknown",
            }
            for cell, rounds in self._rounds.items()
        ]
        seconds = sum(self._start_s.values()) + sum(
            rounds * self._predicted_s.get(cell, 0.0) for cell, rounds in self._rounds.items()
        )
        return (
            f"{table(lines)}\n\nAbout {seconds / 60:.0f} minutes in all, start-up included, by the "
            f"last result; no round begins that would end after {self._limit / 60:.0f}."
        )
