"""The section on one pair's latency."""

from __future__ import annotations

from typing import Any

from bench.report.results import Reader
from bench.shared.tables import percent, table, where


def latency(results: Reader) -> str:
    """Report how long one pair takes with each engine, and what share of the floor that is."""
    result = results.where_measured("latency")
    if result is None:
        return "It has not been measured yet: `python -m bench.latency` does it."
    rows = [
        _row(workload, engine, one)
        for workload, case in result["workloads"].items()
        for engine, one in case["engines"].items()
    ]
    counted = max(
        one["share_of_floor"]["n"]
        for case in result["workloads"].values()
        for one in case["engines"].values()
    )
    return (
        f"{table(rows)}\n\nColumns on the right compare each engine with the first, pair by pair. "
        f"The floor is counted for the first {counted} pairs, or all where there are fewer, at "
        f"this machine's rates; the share is the median over these pairs. {where(result)}"
    )


def _row(workload: str, engine: str, one: dict[str, Any]) -> dict[str, str]:
    ms = one["one_pair_ms"]
    row = {
        "workload": workload,
        "engine": f"{engine} (`{one['dtype']}`)" if engine.endswith("auto") else engine,
        "pairs": f"{ms['n']}",
        "ms: median, 95th percentile": f"{ms['p50']:.0f}, {ms['p95']:.0f}",
        "floor, ms": f"{one['floor_ms']['median']:.0f}",
        "of the floor's speed": percent(one["share_of_floor"]["median"]),
        "times as long": "",
        "kept pairs the same": "",
        "max. difference of scores where all are": "",
    }
    if "agreement_with_default" not in one:
        return row
    agreement = one["agreement_with_default"]
    delta = agreement["max_abs_delta_same_pairs"]
    return row | {
        "times as long": f"{one['times_as_long_as_default']['median']:.2f}",
        "kept pairs the same": percent(agreement["identical_sequences"], 1),
        "max. difference of scores where all are": "-" if delta is None else f"{delta:.1e}",
    }
