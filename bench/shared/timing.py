"""How benchmarks take time: cases in turn, ratios within a round, rounds that end in time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from bench.shared.common import spread

Name = TypeVar("Name", str, int)
Item = TypeVar("Item")


def seconds_of(run: Callable[..., object], *arguments: object) -> float:
    """Return how many seconds a call takes."""
    begin = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - begin


def in_turn(cases: Mapping[Name, Callable[[], object]], rounds: int) -> dict[Name, list[float]]:
    """Run all cases round by round; return each one's seconds, one number a round."""
    seconds: dict[Name, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, run in cases.items():
            seconds[name].append(seconds_of(run))
    return seconds


def ratios(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """Return the spread of the ratios of two cases' numbers, formed within each round."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def rotated(items: Sequence[Item], turn: int) -> list[Item]:
    """Return the items beginning with another one in each turn, so that none is always first."""
    first = turn % len(items)
    return [*items[first:], *items[:first]]


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Return spread, median and 95th percentile in milliseconds."""
    in_ms = [1000 * one for one in seconds]
    cuts = statistics.quantiles(in_ms, n=20, method="inclusive")
    return spread(in_ms) | {"p50": cuts[9], "p95": cuts[18]}


def rounds_within(seconds: float, rounds: int) -> Iterator[int]:
    """Yield the numbers of rounds: the first in any case, others if they would end in time.

    Args:
        seconds: for all rounds.
        rounds: at most.
    """
    begin = time.perf_counter()
    for number in range(rounds):
        spent = time.perf_counter() - begin
        if number and spent * (1 + 1 / number) > seconds:
            return
        yield number
